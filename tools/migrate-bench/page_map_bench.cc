#include "tools/migrate-bench/page_map_bench.h"

#include <fmt/format.h>
#include <malloc.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <ctime>
#include <fstream>
#include <memory>
#include <numeric>
#include <random>
#include <thread>
#include <utility>

#include "engine/dirty_set.h"
#include "engine/limits.h"
#include "engine/round.h"
#include "tools/agent/clock.h"
#include "tools/migrate-bench/page_map_contenders.h"

namespace sealift::bench {
namespace {

constexpr GfnRange kEverything{Gfn{0}, kSpanPages};
constexpr double kMib = 1 << 20;
constexpr double kMemoryMax_mib = 2;
constexpr double kWorstBitsPerPageMax = 1.1;
constexpr double kConvertMax_ms = 5;
constexpr double kHarvestMax_ms = 100;
constexpr double kTimesLockedBitsMin = 5;
constexpr double kTimesRoaringMin = 2;

// Bytes that the allocator has handed out, of its heap and of its mappings.
double allocated_bytes() {
  const struct mallinfo2 info = ::mallinfo2();
  return static_cast<double>(info.uordblks + info.hblkhd);
}

void fill(PageMap& map, const Workload& workload) {
  for (GfnRange range : workload.shared) map.convert(range, PageClass::kShared);
}

void share_every_second_page(PageMap& map) {
  for (std::uint64_t page = 0; page < map.span_pages(); page += 2) {
    map.convert(GfnRange{Gfn{page}, 1}, PageClass::kShared);
  }
}

void measure_memory(Report& report, const Workload& workload, bool quick) {
  report.section("memory of the map of 1 TiB");
  const double before = allocated_bytes();
  auto map = std::make_unique<PageMap>(kSpanPages);
  fill(*map, workload);
  const double used = allocated_bytes() - before;
  report.add({workload.name + ", from the allocator", used / kMib, "MiB", at_most(kMemoryMax_mib)});
  report.add({"the same, by memory_bytes()", static_cast<double>(map->memory_bytes()) / kMib, "MiB",
              at_most(kMemoryMax_mib)});
  const std::uint64_t pages = quick ? kSpanPages / 16 : kSpanPages;
  const double empty = allocated_bytes();
  auto worst = std::make_unique<PageMap>(pages);
  share_every_second_page(*worst);
  report.add({fmt::format("worst case, every second page of {} GiB shared", pages >> 18),
              (allocated_bytes() - empty) * 8 / static_cast<double>(pages), "bits/page",
              at_most(kWorstBitsPerPageMax)});
  const double full = allocated_bytes();
  for (int round = 0; round < 3; ++round) {
    worst->convert(GfnRange{Gfn{0}, pages}, PageClass::kPrivate);
    share_every_second_page(*worst);
  }
  const double growth = allocated_bytes() - full;
  report.add({"growth when the guest does that three times more", growth, "bytes", at_most(0)});
}

// CPU time of this thread: what its work takes, whatever else the machine does.
double thread_cpu_ms() {
  timespec now{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) * 1e3 + static_cast<double>(now.tv_nsec) / 1e6;
}

template <class Prepare, class Timed>
double median_ms(int repetitions, Prepare prepare, Timed timed) {
  std::vector<double> times;
  for (int i = 0; i < repetitions; ++i) {
    prepare();
    const double before = thread_cpu_ms();
    timed();
    times.push_back(thread_cpu_ms() - before);
  }
  return median(std::move(times));
}

// How much of the machine's CPU time went to other processes since construction, 0 to 1.
class OtherLoad {
 public:
  double share() const {
    const Sample now;
    const double others = (now.busy_s - from_.busy_s) - (now.own_s - from_.own_s);
    const double cores = std::thread::hardware_concurrency();
    return std::clamp(others / (static_cast<double>(watch_.elapsed_ns()) / 1e9 * cores), 0.0, 1.0);
  }

