// The page map's benchmark: lookups and conversions against a locked vector<bool> and a locked
// CRoaring bitmap, memory, conversion of a whole guest, harvest. All of a 1 TiB guest.
//
// Owner: the caller. Threads: makes its own and joins them. Failure: none; a missed goal is in the
// report.
#pragma once

#include "tools/migrate-bench/report.h"

namespace sealift::bench {

struct PageMapOptions {
  bool quick = false;  // fewer and shorter repetitions, no figures without a goal that take long
};
Report run_page_map(const PageMapOptions& options);

}  // namespace sealift::bench
