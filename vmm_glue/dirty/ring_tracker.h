// RingTracker: KVM's dirty rings, one for each vCPU.
//
// Spec:    Linux api.rst 8.29, KVM_CAP_DIRTY_LOG_RING and _ACQ_REL. With the ring enabled
//          KVM_GET_DIRTY_LOG gives ENXIO. KVM_RESET_DIRTY_RINGS returns how many entries it has
//          reset, and returns early, without an error, when a signal is pending (Linux 6.17).
// Owner, Threads, Failure, Invariants: as DirtyTracker. An entry that names no page of our
//          slots is a kLocalFault: what was written is not known then.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "vmm_glue/dirty/dirty_ring.h"
#include "vmm_glue/dirty/dirty_tracker.h"

namespace sealift {

class RingTracker final : public DirtyTracker {
 public:
  // Enables the rings in the VM, for good. kUsage when `entries` cannot be.
  static Result<std::unique_ptr<DirtyTracker>> make(const KvmHandle& vm, std::vector<KvmSlot> slots,
                                                    std::uint32_t entries, DirtySet& dirty);
  DirtyBackend backend() const override { return DirtyBackend::kRing; }
  Result<void> attach_vcpu(std::uint32_t vcpu, const KvmHandle& handle) override;

 private:
  RingTracker(const KvmHandle& vm, std::vector<KvmSlot> slots, std::uint32_t entries,
              DirtySet& dirty);
  Result<void> arm() override { return set_slots_logged(true); }
  Result<void> disarm() override;
  Result<void> collect() override;
  Result<void> collect_ring(std::uint32_t vcpu) override;
  Result<void> reset_and_merge();
  Result<void> reset_taken();
  Result<void> mark(const RingPage& page);

  std::uint32_t const entries_;
  std::map<std::uint32_t, DirtyRing> rings_;  // by vCPU
  std::vector<RingPage> taken_;  // read and not yet merged: none, unless a reset has failed
  std::uint64_t reset_ = 0;      // of these, armed again
};

struct RingCapability {
  std::uint32_t cap = 0;  // KVM_CAP_DIRTY_LOG_RING_ACQ_REL or KVM_CAP_DIRTY_LOG_RING
  std::uint64_t entries_max = 0;
};
// kLocalFault where KVM has no rings.
Result<RingCapability> ring_capability(const KvmHandle& vm);

}  // namespace sealift
