#include "vmm_glue/dirty/written_pages.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "engine/types.h"

namespace sealift {
namespace {

constexpr std::size_t kRegionsPerScan = 512;
constexpr std::uint64_t kFeatures = kUffdWpAsync | kUffdWpUnpopulated | kUffdWpHugetlbfsShmem;

// A userfaultfd does one handshake in its life, and an answer to unknown features is only EINVAL.
Result<KvmHandle> open_uffd(std::uint64_t features, std::uint64_t& offered) {
  const long fd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
  if (fd < 0) {
    return fail(ErrorClass::kLocalFault,
                "userfaultfd() failed: {}; ENOSYS is a kernel without it, EPERM a seccomp filter",
                strerrorname_np(errno));
  }
  KvmHandle uffd(static_cast<int>(fd));
  uffdio_api api{};
  api.api = UFFD_API;
  api.features = features;
  SEALIFT_TRY([[maybe_unused]] int shaken, SEALIFT_KVM(uffd, UFFDIO_API, &api));
  offered = api.features;
  return uffd;
}

uffdio_range range_of(std::span<std::byte> memory) {
  return uffdio_range{reinterpret_cast<std::uintptr_t>(memory.data()), memory.size()};
}

}  // namespace

Result<WrittenPages> WrittenPages::open() {
  std::uint64_t offered = 0;
  {
    SEALIFT_TRY(const KvmHandle asks, open_uffd(0, offered));
  }
  if ((offered & kFeatures) != kFeatures) {
    return fail(ErrorClass::kLocalFault,
                "this kernel's userfaultfd has no asynchronous write protection of all kinds of "
                "memory: features {:#x} are missing of {:#x} (Linux 6.7 has them)",
                kFeatures & ~offered, kFeatures);
  }
  SEALIFT_TRY(KvmHandle uffd, open_uffd(kFeatures, offered));
  const int pagemap = ::open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  if (pagemap < 0) {
    return fail(ErrorClass::kLocalFault, "/proc/self/pagemap cannot be opened: {}",
                strerrorname_np(errno));
  }
  WrittenPages written(std::move(uffd), KvmHandle(pagemap));
  written.regions_.resize(kRegionsPerScan);
  return written;
}

Result<void> WrittenPages::watch(std::span<std::byte> memory) {
  uffdio_register registration{};
  registration.range = range_of(memory);
  registration.mode = UFFDIO_REGISTER_MODE_WP;
  uffdio_writeprotect protection{};
  protection.range = registration.range;
  protection.mode = UFFDIO_WRITEPROTECT_MODE_WP;
  auto done = SEALIFT_KVM(uffd_, UFFDIO_REGISTER, &registration);
  if (done) done = SEALIFT_KVM(uffd_, UFFDIO_WRITEPROTECT, &protection);
  if (done) return {};
  return fail(done.error().cls,
              "{} bytes at {:#x}: {}; EINVAL is memory that cannot be watched or is not aligned, "
              "EBUSY memory that another userfaultfd has",
              memory.size(), std::uint64_t{registration.range.start}, done.error().detail);
}

Result<std::uint64_t> WrittenPages::scan(std::span<std::byte> memory, std::uint64_t from) {
  const std::uint64_t base = reinterpret_cast<std::uintptr_t>(memory.data());
  PageScan scan{};
  scan.size = sizeof scan;
  scan.flags = kScanWriteProtectMatching | kScanCheckWpAsync;
  scan.start = base + from;
  scan.end = base + memory.size();
  scan.vec = reinterpret_cast<std::uintptr_t>(regions_.data());
  scan.vec_len = regions_.size();
  scan.category_mask = kPageIsWritten;
  scan.return_mask = kPageIsWritten;
  const auto regions = pagemap_.call("PAGEMAP_SCAN", kPagemapScan, &scan);
  const bool sane = regions && static_cast<std::size_t>(*regions) <= regions_.size() &&
                    scan.walk_end > scan.start && scan.walk_end <= scan.end &&
                    (scan.walk_end - base) % kPageBytes == 0;
  if (!sane) {
    // What was protected again before the failure is not known: all of it counts as written.
    runs_.assign(1, PageRun{from / kPageBytes, (memory.size() - from) / kPageBytes});
    return fail(
        ErrorClass::kLocalFault, "{} bytes at {:#x}: {}", memory.size(), base,
        regions ? fmt::format("PAGEMAP_SCAN from {:#x} ended at {:#x}", scan.start, scan.walk_end)
                : regions.error().detail);
  }
  runs_.clear();
  for (int i = 0; i < *regions; ++i) {
    const PageRegion& region = regions_[static_cast<std::size_t>(i)];
    const std::uint64_t start = std::clamp(region.start, scan.start, scan.end);
    const std::uint64_t end = std::clamp(region.end, start, scan.end);
    runs_.push_back(PageRun{(start - base) / kPageBytes, (end - start) / kPageBytes});
  }
  return scan.walk_end - base;
}

Result<void> WrittenPages::probe() {
  SEALIFT_TRY(WrittenPages written, open());
  const auto page_bytes = static_cast<std::size_t>(kPageBytes);
  void* area =
      mmap(nullptr, page_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (area == MAP_FAILED) {
    return fail(ErrorClass::kLocalFault, "mmap of a page failed: {}", strerrorname_np(errno));
  }
  const std::span memory(static_cast<std::byte*>(area), page_bytes);
  std::uint64_t pages = 0;
  auto result = written.watch(memory);
  if (result) {
    std::memset(area, 1, 1);
    result = written.take(memory, [&pages](const PageRun& run) { pages += run.pages; });
  }
  munmap(area, page_bytes);
  if (result && pages != 1) {
    return fail(ErrorClass::kLocalFault, "PAGEMAP_SCAN saw {} written pages of 1", pages);
  }
  return result;
}

}  // namespace sealift
