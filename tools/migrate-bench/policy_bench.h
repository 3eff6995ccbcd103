// migrate-bench policy: the convergence policy over workloads and links, in simulated time
// (engine/forecast.h): total, downtime, rounds, throttle and how good the prediction was.
//
// Threads: one. Failure: none.
#pragma once

#include "tools/migrate-bench/report.h"

namespace sealift::bench {

Report run_policy();

}  // namespace sealift::bench
