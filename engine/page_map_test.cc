#include "engine/page_map.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <atomic>
#include <set>
#include <thread>
#include <vector>

#include "engine/dirty_set.h"

namespace sealift {
namespace {

std::vector<GfnRange> runs_of(const std::vector<bool>& shared) {
  std::vector<GfnRange> runs;
  for (std::uint64_t i = 0; i < shared.size(); ++i) {
    if (!shared[i]) continue;
    if (!runs.empty() && value(end_of(runs.back())) == i) {
      ++runs.back().pages;
    } else {
      runs.push_back(GfnRange{Gfn{i}, 1});
    }
  }
  return runs;
}

TEST(PageMap, EverythingIsPrivateAtFirst) {
  const PageMap map(1000);
  EXPECT_EQ(map.class_of(Gfn{0}), PageClass::kPrivate);
  EXPECT_EQ(map.class_of(Gfn{999}), PageClass::kPrivate);
  EXPECT_EQ(map.shared_pages(), 0u);
  EXPECT_TRUE(map.shared_ranges().empty());
}

RC_GTEST_PROP(PageMap, AgreesWithANaiveMap, ()) {
  const auto span = *rc::gen::inRange<std::uint64_t>(1, 3000);
  PageMap map(span);
  std::vector<bool> naive(span);
  const auto steps = *rc::gen::inRange(1, 40);
  for (int step = 0; step < steps; ++step) {
    const auto first = *rc::gen::inRange<std::uint64_t>(0, span);
    // Whole chunks and everything at once are as likely as small ranges.
    const auto pages = *rc::gen::oneOf(
        rc::gen::inRange<std::uint64_t>(0, span - first + 1),
        rc::gen::inRange<std::uint64_t>(0, std::min<std::uint64_t>(70, span - first) + 1),
        rc::gen::just(span - first));
    const bool shared = *rc::gen::arbitrary<bool>();
    std::uint64_t changed = 0;
    for (std::uint64_t i = first; i < first + pages; ++i) {
      changed += naive[i] != shared ? 1u : 0u;
      naive[i] = shared;
    }
    RC_ASSERT(map.convert(GfnRange{Gfn{first}, pages},
                          shared ? PageClass::kShared : PageClass::kPrivate) == changed);
  }
  std::uint64_t shared_pages = 0;
  for (std::uint64_t i = 0; i < span; ++i) {
    RC_ASSERT((map.class_of(Gfn{i}) == PageClass::kShared) == naive[i]);
    shared_pages += naive[i] ? 1u : 0u;
  }
  RC_ASSERT(map.shared_pages() == shared_pages);
  const auto runs = map.shared_ranges();
  RC_ASSERT(runs == runs_of(naive));
  // Serialised and read back it is the same map.
  PageMap copy(span);
  for (GfnRange run : runs) copy.convert(run, PageClass::kShared);
  RC_ASSERT(copy.digest() == map.digest());
}

TEST(PageMap, TheDigestTellsMapsApart) {
  PageMap a(100), b(100), longer(101);
  EXPECT_EQ(a.digest(), b.digest());
  EXPECT_NE(a.digest(), longer.digest());
  b.convert(GfnRange{Gfn{7}, 1}, PageClass::kShared);
  EXPECT_NE(a.digest(), b.digest());
  b.convert(GfnRange{Gfn{7}, 1}, PageClass::kPrivate);
  EXPECT_EQ(a.digest(), b.digest());
}

// A reader of many pages never sees half a conversion, whatever chunks it spans.
TEST(PageMap, AConversionIsSeenWholeOrNotAtAll) {
  constexpr std::uint64_t kSpan = 2048;
  const GfnRange range{Gfn{300}, 1500};
  PageMap map(kSpan);
  // The writer never pauses: the readers must get their turn all the same.
  std::atomic<bool> done{false};
  std::jthread writer([&] {
    for (std::uint64_t i = 0; !done; ++i) {
      map.convert(range, i % 2 == 0 ? PageClass::kShared : PageClass::kPrivate);
    }
  });
  const std::vector<Gfn> probes = {Gfn{300},  Gfn{511},  Gfn{512},
                                   Gfn{1100}, Gfn{1535}, Gfn{1799}};
  std::vector<PageClass> classes(probes.size());
  std::set<PageClass> seen;
  for (int look = 0; look < 2000 || seen.size() < 2; ++look) {
    map.classify(probes, classes);
    for (PageClass cls : classes) EXPECT_EQ(cls, classes.front());
    seen.insert(classes.front());
    const auto runs = map.shared_ranges();
    EXPECT_TRUE(runs.empty() || (runs.size() == 1 && runs.front() == range));
    EXPECT_EQ(map.class_of(Gfn{299}), PageClass::kPrivate);
    if (HasFailure()) break;
  }
  done = true;
}

TEST(DirtySet, KeepsWhatItIsGivenAndDrainsItOnce) {
  DirtySet dirty(130);
  dirty.mark(Gfn{0});
  dirty.mark(GfnRange{Gfn{60}, 70});
  dirty.merge_word(2, ~0ULL);  // pages 128 and 129 exist, the rest of the word does not
  EXPECT_EQ(dirty.count(), 71u);
  PageBitmap into(130);
  dirty.drain(into);
  EXPECT_EQ(into.count(), 71u);
  EXPECT_EQ(dirty.count(), 0u);
  dirty.drain(into);
  EXPECT_EQ(into.count(), 71u);
}

TEST(DirtySet, CountsByTheClassOfNow) {
  PageMap map(100);
  DirtySet dirty(100);
  dirty.mark(GfnRange{Gfn{10}, 10});
  map.convert(GfnRange{Gfn{15}, 10}, PageClass::kShared);
  const DirtyCounts counts = dirty.count_by_class(map);
  EXPECT_EQ(counts.private_pages, 5u);
  EXPECT_EQ(counts.shared_pages, 5u);
}

TEST(DirtySet, NothingMarkedBesideADrainIsLost) {
  constexpr std::uint64_t kSpan = 4096;
  DirtySet dirty(kSpan);
  std::vector<std::uint64_t> seen(kSpan);
  std::atomic<bool> done{false};
  std::jthread marker([&] {
    for (std::uint64_t i = 0; i < kSpan; ++i) dirty.mark(Gfn{i});
    done = true;
  });
  bool last = false;
  while (!last) {
    last = done;
    PageBitmap into(kSpan);
    dirty.drain(into);
    for (std::uint64_t i = 0; i < kSpan; ++i) seen[i] += into.words()[i / 64] >> (i % 64) & 1;
  }
  for (std::uint64_t i = 0; i < kSpan; ++i) ASSERT_EQ(seen[i], 1u) << i;
}

TEST(ConvertPages, TheWholeRangeIsDirtyAfterwards) {
  PageMap map(64);
  DirtySet dirty(64);
  convert_pages(map, dirty, GfnRange{Gfn{3}, 5}, PageClass::kShared);
  EXPECT_EQ(map.shared_pages(), 5u);
  EXPECT_EQ(dirty.count(), 5u);
  convert_pages(map, dirty, GfnRange{Gfn{3}, 5}, PageClass::kShared);  // also when nothing changes
  EXPECT_EQ(dirty.count(), 5u);
}

}  // namespace
}  // namespace sealift
