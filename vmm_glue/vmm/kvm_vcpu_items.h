// A vCPU's state on a real KVM as StateBlobs: which items, how each is read and written, in which
// order.
//
// The order of saving: KVM_GET_MP_STATE first, because it carries out a pending INIT or SIPI, which
// resets registers; KVM_GET_VCPU_EVENTS next, because it may deliver a pending exception's payload
// to CR2 and DR6. The order of loading, each with what it must not come after or before:
//   sregs       first: mode, CR4 and APIC_BASE decide what the others mean
//   tsc_khz     before the TSC is written, which KVM converts at the frequency it has
//   xcrs, xsave
//   lapic       in the mode (xAPIC or x2APIC) that APIC_BASE in sregs says
//   msrs        async page faults and PV EOI want a LAPIC; the TSC deadline, last of them, wants
//               the LAPIC's timer mode and the TSC
//   regs        clears what is pending, so before the events
//   debugregs
//   events      exceptions, interrupts and NMIs on their way, SMM
//   mp_state    last: events decide (SMM, INIT latched) which states KVM accepts
//
// Time: the guest's TSC goes on from the value it had (MSR 0x10), so it stands still while the
// guest is down, as kvmclock does (kvm_vm_state.h); align_tscs() then keeps vCPUs in step
// (kvm_tsc.h). A guest that uses kvmclock is told that it was paused (KVM_KVMCLOCK_CTRL), for its
// watchdogs.
//
// Spec:    Linux Documentation/virt/kvm/api.rst, devices/vcpu.rst (4, TSC), x86/msr.rst.
// Owner, Threads: none, functions; the vCPU is stopped, no exit is half done.
// Failure: kLocalFault with the ioctl and errno; kMalformed for bytes that are no state; kRefused,
//          with item and values, for state that cannot be this vCPU's, and for a guest whose state
//          is more than what is saved here: one that runs guests of its own (VMX, SVM) or uses
//          shadow stacks.
// Invariants:
//   I1  load_vcpu_items() changes nothing unless every item is there once, known and well-formed.
//   I2  What it then cannot set as it was saved is an error, or a note where it is the host's own.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/guest_port.h"
#include "engine/result.h"
#include "vmm_glue/host_ioctl.h"
#include "vmm_glue/vmm/kvm_state_note.h"

namespace sealift {

struct VcpuPort {
  HostIoctl& kernel;
  int fd = -1;
  std::uint32_t index = 0;
  bool has_sregs2 = false;
  std::uint64_t xsave_bytes = 0;
  const std::vector<std::uint32_t>& listed_msrs;
};

Result<std::vector<StateBlob>> save_vcpu_items(const VcpuPort& vcpu, StateNotes& notes);
// Of `state`, the blobs of this vCPU (kVcpu and its index).
Result<StateNotes> load_vcpu_items(const VcpuPort& vcpu, const std::vector<StateBlob>& state);

}  // namespace sealift
