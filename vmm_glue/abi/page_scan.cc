// abi/page_scan.h against the system's headers, as far as they go.
#include "vmm_glue/abi/page_scan.h"

#include <linux/fs.h>
#include <linux/userfaultfd.h>

namespace sealift {

static_assert(kUffdWpHugetlbfsShmem == UFFD_FEATURE_WP_HUGETLBFS_SHMEM);
#ifdef UFFD_FEATURE_WP_UNPOPULATED
static_assert(kUffdWpUnpopulated == UFFD_FEATURE_WP_UNPOPULATED);
#endif
#ifdef UFFD_FEATURE_WP_ASYNC
static_assert(kUffdWpAsync == UFFD_FEATURE_WP_ASYNC);
#endif
#ifdef PAGEMAP_SCAN
static_assert(kPagemapScan == PAGEMAP_SCAN);
static_assert(kPageIsWritten == PAGE_IS_WRITTEN);
static_assert(kScanWriteProtectMatching == PM_SCAN_WP_MATCHING);
static_assert(kScanCheckWpAsync == PM_SCAN_CHECK_WPASYNC);
static_assert(sizeof(PageScan) == sizeof(pm_scan_arg));
static_assert(offsetof(PageScan, walk_end) == offsetof(pm_scan_arg, walk_end));
static_assert(offsetof(PageScan, return_mask) == offsetof(pm_scan_arg, return_mask));
static_assert(sizeof(PageRegion) == sizeof(page_region));
#endif

}  // namespace sealift
