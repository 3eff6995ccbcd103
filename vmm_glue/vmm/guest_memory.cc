#include "vmm_glue/vmm/guest_memory.h"

#include <fcntl.h>
#include <linux/memfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "engine/assert.h"
#include "engine/zero_scan.h"
#include "vmm_glue/host_copy.h"

namespace sealift {

namespace {

constexpr std::uint64_t kWriteBytesMax = 1ULL << 20;

Result<KvmHandle> make_memfd(std::uint64_t bytes, MemoryBacking backing) {
  const bool huge = backing == MemoryBacking::kHugePages;
  const unsigned flags = MFD_CLOEXEC | (huge ? MFD_HUGETLB | MFD_HUGE_2MB : 0u);
  const int fd = memfd_create("sealift-guest", flags);
  if (fd < 0) {
    return fail(ErrorClass::kLocalFault, "memfd_create of guest memory ({}) failed: {}",
                name_of(backing), strerrorname_np(errno));
  }
  KvmHandle file(fd);
  if (ftruncate(fd, static_cast<off_t>(bytes)) == 0) return file;
  return fail(ErrorClass::kLocalFault, "guest memory of {} bytes ({}) cannot be reserved: {}",
              bytes, name_of(backing), strerrorname_np(errno));
}

off_t offset_of(std::uint64_t page) { return static_cast<off_t>(page * kPageBytes); }

}  // namespace

Result<GuestMemory> GuestMemory::make(const MemoryLayout& layout, Populate populate,
                                      MemoryBacking backing) {
  const std::uint64_t bytes = layout.pages() * kPageBytes;
  SEALIFT_TRY(KvmHandle file, make_memfd(bytes, backing));
  // The first touch of a page under KVM costs microseconds of a vCPU: a KVM guest's memory is
  // populated beforehand. Huge pages are reserved by mmap, so that a shortage shows here and not as
  // SIGBUS later.
  int flags = MAP_SHARED | (populate == Populate::kNow ? MAP_POPULATE : 0);
  if (backing == MemoryBacking::kMemfd) flags |= MAP_NORESERVE;
  void* base = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, flags, file.fd(), 0);
  if (base == MAP_FAILED) {
    return fail(ErrorClass::kLocalFault, "mmap of {} bytes of guest memory ({}) failed: {}{}",
                bytes, name_of(backing), strerrorname_np(errno),
                backing == MemoryBacking::kHugePages
                    ? "; are enough 2 MiB pages reserved in /proc/sys/vm/nr_hugepages?"
                    : "");
  }
  const bool on_touch = populate == Populate::kOnTouch && backing == MemoryBacking::kMemfd;
  return GuestMemory(std::move(file), static_cast<std::byte*>(base), layout.pages(), on_touch);
}

void GuestMemory::Unmap::operator()(std::byte* base) const { munmap(base, bytes); }

std::byte* GuestMemory::at(Gfn gfn) const {
  std::byte* found = find(gfn);
  SEALIFT_ASSERT(found != nullptr);
  return found;
}

template <class Visit>
Result<void> GuestMemory::for_each_file_run(GfnRange range, Visit visit) const {
  while (range.pages > 0) {
    const auto first = static_cast<std::uint64_t>(at(range.first) - base_.get()) / kPageBytes;
    const std::uint64_t below_gap =
        first < guest::kGapFirstGfn ? guest::kGapFirstGfn - first : range.pages;
    const std::uint64_t pages = std::min(range.pages, below_gap);
    SEALIFT_CHECK(visit(FileRun{first, pages}));
    range = GfnRange{Gfn{guest::gfn_of_linear(first + pages)}, range.pages - pages};
  }
  return {};
}

