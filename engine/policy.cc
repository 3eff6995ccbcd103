#include "engine/policy.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <optional>
#include <utility>

#include "engine/assert.h"

namespace sealift {
namespace {

constexpr std::uint64_t kNever = std::numeric_limits<std::uint64_t>::max();
constexpr double kOlderWeight = 0.4;
// A round that brings the end nearer by less than this share of the work it did made no progress.
constexpr double kProgressShare = 0.04;
constexpr std::uint64_t kStallMax_ns = 5'000'000'000;
constexpr std::uint64_t kPassLeast_ns = 1'000'000'000;  // what a whole pass counts as at least
constexpr std::uint32_t kThrottleFirstPercent = 20;
constexpr std::uint32_t kThrottleStepPercent = 10;
// The heat of pages is believed after this time, the floor when it is this much above the budget.
constexpr double kFirm_s = 5;
constexpr double kFloorMargin = 1.2;
constexpr double kExportShare = 0.9;  // of the firmware's rate; the rest is between the rounds
constexpr double kPauseAfter = 3;     // times what is dirty now has to leave until the pause
constexpr double kBudgetShare = 0.5;  // of the budget's pages are left for the pause from the start

// A rate over the rounds, the newest weighing most.
class WeightedRate {
 public:
  void add(std::uint64_t pages, std::uint64_t ns) {
    if (pages == 0 || ns == 0) return;
    pages_ = kOlderWeight * pages_ + static_cast<double>(pages);
    ns_ = kOlderWeight * ns_ + static_cast<double>(ns);
  }
  double pages_per_s() const { return ns_ == 0 ? 0 : pages_ * 1e9 / ns_; }

