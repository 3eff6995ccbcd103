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
// A round that brings the end nearer by less than this share of the work it did made no progress.
constexpr double kProgressShare = 0.04;
constexpr std::uint64_t kStallMax_ns = 5'000'000'000;
constexpr std::uint64_t kPassLeast_ns = 1'000'000'000;  // what a whole pass counts as at least
// A round after which this much is left of what was sent is not worth another: it converges too
// slowly, or not at all.
constexpr double kWorthRatio = 0.5;
constexpr double kThrottleRatio = 0.75;
constexpr std::uint64_t kThrottleAfter_ns = 1'000'000'000;
// The limit of the downtime begins at this part of it and doubles with each round that fits.
constexpr unsigned kRampShift = 3;
// A pause that is over the budget waits for a moment this near to the best one seen, or nearer the
// longer it has waited.
constexpr double kBestMargin = 1.05;
constexpr std::uint64_t kPatience_ns = 10'000'000'000;
constexpr std::size_t kBestOfRounds = 64;
// The heat of pages is believed after this time, the floor when it is this much above the budget.
constexpr double kFirm_s = 5;
// For a pause at the floor it has to be settled: at first it counts many pages that are only warm.
constexpr double kSettled_s = 30;
constexpr double kFloorMargin = 1.2;
constexpr double kExportShare = 0.9;  // of the firmware's rate; the rest is between the rounds
constexpr double kPauseAfter = 3;     // times what is dirty now has to leave until the pause
constexpr double kBudgetShare = 0.5;  // of the budget's pages are left for the pause from the start

double seconds(std::uint64_t ns) { return static_cast<double>(ns) / 1e9; }

std::string text_of(std::uint64_t ns) {
  return ns == kNever ? std::string("unknown") : fmt::format("{:.0f} ms", seconds(ns) * 1e3);
}

// Seconds of sending. A class nobody has measured counts as free: it cannot show progress.
double work_s(double shared_pages, double private_pages, const Rates& rates) {
  constexpr double kFree = 1e9;
  const auto rate = [](double measured) { return measured > 0 ? measured : kFree; };
  return shared_pages / rate(rates.plain_pages_per_s) +
         private_pages / rate(rates.firmware_pages_per_s);
}
double work_s(const DirtyCounts& dirty, const Rates& rates) {
  return work_s(static_cast<double>(dirty.shared_pages), static_cast<double>(dirty.private_pages),
                rates);
}

double sent_s(const RoundStats& round, const Rates& rates) {
  return work_s(static_cast<double>(round.shared_pages) +
                    static_cast<double>(round.zero_pages) * kZeroPageCost,
                static_cast<double>(round.private_pages), rates);
}

