// Memory slots with a private side: guest_memfd, slots that name one, memory attributes, pre-fault.
// Spelled out by ourselves, because Debian 12's header is older than they are.
//
// Spec:    Linux uAPI, Documentation/virt/kvm/api.rst sections 4.140 to 4.143; numbers and offsets
//          measured on Linux 7.3's header. abi/kvm_memory.cc compares them with the system's
//          header where it has them.
// Plain values: no ownership, no threads, no failure.
#pragma once

#include <cstddef>
#include <cstdint>

namespace sealift {

inline constexpr unsigned long kKvmCreateGuestMemfd = 0xc040aed4;      // VM
inline constexpr unsigned long kKvmSetUserMemoryRegion2 = 0x40a0ae49;  // VM
inline constexpr unsigned long kKvmSetMemoryAttributes = 0x4020aed2;   // VM
inline constexpr unsigned long kKvmPreFaultMemory = 0xc040aed5;        // vCPU

// Capabilities that say whether the request is there.
inline constexpr unsigned long kKvmCapUserMemory2 = 231;
inline constexpr unsigned long kKvmCapMemoryFaultInfo = 232;
inline constexpr unsigned long kKvmCapMemoryAttributes = 233;  // gives the mask of attributes
inline constexpr unsigned long kKvmCapGuestMemfd = 234;
inline constexpr unsigned long kKvmCapPreFaultMemory = 236;

inline constexpr std::uint32_t kKvmMemGuestMemfd = 4;           // flag of a slot
inline constexpr std::uint64_t kKvmAttributePrivate = 1u << 3;  // KVM_MEMORY_ATTRIBUTE_PRIVATE
inline constexpr std::uint64_t kKvmFaultPrivate = 1u << 3;      // KVM_MEMORY_EXIT_FLAG_PRIVATE

struct KvmCreateGuestMemfd {
  std::uint64_t size;
  std::uint64_t flags;
  std::uint64_t reserved[6];
};

struct KvmUserMemoryRegion2 {
  std::uint32_t slot;
  std::uint32_t flags;
  std::uint64_t guest_phys_addr;
  std::uint64_t memory_size;
  std::uint64_t userspace_addr;
  std::uint64_t guest_memfd_offset;
  std::uint32_t guest_memfd;
  std::uint32_t pad1;
  std::uint64_t pad2[14];
};

struct KvmMemoryAttributes {
  std::uint64_t address;
  std::uint64_t size;
  std::uint64_t attributes;
  std::uint64_t flags;
};

struct KvmPreFaultMemory {  // gpa and size come back as what is left to do
  std::uint64_t gpa;
  std::uint64_t size;
  std::uint64_t flags;
  std::uint64_t padding[5];
};

static_assert(sizeof(KvmCreateGuestMemfd) == 64);
static_assert(sizeof(KvmUserMemoryRegion2) == 160);
static_assert(offsetof(KvmUserMemoryRegion2, userspace_addr) == 24);
static_assert(offsetof(KvmUserMemoryRegion2, guest_memfd_offset) == 32);
static_assert(offsetof(KvmUserMemoryRegion2, guest_memfd) == 40);
static_assert(sizeof(KvmMemoryAttributes) == 32 && sizeof(KvmPreFaultMemory) == 64);

}  // namespace sealift
