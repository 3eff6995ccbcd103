// PrivateExporter / PrivateImporter: how private pages leave a source and enter a destination
// through the platform.
//
// One interface for all platforms; docs/ARCHITECTURE.md walks SEV, TDX and SNP through it.
// Implemented in vmm_glue. Owner:   the agent; outlives the session that uses it. Threads: control
// calls come from one thread at a time. export_batch()/import_batch() come from one
//          thread for each stream, up to traits().streams_max at once. may_convert() and
//          fault_back() come from vCPU threads at any time, beside everything else.
// Failure: every call may fail with kLocalFault (errno and firmware status in the text) or kPolicy.
// After
//          a failure the caller calls cancel() (source) or abort() (destination), legal in every
//          state.
// Order:   begin; per epoch {prepare, export_batch …} …, next_extra until empty, end_epoch; in the
// last
//          epoch guest_paused comes first; then save_state, seal, and release or cancel.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/batch.h"
#include "engine/guest_port.h"
#include "engine/limits.h"
#include "engine/platform_check.h"
#include "engine/result.h"
#include "engine/types.h"

namespace sealift {

struct PrivateTraits {
  Platform platform = Platform::kNone;
  std::uint32_t batch_pages_max = limits::kBatchPagesMax;  // entries of one PrivateBatch
  std::uint32_t streams_max = 1;           // parallel export contexts; 1 = serialised firmware
  std::uint32_t prepare_window_pages = 0;  // pages one prepare() covers; 0: prepare() is not needed
  bool live_export = true;      // false: pages leave only while the guest is paused (SNP swap)
  double pages_per_s_hint = 0;  // expected rate, for predictions before one was measured; 0: none
  bool seal_is_commitment =
      false;  // after seal() only an abort token lets the source run again (TDX)
  bool imports_after_start = false;  // post-copy: import_batch() stays legal after commit()
};

// What happened to one page that export_batch() was given.
enum class ExportOutcome : std::uint8_t {
  kExported,  // it is in the batch
  kRetry,     // busy or not yet tracked: put it back as dirty
  kSkipped,   // nothing to send: never populated, or no longer private for the platform
};

struct ExportResult {
  PrivateBatch batch;                   // may be empty
  std::vector<ExportOutcome> outcomes;  // one for each gfn asked for
  std::uint64_t firmware_commands = 0;
};

enum class ConvertVerdict : std::uint8_t {
  kNow,    // convert
  kLater,  // the guest is to ask again: the platform cannot forget the page in this epoch (TDX)
};

class PrivateExporter {
 public:
  virtual ~PrivateExporter() = default;
  virtual PrivateTraits traits() const = 0;

  // Before anything moves: would the destination whose platform sent this card take the guest, and
  // this platform let it go? A platform that has no card to judge finds nothing.
  virtual Result<PlatformFindings> judge(ByteView card) {
    (void)card;
    return PlatformFindings{};
  }
  // Before begin(): how many streams were agreed on. REQUIRES: 1 to traits().streams_max.
  virtual void use_streams(std::uint32_t streams) = 0;
  // `identity` is what the destination's identity() gave. Returns what its begin() needs.
  virtual Result<Bytes> begin(ByteView identity) = 0;
  // Makes pages exportable, once for a window of pages and before any of them is exported; the
  // dirty state of the window has been cleared (TDX: block writes, track, kick the vCPUs: a write
  // before that is in the exported content, a later one faults and marks the page dirty). Only with
  // prepare_window_pages > 0.
  virtual Result<void> prepare(std::uint32_t epoch, std::span<const Gfn> gfns) = 0;
  virtual Result<ExportResult> export_batch(std::uint8_t stream, std::uint32_t epoch,
                                            std::span<const Gfn> gfns) = 0;
  // Entries nobody asked for by page: cancellations of pages that were converted (TDX CANCEL),
  // metadata (SNP's swap tree). Asked before each end_epoch() until it gives none.
  virtual Result<std::optional<PrivateBatch>> next_extra(std::uint32_t epoch) = 0;
  // Before the VMM converts a range and before the vCPU that asked resumes.
  virtual ConvertVerdict may_convert(GfnRange range, PageClass wish) = 0;
  // The guest touched a page that export took away (SNP swap): it is back when this returns, and is
  // to be marked dirty by the caller.
  virtual Result<void> fault_back(Gfn gfn) = 0;
  // Token that separates epochs; empty where the platform has none.
  virtual Result<Bytes> end_epoch(std::uint32_t epoch) = 0;
  // No vCPU runs from here on (TDX EXPORT.PAUSE).
  virtual Result<void> guest_paused() = 0;
  // vCPU and VM state that only the platform can read (TDX STATE.TD/VP, SEV-ES VMSAs); empty on
  // plain SEV.
  virtual Result<std::vector<StateBlob>> save_state() = 0;
  // Everything has left: the token that lets the destination become runnable. A
  // failure means that nothing was committed.
  virtual Result<Bytes> seal() = 0;
  // The guest runs at the destination: close this side for good (SEV SEND_FINISH). Nothing can run
  // here after it.
  virtual Result<void> release() = 0;
  // Back to a guest that runs here. `abort_token`: from the destination, needed after seal() on
  // TDX.
  virtual Result<void> cancel(std::optional<ByteView> abort_token) = 0;
};

class PrivateImporter {
 public:
  virtual ~PrivateImporter() = default;
  virtual PrivateTraits traits() const = 0;

  // Public identity the source needs to encrypt for this host (SEV: PDH and its chain).
  virtual Result<Bytes> identity() = 0;
  virtual void use_streams(std::uint32_t streams) = 0;  // as PrivateExporter's
  virtual Result<void> begin(ByteView start) = 0;
  virtual Result<void> import_batch(const PrivateBatch& batch) = 0;
  // The page map changed by the source's word. Cancellations of an epoch come after its
  // conversions.
  virtual Result<void> converted(GfnRange range, PageClass now) = 0;
  virtual Result<void> end_epoch(std::uint32_t epoch, ByteView token) = 0;
  virtual Result<void> load_state(std::vector<StateBlob> state) = 0;
  virtual Result<void> seal(
      ByteView token) = 0;            // all arrived (SEV RECEIVE_FINISH, TDX start token)
  virtual Result<void> commit() = 0;  // the right to run is here (TDX IMPORT.COMMIT)
  // Gives up: once it returns the guest cannot run here. Returns the abort token, empty where the
  // platform has none; after commit() no platform can make one.
  virtual Result<Bytes> abort() = 0;
};

}  // namespace sealift
