#include "vmm_glue/exits/memory_attributes.h"

#include <cerrno>

namespace sealift {

Result<int> create_guest_memfd(HostIoctl& io, int vm_fd, std::uint64_t bytes, std::uint64_t flags) {
  KvmCreateGuestMemfd request{.size = bytes, .flags = flags, .reserved = {}};
  const int fd = io.ioctl(vm_fd, kKvmCreateGuestMemfd, &request);
  if (fd >= 0) return fd;
  return fail(ErrorClass::kLocalFault, "KVM_CREATE_GUEST_MEMFD of {:#x} bytes, flags {:#x}: {}",
              bytes, flags, errno_text(-fd));
}

Result<void> set_user_memory_region2(HostIoctl& io, int vm_fd, const KvmUserMemoryRegion2& region) {
  KvmUserMemoryRegion2 request = region;
  const int result = io.ioctl(vm_fd, kKvmSetUserMemoryRegion2, &request);
  if (result >= 0) return {};
  return fail(ErrorClass::kLocalFault,
              "KVM_SET_USER_MEMORY_REGION2 of slot {}, gpa {:#x}, {:#x} bytes, flags {:#x}: {}",
              region.slot, region.guest_phys_addr, region.memory_size, region.flags,
              errno_text(-result));
}

Result<void> set_memory_attributes(HostIoctl& io, int vm_fd, GfnRange range, PageClass cls) {
  KvmMemoryAttributes request{};
  request.address = value(base_of(range.first));
  request.size = range.pages * kPageBytes;
  request.attributes = cls == PageClass::kPrivate ? kKvmAttributePrivate : 0;
  const int result = io.ioctl(vm_fd, kKvmSetMemoryAttributes, &request);
  if (result >= 0) return {};
  return fail(ErrorClass::kLocalFault,
              "KVM_SET_MEMORY_ATTRIBUTES of {:#x} bytes at gpa {:#x} to {}: {}", request.size,
              request.address, name_of(cls), errno_text(-result));
}

Result<std::uint64_t> pre_fault(HostIoctl& io, int vcpu_fd, GfnRange range) {
  KvmPreFaultMemory request{};
  request.gpa = value(base_of(range.first));
  request.size = range.pages * kPageBytes;
  const int result = io.ioctl(vcpu_fd, kKvmPreFaultMemory, &request);
  const std::uint64_t left = request.size / kPageBytes;
  if (result < 0 && result != -EINTR && result != -EAGAIN) {
    return fail(ErrorClass::kLocalFault, "KVM_PRE_FAULT_MEMORY of {} pages from gfn {:#x}: {}",
                range.pages, value(range.first), errno_text(-result));
  }
  return left < range.pages ? range.pages - left : 0;
}

}  // namespace sealift
