// Convergence policy: a pure function from what the rounds measured to what to do next.
//
// Private and shared pages leave at different rates (the firmware is often hundreds of times slower
// than the wire), so the two classes are counted, timed and predicted apart. Plain values; no
// state, no clock.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/stats.h"

namespace sealift {

// What to do when the goals cannot be met within rounds_max.
enum class OnStall : std::uint8_t { kSwitchover, kCancel };

struct Goals {
  std::uint64_t downtime_max_ns = 300'000'000;
  std::uint32_t rounds_max = 30;
  OnStall on_stall = OnStall::kSwitchover;
  // How far the guest may be slowed down when it dirties memory faster than it is sent: the largest
  // share of time its vCPUs are kept from running. 0: never.
  std::uint32_t throttle_max_percent = 0;
  double firmware_pages_per_s_hint = 0;  // used until a round has measured it; 0: unknown
};

// Pages per second of each class; 0 = not measured yet.
struct Rates {
  double plain_pages_per_s = 0;
  double firmware_pages_per_s = 0;
};
// Exponentially weighted over the rounds, newest first in weight. Rounds that sent nothing of a
// class do not count.
Rates measure_rates(const std::vector<RoundStats>& rounds);

// Time to send `dirty` at `rates`; classes share one link and one control path, so the times add
// up. 0 when nothing is dirty; a class without a measured rate counts as instantaneous only if it
// has no dirty page, otherwise the prediction is UINT64_MAX.
std::uint64_t predict_ns(const DirtyCounts& dirty, const Rates& rates);

struct EtaRange {
  std::uint64_t low_ns = 0;
  std::uint64_t high_ns = 0;  // UINT64_MAX: the guest dirties faster than the migration sends
};

enum class Step : std::uint8_t { kAnotherRound, kSwitchover, kGiveUp };
struct Decision {
  Step step = Step::kAnotherRound;
  std::uint64_t predicted_downtime_ns = 0;
  EtaRange eta;
  std::uint32_t throttle_percent = 0;  // from now on; never below the last round's
  std::string reason;  // for people: why this step, and why it does not converge when it does not
};

// `rounds`: finished rounds, oldest first, dirty_after filled in. REQUIRES: not empty.
Decision decide(const std::vector<RoundStats>& rounds, const Goals& goals);

}  // namespace sealift
