// The benchmark of the scarce exporter: how many pages go through a firmware of 400 pages/s for
// each page that has to, against the least that hindsight allows and against a sender that goes
// round by address. In simulated time (exports_sim.h), so the figures are the same on any machine.
//
// Owner: the caller. Threads: none. Failure: none; a missed goal is in the report.
#pragma once

#include "tools/migrate-bench/report.h"

namespace sealift::bench {

struct ExportsOptions {
  bool quick = false;  // one seed instead of five
};
Report run_exports(const ExportsOptions& options);

}  // namespace sealift::bench
