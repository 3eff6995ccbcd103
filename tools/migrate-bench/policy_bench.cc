#include "tools/migrate-bench/policy_bench.h"

#include <fmt/format.h>

#include <array>
#include <cmath>
#include <string>
#include <vector>

#include "engine/forecast.h"

namespace sealift::bench {
namespace {

constexpr double kMiB = 1 << 20;
constexpr double kPagesOfMiB = kMiB / kPageBytes;
constexpr double kPredictionMax = 0.2;
constexpr double kFirmware_pages_per_s = 400;  // AMD's, as measured by others
constexpr double kFaults_per_s = 300'000;      // a guest whose pages are write-protected again
constexpr double kFlatOut_per_s = 100;         // writes to each page: all of them in a harvest

struct Link {
  const char* name;
  double mib_per_s;
  double round_trip_s;
};
constexpr std::array kLinks = {Link{"2 GiB/s", 2048, 0.0002}, Link{"700 MiB/s", 700, 0.0005},
                               Link{"128 MiB/s", 128, 0.0005}, Link{"128 MiB/s, 20 ms", 128, 0.02}};

struct Workload {
  std::string name;
  GuestModel guest;
  bool converges = true;  // with the throttle, at every link
};

// 2 GiB of plain memory, `hot_mib` of it written so often.
GuestModel plain(double hot_mib, double writes_per_s) {
  GuestModel guest;
  guest.groups = {{PageClass::kShared, (2048 - hot_mib) * kPagesOfMiB, 0},
                  {PageClass::kShared, hot_mib * kPagesOfMiB, writes_per_s}};
  guest.faults_per_s = kFaults_per_s;
  return guest;
}

// 256 MiB, 2 % of it shared, `hot` private pages written so often in sum.
GuestModel confidential(double hot, double writes_per_s) {
  GuestModel guest;
  guest.groups = {{PageClass::kShared, 5 * kPagesOfMiB, 0.8},
                  {PageClass::kPrivate, 251 * kPagesOfMiB - hot, 0.0002},
                  {PageClass::kPrivate, hot, writes_per_s / hot}};
  return guest;
}

std::vector<Workload> workloads() {
  std::vector<Workload> list = {{"idle", plain(1, 1)},
                                {"100 MiB flat out", plain(100, kFlatOut_per_s)},
                                {"512 MiB flat out", plain(512, kFlatOut_per_s)},
                                {"1 GiB flat out", plain(1024, kFlatOut_per_s)},
                                {"512 MiB, 256 MiB/s", plain(512, 0.5)},
                                {"512 MiB, 8 s busy and 2 s quiet", plain(512, 0.5)},
                                {"private: 200 writes/s", confidential(1000, 200)},
                                {"private: 1500 writes/s", confidential(3000, 1500)}};
  list[5].guest.activity = {{8, 1.2}, {2, 0.02}};
  return list;
}

void measure(Report& report, const Workload& workload, const Link& link, bool throttle) {
  PathModel path;
  path.plain_pages_per_s = link.mib_per_s * kPagesOfMiB;
  path.firmware_pages_per_s = kFirmware_pages_per_s;
  path.round_trip_s = link.round_trip_s;
  path.harvest_s = 0.001;
  Goals goals;
  goals.throttle_max_percent = throttle ? 99 : 0;
  const Forecast seen = forecast(workload.guest, path, goals);
  const std::string name = fmt::format("{}{}: ", link.name, throttle ? ", throttle" : "");
  const double budget_ms = static_cast<double>(goals.downtime_max_ns) / 1e6;
  report.add({name + "total", seen.total_s, "s", {}});
  report.add({"  downtime", seen.downtime_s * 1e3, "ms",
              throttle ? std::optional(at_most(budget_ms)) : std::nullopt});
  report.add({"  prediction off", std::abs(seen.predicted_downtime_s / seen.downtime_s - 1),
              "of it", at_most(kPredictionMax)});
  report.add({"  rounds", static_cast<double>(seen.rounds), "", {}});
  if (seen.exports > 0) report.add({"  exports", seen.exports, "pages", {}});
  if (throttle) {
    report.add({"  most throttle", static_cast<double>(seen.throttle_percent), "%", {}});
    report.add({"  guest held back", seen.slowdown * 100, "% of the time", {}});
  }
  if (seen.downtime_s * 1e3 <= budget_ms) return;
  report.note(fmt::format("{}, {}paused because {}", workload.name, name, seen.reason));
}

}  // namespace

Report run_policy() {
  Report report("policy");
  report.note("2 GiB plain guests, 256 MiB confidential ones; firmware 400 pages/s, budget 300 ms");
  for (const Workload& workload : workloads()) {
    report.section(workload.name);
    for (const Link& link : kLinks) {
      for (const bool throttle : {false, true}) measure(report, workload, link, throttle);
    }
  }
  return report;
}

}  // namespace sealift::bench
