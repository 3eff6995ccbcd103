// GuestPort: what migration needs from a VMM's guest. vmm_glue implements it; a VMM author may too.
//
// Owner:   the agent; outlives the session. Threads: read_plain, the write_… and harvest_dirty may
//          run beside the guest's vCPUs and each other; all else comes from the session's control
//          thread.
// Failure: kLocalFault with errno and the object in the text.
// A destination's guest is fresh: until something is written there, its memory reads as zeros.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "engine/dirty_set.h"
#include "engine/memory_layout.h"
#include "engine/page_map.h"
#include "engine/result.h"
#include "engine/types.h"

namespace sealift {

// One item of vCPU or device state, opaque to the engine. `name` and `version` say to the other VMM
// what it is.
struct StateBlob {
  // kPlatform: read and written by the platform's firmware only (engine/private_path.h).
  enum class Kind : std::uint8_t { kVcpu = 1, kDevice = 2, kPlatform = 3 };
  Kind kind = Kind::kVcpu;
  std::uint32_t index = 0;    // vCPU number or device instance
  std::string name;           // "sregs2", "xsave", …
  std::uint32_t version = 1;  // layout of `bytes`
  Bytes bytes;
  friend bool operator==(const StateBlob&, const StateBlob&) = default;
};

// What a guest says of itself, each in words for people; empty: all is well.
struct GuestHealth {
  std::string ended;      // why it will never run again
  std::string not_ready;  // why it must not be migrated now
};

class GuestPort {
 public:
  virtual ~GuestPort() = default;

  virtual const MemoryLayout& layout() const = 0;
  virtual PageMap& page_map() = 0;
  virtual DirtySet& dirty() = 0;

  // From start_dirty_tracking() on every write of the guest is reported by some later
  // harvest_dirty().
  virtual Result<void> start_dirty_tracking() = 0;
  virtual Result<void> stop_dirty_tracking() = 0;
  // Fetches and clears the platform's log and merges it into dirty(). A write that happens during
  // the call is in this harvest or in the next, never in none.
  virtual Result<void> harvest_dirty() = 0;

  // Marks every page in dirty() that may hold anything: a page left out reads as zeros and was
  // never written, by the guest or for it. REQUIRES: dirty tracking is on, so that whoever writes a
  // page that this left out marks it.
  virtual Result<void> mark_populated() {
    for (const GfnRange& range : layout().ranges()) dirty().mark(range);
    return {};
  }

  // The host's view of a page: plain for shared pages, meaningless for private ones. REQUIRES: gfn
  // in layout().
  virtual Result<void> read_plain(Gfn gfn, std::span<std::byte, kPageBytes> out) = 0;
  virtual Result<void> write_plain(Gfn gfn, std::span<const std::byte, kPageBytes> in) = 0;
  // The same for a run of pages, and for zeros: a guest may have faster ways for them. Memory that
  // was never touched stays so under zeros. REQUIRES: the range in layout(), `in` of its size.
  virtual Result<void> write_run(GfnRange range, ByteView in) {
    for (std::uint64_t i = 0; i < range.pages; ++i) {
      SEALIFT_CHECK(write_plain(range.first + i, in.subspan(i * kPageBytes).first<kPageBytes>()));
    }
    return {};
  }
  virtual Result<void> write_zeros(GfnRange range) {
    static constexpr std::array<std::byte, kPageBytes> kZeroPage{};
    for (std::uint64_t i = 0; i < range.pages; ++i)
      SEALIFT_CHECK(write_plain(range.first + i, kZeroPage));
    return {};
  }

  // Where the pages from range.first on lie in host memory, as many of the range as lie in one
  // piece: to be read beside the vCPUs. Always empty for a guest that has only read_plain().
  virtual MutableBytes plain_memory(GfnRange range) {
    (void)range;
    return {};
  }
  // Destination only: where pages from range.first on may be received without a copy, as many as
  // lie in one piece; note_written() then says that they were. Empty: write_run() is the better way
  // for these.
  virtual MutableBytes landing(GfnRange range) {
    (void)range;
    return {};
  }
  virtual void note_written(GfnRange range) { dirty().mark(range); }

  // Destination only: the page's class changed by the peer's word; the platform's side of it
  // (memory attributes …). page_map() is already updated.
  virtual Result<void> apply_conversion(GfnRange range, PageClass cls) = 0;

  virtual GuestHealth health() const = 0;  // any thread
  virtual Result<void> pause() = 0;        // returns when no vCPU runs and no exit is half done
  virtual Result<void> resume() = 0;       // fails only when no vCPU has run
  // Keeps the vCPUs from running for `percent` (0 to 99) of the time, until it is set again: a
  // guest that dirties memory faster than it can be sent is slowed down. Any thread.
  virtual Result<void> throttle(std::uint32_t percent) = 0;
  virtual Result<std::vector<StateBlob>> save_state() = 0;  // REQUIRES: paused
  virtual Result<void> load_state(std::vector<StateBlob> state) = 0;
};

}  // namespace sealift
