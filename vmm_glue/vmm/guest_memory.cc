#include "vmm_glue/vmm/guest_memory.h"

#include <linux/memfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "engine/assert.h"

namespace sealift {

namespace {

Result<int> make_memfd(std::uint64_t bytes, MemoryBacking backing) {
  const bool huge = backing == MemoryBacking::kHugePages;
  const unsigned flags = MFD_CLOEXEC | (huge ? MFD_HUGETLB | MFD_HUGE_2MB : 0u);
  const int fd = memfd_create("sealift-guest", flags);
  if (fd < 0) {
    return fail(ErrorClass::kLocalFault, "memfd_create of guest memory ({}) failed: {}",
                name_of(backing), strerrorname_np(errno));
  }
  if (ftruncate(fd, static_cast<off_t>(bytes)) == 0) return fd;
  const int error = errno;
  close(fd);
  return fail(ErrorClass::kLocalFault, "guest memory of {} bytes ({}) cannot be reserved: {}",
              bytes, name_of(backing), strerrorname_np(error));
}

}  // namespace

Result<GuestMemory> GuestMemory::make(const MemoryLayout& layout, Populate populate,
                                      MemoryBacking backing) {
  const std::uint64_t bytes = layout.pages() * kPageBytes;
  SEALIFT_TRY(const int fd, make_memfd(bytes, backing));
  // The first touch of a page under KVM costs microseconds of a vCPU: a KVM guest's memory is
  // populated beforehand. Huge pages are reserved by mmap, so that a shortage shows here and not as
  // SIGBUS later.
  int flags = MAP_SHARED | (populate == Populate::kNow ? MAP_POPULATE : 0);
  if (backing == MemoryBacking::kMemfd) flags |= MAP_NORESERVE;
  void* base = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, flags, fd, 0);
  const int error = errno;
  close(fd);  // the mapping keeps the memory
  if (base == MAP_FAILED) {
    return fail(ErrorClass::kLocalFault, "mmap of {} bytes of guest memory ({}) failed: {}{}",
                bytes, name_of(backing), strerrorname_np(error),
                backing == MemoryBacking::kHugePages
                    ? "; are enough 2 MiB pages reserved in /proc/sys/vm/nr_hugepages?"
                    : "");
  }
  return GuestMemory(static_cast<std::byte*>(base), layout.pages());
}

GuestMemory::GuestMemory(GuestMemory&& other) noexcept
    : base_(std::exchange(other.base_, nullptr)), pages_(other.pages_) {}

GuestMemory::~GuestMemory() {
  if (base_ != nullptr) munmap(base_, pages_ * kPageBytes);
}

std::byte* GuestMemory::at(Gfn gfn) const {
  std::byte* found = find(gfn);
  SEALIFT_ASSERT(found != nullptr);
  return found;
}

}  // namespace sealift
