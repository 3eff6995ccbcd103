// The state of a real KVM's in-kernel devices, as StateBlobs of Kind::kDevice: the interrupt
// controllers (two PICs and the IOAPIC), the timer (PIT), and the guest's clock (kvmclock).
//
// Order: saved with all vCPUs stopped; loaded after every vCPU. Loading the IOAPIC delivers what is
// pending there to LAPICs, whose state would otherwise overwrite it; and writing a vCPU's TSC may
// make KVM compute its clock anew. The clock comes last and runs on from that moment.
//
// Time: kvmclock stands still while the guest is down, as the TSC does (kvm_vcpu_items.h), so the
// guest's clocks stay together and none jumps; its wall clock is late by the downtime until it
// asks a time server. With VmParts::count_downtime kvmclock goes forward by what the wall clocks of
// the two hosts say has passed (KVM_CLOCK_REALTIME), if both kernels offer that and it is
// plausible; the TSC does not. PIT: a period that had begun begins anew; KVM does not say how much
// of it was over.
//
// Spec:    Linux Documentation/virt/kvm/api.rst: KVM_GET_IRQCHIP, KVM_GET_PIT2, KVM_GET_CLOCK.
// Owner, Threads: none, functions; no vCPU runs.
// Failure: kLocalFault with the ioctl and errno; kMalformed for bytes that are no state; kRefused
//          for state of a VM made of other parts, or values that KVM refuses.
// Invariants:
//   I1  load_vm_state() changes nothing unless every item is there once, known and well-formed.
#pragma once

#include <vector>

#include "engine/guest_port.h"
#include "engine/result.h"
#include "vmm_glue/host_ioctl.h"
#include "vmm_glue/vmm/kvm_state_note.h"

namespace sealift {

struct VmParts {
  bool irqchip = false;         // KVM_CREATE_IRQCHIP was called
  bool pit = false;             // KVM_CREATE_PIT2 was called
  bool count_downtime = false;  // used by load_vm_state() only
};

Result<std::vector<StateBlob>> save_vm_state(HostIoctl& kernel, int vm, const VmParts& parts);
// Of `state`, the kDevice blobs whose names begin with "kvm."; others are other devices'.
Result<StateNotes> load_vm_state(HostIoctl& kernel, int vm, const VmParts& parts,
                                 const std::vector<StateBlob>& state);

}  // namespace sealift
