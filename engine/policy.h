// Convergence policy: a pure function from what the rounds measured to what to do next.
//
// Private and shared pages leave at different rates (the firmware is often hundreds of times slower
// than the wire), so the two classes are counted, timed and predicted apart.
//
// A round may be a slice of a pass over the guest's memory (tools/agent/round_sender.h), so neither
// limits nor stalls are counted in rounds: a stall is 5 s without net progress, where a round that
// sent everything counts as a second at least.
//
// The floor: pages that are written so often that the firmware cannot keep up with them are dirty
// at the pause however long one waits. It follows from the heat of the pages (engine/heat.h): the
// hottest are left out until the rest is written no faster than the firmware exports.
//
// Plain values; no state, no clock.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/heat.h"
#include "engine/stats.h"

namespace sealift {

// What to do when the goals cannot be met: rounds_max is reached, a stall, or the floor is above
// downtime_max_ns with the throttle used up. kCancel ends the migration as soon as that is known;
// kSwitchover first sends what is worth sending.
enum class OnStall : std::uint8_t { kSwitchover, kCancel };

struct Goals {
  std::uint64_t downtime_max_ns = 300'000'000;
  // How often all that is dirty is sent at most, or private memory as a whole exported if that is
  // more.
  std::uint32_t rounds_max = 30;
  OnStall on_stall = OnStall::kSwitchover;
  // How far the guest may be slowed down when it dirties memory faster than it is sent: the largest
  // share of time its vCPUs are kept from running. 0: never.
  std::uint32_t throttle_max_percent = 0;
  double firmware_pages_per_s_hint = 0;  // used until a round has measured it; 0: unknown
  std::uint64_t guest_pages = 0;         // of the guest's memory; 0: unknown
};

// Pages per second of each class; 0 = not measured yet.
struct Rates {
  double plain_pages_per_s = 0;
  double firmware_pages_per_s = 0;
};
// Pages by time, both with exponentially falling weight, newest first: a round that sent little of
// a class changes its rate little.
Rates measure_rates(const std::vector<RoundStats>& rounds);

// Time to send `dirty` at `rates`; the classes leave side by side but share one link, so the sum is
// what is sure. 0 when nothing is dirty; a class without a measured rate counts as instantaneous
// only if it has no dirty page, otherwise the prediction is UINT64_MAX.
std::uint64_t predict_ns(const DirtyCounts& dirty, const Rates& rates);

struct EtaRange {
  std::uint64_t low_ns = 0;
  std::uint64_t high_ns = 0;  // UINT64_MAX: the guest dirties faster than the migration sends
};

enum class Step : std::uint8_t { kAnotherRound, kSwitchover, kGiveUp };
struct Decision {
  Step step = Step::kAnotherRound;
  std::uint64_t predicted_downtime_ns = 0;  // of a pause now
  EtaRange eta;
  std::uint32_t throttle_percent = 0;     // from now on; never below the last round's
  std::uint64_t floor_private_pages = 0;  // as far as is known yet
  std::uint64_t leave_hottest_pages = 0;  // not worth an export before the pause
  std::string reason;  // for people: why this step, and why it does not converge when it does not
};

// Private pages that stay dirty, with the vCPUs held back for `throttle_percent` of the time.
std::uint64_t floor_pages(const HeatEstimate& heat, double firmware_pages_per_s,
                          std::uint32_t throttle_percent);

// `rounds`: finished rounds, oldest first, dirty_after filled in. REQUIRES: not empty.
Decision decide(const std::vector<RoundStats>& rounds, const Goals& goals,
                const HeatEstimate& heat = {});

}  // namespace sealift
