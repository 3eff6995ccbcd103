#include "engine/forecast.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "engine/assert.h"

namespace sealift {
namespace {

constexpr double kStep_s = 0.1;  // the log is harvested this often
constexpr double kSlice_s = 1;   // of private pages in a live round
constexpr double kIdleRound_s = kSlice_s / 4;
constexpr double kHeatWindow_s = 90;
constexpr double kLeast = 0.5;  // less than half a page is none
// Longer forecasts take longer steps, so that each is done in bounded time.
constexpr double kStepsMax = 200'000;

std::uint64_t ns_of(double seconds) { return static_cast<std::uint64_t>(seconds * 1e9); }
std::uint64_t whole(double pages) { return static_cast<std::uint64_t>(pages + kLeast); }

struct Group {
  PageGroup is;
  double dirty = 0;
  double taken = 0;  // by the round, and not sent yet
};

class Run {
 public:
  Run(const GuestModel& guest, const PathModel& path, const Goals& goals, double timeout_s)
      : guest_(guest), path_(path), goals_(goals), timeout_s_(timeout_s) {
    double guest_pages = 0;
    for (const PageGroup& group : guest.groups) {
      groups_.push_back({group, group.pages, 0});
      guest_pages += group.pages;
    }
    std::stable_sort(groups_.begin(), groups_.end(), [](const Group& a, const Group& b) {
      return a.is.writes_per_s < b.is.writes_per_s;  // coldest first
    });
    for (const Activity& activity : guest.activity) period_s_ += activity.seconds;
    goals_.guest_pages = whole(guest_pages);
  }

  Forecast go() {
    Decision decision;
    bool first = true;
    while (decision.step == Step::kAnotherRound && now_s_ < kForecastMax_s) {
      throttle_percent_ = decision.throttle_percent;
      append_round(rounds_, send_round(decision.leave_hottest_pages));
      const bool time_is_up = timeout_s_ > 0 && now_s_ >= timeout_s_;
      if (time_is_up && goals_.on_timeout == OnTimeout::kCancel) {
        decision.step = Step::kGiveUp;
        decision.reason = "the time limit passed";
        break;
      }
      decision = decide(rounds_, goals_, heat(), time_is_up);
      if (std::exchange(first, false)) note_total(decision.eta);
    }
    out_.end = decision.step;
    out_.reason = decision.reason;
    out_.rounds = sum_of(rounds_).epochs;
    out_.throttle_percent = sum_of(rounds_).throttle_percent;
    out_.slowdown = now_s_ > 0 ? held_back_s_ / now_s_ : 0;
    if (decision.step == Step::kSwitchover) {
      constexpr std::uint64_t kNever = std::numeric_limits<std::uint64_t>::max();
      const std::uint64_t predicted_ns = decision.predicted_downtime_ns;
      out_.predicted_downtime_s =
          predicted_ns == kNever ? -1 : static_cast<double>(predicted_ns) / 1e9;
      pause();
    }
    out_.total_s = now_s_;
    return out_;
  }

 private:
  void note_total(const EtaRange& eta) {
    constexpr std::uint64_t kNever = std::numeric_limits<std::uint64_t>::max();
    const auto total_s = [&](std::uint64_t ns) {
      return ns == kNever ? -1 : now_s_ + static_cast<double>(ns) / 1e9;
    };
    out_.predicted_total_low_s = total_s(eta.low_ns);
    out_.predicted_total_high_s = total_s(eta.high_ns);
  }

  double sum(PageClass cls, double Group::* what) const {
    double pages = 0;
    for (const Group& group : groups_) pages += group.is.cls == cls ? group.*what : 0;
    return pages;
  }

  double activity_now() const {
    if (period_s_ <= 0) return 1;
    double at_s = std::fmod(now_s_, period_s_);
    for (const Activity& activity : guest_.activity) {
      if (at_s < activity.seconds) return activity.factor;
      at_s -= activity.seconds;
    }
    return guest_.activity.back().factor;
  }

  // The guest runs for `time_s`: what it writes is dirty, and what of that was taken by the round
  // and has not left need not leave any more.
  void run_guest(double time_s) {
    const double share = (100.0 - throttle_percent_) / 100;
    const double active = activity_now() * share;
    const auto written = [&](const Group& group) {
      return 1 - std::exp(-group.is.writes_per_s * active * time_s);
    };
    double touched = 0;
    for (const Group& group : groups_) touched += group.is.pages * written(group);
    const double most = guest_.faults_per_s * share * time_s;
    const double served = most > 0 && touched > most ? most / touched : 1;
    for (Group& group : groups_) {
      const double part = written(group) * served;
      group.dirty += (group.is.pages - group.dirty) * part;
      group.taken -= group.taken * part;
    }
    now_s_ += time_s;
    observed_s_ += time_s * share;
    held_back_s_ += time_s * (1 - share);
  }

  void idle(double time_s) {
    for (double left_s = time_s; left_s > 0; left_s -= kStep_s)
      run_guest(std::min(left_s, kStep_s));
  }

  double send_taken(double pages) {
    const double taken = sum(PageClass::kShared, &Group::taken);
    if (taken <= 0) return 0;
    const double part = std::min(1.0, pages / taken);
    for (Group& group : groups_) group.taken -= group.taken * part;
    return taken * part;
  }

  // The coldest first; the hottest `leave` pages stay.
  double export_coldest(double pages, double leave) {
    double left = std::min(pages, sum(PageClass::kPrivate, &Group::dirty) - leave);
    double exported = 0;
    for (Group& group : groups_) {
      if (group.is.cls != PageClass::kPrivate || left <= 0) continue;
      const double now = std::min(left, group.dirty);
      group.dirty -= now;
      left -= now;
      exported += now;
    }
    return exported;
  }

