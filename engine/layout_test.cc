// MemoryLayout, the differences of page maps, and the order of a Round.
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <cstdint>
#include <set>
#include <vector>

#include "engine/conversions.h"
#include "engine/limits.h"
#include "engine/memory_layout.h"
#include "engine/page_map.h"
#include "engine/round.h"

namespace sealift {
namespace {

TEST(MemoryLayout, RefusesWhatIsNoLayoutWithItsValues) {
  struct Case {
    std::vector<GfnRange> ranges;
    const char* text;
  };
  const Case cases[] = {
      {{}, "no range"},
      {{{Gfn{0}, 0}}, "range 0 (gfn 0x0, 0 pages) is empty"},
      {{{Gfn{5}, 10}, {Gfn{15}, 1}}, "range 1 starts at gfn 0xf, not after a gap from 0xf"},
      {{{Gfn{5}, 10}, {Gfn{3}, 1}}, "range 1 starts at gfn 0x3"},
      {{{Gfn{~0ULL}, 2}}, "is empty or beyond"},
      {{{Gfn{1}, limits::kGuestPagesMax}}, "is empty or beyond"},
      {std::vector<GfnRange>(limits::kMemoryRangesMax + 1, GfnRange{Gfn{0}, 1}),
       "65 ranges, more than 64"},
  };
  for (const Case& c : cases) {
    const auto layout = MemoryLayout::make(c.ranges);
    ASSERT_FALSE(layout) << c.text;
    EXPECT_EQ(layout.error().cls, ErrorClass::kMalformed);
    EXPECT_NE(layout.error().detail.find(c.text), std::string::npos) << layout.error().detail;
  }
}

TEST(MemoryLayout, KnowsItsHoles) {
  const auto layout = MemoryLayout::make({{Gfn{0}, 10}, {Gfn{20}, 10}});
  ASSERT_TRUE(layout);
  EXPECT_EQ(layout->pages(), 20u);
  EXPECT_EQ(layout->span_pages(), 30u);
  EXPECT_TRUE(layout->contains(GfnRange{Gfn{0}, 10}));
  EXPECT_FALSE(layout->contains(GfnRange{Gfn{0}, 11}));
  EXPECT_FALSE(layout->contains(Gfn{15}));
  EXPECT_TRUE(layout->contains(Gfn{29}));
  EXPECT_FALSE(layout->contains(Gfn{30}));
  EXPECT_FALSE(layout->contains(GfnRange{Gfn{~0ULL}, 2}));
  EXPECT_FALSE(layout->contains(GfnRange{Gfn{5}, 0}));
}

RC_GTEST_PROP(Conversions, TurnOneMapIntoTheOther, ()) {
  constexpr std::uint64_t kSpan = 300;
  PageMap before(kSpan), after(kSpan);
  for (PageMap* map : {&before, &after}) {
    const auto ranges = *rc::gen::inRange(0, 30);
    for (int i = 0; i < ranges; ++i) {
      const auto first = *rc::gen::inRange<std::uint64_t>(0, kSpan);
      const auto pages = *rc::gen::inRange<std::uint64_t>(0, kSpan - first);
      map->convert(GfnRange{Gfn{first}, pages},
                   *rc::gen::element(PageClass::kShared, PageClass::kPrivate));
    }
  }
  for (const Conversions& record :
       conversions_between(9, before.shared_ranges(), after.shared_ranges())) {
    RC_ASSERT(record.epoch == 9u);
    for (GfnRange range : record.to_shared) before.convert(range, PageClass::kShared);
    for (GfnRange range : record.to_private) before.convert(range, PageClass::kPrivate);
  }
  RC_ASSERT(before.digest() == after.digest());
  RC_ASSERT(conversions_between(9, before.shared_ranges(), after.shared_ranges()).empty());
}

TEST(Conversions, AreSplitIntoBoundedRecords) {
  std::vector<GfnRange> many;
  for (std::uint64_t i = 0; i < limits::kConversionRangesMax * 2 + 5; ++i)
    many.push_back({Gfn{i * 2}, 1});
  const auto records = conversions_between(1, {}, many);
  ASSERT_EQ(records.size(), 3u);
  EXPECT_EQ(records[0].to_shared.size(), limits::kConversionRangesMax);
  EXPECT_EQ(records[2].to_shared.size(), 5u);
}

}  // namespace
}  // namespace sealift