 private:
  struct Sample {
    double busy_s = 0;  // of the whole machine, time stolen from it included
    double own_s = static_cast<double>(std::clock()) / CLOCKS_PER_SEC;
    Sample() {
      std::ifstream stat("/proc/stat");
      std::string cpu;
      std::array<double, 8> ticks{};  // user nice system idle iowait irq softirq steal
      stat >> cpu;
      for (double& count : ticks) stat >> count;
      const double sum = std::accumulate(ticks.begin(), ticks.end(), 0.0) - ticks[3] - ticks[4];
      busy_s = sum / static_cast<double>(::sysconf(_SC_CLK_TCK));
    }
  };
  Stopwatch watch_;
  Sample from_;
};

void measure_bulk(Report& report, const Workload& workload, bool quick) {
  report.section("conversion of 1 TiB at once (boot, kexec)");
  const int repetitions = quick ? 5 : 21;
  PageMap map(kSpanPages);
  DirtySet dirty(kSpanPages);
  const auto refill = [&] {
    map.convert(kEverything, PageClass::kPrivate);
    fill(map, workload);
  };
  for (const PageClass cls : {PageClass::kPrivate, PageClass::kShared}) {
    const std::string to = fmt::format(" to {}", name_of(cls));
    report.add({"convert()" + to,
                median_ms(repetitions, refill, [&] { map.convert(kEverything, cls); }), "ms",
                at_most(kConvertMax_ms)});
    report.add(
        {"convert_pages()" + to + ", all of it dirty",
         median_ms(repetitions, refill, [&] { convert_pages(map, dirty, kEverything, cls); }), "ms",
         at_most(kConvertMax_ms)});
  }
  refill();
  report.add({"shared_ranges()",
              median_ms(
                  repetitions, [] {}, [&] { static_cast<void>(map.shared_ranges()); }),
              "ms",
              {}});
  if (quick) return;
  share_every_second_page(map);
  report.add({"convert() to private, every second page shared before",
              median_ms(
                  1, [] {}, [&] { map.convert(kEverything, PageClass::kPrivate); }),
              "ms", at_most(kConvertMax_ms)});
}

void mark_random(DirtySet& dirty, std::uint64_t marks) {
  std::mt19937_64 random(1);
  for (std::uint64_t i = 0; i < marks; ++i) dirty.mark(Gfn{random() % kSpanPages});
}

// What one round does: all shared pages, and as many private ones as it lists.
std::uint64_t harvest(DirtySet& dirty, const PageMap& map) {
  Round round(dirty, map, nullptr, RoundLimits{});
  std::uint64_t pages = 0;
  const auto next = [&](auto ask) {
    for (std::size_t taken = 1; taken > 0; pages += taken) {
      taken = (round.*ask)(map, limits::kBatchPagesMax, true).size();
    }
  };
  next(&Round::next_shared);
  next(&Round::next_private);
  SEALIFT_ASSERT(pages + round.skipped_pages() == round.pages());
  return pages;
}

void measure_harvest(Report& report, const Workload& workload, bool quick) {
  report.section("harvest of a 1 TiB dirty set");
  const int repetitions = quick ? 3 : 9;
  PageMap map(kSpanPages);
  fill(map, workload);
  DirtySet dirty(kSpanPages);
  const auto one_percent = [&] { mark_random(dirty, kSpanPages / 100); };
  report.add({"1 % scattered: a Round until it is over",
              median_ms(repetitions, one_percent, [&] { harvest(dirty, map); }), "ms",
              at_most(kHarvestMax_ms)});
  report.add({"1 % scattered: count_by_class(), drain()",
              median_ms(repetitions, one_percent,
                        [&] {
                          SEALIFT_ASSERT(dirty.count_by_class(map).shared_pages > 0);
                          PageBitmap into(kSpanPages);
                          dirty.drain(into);
                        }),
              "ms", at_most(kHarvestMax_ms)});
  report.add({"100 pages: a Round until it is over",
              median_ms(
                  repetitions, [&] { mark_random(dirty, 100); }, [&] { harvest(dirty, map); }),
              "ms",
              {}});
  if (quick) return;
  report.add({"every page: a Round until it is over",
              median_ms(
                  3, [&] { dirty.mark(kEverything); }, [&] { harvest(dirty, map); }),
              "ms",
              {}});
}

struct Series {
  std::vector<double> lookups, conversions;
  void add(Rates rates) {
    lookups.push_back(rates.lookups_per_s / 1e6);
    conversions.push_back(rates.conversions_per_s / 1e6);
  }
};

void measure_load(Report& report, const Workload& workload, bool quick) {
  const int repetitions = quick ? 5 : 9;
  const std::uint64_t duration_ns = quick ? 50'000'000 : 200'000'000;
  SealiftMap ours(workload.shared);
  LockedBits bits(workload.shared);
  MutexRoaring roaring(workload.shared);
  SharedMutexRoaring shared_roaring(workload.shared);
  constexpr std::array kNames = {"page map", "vector<bool>, mutex", "CRoaring, mutex",
                                 "CRoaring, shared_mutex"};
  std::array<Series, kNames.size()> series;
  const OtherLoad others;
  for (int i = 0; i < repetitions; ++i) {
    series[0].add(run_load(ours, workload, duration_ns));
    series[1].add(run_load(bits, workload, duration_ns));
    series[2].add(run_load(roaring, workload, duration_ns));
    series[3].add(run_load(shared_roaring, workload, duration_ns));
  }
  const double busy = others.share();
  const bool judged = !quick;
  report.section(fmt::format("two threads look up, one converts pages; {}; medians of {} x {} ms",
                             workload.name, repetitions, duration_ns / 1'000'000));
  std::array<double, kNames.size()> lookups{}, conversions{};
  for (std::size_t i = 0; i < kNames.size(); ++i) {
    lookups[i] = median(series[i].lookups);
    conversions[i] = median(series[i].conversions);
    report.add({fmt::format("lookups, {}", kNames[i]), lookups[i], "M/s", {}});
  }
  for (std::size_t i = 0; i < kNames.size(); ++i) {
    report.add({fmt::format("conversions, {}", kNames[i]), conversions[i], "M/s", {}});
  }
  report.add({"of the machine, to other processes meanwhile", 100 * busy, "%", {}});
  for (const auto& [what, rates] :
       {std::pair{"lookups", lookups}, std::pair{"conversions", conversions}}) {
    report.add({fmt::format("{}, times vector<bool>", what), rates[0] / rates[1], "x",
                at_least(kTimesLockedBitsMin), judged});
    report.add({fmt::format("{}, times the faster CRoaring", what),
                rates[0] / std::max(rates[2], rates[3]), "x", at_least(kTimesRoaringMin), judged});
  }
}

// The same conversions of random ranges, done by all: the maps must agree at the end.
void measure_agreement(Report& report, const Workload& workload) {
  report.section("exactness");
  SealiftMap ours(workload.shared);
  LockedBits bits(workload.shared);
  MutexRoaring roaring(workload.shared);
  std::mt19937_64 random(2);
  constexpr int kConversions = 100'000;
  for (int i = 0; i < kConversions; ++i) {
    // Every second conversion is in one 1 GiB, so that it meets what others left.
    const std::uint64_t near = i % 2 == 0 ? kSpanPages : 1u << 18;
    const auto page = static_cast<std::uint32_t>(random() % near);
    const bool shared = random() % 2 == 0;
    const auto pages =
        static_cast<std::uint32_t>(std::min<std::uint64_t>(1 + random() % 100, kSpanPages - page));
    for (std::uint32_t at = page; at < page + pages; ++at) {
      ours.set_shared(at, shared);
      bits.set_shared(at, shared);
      roaring.set_shared(at, shared);
    }
  }
  const std::vector<GfnRange> runs = ours.runs();
  report.add({"shared runs after 100,000 conversions of random ranges",
              static_cast<double>(runs.size()), "", at_least(1)});
  report.add({"references that disagree about them",
              (runs == bits.runs() ? 0.0 : 1.0) + (runs == roaring.runs() ? 0.0 : 1.0), "",
              at_most(0)});
}

}  // namespace

Report run_page_map(const PageMapOptions& options) {
  Report report("page-map");
  report.note(fmt::format("a guest of 1 TiB, {} pages; this machine has {} cores for three threads",
                          kSpanPages, std::thread::hardware_concurrency()));
  report.note("contenders take turns; figures are medians; every contender gets the same accesses");
  report.note(
      "ms are CPU time of the one thread at work; M/s are of wall time and need idle cores");
  if (options.quick) {
    report.note(
        "quick: contenders are shown but not judged, since other work on the machine decides");
  }
  const Workload swiotlb = swiotlb_workload();
  measure_memory(report, swiotlb, options.quick);
  measure_bulk(report, swiotlb, options.quick);
  measure_harvest(report, swiotlb, options.quick);
  measure_load(report, swiotlb, options.quick);
  measure_load(report, private_workload(), options.quick);
  measure_agreement(report, swiotlb);
  return report;
}

}  // namespace sealift::bench