  RoundStats send_round(std::uint64_t leave_hottest) {
    const double began_s = now_s_;
    const double leave = static_cast<double>(leave_hottest);
    const double firmware = path_.live_export ? path_.firmware_pages_per_s : 0;
    const double zero = rounds_.empty() ? guest_.zero_share : 0;
    // A zero page costs less of the plain path.
    const double plain = path_.plain_pages_per_s / (1 - zero + zero * kZeroPageCost);
    for (Group& group : groups_) {
      if (group.is.cls == PageClass::kShared) group.taken = std::exchange(group.dirty, 0);
    }
    double shared = 0, exported = 0, plain_s = 0, firmware_s = 0;
    const double step_s = step();
    for (;;) {
      const double taken = sum(PageClass::kShared, &Group::taken);
      const double exportable = firmware > 0 ? sum(PageClass::kPrivate, &Group::dirty) - leave : 0;
      const bool more_shared = taken >= kLeast;
      const bool more_private = exportable >= kLeast && now_s_ - began_s < kSlice_s;
      if (!more_shared && !more_private) break;
      const double need_s = std::max(more_shared ? taken / plain : 0,
                                     exportable >= kLeast ? exportable / firmware : 0);
      const double time_s = std::min({step_s, need_s, more_shared ? need_s : kSlice_s});
      if (more_shared) {
        const double sent = send_taken(plain * time_s);
        shared += sent;
        plain_s += sent / plain;
      }
      if (exportable >= kLeast) {
        const double done = export_coldest(firmware * time_s, leave);
        exported += done;
        firmware_s += done / firmware;
      }
      run_guest(time_s);
    }
    const double left_private = sum(PageClass::kPrivate, &Group::dirty);
    const bool idle_round = exported < kLeast && left_private >= kLeast && firmware > 0;
    if (idle_round) idle(std::max(0.0, kIdleRound_s - (now_s_ - began_s)));
    idle(path_.round_trip_s + path_.harvest_s);
    out_.plain_pages += shared;
    out_.exports += exported;
    RoundStats stats;
    stats.shared_pages = whole(shared * (1 - zero));
    stats.zero_pages = whole(shared * zero);
    stats.private_pages = whole(exported);
    stats.left_private_pages = whole(left_private);
    stats.passes = left_private <= leave + kLeast || firmware == 0 ? 1 : 0;
    stats.plain_ns = ns_of(plain_s);
    stats.firmware_ns = ns_of(firmware_s);
    stats.harvest_ns = ns_of(path_.harvest_s);
    stats.ack_ns = ns_of(path_.round_trip_s);
    stats.total_ns = ns_of(now_s_ - began_s);
    stats.throttle_percent = throttle_percent_;
    stats.dirty_after = {whole(sum(PageClass::kShared, &Group::dirty)),
                         whole(sum(PageClass::kPrivate, &Group::dirty))};
    return stats;
  }

  double step() const { return std::max(kStep_s / 10, now_s_ / kStepsMax); }

  // A report for each harvest in which a page was written, as engine/heat.h counts them.
  HeatEstimate heat() const {
    HeatEstimate estimate;
    estimate.observed_s = observed_s_;
    for (const Group& group : groups_) {
      if (group.is.cls != PageClass::kPrivate) continue;
      const double per_s = (1 - std::exp(-group.is.writes_per_s * kStep_s)) / kStep_s;
      const double reports = per_s * std::min(observed_s_, kHeatWindow_s);
      const double never = std::exp(-reports);
      const int hot = std::clamp(1 + static_cast<int>(std::log2(std::max(1.0, reports))), 1,
                                 static_cast<int>(HeatEstimate::kClasses) - 1);
      const auto add = [&](std::size_t cls, double pages) {
        estimate.classes[cls].pages += whole(pages);
        estimate.classes[cls].writes_per_s += pages * per_s;
      };
      add(0, group.is.pages * never);
      add(static_cast<std::size_t>(hot), group.is.pages * (1 - never));
    }
    return estimate;
  }

  void pause() {
    const double shared = sum(PageClass::kShared, &Group::dirty);
    const double priv = sum(PageClass::kPrivate, &Group::dirty);
    out_.downtime_s = path_.pause_s + path_.harvest_s + 2 * path_.round_trip_s;
    out_.downtime_s += shared / (path_.plain_pages_per_s * path_.paused_plain_factor);
    if (priv >= kLeast) out_.downtime_s += priv / path_.firmware_pages_per_s;
    out_.plain_pages += shared;
    out_.exports += priv;
    now_s_ += out_.downtime_s;
  }

  const GuestModel& guest_;
  const PathModel& path_;
  Goals goals_;
  double const timeout_s_;
  std::vector<Group> groups_;
  std::vector<RoundStats> rounds_;
  Forecast out_;
  double period_s_ = 0;
  double now_s_ = 0;
  double observed_s_ = 0;
  double held_back_s_ = 0;
  std::uint32_t throttle_percent_ = 0;
};

}  // namespace

Forecast forecast(const GuestModel& guest, const PathModel& path, const Goals& goals,
                  double timeout_s) {
  SEALIFT_ASSERT(path.plain_pages_per_s > 0 && goals.rounds_max > 0);
  double priv = 0;
  for (const PageGroup& group : guest.groups) {
    if (group.cls == PageClass::kPrivate) priv += group.pages;
  }
  SEALIFT_ASSERT(priv == 0 || path.firmware_pages_per_s > 0);
  return Run(guest, path, goals, timeout_s).go();
}

}  // namespace sealift
