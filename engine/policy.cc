#include "engine/policy.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "engine/assert.h"

namespace sealift {
namespace {

constexpr std::uint64_t kNever = std::numeric_limits<std::uint64_t>::max();
constexpr double kNewestWeight = 0.6;
// Rounds whose remaining pages do not fall below this share of the best so far count as stalled.
constexpr double kProgressShare = 0.96;
constexpr std::size_t kStalledRoundsMax = 5;
constexpr std::uint32_t kThrottleFirstPercent = 20;
constexpr std::uint32_t kThrottleStepPercent = 10;

void blend(double& rate, std::uint64_t pages, std::uint64_t ns) {
  if (pages == 0 || ns == 0) return;
  const double now = static_cast<double>(pages) * 1e9 / static_cast<double>(ns);
  rate = rate == 0 ? now : kNewestWeight * now + (1 - kNewestWeight) * rate;
}

// A time in seconds as ns, saturating: rates come from measurements and may be tiny.
std::uint64_t to_ns(double seconds) {
  constexpr double kLimit = 1e18;
  const double ns = seconds * 1e9;
  return ns >= kLimit ? kNever : static_cast<std::uint64_t>(ns);
}

double seconds(std::uint64_t ns) { return static_cast<double>(ns) / 1e9; }

std::string text_of(std::uint64_t ns) {
  return ns == kNever ? std::string("unknown") : fmt::format("{:.0f} ms", seconds(ns) * 1e3);
}

// How many trailing rounds brought no progress against the best remaining count before them. A
// guest that is throttled further begins anew.
std::size_t stalled_rounds(const std::vector<RoundStats>& rounds) {
  std::uint64_t best = kNever;
  std::size_t stalled = 0;
  std::uint32_t throttle_percent = 0;
  for (const RoundStats& round : rounds) {
    if (round.throttle_percent != throttle_percent) best = kNever;
    throttle_percent = round.throttle_percent;
    const std::uint64_t left = round.dirty_after.total();
    if (best == kNever || static_cast<double>(left) < kProgressShare * static_cast<double>(best)) {
      best = std::min(best, left);
      stalled = 0;
    } else {
      ++stalled;
    }
  }
  return stalled;
}

// Rounds shrink by the ratio of dirtying to sending; the rest of the way is a geometric series of
// them.
EtaRange estimate(const RoundStats& last, std::uint64_t predicted_ns) {
  if (predicted_ns == kNever) return {0, kNever};
  const double sent = static_cast<double>(last.sent_pages());
  const double left = static_cast<double>(last.dirty_after.total());
  if (sent == 0 || left == 0) return {predicted_ns, predicted_ns};
  const double ratio = left / sent;
  if (ratio >= 1) return {predicted_ns, kNever};
  return {predicted_ns, to_ns(seconds(predicted_ns) / (1 - ratio))};
}

std::string why_not_converging(const RoundStats& last, const Rates& rates) {
  return fmt::format(
      "the guest dirtied {} shared and {} private pages while the round sent {}; plain path {:.0f} "
      "pages/s, "
      "firmware {:.0f} pages/s",
      last.dirty_after.shared_pages, last.dirty_after.private_pages, last.sent_pages(),
      rates.plain_pages_per_s, rates.firmware_pages_per_s);
}

}  // namespace

Rates measure_rates(const std::vector<RoundStats>& rounds) {
  Rates rates;
  for (const RoundStats& round : rounds) {
    blend(rates.plain_pages_per_s, round.shared_pages + round.zero_pages, round.plain_ns);
    blend(rates.firmware_pages_per_s, round.private_pages, round.firmware_ns);
  }
  return rates;
}

std::uint64_t predict_ns(const DirtyCounts& dirty, const Rates& rates) {
  double total_s = 0;
  if (dirty.shared_pages > 0) {
    if (rates.plain_pages_per_s <= 0) return kNever;
    total_s += static_cast<double>(dirty.shared_pages) / rates.plain_pages_per_s;
  }
  if (dirty.private_pages > 0) {
    if (rates.firmware_pages_per_s <= 0) return kNever;
    total_s += static_cast<double>(dirty.private_pages) / rates.firmware_pages_per_s;
  }
  return to_ns(total_s);
}

Decision decide(const std::vector<RoundStats>& rounds, const Goals& goals) {
  SEALIFT_ASSERT(!rounds.empty());
  const RoundStats& last = rounds.back();
  Rates rates = measure_rates(rounds);
  if (rates.firmware_pages_per_s <= 0) rates.firmware_pages_per_s = goals.firmware_pages_per_s_hint;
  Decision decision;
  decision.predicted_downtime_ns = predict_ns(last.dirty_after, rates);
  decision.throttle_percent = last.throttle_percent;
  decision.eta = estimate(last, decision.predicted_downtime_ns);
  const std::string predicted = text_of(decision.predicted_downtime_ns);
  const std::string budget = text_of(goals.downtime_max_ns);

  if (decision.predicted_downtime_ns <= goals.downtime_max_ns) {
    decision.step = Step::kSwitchover;
    decision.reason = fmt::format("{} dirty pages take {}, within the {} budget",
                                  last.dirty_after.total(), predicted, budget);
    return decision;
  }
  const std::uint32_t throttle_max_percent = goals.throttle_max_percent;
  const bool falls_behind = decision.eta.high_ns == kNever;
  const bool can_throttle = decision.throttle_percent < throttle_max_percent;
  const bool out_of_rounds = rounds.size() >= goals.rounds_max;
  if (out_of_rounds || (!can_throttle && stalled_rounds(rounds) >= kStalledRoundsMax)) {
    decision.step = goals.on_stall == OnStall::kSwitchover ? Step::kSwitchover : Step::kGiveUp;
    decision.reason =
        fmt::format("{} after {} rounds, last pages would take {} against a budget of {}: {}",
                    out_of_rounds ? "round limit reached" : "no progress", rounds.size(), predicted,
                    budget, why_not_converging(last, rates));
    return decision;
  }
  decision.reason =
      fmt::format("last pages would take {} against a budget of {}", predicted, budget);
  if (falls_behind) decision.reason += ": " + why_not_converging(last, rates);
  if (can_throttle && (falls_behind || stalled_rounds(rounds) > 0)) {
    const std::uint32_t step =
        last.throttle_percent == 0 ? kThrottleFirstPercent : kThrottleStepPercent;
    decision.throttle_percent = std::min(throttle_max_percent, last.throttle_percent + step);
    decision.reason +=
        fmt::format("; its vCPUs are held back for {} % of the time", decision.throttle_percent);
  }
  return decision;
}

}  // namespace sealift
