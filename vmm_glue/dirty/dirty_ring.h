// DirtyRing: one vCPU's dirty ring: the pages that KVM has queued since the last look.
//
// KVM sets DIRTY in an entry's flags after its other fields; we set RESET when we have read it. KVM
// arms the pages of RESET entries, and empties them, in KVM_RESET_DIRTY_RINGS.
//
// Spec:    Linux api.rst 8.29, KVM_CAP_DIRTY_LOG_RING_ACQ_REL: flags are read with load-acquire and
//          written with store-release.
// Owner:   RingTracker. Threads: one at a time; the kernel writes entries meanwhile.
// Failure: kLocalFault from map() with errno.
// Invariants:
//   I1  Entries are taken in order and none is skipped: KVM resets up to the first that is not
//       RESET.
//   I2  take() ends after one turn of the ring, whatever the kernel adds meanwhile.
#pragma once

#include <linux/kvm.h>

#include <cstdint>
#include <span>
#include <vector>

#include "engine/result.h"
#include "vmm_glue/vmm/kvm_handle.h"

namespace sealift {

struct RingPage {
  std::uint32_t slot = 0;    // the upper half is the address space
  std::uint64_t offset = 0;  // in pages from the slot's start
};

class DirtyRing {
 public:
  // REQUIRES: `entries` is a power of two and what KVM was told.
  static Result<DirtyRing> map(const KvmHandle& vcpu, std::uint32_t entries);
  // A ring in memory that the caller keeps.
  explicit DirtyRing(std::span<kvm_dirty_gfn> entries) : entries_(entries) {}
  DirtyRing(DirtyRing&& other) noexcept;
  DirtyRing& operator=(DirtyRing&&) = delete;
  ~DirtyRing();

  // Appends the queued pages and hands their entries back.
  void take(std::vector<RingPage>& into);

 private:
  std::span<kvm_dirty_gfn> entries_;
  bool mapped_ = false;
  std::uint64_t next_ = 0;
};

}  // namespace sealift
