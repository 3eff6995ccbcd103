// UffdTracker: the slots' host mappings, watched by WrittenPages. Needs nothing of KVM: the slots
// may be of any kind, guest_memfd's shared halves included, and the VMM's own writes are seen too.
//
// Spec:    as WrittenPages. KVM writes guest memory through the mapping given as the slot's
//          userspace_addr, and the kernel withdraws KVM's own mapping of a page that it protects.
// Owner, Threads, Failure, Invariants: as DirtyTracker.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "vmm_glue/dirty/dirty_tracker.h"
#include "vmm_glue/dirty/written_pages.h"

namespace sealift {

class UffdTracker final : public DirtyTracker {
 public:
  static Result<std::unique_ptr<DirtyTracker>> make(const KvmHandle& vm, std::vector<KvmSlot> slots,
                                                    DirtySet& dirty);
  DirtyBackend backend() const override { return DirtyBackend::kUffd; }

 private:
  using DirtyTracker::DirtyTracker;
  Result<void> arm() override;
  Result<void> disarm() override;
  Result<void> collect() override;

  std::optional<WrittenPages> written_;  // while tracking is on
};

}  // namespace sealift
