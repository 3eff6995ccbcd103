// What a VMM does before a guest may announce page state: KVM is told first, the guest afterwards.
// Each step returns what the next one demands, so that the order cannot be got wrong.
//
//   trap = trap_migration_control(io, vm_fd);      // MSR filter
//   exits = enable_page_state_exits(io, vm_fd);    // KVM_CAP_EXIT_HYPERCALL
//   advertise_page_state(cpuid, exits, &trap);     // bits 16 and 17 of 0x40000001, EAX
//
// SNP and TDX guests get the exits without the bits: KVM makes them from PSC and MapGPA.
//
// Spec:    Linux Documentation/virt/kvm/x86/cpuid.rst, api.rst (KVM_CAP_EXIT_HYPERCALL,
//          KVM_CAP_X86_USER_SPACE_MSR, KVM_X86_SET_MSR_FILTER).
// Owner:   plain functions and values; a value vouches for the VM it was made for.
// Threads: the VMM's thread that makes the VM.
// Failure: kLocalFault with ioctl and errno; kRefused where the kernel lacks the capability.
#pragma once

#include <linux/kvm.h>

#include <span>

#include "engine/result.h"
#include "vmm_glue/abi/kvm_msr.h"
#include "vmm_glue/host_ioctl.h"

namespace sealift {

// KVM hands hypercall 12 to the VMM.
class PageStateExits {
 private:
  PageStateExits() = default;
  friend Result<PageStateExits> enable_page_state_exits(HostIoctl& io, int vm_fd);
};
Result<PageStateExits> enable_page_state_exits(HostIoctl& io, int vm_fd);

// The guest's reads and writes of MSR_KVM_MIGRATION_CONTROL become exits.
class MigrationControlTrap {
 private:
  MigrationControlTrap() = default;
  friend Result<MigrationControlTrap> trap_migration_control(HostIoctl& io, int vm_fd);
};
// Both the capability's mask and the filter replace what was set before: a VMM with filters of its
// own merges migration_control_range() into them.
Result<MigrationControlTrap> trap_migration_control(HostIoctl& io, int vm_fd);
KvmMsrFilterRange migration_control_range();

// Announces the hypercall, and the MSR if it is trapped, in what becomes KVM_SET_CPUID2. kRefused
// when there is no leaf 0x40000001: the guest would not know that it runs on KVM.
Result<void> advertise_page_state(std::span<kvm_cpuid_entry2> cpuid, const PageStateExits& exits,
                                  const MigrationControlTrap* trap);

}  // namespace sealift
