#include "vmm_glue/dirty/dirty_tracker.h"

#include <utility>

#include "vmm_glue/dirty/log_tracker.h"
#include "vmm_glue/dirty/ring_tracker.h"
#include "vmm_glue/dirty/uffd_tracker.h"

namespace sealift {
namespace {

constexpr std::uint32_t kSlotIdMax = 0x7fff;  // KVM_USER_MEM_SLOTS; a ring's entry has 16 bits

Result<void> check_slot(const KvmSlot& slot, const DirtySet& dirty, DirtyBackend backend) {
  if (slot.id > kSlotIdMax) {
    return fail(ErrorClass::kUsage, "{}: the id is above {}", describe(slot), kSlotIdMax);
  }
  const std::uint64_t first = value(slot.range.first);
  if (slot.range.pages == 0 || first > dirty.span_pages() ||
      slot.range.pages > dirty.span_pages() - first) {
    return fail(ErrorClass::kUsage, "{} is empty or not within the guest's {} pages",
                describe(slot), dirty.span_pages());
  }
  if (slot.host == nullptr || reinterpret_cast<std::uintptr_t>(slot.host) % kPageBytes != 0) {
    return fail(ErrorClass::kUsage, "{} has no page-aligned host address", describe(slot));
  }
  if (slot.guest_memfd && backend != DirtyBackend::kUffd) {
    return fail(ErrorClass::kUsage,
                "{}: guest_memfd slots have no dirty log; uffd can watch their shared half",
                describe(slot));
  }
  return {};
}

Result<void> check_slots(const std::vector<KvmSlot>& slots, const DirtySet& dirty,
                         DirtyBackend backend) {
  for (std::size_t i = 0; i < slots.size(); ++i) {
    SEALIFT_CHECK(check_slot(slots[i], dirty, backend));
    for (std::size_t j = 0; j < i; ++j) {
      if (slots[i].id != slots[j].id) continue;
      return fail(ErrorClass::kUsage, "{} and {} are one slot", describe(slots[j]),
                  describe(slots[i]));
    }
  }
  return {};
}

}  // namespace

Result<std::unique_ptr<DirtyTracker>> make_dirty_tracker(const KvmHandle& vm,
                                                         std::vector<KvmSlot> slots,
                                                         const DirtyTrackerConfig& config,
                                                         DirtySet& dirty) {
  const DirtyBackend backend =
      config.backend == DirtyBackend::kAuto ? resolve_auto(vm) : config.backend;
  SEALIFT_CHECK(check_slots(slots, dirty, backend));
  if (backend == DirtyBackend::kRing) {
    return RingTracker::make(vm, std::move(slots), config.ring_entries, dirty);
  }
  if (backend == DirtyBackend::kUffd) return UffdTracker::make(vm, std::move(slots), dirty);
  if (backend == DirtyBackend::kManualProtect) {
    return ManualLogTracker::make(vm, std::move(slots), dirty);
  }
  return std::unique_ptr<DirtyTracker>(new LogTracker(vm, std::move(slots), dirty));
}

Result<void> DirtyTracker::start() {
  const std::lock_guard lock(mutex_);
  if (on_) return {};
  auto armed = arm();
  if (!armed) (void)disarm();  // best effort: the first failure is the one to report
  on_ = armed.has_value();
  return armed;
}

Result<void> DirtyTracker::stop() {
  const std::lock_guard lock(mutex_);
  if (!on_) return {};
  SEALIFT_CHECK(disarm());
  on_ = false;
  return {};
}

Result<void> DirtyTracker::harvest() {
  const std::lock_guard lock(mutex_);
  if (!on_) return fail(ErrorClass::kRefused, "a harvest was asked for while tracking is off");
  return collect();
}

Result<void> DirtyTracker::on_ring_full(std::uint32_t vcpu) {
  const std::lock_guard lock(mutex_);
  return collect_ring(vcpu);
}

Result<void> DirtyTracker::attach_vcpu(std::uint32_t, const KvmHandle&) { return {}; }

Result<void> DirtyTracker::collect_ring(std::uint32_t vcpu) {
  return fail(ErrorClass::kLocalFault, "vCPU {} has no dirty ring with the back-end '{}'", vcpu,
              name_of(backend()));
}

Result<void> DirtyTracker::set_slots_logged(bool logged) {
  for (const KvmSlot& slot : slots_) SEALIFT_CHECK(set_slot(vm_, slot, logged));
  return {};
}

}  // namespace sealift
