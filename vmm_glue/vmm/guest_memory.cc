#include "vmm_glue/vmm/guest_memory.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "engine/assert.h"

namespace sealift {

Result<GuestMemory> GuestMemory::make(const MemoryLayout& layout, Populate populate) {
  const std::uint64_t bytes = layout.pages() * kPageBytes;
  // The first touch of a page under KVM costs microseconds of a vCPU: a KVM guest's memory is
  // populated beforehand.
  const int flags =
      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | (populate == Populate::kNow ? MAP_POPULATE : 0);
  void* base = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
  if (base == MAP_FAILED) {
    return fail(ErrorClass::kLocalFault, "mmap of {} bytes of guest memory failed: {}", bytes,
                strerrorname_np(errno));
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
