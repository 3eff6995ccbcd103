// PrivateExporter / PrivateImporter: how private pages leave a source and enter a destination
// through the platform.
//
// One interface for all platforms; docs/ARCHITECTURE.md walks SEV, TDX and SNP through it.
// Implemented in vmm_glue. Owner:   the agent; outlives the session that uses it. Threads: the
// control calls (begin … commit, cancel, abort) come from one thread. export_batch()/import_batch()
// come
//          from one thread for each stream, up to traits().streams_max at once.
// Failure: every call may fail with kLocalFault (errno and firmware status in the text) or kPolicy.
// After a failure the
//          caller calls cancel() (source) or abort() (destination), which are legal in every state.
// Order:   begin, then per epoch {prepare, export_batch…}, end_epoch, …, seal (guest paused,
// nothing dirty), release.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/batch.h"
#include "engine/result.h"
#include "engine/types.h"

namespace sealift {

struct PrivateTraits {
  Platform platform = Platform::kNone;
  std::uint32_t batch_pages_max = 1;  // SEV via KVM: 1 page a command, batched by us; TDX: 512
  std::uint32_t streams_max = 1;      // parallel export contexts; 1 = serialised firmware
  bool live_export = true;     // false: pages leave only while the guest is paused (SNP swap)
  bool binds_address = false;  // the platform authenticates gfn and epoch itself (TDX yes, SEV no)
  bool takes_page_away = false;  // an exported page faults in the guest until fault_back() (SNP)
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

class PrivateExporter {
 public:
  virtual ~PrivateExporter() = default;
  virtual PrivateTraits traits() const = 0;

  // `identity` is what the destination's PrivateImporter::identity() gave. Returns what its begin()
  // needs.
  virtual Result<Bytes> begin(ByteView identity) = 0;
  // Makes pages exportable before the dirty state is cleared (TDX: write-block and track). SEV:
  // nothing to do.
  virtual Result<void> prepare(std::span<const Gfn> gfns) = 0;
  virtual Result<ExportResult> export_batch(std::uint8_t stream, std::uint32_t epoch,
                                            std::span<const Gfn> gfns) = 0;
  // The page turned shared (or was discarded) after it had been exported. Entries for a later batch
  // (TDX CANCEL).
  virtual Result<void> converted(GfnRange range, PageClass now) = 0;
  // The guest touched a page that export took away: bring it back. Only with
  // traits().takes_page_away.
  virtual Result<void> fault_back(Gfn gfn) = 0;
  // Token that separates epochs; empty where the platform has none.
  virtual Result<Bytes> end_epoch(std::uint32_t epoch) = 0;
  // Guest paused and nothing dirty: the token that lets the destination become runnable; empty on
  // SEV.
  virtual Result<Bytes> seal() = 0;
  // The guest runs at the destination: close this side for good (SEV SEND_FINISH). After it nothing
  // can run here.
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
  virtual Result<void> begin(ByteView start) = 0;
  virtual Result<void> import_batch(const PrivateBatch& batch) = 0;
  virtual Result<void> converted(GfnRange range, PageClass now) = 0;
  virtual Result<void> end_epoch(std::uint32_t epoch, ByteView token) = 0;
  virtual Result<void> seal(
      ByteView token) = 0;  // everything has arrived (SEV RECEIVE_FINISH, TDX start token)
  virtual Result<void> commit() = 0;  // the right to run is here (TDX IMPORT.COMMIT)
  // Gives up: the guest can never run here. Returns the abort token, empty where the platform has
  // none.
  virtual Result<Bytes> abort() = 0;
};

}  // namespace sealift
