#include "vmm_glue/inguest/helper_memory.h"

#include <linux/kvm.h>
#include <sys/mman.h>

#include <utility>

#include "vmm_glue/exits/memory_attributes.h"

namespace sealift::inguest {
namespace {

Result<void> add_plain_slot(const KvmHandle& vm, std::uint32_t slot, GfnRange range,
                            const std::byte* host) {
  kvm_userspace_memory_region region{};
  region.slot = slot;
  region.guest_phys_addr = value(base_of(range.first));
  region.memory_size = range.pages * kPageBytes;
  region.userspace_addr = reinterpret_cast<std::uintptr_t>(host);
  SEALIFT_TRY([[maybe_unused]] int set, SEALIFT_KVM(vm, KVM_SET_USER_MEMORY_REGION, &region));
  return {};
}

// The slot's shared side is mapped and never used: the range is private from the start.
Result<KvmHandle> add_private_slot(const KvmHandle& vm, std::uint32_t slot, GfnRange range,
                                   const std::byte* host) {
  KernelIoctl kernel;
  SEALIFT_TRY(const int fd, create_guest_memfd(kernel, vm.fd(), range.pages * kPageBytes, 0));
  KvmHandle guest_memfd(fd);
  KvmUserMemoryRegion2 region{};
  region.slot = slot;
  region.flags = kKvmMemGuestMemfd;
  region.guest_phys_addr = value(base_of(range.first));
  region.memory_size = range.pages * kPageBytes;
  region.userspace_addr = reinterpret_cast<std::uintptr_t>(host);
  region.guest_memfd = static_cast<std::uint32_t>(fd);
  SEALIFT_CHECK(set_user_memory_region2(kernel, vm.fd(), region));
  SEALIFT_CHECK(set_memory_attributes(kernel, vm.fd(), range, PageClass::kPrivate));
  return guest_memfd;
}

}  // namespace

Result<HelperMemory> HelperMemory::make(const KvmHandle& vm, const MemoryLayout& ram,
                                        std::uint32_t first_slot, SecretMemory secret) {
  SEALIFT_TRY(const HelperPlan plan, plan_helper(ram));
  HelperMemory memory(plan, ram);
  SEALIFT_CHECK(memory.map());
  memory.write_program();
  SEALIFT_CHECK(memory.add_slots(vm, first_slot, secret));
  return memory;
}

HelperMemory::HelperMemory(HelperMemory&& other) noexcept
    : plan_(other.plan_),
      ram_(other.ram_),
      base_(std::exchange(other.base_, nullptr)),
      guest_memfd_(std::move(other.guest_memfd_)) {}

HelperMemory::~HelperMemory() {
  if (base_ != nullptr) munmap(base_, mapped_bytes());
}

Result<void> HelperMemory::map() {
  void* base = mmap(nullptr, mapped_bytes(), PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (base == MAP_FAILED) {
    return fail(ErrorClass::kLocalFault, "mmap of {} bytes for the in-guest helper failed: {}",
                mapped_bytes(), strerrorname_np(errno));
  }
  base_ = static_cast<std::byte*>(base);
  return {};
}

Result<void> HelperMemory::add_slots(const KvmHandle& vm, std::uint32_t first_slot,
                                     SecretMemory secret) {
  SEALIFT_CHECK(add_plain_slot(vm, first_slot, plan_.plain, base_));
  const std::byte* const beside = base_ + plan_.plain.pages * kPageBytes;
  if (secret == SecretMemory::kPlain) {
    return add_plain_slot(vm, first_slot + 1, plan_.secret, beside);
  }
  SEALIFT_TRY(guest_memfd_, add_private_slot(vm, first_slot + 1, plan_.secret, beside));
  return {};
}

}  // namespace sealift::inguest
