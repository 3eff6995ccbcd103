// KVM's requests for memory with a private side, one function each.
//
// Spec:    Linux Documentation/virt/kvm/api.rst: KVM_CREATE_GUEST_MEMFD,
//          KVM_SET_USER_MEMORY_REGION2, KVM_SET_MEMORY_ATTRIBUTES, KVM_PRE_FAULT_MEMORY.
// Owner:   plain functions; file descriptors stay the caller's.
// Threads: any.
// Failure: kLocalFault with the request, its values and errno. KVM_SET_MEMORY_ATTRIBUTES is all or
//          nothing.
#pragma once

#include <cstdint>

#include "engine/result.h"
#include "engine/types.h"
#include "vmm_glue/abi/kvm_memory.h"
#include "vmm_glue/host_ioctl.h"

namespace sealift {

// The new file descriptor.
Result<int> create_guest_memfd(HostIoctl& io, int vm_fd, std::uint64_t bytes, std::uint64_t flags);

// A slot with a private side is never changed or moved, only made and deleted (memory_size 0), and
// KVM keeps no dirty log for any page of it, shared ones included.
Result<void> set_user_memory_region2(HostIoctl& io, int vm_fd, const KvmUserMemoryRegion2& region);

// When this returns, no vCPU reaches the other side of the range through KVM. Needs no slot behind
// the range; KVM has no request that reads the attributes back.
Result<void> set_memory_attributes(HostIoctl& io, int vm_fd, GfnRange range, PageClass cls);

// Maps the range before the guest touches it; a hint, so a caller may ignore the failure.
// The number of pages that are mapped now: KVM may stop early.
Result<std::uint64_t> pre_fault(HostIoctl& io, int vcpu_fd, GfnRange range);

}  // namespace sealift
