// drain_vcpu: brings a vCPU to the point where its state can be saved.
//
// For most exits the guest's instruction is complete only after the next KVM_RUN, and that half is
// in no state KVM can save. With immediate_exit set KVM_RUN completes it and returns EINTR without
// running the guest; but completing one exit may raise the next (a batch of page-state changes, a
// MapGPA cut into chunks), so: run and serve until EINTR.
//
// Spec:    Linux Documentation/virt/kvm/api.rst (KVM_RUN, immediate_exit; the notes below each
//          exit).
// Owner:   the VMM.
// Threads: the vCPU's own, while no other thread lets it run.
// Failure: kLocalFault or the error of serve(): the vCPU has a half-done exit, its state must not
//          be saved. How many exits one instruction can raise is up to the guest (a TDX guest may
//          map all of its address space), hence the bound.
#pragma once

#include <cstdint>

#include "engine/memory_layout.h"
#include "engine/result.h"

namespace sealift {

class DrainTarget {
 public:
  virtual ~DrainTarget() = default;
  // KVM_RUN with immediate_exit set: 0 or errno.
  virtual int complete() = 0;
  // An exit to serve, as after any other run. `run_errno` is 0, EFAULT or EHWPOISON
  // (KVM_EXIT_MEMORY_FAULT).
  virtual Result<void> serve(int run_errno) = 0;
};

// Enough for one instruction that converts all of RAM in chunks of 2 MiB, and some.
std::uint64_t drain_runs_max(const MemoryLayout& layout);

// The number of exits that were served. immediate_exit is set and stays the caller's: clear it
// before the vCPU is to run again.
Result<std::uint64_t> drain_vcpu(DrainTarget& vcpu, std::uint64_t runs_max);

}  // namespace sealift
