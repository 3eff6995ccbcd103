// The TSC offset of a vCPU, and how the vCPUs of a guest keep step.
//
// A guest's TSC is carried as a value (MSR 0x10), because an offset is relative to one host's TSC.
// Writing the value is not enough: KVM takes a write within a second of what the VM's TSC would
// read anyway for an attempt to synchronise vCPUs, and leaves the TSC where it is, up to a second
// behind. And the values of several vCPUs are read at different moments. So the first is put right
// by its offset, and the others get the distance from it that they had on the source.
//
// Spec:    Linux Documentation/virt/kvm/devices/vcpu.rst, 4 (KVM_VCPU_TSC_CTRL).
// Owner, Threads: none, functions; no vCPU runs.
// Failure: kLocalFault with the ioctl and errno. A KVM without the attribute is none.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "engine/guest_port.h"
#include "engine/result.h"
#include "vmm_glue/host_ioctl.h"
#include "vmm_glue/vmm/kvm_state_note.h"

namespace sealift {

inline constexpr const char* kTscOffsetItem = "kvm.tsc_offset";

// Nothing where KVM has no offsets.
Result<std::optional<std::uint64_t>> tsc_offset(HostIoctl& kernel, int vcpu);
Result<void> set_tsc_offset(HostIoctl& kernel, int vcpu, std::uint64_t offset);

// Once every vCPU is loaded. `vcpus`: their descriptors, by index; `state`: what was loaded.
Result<StateNotes> align_tscs(HostIoctl& kernel, std::span<const int> vcpus,
                              const std::vector<StateBlob>& state);

}  // namespace sealift
