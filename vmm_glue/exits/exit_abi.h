// ExitAbi: what the running kernel's exits look like where kernels differ and no value tells them
// apart. The VMM states it once for a VM; no decoder guesses.
//
// Plain values: no ownership, no threads, no failure.
#pragma once

#include <cstdint>

#include "vmm_glue/abi/kvm_run.h"

namespace sealift {

struct ExitAbi {
  // kKvmExitMemoryFault, or kPostedExitMemoryFault on a kernel with the patches as first posted.
  std::uint32_t memory_fault_exit = kKvmExitMemoryFault;
  // kPostedExitVmgexit (50) is the VMGEXIT exit as posted; upstream kernels never raise it.
  bool has_posted_vmgexit = false;
  // Linux 7.2 and later: an answer EAGAIN to a synthesised page-state call is known to the kernel.
  // Before that every non-zero answer is one and the same failure.
  bool knows_page_state_retry = false;
  // KVM_CAP_SYSTEM_EVENT_DATA (Linux 5.18): ndata says how many words of data are valid.
  bool has_system_event_data = true;
};

}  // namespace sealift