Result<std::uint64_t> GuestMemory::next_data(std::uint64_t from, std::uint64_t end) const {
  const off_t data = from < end ? lseek(file_.fd(), offset_of(from), SEEK_DATA) : offset_of(end);
  if (data >= 0) return std::min(static_cast<std::uint64_t>(data) / kPageBytes, end);
  if (errno == ENXIO) return end;
  return fail(ErrorClass::kLocalFault, "the holes of guest memory from page {:#x} on: lseek: {}",
              from, strerrorname_np(errno));
}

Result<void> GuestMemory::for_each_populated(const std::function<void(GfnRange)>& visit) const {
  // The gap is no boundary of the file.
  for (std::uint64_t at = 0; at < pages_;) {
    const std::uint64_t end =
        at < guest::kGapFirstGfn ? std::min<std::uint64_t>(pages_, guest::kGapFirstGfn) : pages_;
    SEALIFT_TRY(const std::uint64_t first, next_data(at, end));
    at = first;
    if (first == end) continue;
    const off_t hole = lseek(file_.fd(), offset_of(first), SEEK_HOLE);
    if (hole < 0 && errno != ENXIO) {  // ENXIO: punched meanwhile, and nothing behind it
      return fail(ErrorClass::kLocalFault,
                  "the holes of guest memory from page {:#x} on: lseek: {}", first,
                  strerrorname_np(errno));
    }
    const std::uint64_t stop =
        hole < 0 ? end : (static_cast<std::uint64_t>(hole) + kPageBytes - 1) / kPageBytes;
    at = std::clamp(stop, first + 1, end);
    visit(GfnRange{Gfn{guest::gfn_of_linear(first)}, at - first});
  }
  return {};
}

// Not by SEEK_HOLE, which walks over all that is there.
bool GuestMemory::is_hole(Gfn gfn) const {
  if (!on_touch_) return false;
  const auto page = static_cast<std::uint64_t>(at(gfn) - base_.get()) / kPageBytes;
  const auto data = next_data(page, page + 1);
  return data && *data != page;
}

Result<void> GuestMemory::write(GfnRange range, ByteView in) const {
  SEALIFT_ASSERT(in.size() == range.pages * kPageBytes);
  return for_each_file_run(range, [&](FileRun run) -> Result<void> {
    ByteView part = in.first(run.pages * kPageBytes);
    in = in.subspan(part.size());
    if (!on_touch_) {
      copy_to_guest(base_.get() + run.first * kPageBytes, part);
      return {};
    }
    for (off_t at = offset_of(run.first); !part.empty();) {
      const std::size_t bytes = std::min<std::size_t>(part.size(), kWriteBytesMax);
      const ssize_t written = pwrite(file_.fd(), part.data(), bytes, at);
      if (written < 0 && errno == EINTR) continue;
      if (written <= 0) {
        return fail(ErrorClass::kLocalFault, "{} bytes of guest memory at {:#x} of its file: {}",
                    bytes, at, written == 0 ? "nothing written" : strerrorname_np(errno));
      }
      part = part.subspan(static_cast<std::size_t>(written));
      at += written;
    }
    return {};
  });
}

Result<void> GuestMemory::write_zeros(GfnRange range, bool keep) const {
  static constexpr std::array<std::byte, kPageBytes> kZeroPage{};
  return for_each_file_run(range, [&](FileRun run) -> Result<void> {
    const std::uint64_t end = run.first + run.pages;
    for (std::uint64_t at = run.first; at < end; ++at) {
      if (on_touch_) {
        SEALIFT_TRY(at, next_data(at, end));
        if (at == end) break;
      }
      if (on_touch_ && !keep) {
        if (fallocate(file_.fd(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset_of(at),
                      offset_of(end - at)) == 0) {
          break;
        }
        return fail(ErrorClass::kLocalFault, "a hole of {} pages in guest memory from {:#x} on: {}",
                    end - at, at, strerrorname_np(errno));
      }
      std::byte* host = base_.get() + at * kPageBytes;
      if (!is_zero(host, kPageBytes)) copy_to_guest(host, kZeroPage);
    }
    return {};
  });
}

}  // namespace sealift
