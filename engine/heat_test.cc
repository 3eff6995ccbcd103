#include "engine/heat.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <map>
#include <numeric>
#include <thread>
#include <vector>

#include "engine/dirty_set.h"
#include "engine/page_map.h"

namespace sealift {
namespace {

constexpr std::uint64_t kSpan = 3 * 4096 + 100;

void report(Heat& heat, std::uint64_t page) { heat.report(page / 64, 1ULL << (page % 64)); }

// The plain reference: how often each private page was reported.
RC_GTEST_PROP(Heat, TheClassIsTheLogarithmOfTheReports, ()) {
  PageMap map(kSpan);
  const auto shared = *rc::gen::inRange<std::uint64_t>(0, kSpan);
  map.convert(GfnRange{Gfn{shared}, std::min<std::uint64_t>(300, kSpan - shared)},
              PageClass::kShared);
  Heat heat(map);
  std::map<std::uint64_t, unsigned> reports;
  const auto pages = *rc::gen::inRange(1, 40);
  for (int i = 0; i < pages; ++i) {
    const auto page = *rc::gen::oneOf(rc::gen::inRange<std::uint64_t>(0, kSpan),
                                      rc::gen::inRange<std::uint64_t>(64, 80));
    const auto times = *rc::gen::element(1u, 2u, 30u, 200u);
    for (unsigned n = 0; n < times; ++n) report(heat, page);
    if (map.class_of(Gfn{page}) == PageClass::kPrivate) reports[page] += times;
  }
  std::array<std::uint64_t, Heat::kClasses> counts{};
  for (std::uint64_t page = 0; page < kSpan; ++page) {
    const unsigned cls = heat.class_of(Gfn{page});
    RC_ASSERT((heat.word(page / 64).classes[cls] >> (page % 64) & 1) == 1u);
    if (map.class_of(Gfn{page}) == PageClass::kPrivate) ++counts[cls];
    const auto found = reports.find(page);
    if (found == reports.end()) {
      RC_ASSERT(cls == 0u);
      continue;
    }
    const double expected = std::min(7.0, std::log2(found->second + 1.0));
    RC_ASSERT(cls >= 1u);
    RC_ASSERT(std::abs(cls - expected) <= 4.0);  // by chance; the mean is tested below
  }
  const HeatEstimate estimate = heat.estimate();
  for (unsigned c = 0; c < Heat::kClasses; ++c) RC_ASSERT(estimate.classes[c].pages == counts[c]);
}

TEST(Heat, PagesThatAreReportedMoreOftenAreHotterOnAverage) {
  PageMap map(4096);
  Heat heat(map);
  double last = 0;
  for (const unsigned times : {1u, 3u, 7u, 15u, 31u, 63u}) {
    heat.restart();
    for (unsigned n = 0; n < times; ++n) {
      for (std::uint64_t word = 0; word < 64; ++word) heat.report(word, ~0ULL);
    }
    double sum = 0;
    for (std::uint64_t page = 0; page < 4096; ++page) sum += heat.class_of(Gfn{page});
    EXPECT_NEAR(sum / 4096, std::log2(times + 1.0), 0.5) << times;
    EXPECT_GT(sum / 4096, last + 0.5);
    last = sum / 4096;
  }
}

TEST(Heat, TheWordsClassesAreDisjointAndComplete) {
  PageMap map(128);
  Heat heat(map);
  for (std::uint64_t n = 1; n <= 64; ++n) heat.report(1, ~0ULL >> (64 - n));
  for (std::uint64_t word = 0; word < 2; ++word) {
    std::uint64_t all = 0;
    int pages = 0;
    for (std::uint64_t bits : heat.word(word).classes) {
      all |= bits;
      pages += std::popcount(bits);
    }
    EXPECT_EQ(all, ~0ULL);
    EXPECT_EQ(pages, 64);
  }
}

TEST(Heat, DecaysToOnceReportedAndNeverToUnreported) {
  PageMap map(64);
  Heat heat(map);
  for (int n = 0; n < 5000; ++n) heat.report(0, 0xff);
  ASSERT_EQ(heat.class_of(Gfn{3}), 7u);
  for (unsigned expected : {6u, 5u, 4u, 3u, 2u, 1u, 1u, 1u}) {
    heat.guest_ran(Heat::kHalving_s);
    for (std::uint64_t page = 0; page < 8; ++page) EXPECT_EQ(heat.class_of(Gfn{page}), expected);
    EXPECT_EQ(heat.class_of(Gfn{8}), 0u);
  }
}

TEST(Heat, UnreportedPagesNextToReportedOnesAreInAWarmerBand) {
  PageMap map(4096);
  Heat heat(map);
  report(heat, 5);
  const auto cold_band = [&](std::uint64_t page) { return heat.word(page / 64).band_of(0); };
  EXPECT_EQ(cold_band(512), 0u);
  EXPECT_EQ(cold_band(511), 1u);  // in the 2 MiB of page 5
  for (std::uint64_t page = 0; page < 512; ++page) report(heat, page);
  EXPECT_EQ(cold_band(511), Heat::kBandsOfClass - 1);
  EXPECT_EQ(Heat::class_of_band(heat.word(0).band_of(1)), 1u);
  EXPECT_EQ(Heat::class_of_band(heat.word(0).band_of(0)), 0u);
  heat.restart();
  EXPECT_EQ(cold_band(511), 0u);
  EXPECT_EQ(heat.class_of(Gfn{5}), 0u);
}

TEST(Heat, MeasuresHowOftenEachClassIsWritten) {
  PageMap map(4096);
  Heat heat(map);
  for (int tenth = 0; tenth < 300; ++tenth) {  // 30 s: 64 pages ten times a second, one of 100
    heat.report(0, ~0ULL);
    if (tenth % 10 == 0) report(heat, 64 + static_cast<std::uint64_t>(tenth) / 10);
    heat.guest_ran(0.1);
  }
  const HeatEstimate estimate = heat.estimate();
  EXPECT_NEAR(estimate.observed_s, 30, 0.01);
  double writes_per_s = 0;
  for (const HeatClass& cls : estimate.classes) writes_per_s += cls.writes_per_s;
  EXPECT_NEAR(writes_per_s, 641, 7);
  EXPECT_NEAR(estimate.classes[0].writes_per_s, 1, 0.4);
  EXPECT_EQ(estimate.classes[1].pages, 30u);
}

TEST(Heat, ASharedPageHasNone) {
  PageMap map(64);
  Heat heat(map);
  map.convert(GfnRange{Gfn{0}, 32}, PageClass::kShared);
  heat.report(0, ~0ULL);
  EXPECT_EQ(heat.class_of(Gfn{31}), 0u);
  EXPECT_EQ(heat.class_of(Gfn{32}), 1u);
}

// A TiB whose every block was written: 3 bits for each page and little more; one that is idle
// nearly nothing.
TEST(Heat, TakesLessThanFourBitsForEachPage) {
  constexpr std::uint64_t kTebibyte = 1ULL << (40 - kPageShift);
  PageMap map(kTebibyte);
  Heat heat(map);
  EXPECT_LT(heat.memory_bytes(), 1u << 20);
  for (std::uint64_t word = 0; word < kTebibyte / 64; word += 64) heat.report(word, 1);
  EXPECT_LE(heat.memory_bytes() * 8, kTebibyte * 4);
  EXPECT_LE(heat.memory_bytes(), 100u << 20);
}

TEST(Heat, ManyThreadsReportWhileOthersRead) {
  PageMap map(kSpan);
  Heat heat(map);
  constexpr std::uint64_t kReports = 2000;
  {
    std::vector<std::jthread> threads;
    for (std::uint64_t t = 0; t < 2; ++t) {
      threads.emplace_back([&, t] {
        for (std::uint64_t n = 0; n < kReports; ++n) report(heat, (n * 97 + t) % kSpan);
      });
    }
    for (int n = 0; n < 200; ++n) {
      EXPECT_LT(heat.class_of(Gfn{97}), Heat::kClasses);
      heat.guest_ran(0.001);
      static_cast<void>(heat.estimate());
    }
  }
  double reported = 0;
  const HeatEstimate estimate = heat.estimate();
  for (unsigned c = 1; c < Heat::kClasses; ++c) {
    reported += static_cast<double>(estimate.classes[c].pages);
  }
  EXPECT_EQ(reported, 2 * kReports);
}

// What feeds it: the log's words, single pages and short ranges; neither what is put back nor
// everything at once.
TEST(DirtySetHeat, MarksAreReportedButWhatIsPutBackIsNot) {
  PageMap map(8192);
  DirtySet dirty(8192);
  dirty.mark(Gfn{1});  // before anybody watches
  const Heat& heat = dirty.watch_heat(map);
  dirty.mark(Gfn{2});
  dirty.mark(GfnRange{Gfn{60}, 10});
  dirty.merge_word(2, 1);
  dirty.put_back(Gfn{3});
  dirty.mark(GfnRange{Gfn{0}, 8192});
  std::vector<std::uint64_t> reported;
  for (std::uint64_t page = 0; page < 8192; ++page) {
    if (heat.class_of(Gfn{page}) != 0) reported.push_back(page);
  }
  std::vector<std::uint64_t> expected{2};
  for (std::uint64_t page = 60; page < 70; ++page) expected.push_back(page);
  expected.push_back(128);
  EXPECT_EQ(reported, expected);
  EXPECT_EQ(&dirty.watch_heat(map), &heat);
  EXPECT_EQ(heat.class_of(Gfn{2}), 0u) << "begun anew";
}

}  // namespace
}  // namespace sealift
