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
// The limit of the downtime is approached, not jumped at: the first rounds that fit into it go on
// while the next one is worth it, first down to an eighth of the limit, then a quarter, then half.
//
// At the limit with no progress, a pause that the operator asked for all the same waits for a
// moment in which little is dirty: the guest's work comes in phases.
//
// The throttle is the last resort: it begins after a second without progress, and each step is as
// large as what was seen asks for, since many small ones only take longer.
//
// Plain values; no state, no clock.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/heat.h"
#include "engine/rates.h"
#include "engine/stats.h"

namespace sealift {

// What to do when the goals cannot be met: rounds_max is reached, a stall, or the floor is above
// downtime_max_ns with the throttle used up. kCancel ends the migration as soon as that is known;
// kSwitchover first sends what is worth sending.
enum class OnStall : std::uint8_t { kSwitchover, kCancel };

// What to do when the operator's limit for the whole migration passes. kForce pauses after the
// round that is under way, whatever the downtime will be. (A third way, to go on after the
// hand-over, needs records that the protocol does not have.)
enum class OnTimeout : std::uint8_t { kCancel, kForce };

struct Goals {
  std::uint64_t downtime_max_ns = 300'000'000;
  // How often all that is dirty is sent at most, or private memory as a whole exported if that is
  // more.
  std::uint32_t rounds_max = 30;
  OnStall on_stall = OnStall::kSwitchover;
  OnTimeout on_timeout = OnTimeout::kCancel;
  // How far the guest may be slowed down when it dirties memory faster than it is sent: the largest
  // share of time its vCPUs are kept from running. 0: never.
  std::uint32_t throttle_max_percent = 0;
  double firmware_pages_per_s_hint = 0;  // used until a round has measured it; 0: unknown
  std::uint64_t guest_pages = 0;         // of the guest's memory; 0: unknown
};

struct EtaRange {
  std::uint64_t low_ns = 0;
  std::uint64_t high_ns = 0;  // UINT64_MAX: the guest dirties faster than the migration sends
};

enum class Step : std::uint8_t { kAnotherRound, kSwitchover, kGiveUp };
struct Decision {
  Step step = Step::kAnotherRound;
  std::uint64_t predicted_downtime_ns = 0;  // of a pause now: the next three
  std::uint64_t predicted_plain_ns = 0;
  std::uint64_t predicted_firmware_ns = 0;
  std::uint64_t predicted_other_ns = 0;  // pause_cost_ns()
  EtaRange eta;
  std::uint32_t throttle_percent = 0;     // from now on; never below the last round's
  std::uint64_t floor_private_pages = 0;  // as far as is known yet
  std::uint64_t leave_hottest_pages = 0;  // not worth an export before the pause
  std::string reason;  // for people: why this step, and why it does not converge when it does not
};

// Private pages that stay dirty, with the vCPUs held back for `throttle_percent` of the time.
std::uint64_t floor_pages(const HeatEstimate& heat, double firmware_pages_per_s,
                          std::uint32_t throttle_percent);

// `rounds`: finished rounds, oldest first, dirty_after filled in. `time_is_up`: the operator's
// limit passed, and on_timeout is kForce. REQUIRES: not empty.
Decision decide(const std::vector<RoundStats>& rounds, const Goals& goals,
                const HeatEstimate& heat = {}, bool time_is_up = false);

}  // namespace sealift
