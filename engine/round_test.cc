#include "engine/round.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <map>
#include <numeric>
#include <random>
#include <set>
#include <thread>
#include <utility>
#include <vector>

namespace sealift {
namespace {

using Pages = std::set<std::uint64_t>;

std::vector<Gfn> all_private(Round& round, const PageMap& map, bool skip = false) {
  std::vector<Gfn> all;
  for (;;) {
    const std::vector<Gfn> batch = round.next_private(map, 7, skip);
    if (batch.empty()) return all;
    EXPECT_LE(batch.size(), 7u);
    all.insert(all.end(), batch.begin(), batch.end());
  }
}

std::vector<Gfn> all_shared(Round& round, const PageMap& map, bool skip = false) {
  std::vector<Gfn> all;
  for (;;) {
    const std::vector<Gfn> batch = round.next_shared(map, 7, skip);
    if (batch.empty()) return all;
    EXPECT_LE(batch.size(), 7u);
    all.insert(all.end(), batch.begin(), batch.end());
  }
}

void mark_some(DirtySet& dirty, Pages& model) {
  const auto first = *rc::gen::inRange<std::uint64_t>(0, dirty.span_pages());
  const auto pages = *rc::gen::inRange<std::uint64_t>(1, 300);
  const GfnRange range{Gfn{first}, std::min(pages, dirty.span_pages() - first)};
  dirty.mark(range);
  for (std::uint64_t i = 0; i < range.pages; ++i) model.insert(first + i);
}

RC_GTEST_PROP(Round, ReturnsEachPageOnceByItsClassColdestFirstAndLeavesTheRestDirty, ()) {
  const auto span = *rc::gen::inRange<std::uint64_t>(1, 9000);
  DirtySet dirty(span);
  PageMap map(span);
  map.convert(GfnRange{Gfn{0}, *rc::gen::inRange<std::uint64_t>(0, span + 1)}, PageClass::kShared);
  const Heat& heat = dirty.watch_heat(map);
  Pages model, heated;
  for (int i = 0; i < 5; ++i) mark_some(dirty, heated);  // some of them twice and more
  model = heated;
  const RoundLimits limits{*rc::gen::inRange<std::uint64_t>(1, 600),
                           *rc::gen::inRange<std::uint64_t>(0, 300)};
  Round round(dirty, map, &heat, limits);

  Pages shared, secret;
  for (std::uint64_t page : model) {
    (map.class_of(Gfn{page}) == PageClass::kShared ? shared : secret).insert(page);
  }
  const std::uint64_t wanted = std::min<std::uint64_t>(
      limits.private_pages_max, secret.size() - std::min(secret.size(), limits.leave_hottest));
  RC_ASSERT(round.pages() == shared.size() + wanted);
  RC_ASSERT(round.unlisted_private_pages() == secret.size() - wanted);
  RC_ASSERT(dirty.count() == secret.size());  // private pages leave when they are asked for

  Pages sent;
  for (Gfn gfn : all_shared(round, map)) RC_ASSERT(sent.insert(value(gfn)).second);
  RC_ASSERT(sent == shared);
  const std::vector<Gfn> exported = all_private(round, map);
  RC_ASSERT(exported.size() == wanted);
  const auto order = [&](Gfn gfn) {
    return std::pair(heat.word(value(gfn) / 64).band_of(heat.class_of(gfn)), value(gfn));
  };
  for (std::size_t i = 1; i < exported.size(); ++i) {
    RC_ASSERT(order(exported[i - 1]) < order(exported[i]));
  }
  for (Gfn gfn : exported) RC_ASSERT(secret.erase(value(gfn)) == 1u);
  for (std::uint64_t page : secret) {  // what stays is no colder, and still dirty
    RC_ASSERT(dirty.is_marked(Gfn{page}));
    RC_ASSERT((exported.empty() || order(Gfn{page}) > order(exported.back())));
  }
  RC_ASSERT(dirty.count() == secret.size());
}

TEST(Round, LeavesOutWhatIsDirtyAgainOrBecameHotter) {
  PageMap map(256);
  map.convert(GfnRange{Gfn{0}, 64}, PageClass::kShared);
  DirtySet dirty(256);
  const Heat& heat = dirty.watch_heat(map);
  for (std::uint64_t page : {1u, 2u, 100u, 101u}) dirty.put_back(Gfn{page});
  Round round(dirty, map, &heat, {});
  dirty.mark(Gfn{2});
  dirty.mark(Gfn{101});
  EXPECT_EQ(all_shared(round, map, true), std::vector<Gfn>{Gfn{1}});
  EXPECT_EQ(all_private(round, map, true), std::vector<Gfn>{Gfn{100}});
  EXPECT_EQ(round.skipped_pages(), 2u);
  EXPECT_TRUE(dirty.is_marked(Gfn{2}));
  EXPECT_TRUE(dirty.is_marked(Gfn{101}));
  EXPECT_EQ(dirty.count(), 2u);
}

// A page converted after the map was announced travels in a later epoch, by the class announced
// then; whenever the conversion comes, it is dirty afterwards.
TEST(Round, APageWhoseClassWasNotAnnouncedIsPutBack) {
  PageMap announced(256), live(256);
  for (PageMap* map : {&announced, &live}) map->convert(GfnRange{Gfn{0}, 64}, PageClass::kShared);
  DirtySet dirty(256);
  for (std::uint64_t page : {1u, 2u, 3u, 100u, 101u, 102u}) dirty.mark(Gfn{page});
  Round round(dirty, live, nullptr, {});
  convert_pages(live, dirty, GfnRange{Gfn{2}, 1}, PageClass::kPrivate);
  announced.convert(GfnRange{Gfn{2}, 1}, PageClass::kPrivate);
  live.convert(GfnRange{Gfn{3}, 1}, PageClass::kPrivate);  // its mark is still to come
  announced.convert(GfnRange{Gfn{3}, 1}, PageClass::kPrivate);
  convert_pages(live, dirty, GfnRange{Gfn{101}, 1}, PageClass::kShared);
  announced.convert(GfnRange{Gfn{101}, 1}, PageClass::kShared);
  live.convert(GfnRange{Gfn{102}, 1}, PageClass::kShared);  // so is that of this one
  EXPECT_EQ(all_shared(round, announced), std::vector<Gfn>{Gfn{1}});
  EXPECT_EQ(all_private(round, announced), std::vector<Gfn>{Gfn{100}});
  for (std::uint64_t page : {2u, 3u, 101u, 102u}) EXPECT_TRUE(dirty.is_marked(Gfn{page})) << page;
  EXPECT_EQ(dirty.count(), 4u);
}

TEST(Round, WhatIsNotAskedForStaysDirty) {
  PageMap map(1000);
  DirtySet dirty(1000);
  dirty.mark(GfnRange{Gfn{0}, 1000});
  {
    Round round(dirty, map, nullptr, {});
    EXPECT_EQ(round.next_private(map, 10, true).size(), 10u);
    EXPECT_EQ(round.unasked_private_pages(), 990u);
  }
  EXPECT_EQ(dirty.count(), 990u);
  Round next(dirty, map, nullptr, {});
  EXPECT_EQ(next.next_private(map, 1, true), std::vector<Gfn>{Gfn{10}});
}

// A page is written, then marked, while rounds are cut short at any moment: the last copy of each
// is its last content.
// Nothing is known of the guest: where it writes is not where the first exports go.
TEST(Round, PagesThatAreEquallyColdLeaveFromAllOverTheGuest) {
  constexpr std::uint64_t kSpan = 1 << 16;
  constexpr std::uint64_t kGroupPages = 512;
  const PageMap map(kSpan);
  DirtySet dirty(kSpan);
  dirty.mark(GfnRange{Gfn{0}, kSpan});
  std::vector<std::uint64_t> exported(kSpan / kGroupPages);
  Round first(dirty, map, nullptr, RoundLimits{.private_pages_max = 16 * kGroupPages});
  for (;;) {
    const std::vector<Gfn> batch = first.next_private(map, 512, false);
    if (batch.empty()) break;
    for (Gfn gfn : batch) ++exported[value(gfn) / kGroupPages];
  }
  for (std::size_t quarter = 0; quarter < 4; ++quarter) {
    const auto begin = exported.begin() + static_cast<std::ptrdiff_t>(quarter * 32);
    const std::uint64_t pages = std::accumulate(begin, begin + 32, std::uint64_t{0});
    EXPECT_GE(pages, 3 * kGroupPages) << quarter;  // of 4 on average
    EXPECT_LE(pages, 5 * kGroupPages) << quarter;
  }
  EXPECT_EQ(dirty.count(), kSpan - 16 * kGroupPages);
}

TEST(Round, LosesNothingBesideAWritingGuest) {
  constexpr std::array<std::uint64_t, 6> kPages = {0, 1, 64, 4095, 4096, 5000};
  constexpr std::uint64_t kWrites = 100'000;
  PageMap map(3 * 4096);
  map.convert(GfnRange{Gfn{64}, 1}, PageClass::kShared);
  DirtySet dirty(3 * 4096);
  const Heat& heat = dirty.watch_heat(map);
  std::array<std::atomic<std::uint64_t>, kPages.size()> content{};
  std::map<std::uint64_t, std::uint64_t> copies;
  std::atomic<bool> done{false};
  std::jthread writer([&] {
    for (std::uint64_t n = 1; n <= kWrites; ++n) {
      const std::uint64_t i = n % kPages.size();
      content[i].store(n, std::memory_order_relaxed);
      if (n % 7 == 0) {
        dirty.mark(GfnRange{Gfn{kPages[i] / 64 * 64}, 64});
      } else {
        dirty.mark(Gfn{kPages[i]});
      }
    }
    done = true;
  });
  for (bool last = false; !last;) {
    last = done;
    Round round(dirty, map, &heat, RoundLimits{~0ULL, last ? 0U : 3U});
    const auto copy = [&](const std::vector<Gfn>& batch) {
      for (std::size_t i = 0; i < kPages.size(); ++i) {
        if (std::count(batch.begin(), batch.end(), Gfn{kPages[i]}) == 0) continue;
        copies[i] = content[i].load(std::memory_order_relaxed);
      }
    };
    copy(round.next_shared(map, 100, !last));
    for (int batches = 0; batches < 3 || last; ++batches) {
      const std::vector<Gfn> batch = round.next_private(map, 50, !last);
      if (batch.empty()) break;
      copy(batch);
    }
  }
  for (std::size_t i = 0; i < kPages.size(); ++i) EXPECT_EQ(copies[i], content[i].load()) << i;
}

// Streams that take their work from one round: each page goes to exactly one of them, in pieces of
// at most 2 MiB, and none is left.
TEST(RoundThreads, EachPageIsClaimedOnce) {
  constexpr std::uint64_t kPages = 64 * 1024 + 100;
  PageMap map(kPages);
  map.convert({Gfn{0}, kPages}, PageClass::kShared);
  DirtySet dirty(kPages);
  std::vector<std::atomic<int>> claimed(kPages);
  std::vector<bool> marked(kPages);
  std::mt19937 random(7);
  for (std::uint64_t gfn = 0; gfn < kPages;) {
    const std::uint64_t pages = std::min<std::uint64_t>(1 + random() % 3000, kPages - gfn);
    if (random() % 2 == 0) {
      dirty.mark(GfnRange{Gfn{gfn}, pages});
      for (std::uint64_t i = 0; i < pages; ++i) marked[gfn + i] = true;
    }
    gfn += pages;
  }
  Round round(dirty, map, nullptr, RoundLimits{});
  std::atomic<std::uint64_t> counted{0};
  {
    std::vector<std::jthread> threads;
    for (int t = 0; t < 4; ++t) {
      threads.emplace_back([&] {
        std::vector<GfnRange> ranges;
        while (const auto pages = round.claim_shared(map, true, ranges)) {
          EXPECT_LE(*pages, 512U);
          counted += *pages;
          for (GfnRange range : ranges) {
            for (std::uint64_t i = 0; i < range.pages; ++i) ++claimed[value(range.first) + i];
          }
          ranges.clear();
        }
      });
    }
  }
  EXPECT_EQ(counted.load(), round.shared_pages());
  for (std::uint64_t gfn = 0; gfn < kPages; ++gfn) {
    ASSERT_EQ(claimed[gfn].load(), marked[gfn] ? 1 : 0) << gfn;
  }
}

}  // namespace
}  // namespace sealift
