// MSR exits, MSR filters and KVM's paravirtual CPUID leaf, as the VMM sets them up. Spelled out by
// ourselves; abi/kvm_msr.cc compares them with the system's header.
//
// Spec:    Linux uAPI, Documentation/virt/kvm/api.rst (KVM_X86_SET_MSR_FILTER,
//          KVM_CAP_X86_USER_SPACE_MSR, KVM_CAP_EXIT_HYPERCALL), x86/cpuid.rst, x86/msr.rst.
// Plain values: no ownership, no threads, no failure.
#pragma once

#include <cstddef>
#include <cstdint>

namespace sealift {

inline constexpr unsigned long kKvmCheckExtension = 0xae03;    // argument: a capability's number
inline constexpr unsigned long kKvmEnableCap = 0x4068aea3;     // KvmEnableCap
inline constexpr unsigned long kKvmSetMsrFilter = 0x4188aec6;  // KvmMsrFilter
inline constexpr std::uint32_t kKvmCapUserSpaceMsr = 188;
inline constexpr std::uint32_t kKvmCapMsrFilter = 189;
inline constexpr std::uint32_t kKvmCapExitHypercall = 201;
inline constexpr std::uint64_t kKvmMsrExitFilter = 1u << 2;  // of args[0] and of msr.reason

inline constexpr std::uint32_t kMsrKvmMigrationControl = 0x4b564d08;
inline constexpr std::uint64_t kKvmMigrationReady = 1;  // bit 0; all others are reserved

inline constexpr std::uint32_t kKvmCpuidFeaturesLeaf = 0x40000001;
inline constexpr std::uint32_t kKvmFeatureMapGpaRange = 1u << 16;       // of EAX
inline constexpr std::uint32_t kKvmFeatureMigrationControl = 1u << 17;  // of EAX

struct KvmEnableCap {
  std::uint32_t cap;
  std::uint32_t flags;
  std::uint64_t args[4];
  std::uint8_t pad[64];
};

inline constexpr std::uint32_t kKvmMsrFilterRead = 1u << 0;
inline constexpr std::uint32_t kKvmMsrFilterWrite = 1u << 1;
inline constexpr std::size_t kKvmMsrFilterRangesMax = 16;

struct KvmMsrFilterRange {
  std::uint32_t flags;
  std::uint32_t nmsrs;  // 0: the range is skipped
  std::uint32_t base;
  std::uint32_t pad;
  const void* bitmap;  // bit set: KVM handles the MSR; ceil(nmsrs / 64) * 8 bytes
};

struct KvmMsrFilter {
  std::uint32_t flags;  // 0: what no range names is allowed
  std::uint32_t pad;
  KvmMsrFilterRange ranges[kKvmMsrFilterRangesMax];
};

static_assert(sizeof(KvmEnableCap) == 104 && offsetof(KvmEnableCap, args) == 8);
static_assert(sizeof(KvmMsrFilterRange) == 24 && offsetof(KvmMsrFilterRange, bitmap) == 16);
static_assert(sizeof(KvmMsrFilter) == 392 && offsetof(KvmMsrFilter, ranges) == 8);

}  // namespace sealift
