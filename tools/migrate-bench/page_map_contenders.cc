#include "tools/migrate-bench/page_map_contenders.h"

#include <array>
#include <atomic>
#include <latch>
#include <random>
#include <thread>

#include "tools/agent/clock.h"

namespace sealift::bench {
namespace {

constexpr std::size_t kLookups = 1u << 18;
constexpr std::size_t kConversions = 1u << 18;
constexpr std::size_t kSharedForConversions = 1000;
constexpr std::size_t kScatteredPages = 10'000;
constexpr GfnRange kSwiotlb{Gfn{0x80000 - (64ULL << 20 >> kPageShift)}, 64ULL << 20 >> kPageShift};
constexpr std::uint64_t kSeed = 20261121;

std::uint32_t any_page(std::mt19937_64& random) {
  return static_cast<std::uint32_t>(random() % kSpanPages);
}

void append_page(std::vector<GfnRange>& runs, std::uint64_t page) {
  if (!runs.empty() && value(end_of(runs.back())) == page) {
    ++runs.back().pages;
  } else {
    runs.push_back(GfnRange{Gfn{page}, 1});
  }
}

struct Work {
  std::uint64_t operations = 0;
  std::uint64_t ns = 0;
  double per_s() const { return static_cast<double>(operations) * 1e9 / static_cast<double>(ns); }
};

// Runs `operate(i)` until the time is up; whoever sees that first ends it for all. No thread keeps
// time for the others: a lock may starve any of them.
template <class Operate>
Work work_until(std::atomic<bool>& over, std::uint64_t duration_ns, Operate operate) {
  constexpr std::uint64_t kBetweenLooks = 256;
  Work work;
  const Stopwatch watch;
  while (!over.load(std::memory_order_relaxed)) {
    for (std::uint64_t i = 0; i < kBetweenLooks; ++i) operate(work.operations++);
    if (watch.elapsed_ns() >= duration_ns) over.store(true, std::memory_order_relaxed);
  }
  work.ns = watch.elapsed_ns();
  return work;
}

}  // namespace

Workload swiotlb_workload() {
  std::mt19937_64 random(kSeed);
  Workload workload{"64 MiB swiotlb and 10,000 scattered pages", {kSwiotlb}, {}, {}};
  PageMap shared(kSpanPages);
  shared.convert(kSwiotlb, PageClass::kShared);
  std::vector<std::uint32_t> scattered;
  while (scattered.size() < kScatteredPages) {
    const GfnRange page{Gfn{any_page(random)}, 1};
    if (shared.convert(page, PageClass::kShared) == 0) continue;
    workload.shared.push_back(page);
    scattered.push_back(static_cast<std::uint32_t>(value(page.first)));
  }
  while (workload.lookups.size() < kLookups) {
    const bool known = workload.lookups.size() % 4 == 0;
    workload.lookups.push_back(known ? scattered[random() % scattered.size()] : any_page(random));
  }
  while (workload.conversions.size() < kConversions) {
    const std::uint32_t page = any_page(random);
    if (shared.class_of(Gfn{page}) == PageClass::kPrivate) workload.conversions.push_back(page);
  }
  return workload;
}

Workload private_workload() {
  std::mt19937_64 random(kSeed);
  Workload workload{"all private", {}, {}, {}};
  while (workload.lookups.size() < kLookups) workload.lookups.push_back(any_page(random));
  while (workload.conversions.size() < kConversions) {
    workload.conversions.push_back(any_page(random));
  }
  return workload;
}

LockedBits::LockedBits(const std::vector<GfnRange>& shared) : bits_(kSpanPages) {
  for (GfnRange range : shared) {
    for (std::uint64_t i = 0; i < range.pages; ++i) bits_[value(range.first) + i] = true;
  }
}

std::vector<GfnRange> LockedBits::runs() const {
  std::vector<GfnRange> runs;
  for (std::uint64_t page = 0; page < bits_.size(); ++page) {
    if (bits_[page]) append_page(runs, page);
  }
  return runs;
}

template <class Mutex, class ReadLock>
LockedRoaring<Mutex, ReadLock>::LockedRoaring(const std::vector<GfnRange>& shared) {
  for (GfnRange range : shared) bitmap_.addRange(value(range.first), value(end_of(range)));
  bitmap_.runOptimize();
}

template <class Mutex, class ReadLock>
std::vector<GfnRange> LockedRoaring<Mutex, ReadLock>::runs() const {
  std::vector<GfnRange> runs;
  for (std::uint32_t page : bitmap_) append_page(runs, page);
  return runs;
}

template <class Map>
Rates run_load(Map& map, const Workload& workload, std::uint64_t duration_ns) {
  constexpr std::size_t kReaders = 2;
  std::atomic<bool> over{false};
  std::latch start(kReaders + 1);
  std::array<Work, kReaders> looked;
  std::atomic<std::uint64_t> shared_seen{0};  // so that no lookup is optimised away
  std::vector<std::jthread> readers;
  for (std::size_t reader = 0; reader < kReaders; ++reader) {
    readers.emplace_back([&, reader] {
      std::uint64_t shared = 0;
      const std::size_t offset = reader * kLookups / kReaders;
      start.arrive_and_wait();
      looked[reader] = work_until(over, duration_ns, [&](std::uint64_t i) {
        shared += map.is_shared(workload.lookups[(i + offset) % kLookups]) ? 1u : 0u;
      });
      shared_seen += shared;
    });
  }
  start.arrive_and_wait();
  const Work converted = work_until(over, duration_ns, [&](std::uint64_t i) {
    // Shares a page, then takes back the one that was shared some time ago.
    const bool shared = i % 2 == 0;
    const std::uint64_t turn = i / 2 + (shared ? kSharedForConversions : 0);
    map.set_shared(workload.conversions[turn % kConversions], shared);
  });
  readers.clear();
  for (std::uint32_t page : workload.conversions) map.set_shared(page, false);
  Rates rates;
  for (const Work& work : looked) rates.lookups_per_s += work.per_s();
  rates.conversions_per_s = converted.per_s();
  return rates;
}

template class LockedRoaring<std::mutex, std::unique_lock<std::mutex>>;
template class LockedRoaring<std::shared_mutex, std::shared_lock<std::shared_mutex>>;
template Rates run_load(SealiftMap&, const Workload&, std::uint64_t);
template Rates run_load(LockedBits&, const Workload&, std::uint64_t);
template Rates run_load(MutexRoaring&, const Workload&, std::uint64_t);
template Rates run_load(SharedMutexRoaring&, const Workload&, std::uint64_t);

}  // namespace sealift::bench
