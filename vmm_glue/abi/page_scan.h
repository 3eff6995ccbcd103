// PAGEMAP_SCAN and the userfaultfd features that make it a dirty log, spelled out by ourselves:
// Debian 12's headers are of Linux 6.1, and these are of 6.7.
//
// Spec:    Linux Documentation/admin-guide/mm/pagemap.rst and userfaultfd.rst;
//          PAGEMAP_SCAN(2const). abi/page_scan.cc compares everything with the system's headers
//          where these know it.
// Plain values: no ownership, no threads, no failure.
#pragma once

#include <cstddef>
#include <cstdint>

namespace sealift {

inline constexpr unsigned long kPagemapScan = 0xc0606610;  // _IOWR('f', 16, struct pm_scan_arg)

inline constexpr std::uint64_t kPageIsWritten = 1 << 1;             // category
inline constexpr std::uint64_t kScanWriteProtectMatching = 1 << 0;  // flag
inline constexpr std::uint64_t kScanCheckWpAsync = 1 << 1;          // flag: EPERM for other memory

inline constexpr std::uint64_t kUffdWpHugetlbfsShmem = 1 << 12;
inline constexpr std::uint64_t kUffdWpUnpopulated = 1 << 13;
inline constexpr std::uint64_t kUffdWpAsync = 1 << 15;

struct PageScan {  // struct pm_scan_arg
  std::uint64_t size;
  std::uint64_t flags;
  std::uint64_t start;
  std::uint64_t end;
  std::uint64_t walk_end;  // written by the kernel: where the scan stopped
  std::uint64_t vec;
  std::uint64_t vec_len;
  std::uint64_t max_pages;  // 0: no limit
  std::uint64_t category_inverted;
  std::uint64_t category_mask;
  std::uint64_t category_anyof_mask;
  std::uint64_t return_mask;
};
struct PageRegion {  // struct page_region, half-open
  std::uint64_t start;
  std::uint64_t end;
  std::uint64_t categories;
};

static_assert(sizeof(PageScan) == 96 && offsetof(PageScan, walk_end) == 32);
static_assert(offsetof(PageScan, category_mask) == 72 && offsetof(PageScan, return_mask) == 88);
static_assert(sizeof(PageRegion) == 24 && offsetof(PageRegion, categories) == 16);
static_assert((kPagemapScan >> 16 & 0x3fff) == sizeof(PageScan));

}  // namespace sealift
