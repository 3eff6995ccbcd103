// LogTracker and ManualLogTracker: KVM's dirty bitmaps, with and without manual protection.
//
// Spec:    Linux api.rst, KVM_GET_DIRTY_LOG, KVM_CLEAR_DIRTY_LOG,
//          KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2.
// Owner, Threads, Failure, Invariants: as DirtyTracker.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "vmm_glue/dirty/dirty_tracker.h"

namespace sealift {

class LogTracker : public DirtyTracker {
 public:
  LogTracker(const KvmHandle& vm, std::vector<KvmSlot> slots, DirtySet& dirty);
  DirtyBackend backend() const override { return DirtyBackend::kGetLog; }

 protected:
  Result<void> arm() override { return set_slots_logged(true); }
  Result<void> disarm() override { return set_slots_logged(false); }
  Result<void> collect() override;
  // The slot's bitmap; valid until the next call.
  Result<std::span<std::uint64_t>> fetch(const KvmSlot& slot);

 private:
  std::vector<std::uint64_t> words_;  // enough for the largest slot
};

class ManualLogTracker final : public LogTracker {
 public:
  // Enables manual protection in the VM, for good.
  static Result<std::unique_ptr<DirtyTracker>> make(const KvmHandle& vm, std::vector<KvmSlot> slots,
                                                    DirtySet& dirty);
  DirtyBackend backend() const override { return DirtyBackend::kManualProtect; }

 private:
  using LogTracker::LogTracker;
  Result<void> collect() override;
  Result<void> clear_and_merge(const KvmSlot& slot, std::span<std::uint64_t> words);
};

// The modes of KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 to ask for; kLocalFault where there are none.
Result<std::uint64_t> manual_protect_modes(const KvmHandle& vm);

}  // namespace sealift