 private:
  double pages_ = 0;
  double ns_ = 0;
};

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

// Seconds of sending. A class nobody has measured counts as free: it cannot show progress.
double work_s(std::uint64_t shared_pages, std::uint64_t private_pages, const Rates& rates) {
  constexpr double kFree = 1e9;
  const auto rate = [](double measured) { return measured > 0 ? measured : kFree; };
  return static_cast<double>(shared_pages) / rate(rates.plain_pages_per_s) +
         static_cast<double>(private_pages) / rate(rates.firmware_pages_per_s);
}

double sent_s(const RoundStats& round, const Rates& rates) {
  return work_s(round.shared_pages + round.zero_pages, round.private_pages, rates);
}

// For how long nothing has come nearer to the end. A guest that is throttled further begins anew.
std::uint64_t stalled_ns(const std::vector<RoundStats>& rounds, const Rates& rates) {
  double best_s = 0, spent_s = 0;
  std::uint64_t stalled = 0;
  const RoundStats* last = nullptr;
  for (const RoundStats& round : rounds) {
    const double left_s =
        work_s(round.dirty_after.shared_pages, round.dirty_after.private_pages, rates);
    spent_s += sent_s(round, rates);
    stalled += std::max(round.total_ns, round.passes * kPassLeast_ns);
    const bool anew = last == nullptr || round.throttle_percent != last->throttle_percent;
    if (anew || best_s - left_s > kProgressShare * spent_s) {
      best_s = left_s;
      spent_s = 0;
      stalled = 0;
    }
    last = &round;
  }
  return stalled;
}

// While a round is sent the guest dirties a share of what was sent; the rest of the way is a
// geometric series of such rounds.
EtaRange estimate(const RoundStats& last, const Rates& rates, std::uint64_t predicted_ns) {
  if (predicted_ns == kNever) return {0, kNever};
  const double sent = sent_s(last, rates);
  const std::uint64_t dirtied_private =
      last.dirty_after.private_pages -
      std::min(last.dirty_after.private_pages, last.left_private_pages);
  const double dirtied = work_s(last.dirty_after.shared_pages, dirtied_private, rates);
  if (sent == 0 || dirtied == 0) return {predicted_ns, predicted_ns};
  const double ratio = dirtied / sent;
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

// What the heat says of the end.
struct Outlook {
  bool firm = false;
  std::uint64_t floor_pages = 0;       // as the guest is throttled now
  std::uint64_t last_floor_pages = 0;  // as it may be throttled
  bool hopeless = false;               // firm, and the last floor does not fit into the budget
};

Outlook outlook(const RoundStats& last, const Rates& rates, const Goals& goals,
                const HeatEstimate& heat) {
  Outlook out;
  if (rates.firmware_pages_per_s <= 0) return out;
  out.firm = heat.observed_s >= kFirm_s;
  const std::uint32_t most_percent = std::max(last.throttle_percent, goals.throttle_max_percent);
  out.floor_pages = floor_pages(heat, rates.firmware_pages_per_s, last.throttle_percent);
  out.last_floor_pages = floor_pages(heat, rates.firmware_pages_per_s, most_percent);
  const double floor_s = static_cast<double>(out.last_floor_pages) / rates.firmware_pages_per_s;
  out.hopeless = out.firm && floor_s > kFloorMargin * seconds(goals.downtime_max_ns);
  return out;
}

std::string why_hopeless(const Outlook& out, const Rates& rates, const Goals& goals,
                         const HeatEstimate& heat) {
  double writes_per_s = 0;
  for (const HeatClass& cls : heat.classes) writes_per_s += cls.writes_per_s;
  std::string why = fmt::format(
      "the guest writes about {:.0f} private pages/s and the firmware exports {:.0f}, so about {} "
      "stay dirty and take {} against a budget of {}",
      writes_per_s, rates.firmware_pages_per_s, out.last_floor_pages,
      text_of(predict_ns({0, out.last_floor_pages}, rates)), text_of(goals.downtime_max_ns));
  if (goals.throttle_max_percent > 0) {
    why += fmt::format(" even with its vCPUs held back for {} % of the time",
                       goals.throttle_max_percent);
  }
  return why;
}

// Reported private pages that are expected to be written again within `time_s`.
double pages_written_within(double time_s, const HeatEstimate& heat,
                            std::uint32_t throttle_percent) {
  const double runs = (100.0 - throttle_percent) / 100;
  double pages = 0;
  for (std::size_t c = 1; c < heat.classes.size(); ++c) {
    const double own = static_cast<double>(heat.classes[c].pages);
    if (heat.classes[c].writes_per_s * runs * time_s >= own) pages += own;
  }
  return pages;
}

// The hottest pages are exported last. Those that would only be dirty again are left for the pause
// as far as it has time for them, and all those of the floor.
std::uint64_t leave_hottest(const RoundStats& last, const Rates& rates, const Goals& goals,
                            const HeatEstimate& heat, const Outlook& out) {
  if (rates.firmware_pages_per_s <= 0) return 0;
  const double shared_s = work_s(last.dirty_after.shared_pages, 0, rates);
  const double budget_s = std::max(0.0, seconds(goals.downtime_max_ns) - shared_s);
  const double left_s = work_s(0, last.dirty_after.private_pages, rates);
  const double pages =
      std::min(kBudgetShare * budget_s * rates.firmware_pages_per_s,
               pages_written_within(kPauseAfter * left_s, heat, last.throttle_percent));
  return std::max(static_cast<std::uint64_t>(pages), out.firm ? out.floor_pages : 0);
}

std::uint64_t passes_over(const RoundStats& sum, std::uint64_t guest_pages) {
  const std::uint64_t exported = guest_pages == 0 ? 0 : sum.private_pages / guest_pages;
  return std::max<std::uint64_t>(sum.passes, exported);
}

}  // namespace

Rates measure_rates(const std::vector<RoundStats>& rounds) {
  WeightedRate plain, firmware;
  for (const RoundStats& round : rounds) {
    plain.add(round.shared_pages + round.zero_pages, round.plain_ns);
    firmware.add(round.private_pages, round.firmware_ns);
  }
  return {plain.pages_per_s(), firmware.pages_per_s()};
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

std::uint64_t floor_pages(const HeatEstimate& heat, double firmware_pages_per_s,
                          std::uint32_t throttle_percent) {
  const double runs = (100.0 - throttle_percent) / 100;
  const double bearable_per_s = kExportShare * firmware_pages_per_s;
  double writes_per_s = 0;
  for (const HeatClass& cls : heat.classes) writes_per_s += cls.writes_per_s * runs;
  double pages = 0;
  // Class 0 is not counted: its pages have never been written, and most never were populated.
  for (auto cls = heat.classes.rbegin(); cls + 1 != heat.classes.rend(); ++cls) {
    const double above_per_s = writes_per_s - bearable_per_s;
    if (above_per_s <= 0) break;
    const double own_per_s = cls->writes_per_s * runs;
    const double share = own_per_s > above_per_s ? above_per_s / own_per_s : 1;
    pages += share * static_cast<double>(cls->pages);
    writes_per_s -= own_per_s;
  }
  return static_cast<std::uint64_t>(pages);
}

namespace {

// The step when the goals cannot be met, or nullopt while something may still change.
std::optional<std::string> why_end(const std::vector<RoundStats>& rounds, const Rates& rates,
                                   const Goals& goals, const HeatEstimate& heat, const Outlook& out,
                                   std::uint64_t predicted_ns) {
  const RoundStats& last = rounds.back();
  const bool can_throttle = last.throttle_percent < goals.throttle_max_percent;
  // Nothing is left but the floor, or little more than comes back in the meantime.
  const bool at_floor = static_cast<double>(last.dirty_after.private_pages) <=
                        kFloorMargin * static_cast<double>(out.floor_pages);
  if (out.hopeless && (goals.on_stall == OnStall::kCancel || (!can_throttle && at_floor))) {
    return why_hopeless(out, rates, goals, heat);
  }
  const std::uint64_t passes = passes_over(sum_of(rounds), goals.guest_pages);
  const std::uint64_t stalled = stalled_ns(rounds, rates);
  const bool out_of_rounds = passes >= goals.rounds_max;
  if (!out_of_rounds && (can_throttle || stalled < kStallMax_ns)) return std::nullopt;
  return fmt::format("{}, last pages would take {} against a budget of {}: {}",
                     out_of_rounds ? fmt::format("round limit reached after {} rounds", passes)
                                   : fmt::format("no progress for {:.0f} s", seconds(stalled)),
                     text_of(predicted_ns), text_of(goals.downtime_max_ns),
                     why_not_converging(last, rates));
}

}  // namespace

Decision decide(const std::vector<RoundStats>& rounds, const Goals& goals,
                const HeatEstimate& heat) {
  SEALIFT_ASSERT(!rounds.empty());
  const RoundStats& last = rounds.back();
  Rates rates = measure_rates(rounds);
  if (rates.firmware_pages_per_s <= 0) rates.firmware_pages_per_s = goals.firmware_pages_per_s_hint;
  const Outlook out = outlook(last, rates, goals, heat);
  Decision decision;
  decision.predicted_downtime_ns = predict_ns(last.dirty_after, rates);
  decision.throttle_percent = last.throttle_percent;
  decision.eta = estimate(last, rates, decision.predicted_downtime_ns);
  decision.floor_private_pages = out.floor_pages;
  decision.leave_hottest_pages = leave_hottest(last, rates, goals, heat, out);
  const std::string predicted = text_of(decision.predicted_downtime_ns);
  const std::string budget = text_of(goals.downtime_max_ns);

  if (decision.predicted_downtime_ns <= goals.downtime_max_ns) {
    decision.step = Step::kSwitchover;
    decision.reason = fmt::format("{} dirty pages take {}, within the {} budget",
                                  last.dirty_after.total(), predicted, budget);
    return decision;
  }
  if (auto why = why_end(rounds, rates, goals, heat, out, decision.predicted_downtime_ns)) {
    decision.step = goals.on_stall == OnStall::kSwitchover ? Step::kSwitchover : Step::kGiveUp;
    decision.reason = std::move(*why);
    return decision;
  }
  decision.reason =
      fmt::format("last pages would take {} against a budget of {}", predicted, budget);
  const bool falls_behind = decision.eta.high_ns == kNever;
  if (out.hopeless) {
    decision.reason += ": " + why_hopeless(out, rates, goals, heat);
  } else if (falls_behind) {
    decision.reason += ": " + why_not_converging(last, rates);
  }
  const bool floor_too_high =
      out.firm && predict_ns({0, out.floor_pages}, rates) > goals.downtime_max_ns;
  const bool can_throttle = last.throttle_percent < goals.throttle_max_percent;
  if (can_throttle && (falls_behind || floor_too_high || stalled_ns(rounds, rates) > 0)) {
    const std::uint32_t step =
        last.throttle_percent == 0 ? kThrottleFirstPercent : kThrottleStepPercent;
    decision.throttle_percent = std::min(goals.throttle_max_percent, last.throttle_percent + step);
    decision.reason +=
        fmt::format("; its vCPUs are held back for {} % of the time", decision.throttle_percent);
  }
  return decision;
}

}  // namespace sealift