// For how long nothing has come nearer to the end. A guest that is throttled further begins anew.
std::uint64_t stalled_ns(const std::vector<RoundStats>& rounds, const Rates& rates) {
  double best_s = 0, spent_s = 0;
  std::uint64_t stalled = 0;
  const RoundStats* last = nullptr;
  for (const RoundStats& round : rounds) {
    const double left_s = work_s(round.dirty_after, rates);
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

// What the guest dirtied while the round was sent, as a share of that: 1 or more never ends. 0 when
// nothing was sent.
double dirtied_ratio(const RoundStats& last, const Rates& rates) {
  const double sent = sent_s(last, rates);
  DirtyCounts dirtied = last.dirty_after;
  dirtied.private_pages -= std::min(dirtied.private_pages, last.left_private_pages);
  return sent == 0 ? 0 : work_s(dirtied, rates) / sent;
}

// The rest of the way is a geometric series of rounds.
EtaRange estimate(double ratio, std::uint64_t pages_ns, std::uint64_t other_ns) {
  const std::uint64_t low_ns = add_ns(pages_ns, other_ns);
  if (low_ns == kNever || ratio >= 1) return {pages_ns == kNever ? 0 : low_ns, kNever};
  return {low_ns, add_ns(ns_of_seconds(seconds(pages_ns) / (1 - ratio)), other_ns)};
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
  const double shared_s = work_s(static_cast<double>(last.dirty_after.shared_pages), 0, rates);
  const double budget_s = std::max(0.0, seconds(goals.downtime_max_ns) - shared_s);
  const double left_s = work_s(0, static_cast<double>(last.dirty_after.private_pages), rates);
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

// All that the rules below look at.
struct View {
  const std::vector<RoundStats>& rounds;
  const RoundStats& last;
  const Goals& goals;
  const HeatEstimate& heat;
  Rates rates;
  Outlook out;
  double ratio = 0;            // dirtied_ratio()
  std::uint64_t stalled = 0;   // ns
  std::uint64_t other_ns = 0;  // pause_cost_ns()
  std::uint64_t predicted_ns = 0;
  bool can_throttle = false;

  // Nothing is left but the floor, or little more than comes back in the meantime.
  bool at_floor() const {
    return static_cast<double>(last.dirty_after.private_pages) <=
           kFloorMargin * static_cast<double>(out.floor_pages);
  }
  bool settled() const { return heat.observed_s >= kSettled_s || stalled >= kStallMax_ns; }
  std::uint64_t pause_ns(const DirtyCounts& dirty) const {
    return add_ns(predict_ns(dirty, rates), other_ns);
  }
};

View view_of(const std::vector<RoundStats>& rounds, const Goals& goals, const HeatEstimate& heat) {
  View view{rounds, rounds.back(), goals, heat, measure_rates(rounds), {}};
  if (view.rates.firmware_pages_per_s <= 0) {
    view.rates.firmware_pages_per_s = goals.firmware_pages_per_s_hint;
  }
  view.out = outlook(view.last, view.rates, goals, heat);
  view.ratio = dirtied_ratio(view.last, view.rates);
  view.stalled = stalled_ns(rounds, view.rates);
  view.other_ns = pause_cost_ns(rounds);
  view.predicted_ns = view.pause_ns(view.last.dirty_after);
  view.can_throttle = view.last.throttle_percent < goals.throttle_max_percent;
  return view;
}

std::string pause_text(const View& view) {
  return fmt::format("last pages would take {} against a budget of {}", text_of(view.predicted_ns),
                     text_of(view.goals.downtime_max_ns));
}

// Why a pause that fits into the budget is put off for another round; nullopt: it is not.
std::optional<std::string> why_smaller(const View& view) {
  std::uint64_t fitted = 0;  // rounds before this one
  for (auto round = view.rounds.rbegin() + 1; round != view.rounds.rend(); ++round) {
    if (view.pause_ns(round->dirty_after) > view.goals.downtime_max_ns) break;
    ++fitted;
  }
  if (fitted >= kRampShift || view.ratio > kWorthRatio) return std::nullopt;
  const std::uint64_t allowed_ns = view.goals.downtime_max_ns >> (kRampShift - fitted);
  const std::uint64_t pages_ns = view.predicted_ns - view.other_ns;
  if (view.predicted_ns <= allowed_ns || pages_ns <= view.other_ns) return std::nullopt;
  const std::uint64_t next_ns =
      add_ns(ns_of_seconds(seconds(pages_ns) * view.ratio), view.other_ns);
  return fmt::format("a pause now would take {}, another round brings it down to about {}",
                     text_of(view.predicted_ns), text_of(next_ns));
}

// The end when the goals cannot be met, or nullopt while something may still change.
struct Failing {
  std::string why;
  bool at_once = true;  // no better moment is to be waited for
};
std::optional<Failing> why_end(const View& view) {
  const Goals& goals = view.goals;
  const Outlook& out = view.out;
  if (out.hopeless && (goals.on_stall == OnStall::kCancel ||
                       (!view.can_throttle && view.at_floor() && view.settled()))) {
    return Failing{why_hopeless(out, view.rates, goals, view.heat)};
  }
  const std::uint64_t passes = passes_over(sum_of(view.rounds), goals.guest_pages);
  const bool out_of_rounds = passes >= goals.rounds_max;
  if (!out_of_rounds && (view.can_throttle || view.stalled < kStallMax_ns)) return std::nullopt;
  const std::string what = out_of_rounds
                               ? fmt::format("round limit reached after {} rounds", passes)
                               : fmt::format("no progress for {:.0f} s", seconds(view.stalled));
  return Failing{
      fmt::format("{}, {}: {}", what, pause_text(view), why_not_converging(view.last, view.rates)),
      out_of_rounds};
}

// Whether now is not the moment for a pause over the budget, and what to say then.
std::optional<std::string> why_later(const View& view) {
  std::uint64_t best_ns = kNever;
  const std::size_t from =
      view.rounds.size() > kBestOfRounds ? view.rounds.size() - kBestOfRounds : 0;
  for (std::size_t i = from; i < view.rounds.size(); ++i) {
    best_ns = std::min(best_ns, view.pause_ns(view.rounds[i].dirty_after));
  }
  if (best_ns == kNever) return std::nullopt;
  const std::uint64_t waited_ns = view.stalled - kStallMax_ns;
  if (waited_ns >= kPatience_ns) return std::nullopt;
  const double margin = kBestMargin + seconds(waited_ns) / seconds(kPatience_ns);
  if (seconds(view.predicted_ns) <= margin * seconds(best_ns)) return std::nullopt;
  return fmt::format(
      "no progress for {:.0f} s: waiting for a better moment, since a pause now "
      "would take {} and {} was possible",
      seconds(view.stalled), text_of(view.predicted_ns), text_of(best_ns));
}

// How far the guest is held back from now on.
std::uint32_t next_throttle(const View& view) {
  const std::uint32_t now = view.last.throttle_percent;
  if (!view.can_throttle) return now;
  // What is not hot leaves at the guest's full speed before the hot pages are held back.
  const bool floor_too_high =
      view.out.firm && view.at_floor() &&
      predict_ns({0, view.out.floor_pages}, view.rates) > view.goals.downtime_max_ns;
  const bool outrun = now > 0 && view.ratio > kThrottleRatio;
  if (!floor_too_high && !outrun && view.stalled < kThrottleAfter_ns) return now;
  const double runs = (100.0 - now) / 100 * kWorthRatio / std::max(1.0, view.ratio);
  const auto wanted = static_cast<std::uint32_t>(100 - runs * 100);
  return std::min(view.goals.throttle_max_percent, std::max(wanted, now + 1));
}

// Another round: how, and why.
void go_on(const View& view, Decision& decision) {
  decision.reason = pause_text(view);
  if (view.out.hopeless) {
    decision.reason += ": " + why_hopeless(view.out, view.rates, view.goals, view.heat);
  } else if (decision.eta.high_ns == kNever) {
    decision.reason += ": " + why_not_converging(view.last, view.rates);
  }
  decision.throttle_percent = next_throttle(view);
  if (decision.throttle_percent == view.last.throttle_percent) return;
  decision.reason +=
      fmt::format("; its vCPUs are held back for {} % of the time", decision.throttle_percent);
}

}  // namespace

Decision decide(const std::vector<RoundStats>& rounds, const Goals& goals, const HeatEstimate& heat,
                bool time_is_up) {
  SEALIFT_ASSERT(!rounds.empty());
  const View view = view_of(rounds, goals, heat);
  const DirtyCounts& dirty = view.last.dirty_after;
  Decision decision;
  decision.predicted_downtime_ns = view.predicted_ns;
  decision.predicted_plain_ns = predict_ns({dirty.shared_pages, 0}, view.rates);
  decision.predicted_firmware_ns = predict_ns({0, dirty.private_pages}, view.rates);
  decision.predicted_other_ns = view.other_ns;
  decision.throttle_percent = view.last.throttle_percent;
  decision.eta = estimate(view.ratio, predict_ns(dirty, view.rates), view.other_ns);
  decision.floor_private_pages = view.out.floor_pages;
  decision.leave_hottest_pages = leave_hottest(view.last, view.rates, goals, heat, view.out);

  const bool out_of_rounds = passes_over(sum_of(rounds), goals.guest_pages) >= goals.rounds_max;
  if (view.predicted_ns <= goals.downtime_max_ns) {
    auto smaller = out_of_rounds || time_is_up ? std::nullopt : why_smaller(view);
    decision.step = smaller ? Step::kAnotherRound : Step::kSwitchover;
    decision.reason =
        smaller ? std::move(*smaller)
                : fmt::format("{} dirty pages take {}, within the {} budget", dirty.total(),
                              text_of(view.predicted_ns), text_of(goals.downtime_max_ns));
    return decision;
  }
  if (time_is_up) {
    decision.step = Step::kSwitchover;
    decision.reason = "the time limit passed, " + pause_text(view);
    return decision;
  }
  auto failing = why_end(view);
  if (!failing) {
    go_on(view, decision);
    return decision;
  }
  if (goals.on_stall == OnStall::kCancel) {
    decision.step = Step::kGiveUp;
  } else if (auto later = failing->at_once ? std::nullopt : why_later(view)) {
    decision.reason = std::move(*later);
    return decision;
  } else {
    decision.step = Step::kSwitchover;
  }
  decision.reason = std::move(failing->why);
  return decision;
}

}  // namespace sealift
