#include "vmm_glue/dirty/ring_tracker.h"

#include <linux/kvm.h>

#include <algorithm>
#include <bit>
#include <utility>

#include "engine/assert.h"

namespace sealift {
namespace {

// Calls of KVM_RESET_DIRTY_RINGS without any progress: each is cut short by a signal.
constexpr int kIdleResetsMax = 1000;

}  // namespace

Result<RingCapability> ring_capability(const KvmHandle& vm) {
  for (const unsigned cap : {KVM_CAP_DIRTY_LOG_RING_ACQ_REL + 0U, KVM_CAP_DIRTY_LOG_RING + 0U}) {
    SEALIFT_TRY(const int bytes, SEALIFT_KVM(vm, KVM_CHECK_EXTENSION, cap));
    if (bytes <= 0) continue;
    return RingCapability{cap, static_cast<std::uint64_t>(bytes) / sizeof(kvm_dirty_gfn)};
  }
  return fail(ErrorClass::kLocalFault,
              "this KVM has no dirty ring (neither KVM_CAP_DIRTY_LOG_RING_ACQ_REL nor "
              "KVM_CAP_DIRTY_LOG_RING)");
}

Result<std::unique_ptr<DirtyTracker>> RingTracker::make(const KvmHandle& vm,
                                                        std::vector<KvmSlot> slots,
                                                        std::uint32_t entries, DirtySet& dirty) {
  SEALIFT_TRY(const RingCapability ring, ring_capability(vm));
  if (!std::has_single_bit(entries) || entries < kRingEntriesMin || entries > ring.entries_max) {
    return fail(ErrorClass::kUsage,
                "a dirty ring of {} entries: must be a power of two between {} and {}", entries,
                kRingEntriesMin, ring.entries_max);
  }
  kvm_enable_cap cap{};
  cap.cap = ring.cap;
  cap.args[0] = entries * sizeof(kvm_dirty_gfn);
  if (const auto enabled = SEALIFT_KVM(vm, KVM_ENABLE_CAP, &cap); !enabled) {
    return fail(enabled.error().cls,
                "dirty rings of {} entries: {}; a VM that has vCPUs or rings already gives EINVAL",
                entries, enabled.error().detail);
  }
  return std::unique_ptr<DirtyTracker>(new RingTracker(vm, std::move(slots), entries, dirty));
}

RingTracker::RingTracker(const KvmHandle& vm, std::vector<KvmSlot> slots, std::uint32_t entries,
                         DirtySet& dirty)
    : DirtyTracker(vm, std::move(slots), dirty), entries_(entries) {}

Result<void> RingTracker::attach_vcpu(std::uint32_t vcpu, const KvmHandle& handle) {
  SEALIFT_ASSERT(!rings_.contains(vcpu));
  SEALIFT_TRY(DirtyRing ring, DirtyRing::map(handle, entries_));
  rings_.emplace(vcpu, std::move(ring));
  taken_.reserve(rings_.size() * entries_);  // no allocation while guests wait
  return {};
}

// What is left in the rings would hold up the vCPUs when they next run with the log on.
Result<void> RingTracker::disarm() {
  SEALIFT_CHECK(set_slots_logged(false));
  return collect();
}

Result<void> RingTracker::collect() {
  for (auto& [vcpu, ring] : rings_) ring.take(taken_);
  return reset_and_merge();
}

Result<void> RingTracker::collect_ring(std::uint32_t vcpu) {
  const auto ring = rings_.find(vcpu);
  if (ring == rings_.end()) {
    return fail(ErrorClass::kLocalFault, "the dirty ring of vCPU {} was never attached", vcpu);
  }
  ring->second.take(taken_);
  return reset_and_merge();
}

// Pages go into the set when all of them are armed (I2). Until then they are kept for the next try.
Result<void> RingTracker::reset_and_merge() {
  SEALIFT_CHECK(reset_taken());
  Result<void> result;
  for (const RingPage& page : taken_) {
    if (auto marked = mark(page); !marked) result = std::move(marked);
  }
  taken_.clear();
  reset_ = 0;
  return result;
}

// The mutex makes every RESET entry of the VM one of ours, so the sum must come out.
Result<void> RingTracker::reset_taken() {
  for (int idle = 0; reset_ < taken_.size();) {
    SEALIFT_TRY(const int now, SEALIFT_KVM(vm_, KVM_RESET_DIRTY_RINGS, 0UL));
    reset_ += static_cast<std::uint64_t>(now);
    if (now == 0 && ++idle == kIdleResetsMax) {
      return fail(ErrorClass::kLocalFault,
                  "KVM_RESET_DIRTY_RINGS has reset {} entries of {} and does not go on", reset_,
                  taken_.size());
    }
  }
  return {};
}

Result<void> RingTracker::mark(const RingPage& page) {
  for (const KvmSlot& slot : slots_) {
    if (slot.id != page.slot || page.offset >= slot.range.pages) continue;
    dirty_.mark(slot.range.first + page.offset);
    return {};
  }
  return fail(ErrorClass::kLocalFault,
              "a dirty ring names page {} of slot {:#x}, which is not ours", page.offset,
              page.slot);
}

}  // namespace sealift
