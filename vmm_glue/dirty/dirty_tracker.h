// DirtyTracker: which pages of a VM's slots were written, by any of the kernel's means
// (dirty_backend.h), merged into the guest's DirtySet.
//
// How to use it: make_dirty_tracker() with the VM's slots before any vCPU exists, since the ring
// must be known to KVM by then; attach_vcpu() for every vCPU created; start(); harvest() in every
// round and once more when all vCPUs have been paused; stop(). A vCPU that leaves KVM_RUN with
// KVM_EXIT_DIRTY_RING_FULL calls on_ring_full() and enters again. guest_memfd slots go into a
// second tracker of the same DirtySet, with uffd: KVM has no log of them.
//
// Spec:    Linux Documentation/virt/kvm/api.rst, 4.8, 4.117 and 8.29; Documentation/admin-guide/mm.
// Owner:   the VM. The VM's handle, the slots' memory and the DirtySet outlive it.
// Threads: start, stop, harvest and on_ring_full from any, beside running vCPUs; they exclude each
//          other. make and attach_vcpu while no vCPU runs.
// Failure: kLocalFault with the ioctl, the slot and errno. kUsage for slots or a ring that cannot
//          be, kRefused for a harvest while tracking is off. What a failed harvest has not
//          marked, the next one does.
// Invariants:
//   I1  From start()'s return every write of the guest is in some later harvest. A harvest while
//       the vCPUs are paused has every write made so far. (While a vCPU runs, writes may still be
//       in the processor's own log, which is flushed when the vCPU leaves guest mode.)
//   I2  A page is in the DirtySet only after the kernel watches it again: whoever drains the set
//       and then reads the page misses nothing, since a write too late for the read is in the next
//       harvest. Marking the page before arming it would lose the writes in between.
//   I3  The tracker alone switches KVM_MEM_LOG_DIRTY_PAGES of its slots; uffd leaves them alone.
//   I4  What the VMM writes itself is seen by uffd only.
//   I5  Memory given back to the kernel (MADV_DONTNEED, hole punching) changes without a write:
//       whoever discards a page marks it.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "engine/dirty_set.h"
#include "engine/result.h"
#include "vmm_glue/dirty/dirty_backend.h"
#include "vmm_glue/dirty/kvm_slot.h"

namespace sealift {

// Entries of one vCPU's ring: a power of two. A processor's own log (512 entries on Intel) and 64
// more are held in reserve by KVM, so a ring below 1024 may be full when it is empty.
inline constexpr std::uint32_t kRingEntriesMin = 1024;
inline constexpr std::uint32_t kRingEntriesDefault = 16384;

struct DirtyTrackerConfig {
  DirtyBackend backend = DirtyBackend::kAuto;
  std::uint32_t ring_entries = kRingEntriesDefault;  // only for kRing
};

class DirtyTracker {
 public:
  DirtyTracker(const DirtyTracker&) = delete;
  DirtyTracker& operator=(const DirtyTracker&) = delete;
  virtual ~DirtyTracker() = default;

  virtual DirtyBackend backend() const = 0;  // never kAuto
  // REQUIRES: each vCPU once.
  virtual Result<void> attach_vcpu(std::uint32_t vcpu, const KvmHandle& handle);

  Result<void> start();  // no effect while tracking is on
  Result<void> stop();   // no effect while tracking is off
  // Fetches, arms again, and merges into the DirtySet.
  Result<void> harvest();
  // Empties the ring of the calling vCPU's thread. kLocalFault from a back-end without rings.
  Result<void> on_ring_full(std::uint32_t vcpu);

 protected:
  DirtyTracker(const KvmHandle& vm, std::vector<KvmSlot> slots, DirtySet& dirty)
      : vm_(vm), slots_(std::move(slots)), dirty_(dirty) {}
  // All with the mutex held.
  virtual Result<void> arm() = 0;
  virtual Result<void> disarm() = 0;
  virtual Result<void> collect() = 0;
  virtual Result<void> collect_ring(std::uint32_t vcpu);
  Result<void> set_slots_logged(bool logged);

  const KvmHandle& vm_;
  std::vector<KvmSlot> const slots_;
  DirtySet& dirty_;

 private:
  std::mutex mutex_;
  bool on_ = false;
};

// Checks the slots, and enables in the VM what the back-end needs. The slots themselves are set up
// by whoever owns the memory (set_slot()), before start().
Result<std::unique_ptr<DirtyTracker>> make_dirty_tracker(const KvmHandle& vm,
                                                         std::vector<KvmSlot> slots,
                                                         const DirtyTrackerConfig& config,
                                                         DirtySet& dirty);

}  // namespace sealift
