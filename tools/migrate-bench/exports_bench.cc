#include "tools/migrate-bench/exports_bench.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "tools/migrate-bench/exports_sim.h"

namespace sealift::bench {
namespace {

constexpr double kExportsMax = 1.10;      // times the least that hindsight allows
constexpr double kReExportsMax = 0.5;     // of those of the sender that goes round
constexpr double kSharedLateMax_s = 1.3;  // a slice, a batch and a round trip
constexpr double kPredictionMax = 0.15;   // of the downtime or of its budget
constexpr double kGiveUpMax_s = 10;
constexpr std::uint64_t kSeeds = 5;

struct Workload {
  const char* name;
  Writes writes;
  double writes_per_s;
  bool bound_goal;
  bool round_robin_goal;
  bool round_robin_judged;
};
constexpr std::array kWorkloads = {
    Workload{"idle", Writes::kIdle, 5, false, false, false},
    Workload{"sweep", Writes::kSweep, 50, false, false, false},
    Workload{"hotset, 5 % of the pages take 95 % of the writes", Writes::kHotset, 200, true, true,
             true},
    Workload{"zipf, ranks in the order of addresses", Writes::kZipfInOrder, 200, true, true, true},
    Workload{"zipf, ranks shuffled over addresses", Writes::kZipfShuffled, 200, true, true, false},
    Workload{"random", Writes::kRandom, 50, false, false, false},
};

struct Sums {
  std::uint64_t populated = 0, exports = 0, bound = 0, re_exports = 0;
  double live_s = 0, downtime_ms = 0, predicted_ms = 0, late_s = 0, off = 0;

  void add(const ExportsOutcome& outcome) {
    populated += outcome.populated_pages;
    exports += outcome.exports;
    bound += outcome.bound();
    re_exports += outcome.re_exports();
    live_s += outcome.live_s;
    downtime_ms += outcome.downtime_ms;
    predicted_ms += outcome.predicted_ms;
    late_s = std::max(late_s, static_cast<double>(outcome.shared_late_max_ns) / 1e9);
    const double budget_ms = static_cast<double>(Goals{}.downtime_max_ns) / 1e6;
    off = std::max(off, std::abs(outcome.predicted_ms - outcome.downtime_ms) /
                            std::max(outcome.downtime_ms, budget_ms));
  }
};

double ratio(std::uint64_t a, std::uint64_t b) {
  return b == 0 ? 0 : static_cast<double>(a) / static_cast<double>(b);
}

void measure(Report& report, const Workload& workload, std::uint64_t seeds) {
  Goals goals;
  goals.on_stall = OnStall::kSwitchover;
  Sums heat, round_robin, all_knowing;
  for (std::uint64_t seed = 1; seed <= seeds; ++seed) {
    const ExportsCase which{workload.writes, 65536, workload.writes_per_s, seed};
    heat.add(simulate(which, Order::kHeat, goals));
    round_robin.add(simulate(which, Order::kRoundRobin, goals));
    all_knowing.add(simulate(which, Order::kAllKnowing, goals));
  }
  const double runs = static_cast<double>(seeds);
  report.section(
      fmt::format("{}: {:.0f} writes/s to private pages", workload.name, workload.writes_per_s));
  const auto bound_goal = workload.bound_goal ? std::optional(at_most(kExportsMax)) : std::nullopt;
  const auto half_goal =
      workload.round_robin_goal ? std::optional(at_most(kReExportsMax)) : std::nullopt;
  report.add({"exports for each populated private page",
              ratio(heat.exports, heat.populated),
              "times",
              {}});
  report.add(
      {"  against the least in hindsight", ratio(heat.exports, heat.bound), "times", bound_goal});
  report.add({"  round by address, against its least",
              ratio(round_robin.exports, round_robin.bound),
              "times",
              {}});
  report.add({"exports again", static_cast<double>(heat.re_exports) / runs, "pages", {}});
  report.add(
      {"  round by address", static_cast<double>(round_robin.re_exports) / runs, "pages", {}});
  report.add({"  against round by address", ratio(heat.re_exports, round_robin.re_exports), "times",
              half_goal, workload.round_robin_judged});
  report.add({"  one that knows the chances, the same",
              ratio(all_knowing.re_exports, round_robin.re_exports),
              "times",
              {}});
  report.add({"live part", heat.live_s / runs, "s", {}});
  report.add({"downtime", heat.downtime_ms / runs, "ms", {}});
  report.add({"  as predicted", heat.predicted_ms / runs, "ms", {}});
  report.add({"  prediction off, of it or of the budget", heat.off, "", at_most(kPredictionMax)});
  report.add({"longest that a shared page waited", heat.late_s, "s", at_most(kSharedLateMax_s)});
}

// How far the two goals depend on the rate that was chosen for them.
void measure_other_rates(Report& report) {
  for (const Workload& workload : kWorkloads) {
    if (!workload.round_robin_judged) continue;
    report.section(fmt::format("{}: at other rates, not judged", workload.name));
    for (const double writes_per_s : {20.0, 50.0, 100.0, 300.0}) {
      Sums heat, round_robin, all_knowing;
      for (std::uint64_t seed = 1; seed <= kSeeds; ++seed) {
        const ExportsCase which{workload.writes, 65536, writes_per_s, seed};
        heat.add(simulate(which, Order::kHeat, {}));
        round_robin.add(simulate(which, Order::kRoundRobin, {}));
        all_knowing.add(simulate(which, Order::kAllKnowing, {}));
      }
      const std::string rate = fmt::format("{:.0f} writes/s: ", writes_per_s);
      report.add({rate + "against the least in hindsight", ratio(heat.exports, heat.bound), "times",
                  at_most(kExportsMax), false});
      report.add({rate + "again, against round by address",
                  ratio(heat.re_exports, round_robin.re_exports), "times", at_most(kReExportsMax),
                  false});
      report.add({rate + "one that knows the chances",
                  ratio(all_knowing.re_exports, round_robin.re_exports),
                  "times",
                  {}});
    }
  }
}

// A guest that writes more than the firmware exports: known within seconds, not after a pass.
void measure_giving_up(Report& report) {
  Goals goals;
  goals.on_stall = OnStall::kCancel;
  const ExportsOutcome outcome = simulate({Writes::kHotset, 65536, 1500, 1}, Order::kHeat, goals);
  report.section("hotset: 1500 writes/s to private pages, on_stall cancel");
  report.add({"given up after", outcome.live_s, "s", at_most(kGiveUpMax_s)});
  report.note(fmt::format("given up because {}", outcome.reason));
}

}  // namespace

Report run_exports(const ExportsOptions& options) {
  Report report("exports");
  report.note("256 MiB, 98 % private, 60 % of that populated; 1000 writes/s to shared pages");
  report.note(
      "firmware 350 to 450 pages/s, plain path 1 GB/s, log harvested every 100 ms, slices of 1 s");
  report.note(
      "least in hindsight: each populated page once, and again what was dirty at the pause");
  report.note("a page that was never written looks like any other, so no sender can know the hot");
  report.note("ones before their first write; beside it one that knows the guest's true chances");
  for (const Workload& workload : kWorkloads) {
    measure(report, workload, options.quick ? 1 : kSeeds);
  }
  measure_giving_up(report);
  if (!options.quick) measure_other_rates(report);
  return report;
}

}  // namespace sealift::bench
