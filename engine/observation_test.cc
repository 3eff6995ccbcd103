#include "engine/observation.h"

#include <gtest/gtest.h>

#include <cmath>

namespace sealift {
namespace {

constexpr std::uint64_t kPages = 10'000;

struct Watched {
  MemoryLayout layout = *MemoryLayout::make({GfnRange{Gfn{0}, kPages}});
  PageMap map{kPages};
  DirtySet dirty{kPages};
  Observation seen;

  void interval() { seen.add(dirty.drain(), 0.1); }
  double pages(PageClass cls) const {
    double sum = 0;
    for (const PageGroup& group : seen.groups(layout, map))
      sum += group.cls == cls ? group.pages : 0;
    return sum;
  }
};

TEST(Observation, GroupsPagesByHowOftenTheyWereWritten) {
  Watched guest;
  guest.map.convert(GfnRange{Gfn{0}, 1000}, PageClass::kShared);
  for (int i = 0; i < 10; ++i) {
    guest.dirty.mark(GfnRange{Gfn{5000}, 70});                   // private, always
    if (i < 5) guest.dirty.mark(GfnRange{Gfn{10}, 3});           // shared, half of the time
    if (i == 0) guest.dirty.mark(GfnRange{Gfn{kPages - 1}, 1});  // private, once
    guest.interval();
  }
  const auto groups = guest.seen.groups(guest.layout, guest.map);
  ASSERT_EQ(groups.size(), 5u);
  EXPECT_EQ(groups[0].pages, 997);  // shared, never
  EXPECT_EQ(groups[0].writes_per_s, 0);
  EXPECT_EQ(groups[1].pages, 3);
  EXPECT_NEAR(groups[1].writes_per_s, std::log(2) / 0.1, 1e-6);
  EXPECT_EQ(groups[2].pages, 9000 - 71);
  EXPECT_EQ(groups[3].pages, 1);
  EXPECT_NEAR(groups[3].writes_per_s, std::log(10.0 / 9) / 0.1, 1e-6);
  EXPECT_EQ(groups[4].pages, 70);
  EXPECT_NEAR(groups[4].writes_per_s, std::log(20) / 0.1, 1e-6);
}

// A conversion while it was watched: the page counts with the class it has now.
TEST(Observation, EveryPageIsInOneGroup) {
  Watched guest;
  guest.dirty.mark(GfnRange{Gfn{100}, 50});
  guest.interval();
  guest.map.convert(GfnRange{Gfn{120}, 10}, PageClass::kShared);
  guest.interval();
  EXPECT_EQ(guest.pages(PageClass::kShared), 10);
  EXPECT_EQ(guest.pages(PageClass::kPrivate), kPages - 10);
  EXPECT_DOUBLE_EQ(guest.seen.seconds(), 0.2);
}

// What the groups say is dirtied in an interval is what was dirtied in one.
TEST(Observation, TheGroupsDirtyAsMuchAsWasSeen) {
  Watched guest;
  double dirtied = 0;
  for (std::uint64_t i = 0; i < 30; ++i) {
    const GfnRange range{Gfn{i * 97 % 5000}, 400};
    guest.dirty.mark(range);
    dirtied += static_cast<double>(guest.dirty.count());
    guest.interval();
  }
  double expected = 0;
  for (const PageGroup& group : guest.seen.groups(guest.layout, guest.map)) {
    expected += group.pages * (1 - std::exp(-group.writes_per_s * 0.1));
  }
  EXPECT_NEAR(expected, dirtied / 30, 1);
}

}  // namespace
}  // namespace sealift
