// Forecast: a whole migration in simulated time, decided on by the policy itself. The guest is a
// fluid: groups of pages that are written so often each; the paths are rates.
//
// It is what the policy is tuned on (migrate-bench policy) and what `migrate estimate` says before
// anything moves: both see the very decisions a migration would take.
//
// What it leaves out: pages of a group are all alike, and written at random moments. A guest that
// sweeps over its memory is a group whose pages are written once a sweep.
//
// Plain values; no clock, no randomness: the same input gives the same figures.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/policy.h"
#include "engine/types.h"

namespace sealift {

struct PageGroup {
  PageClass cls = PageClass::kShared;
  double pages = 0;
  double writes_per_s = 0;  // to each of them
};

// For so long the guest writes so many times as much; the list is repeated.
struct Activity {
  double seconds = 0;
  double factor = 1;
};

struct GuestModel {
  std::vector<PageGroup> groups;
  std::vector<Activity> activity;  // empty: always the same
  double zero_share = 0;           // of the shared pages, before the first pass
  // Every page that is watched again costs the guest a fault when it is written: it dirties no
  // more than this. 0: no limit.
  double faults_per_s = 0;
};

struct PathModel {
  double plain_pages_per_s = 0;
  double firmware_pages_per_s = 0;  // 0: no private page can leave
  bool live_export = true;          // of the platform
  double round_trip_s = 0;
  double harvest_s = 0;
  double pause_s = 0.002;          // what a pause takes beside harvest, pages and round trips
  double paused_plain_factor = 1;  // a paused guest leaves its processors to the migration
};

struct Forecast {
  Step end = Step::kAnotherRound;  // kAnotherRound: it was still under way after kForecastMax_s
  double total_s = 0;
  double downtime_s = 0;
  double predicted_downtime_s = 0;   // by the decision to pause
  double predicted_total_low_s = 0;  // by the first decision; a negative high is "unknown"
  double predicted_total_high_s = 0;
  std::uint32_t rounds = 0;
  double plain_pages = 0;
  double exports = 0;
  std::uint32_t throttle_percent = 0;  // the most
  double slowdown = 0;                 // share of the live time in which the guest was held back
  std::string reason;                  // the last decision's
};
inline constexpr double kForecastMax_s = 24 * 3600;

// `timeout_s`: the operator's limit, 0 for none; goals.on_timeout says what happens then.
Forecast forecast(const GuestModel& guest, const PathModel& path, const Goals& goals,
                  double timeout_s = 0);

}  // namespace sealift
