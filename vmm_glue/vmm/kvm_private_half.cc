#include "vmm_glue/vmm/kvm_private_half.h"

#include <linux/kvm.h>

#include <utility>

#include "vmm_glue/abi/kvm_memory.h"
#include "vmm_glue/exits/memory_attributes.h"

namespace sealift {
namespace {

constexpr unsigned long kCapVmTypes = 235;  // KVM_CAP_VM_TYPES, Linux 6.8

}  // namespace

Result<void> KvmPrivateHalf::can_use(const KvmSystem& system) {
  const auto types = SEALIFT_KVM(system.handle, KVM_CHECK_EXTENSION, kCapVmTypes);
  if (types && (*types & 1 << kKvmVmTypeSwProtected) != 0) return {};
  return fail(ErrorClass::kRefused,
              "this kernel has no KVM_X86_SW_PROTECTED_VM (KVM_CAP_VM_TYPES is {:#x}): it needs "
              "CONFIG_KVM_SW_PROTECTED_VM and two-dimensional paging",
              types.value_or(0));
}

Result<std::unique_ptr<KvmPrivateHalf>> KvmPrivateHalf::make(const KvmHandle& vm,
                                                             const std::vector<KvmSlot>& slots,
                                                             PageMap& map, DirtySet& dirty) {
  std::unique_ptr<KvmPrivateHalf> half(new KvmPrivateHalf);
  std::vector<GmemSlot> gmem;
  for (const KvmSlot& slot : slots) {
    const std::uint64_t bytes = slot.range.pages * kPageBytes;
    SEALIFT_TRY(const int fd, create_guest_memfd(half->kernel_, vm.fd(), bytes, 0));
    half->guest_memfds_.emplace_back(fd);
    KvmUserMemoryRegion2 region{};
    region.slot = slot.id;
    region.flags = kKvmMemGuestMemfd;
    region.guest_phys_addr = value(base_of(slot.range.first));
    region.memory_size = bytes;
    region.userspace_addr = reinterpret_cast<std::uintptr_t>(slot.host);
    region.guest_memfd = static_cast<std::uint32_t>(fd);
    SEALIFT_CHECK(set_user_memory_region2(half->kernel_, vm.fd(), region));
    GmemSlot side;
    side.slot = slot.id;
    side.range = slot.range;
    side.backing = SharedBacking::kSharedAnonymous;  // a memfd: MADV_REMOVE gives it back
    side.shared = slot.host;
    side.guest_memfd = fd;
    gmem.push_back(side);
  }
  SEALIFT_TRY(half->converter_,
              GmemConverter::make({half->kernel_, vm.fd(), half->discard_, map, dirty, {}},
                                  std::move(gmem)));
  SEALIFT_CHECK(half->apply_map());
  return half;
}

Result<void> KvmPrivateHalf::make_helper(const KvmSystem& system, const KvmHandle& vm,
                                         const MemoryLayout& layout, std::uint32_t index,
                                         std::span<const kvm_cpuid_entry2> cpuid) {
  const auto first_slot = static_cast<std::uint32_t>(guest_memfds_.size());
  SEALIFT_TRY(auto memory, inguest::HelperMemory::make(vm, layout, first_slot,
                                                       inguest::SecretMemory::kGuestMemfd));
  helper_memory_.emplace(std::move(memory));
  SEALIFT_TRY(helper_vcpu_, KvmVcpu::make(system, vm, index, cpuid));
  helper_.emplace(*helper_vcpu_, *helper_memory_);
  return {};
}

}  // namespace sealift
