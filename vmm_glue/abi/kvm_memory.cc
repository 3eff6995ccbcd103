#include "vmm_glue/abi/kvm_memory.h"

#include <linux/kvm.h>

namespace sealift {
namespace {

#ifdef KVM_CREATE_GUEST_MEMFD
static_assert(KVM_CREATE_GUEST_MEMFD == kKvmCreateGuestMemfd);
static_assert(sizeof(kvm_create_guest_memfd) == sizeof(KvmCreateGuestMemfd));
static_assert(KVM_CAP_GUEST_MEMFD == kKvmCapGuestMemfd);
#endif
#ifdef KVM_SET_USER_MEMORY_REGION2
static_assert(KVM_SET_USER_MEMORY_REGION2 == kKvmSetUserMemoryRegion2);
static_assert(sizeof(kvm_userspace_memory_region2) == sizeof(KvmUserMemoryRegion2));
static_assert(offsetof(kvm_userspace_memory_region2, guest_memfd_offset) ==
              offsetof(KvmUserMemoryRegion2, guest_memfd_offset));
static_assert(offsetof(kvm_userspace_memory_region2, guest_memfd) ==
              offsetof(KvmUserMemoryRegion2, guest_memfd));
static_assert(KVM_MEM_GUEST_MEMFD == kKvmMemGuestMemfd);
static_assert(KVM_CAP_USER_MEMORY2 == kKvmCapUserMemory2);
#endif
#ifdef KVM_SET_MEMORY_ATTRIBUTES
static_assert(KVM_SET_MEMORY_ATTRIBUTES == kKvmSetMemoryAttributes);
static_assert(sizeof(kvm_memory_attributes) == sizeof(KvmMemoryAttributes));
static_assert(KVM_MEMORY_ATTRIBUTE_PRIVATE == kKvmAttributePrivate);
static_assert(KVM_CAP_MEMORY_ATTRIBUTES == kKvmCapMemoryAttributes);
#endif
#ifdef KVM_PRE_FAULT_MEMORY
static_assert(KVM_PRE_FAULT_MEMORY == kKvmPreFaultMemory);
static_assert(sizeof(kvm_pre_fault_memory) == sizeof(KvmPreFaultMemory));
static_assert(KVM_CAP_PRE_FAULT_MEMORY == kKvmCapPreFaultMemory);
#endif
#ifdef KVM_MEMORY_EXIT_FLAG_PRIVATE
static_assert(KVM_MEMORY_EXIT_FLAG_PRIVATE == kKvmFaultPrivate);
#endif

}  // namespace
}  // namespace sealift
