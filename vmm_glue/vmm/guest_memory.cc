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

Result<GuestMemory::FileRun> GuestMemory::next_populated(std::uint64_t from,
                                                         std::uint64_t end) const {
  if (from >= end) return FileRun{end, 0};
  const off_t data = lseek(file_.fd(), offset_of(from), SEEK_DATA);
  if (data < 0 && errno == ENXIO) return FileRun{end, 0};
  if (data >= offset_of(end)) return FileRun{end, 0};
  // A page that is punched between the two calls gives a run that begins with a hole: harmless.
  const off_t hole = data < 0 ? data : lseek(file_.fd(), data, SEEK_HOLE);
  if (hole < 0 && errno == ENXIO) return FileRun{end, 0};
  if (hole < 0) {
    return fail(ErrorClass::kLocalFault, "the holes of guest memory from page {:#x} on: lseek: {}",
                from, strerrorname_np(errno));
  }
  const std::uint64_t first = static_cast<std::uint64_t>(data) / kPageBytes;
  const std::uint64_t stop = (static_cast<std::uint64_t>(hole) + kPageBytes - 1) / kPageBytes;
  return FileRun{first, std::min(stop, end) - first};
}

Result<void> GuestMemory::for_each_populated(const std::function<void(GfnRange)>& visit) const {
  // The gap is no boundary of the file.
  for (std::uint64_t at = 0; at < pages_;) {
    const std::uint64_t end =
        at < guest::kGapFirstGfn ? std::min<std::uint64_t>(pages_, guest::kGapFirstGfn) : pages_;
    SEALIFT_TRY(const FileRun run, next_populated(at, end));
    if (run.pages > 0) visit(GfnRange{Gfn{guest::gfn_of_linear(run.first)}, run.pages});
    at = run.first + run.pages;
  }
  return {};
}

bool GuestMemory::is_hole(Gfn gfn) const {
  const auto page = static_cast<std::uint64_t>(at(gfn) - base_.get()) / kPageBytes;
  const auto run = next_populated(page, page + 1);
  return run && run->pages == 0;
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
  return for_each_file_run(range, [&](FileRun wish) -> Result<void> {
    const std::uint64_t end = wish.first + wish.pages;
    for (std::uint64_t at = wish.first; at < end;) {
      SEALIFT_TRY(const FileRun run, next_populated(at, end));
      at = run.first + run.pages;
      if (run.pages > 0 && on_touch_ && !keep) {
        if (fallocate(file_.fd(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset_of(run.first),
                      offset_of(run.pages)) == 0) {
          continue;
        }
        return fail(ErrorClass::kLocalFault, "a hole of {} pages in guest memory from {:#x} on: {}",
                    run.pages, run.first, strerrorname_np(errno));
      }
      for (std::uint64_t page = run.first; page < at; ++page) {
        std::byte* host = base_.get() + page * kPageBytes;
        if (!is_zero(host, kPageBytes)) copy_to_guest(host, kZeroPage);
      }
    }
    return {};
  });
}

}  // namespace sealift
