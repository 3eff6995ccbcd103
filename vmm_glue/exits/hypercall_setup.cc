#include "vmm_glue/exits/hypercall_setup.h"

#include <algorithm>

namespace sealift {
namespace {

constexpr std::uint64_t kPageStateBit = 1ULL << 12;  // KVM_HC_MAP_GPA_RANGE in the mask

// KVM_CHECK_EXTENSION takes the number itself where other requests take an address.
int check_extension(HostIoctl& io, int vm_fd, std::uint32_t capability) {
  return io.ioctl(vm_fd, kKvmCheckExtension, reinterpret_cast<void*>(std::uintptr_t{capability}));
}

Result<void> enable(HostIoctl& io, int vm_fd, std::uint32_t capability, std::uint64_t argument) {
  KvmEnableCap request{};
  request.cap = capability;
  request.args[0] = argument;
  const int result = io.ioctl(vm_fd, kKvmEnableCap, &request);
  if (result >= 0) return {};
  return fail(ErrorClass::kLocalFault, "KVM_ENABLE_CAP {} with {:#x}: {}", capability, argument,
              errno_text(-result));
}

}  // namespace

Result<PageStateExits> enable_page_state_exits(HostIoctl& io, int vm_fd) {
  const int mask = check_extension(io, vm_fd, kKvmCapExitHypercall);
  if (mask < 0 || (static_cast<std::uint64_t>(mask) & kPageStateBit) == 0) {
    return fail(ErrorClass::kRefused,
                "KVM_CAP_EXIT_HYPERCALL gives {}: this kernel cannot hand hypercall 12 to the VMM",
                mask);
  }
  SEALIFT_CHECK(enable(io, vm_fd, kKvmCapExitHypercall, kPageStateBit));
  return PageStateExits();
}

KvmMsrFilterRange migration_control_range() {
  static constexpr std::uint64_t kDenied = 0;
  return KvmMsrFilterRange{.flags = kKvmMsrFilterRead | kKvmMsrFilterWrite,
                           .nmsrs = 1,
                           .base = kMsrKvmMigrationControl,
                           .pad = 0,
                           .bitmap = &kDenied};
}

Result<MigrationControlTrap> trap_migration_control(HostIoctl& io, int vm_fd) {
  for (const std::uint32_t capability : {kKvmCapUserSpaceMsr, kKvmCapMsrFilter}) {
    const int has = check_extension(io, vm_fd, capability);
    if (has <= 0) {
      return fail(ErrorClass::kRefused,
                  "KVM capability {} gives {}: this kernel cannot trap an MSR", capability, has);
    }
  }
  // The capability first: an MSR that is filtered without it gives the guest #GP. By filter, not as
  // an unknown MSR: with kvm.ignore_msrs=1 an unknown one never exits.
  SEALIFT_CHECK(enable(io, vm_fd, kKvmCapUserSpaceMsr, kKvmMsrExitFilter));
  KvmMsrFilter filter{};
  filter.ranges[0] = migration_control_range();
  const int result = io.ioctl(vm_fd, kKvmSetMsrFilter, &filter);
  if (result < 0) {
    return fail(ErrorClass::kLocalFault, "KVM_X86_SET_MSR_FILTER for MSR {:#x}: {}",
                kMsrKvmMigrationControl, errno_text(-result));
  }
  return MigrationControlTrap();
}

Result<void> advertise_page_state(std::span<kvm_cpuid_entry2> cpuid, const PageStateExits&,
                                  const MigrationControlTrap* trap) {
  const auto leaf = std::find_if(cpuid.begin(), cpuid.end(), [](const kvm_cpuid_entry2& entry) {
    return entry.function == kKvmCpuidFeaturesLeaf;
  });
  if (leaf == cpuid.end()) {
    return fail(ErrorClass::kRefused, "none of the {} CPUID entries is leaf {:#x}", cpuid.size(),
                kKvmCpuidFeaturesLeaf);
  }
  leaf->eax |= kKvmFeatureMapGpaRange;
  if (trap != nullptr) leaf->eax |= kKvmFeatureMigrationControl;
  return {};
}

}  // namespace sealift
