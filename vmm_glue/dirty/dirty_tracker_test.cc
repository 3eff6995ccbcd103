// The contract of DirtyTracker, the same for every back-end, on a real KVM.
#include "vmm_glue/dirty/dirty_tracker.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <random>
#include <tuple>

#include "vmm_glue/dirty/dirty_test_support.h"
#include "vmm_glue/host_copy.h"

namespace sealift {
namespace {

using namespace test;
using List = std::vector<std::uint64_t>;
using How = TestGuest::How;

// What is sent of the guest: copies of its pages, which must equal the guest in the end.
class Shadow {
 public:
  explicit Shadow(const TestGuest& guest) : guest_(guest), bytes_(kTargets * kPageBytes) {}
  void copy(std::uint64_t n) {
    copy_from_guest(guest_.page(target(n)), std::span(bytes_).subspan(n * kPageBytes, kPageBytes));
  }
  void copy_all() {
    for (std::uint64_t n = 0; n < kTargets; ++n) copy(n);
  }
  void copy_marked(const PageBitmap& dirty) {
    for (const std::uint64_t gfn : pages_of(dirty)) {
      copy(gfn < kLow.pages ? gfn : gfn - value(kHigh.first) + kLow.pages);
    }
  }
  // REQUIRES: the guest is paused.
  std::uint64_t differences() const {
    std::uint64_t pages = 0;
    for (std::uint64_t n = 0; n < kTargets; ++n) {
      pages += std::memcmp(guest_.page(target(n)), bytes_.data() + n * kPageBytes, kPageBytes) != 0;
    }
    return pages;
  }

 private:
  const TestGuest& guest_;
  Bytes bytes_;
};

class DirtyContract
    : public testing::TestWithParam<std::tuple<DirtyBackend, std::uint32_t, TestMemory::Kind>> {
 protected:
  void SetUp() override {
    DirtyTrackerConfig config;
    config.backend = backend();
    auto guest = TestGuest::make(vcpus(), config, std::get<2>(GetParam()));
    if (!guest) GTEST_SKIP() << guest.error().detail;
    guest_ = std::move(*guest);
    EXPECT_EQ(guest_->tracker().backend(), backend());
  }
  DirtyBackend backend() const { return std::get<0>(GetParam()); }
  std::uint32_t vcpus() const { return std::get<1>(GetParam()); }
  TestGuest& guest() { return *guest_; }
  DirtyTracker& tracker() { return guest_->tracker(); }

  void start() {
    const auto started = tracker().start();
    ASSERT_TRUE(started) << started.error().detail;
  }
  // A different list for each vCPU, in no order, with some pages in both.
  std::vector<List> random_lists(std::size_t pages) {
    std::vector<List> lists(vcpus());
    List all(kTargets);
    std::iota(all.begin(), all.end(), 0);
    for (List& list : lists) {
      std::sample(all.begin(), all.end(), std::back_inserter(list), pages, random_);
      std::shuffle(list.begin(), list.end(), random_);
    }
    return lists;
  }
  void run_once(const std::vector<List>& lists) {
    guest().run(lists, How::kOnce);
    guest().wait_done();
  }
  static List gfns_of(const std::vector<List>& lists) {
    List gfns;
    for (const List& list : lists) {
      for (const std::uint64_t n : list) gfns.push_back(value(target(n)));
    }
    std::sort(gfns.begin(), gfns.end());
    gfns.erase(std::unique(gfns.begin(), gfns.end()), gfns.end());
    return gfns;
  }

  std::mt19937_64 random_{20};
  std::unique_ptr<TestGuest> guest_;
};

TEST_P(DirtyContract, AHarvestHasWhatWasWrittenAndNoMore) {
  start();
  // The first harvest may have more: manual protection begins with every page.
  const auto first = random_lists(50);
  run_once(first);
  const List begun = pages_of(guest().harvest());
  const List expected = gfns_of(first);
  EXPECT_TRUE(std::includes(begun.begin(), begun.end(), expected.begin(), expected.end()));
  for (const std::size_t pages : {1u, 7u, 300u, 1700u, 2u}) {
    const auto lists = random_lists(pages);
    run_once(lists);
    EXPECT_EQ(pages_of(guest().harvest()), gfns_of(lists));
    EXPECT_EQ(guest().harvest().count(), 0u) << "idle";
  }
}

TEST_P(DirtyContract, TheEdgesOfTheSlots) {
  start();
  const List edges = {0, 63, 64, kLow.pages - 1, kLow.pages, kTargets - 1};
  run_once(std::vector<List>(vcpus(), edges));
  (void)guest().harvest();
  run_once(std::vector<List>(vcpus(), edges));
  EXPECT_EQ(pages_of(guest().harvest()), gfns_of({edges}));
}

TEST_P(DirtyContract, OffMeansOff) {
  const auto early = tracker().harvest();
  ASSERT_FALSE(early);
  EXPECT_EQ(early.error().cls, ErrorClass::kRefused);
  EXPECT_EQ(early.error().detail, "a harvest was asked for while tracking is off");
  start();
  ASSERT_TRUE(tracker().stop());
  EXPECT_FALSE(tracker().harvest());
  ASSERT_TRUE(tracker().stop()) << "twice";
  EXPECT_EQ(tracker().on_ring_full(0).has_value(), backend() == DirtyBackend::kRing);
}

TEST_P(DirtyContract, StartsAgain) {
  for (int round = 0; round < 3; ++round) {
    start();
    start();
    (void)guest().harvest();
    run_once(random_lists(100));
    (void)guest().harvest();
    run_once(random_lists(100));  // not harvested
    ASSERT_TRUE(tracker().stop());
    run_once(random_lists(1700));  // not watched
    (void)guest().drain();
    start();
    const auto lists = random_lists(100);
    run_once(lists);
    const List got = pages_of(guest().harvest());
    const List expected = gfns_of(lists);
    if (backend() == DirtyBackend::kManualProtect) {
      EXPECT_TRUE(std::includes(got.begin(), got.end(), expected.begin(), expected.end()));
    } else {
      EXPECT_EQ(got, expected) << "what was left of the time before is not news";
    }
    ASSERT_TRUE(tracker().stop());
  }
}

// The rounds of a migration, by hand, while the guest writes; how many pages were wrong in its
// pauses. Planted bugs: pages are marked clean only after they were copied; the last harvest is
// left out.
enum class Plant { kNone, kCleanAfterCopy, kSkipLastHarvest };

std::uint64_t migrate(TestGuest& guest, const std::vector<List>& lists, Plant plant) {
  guest.run(lists, How::kForever);
  EXPECT_TRUE(guest.tracker().start());
  Shadow shadow(guest);
  shadow.copy_all();
  std::uint64_t differences = 0;
  for (int pauses = 0; pauses < 10; ++pauses) {
    guest.wait_for_a_pass();
    for (int round = 0; round < 5; ++round) {
      shadow.copy_marked(guest.harvest());
      if (plant != Plant::kCleanAfterCopy) continue;
      guest.wait_for_a_pass();
      (void)guest.harvest();
    }
    if (plant == Plant::kSkipLastHarvest) guest.wait_for_a_pass();
    guest.pause();
    if (plant != Plant::kSkipLastHarvest) shadow.copy_marked(guest.harvest());
    differences += shadow.differences();
    guest.run(lists, How::kForever);
  }
  guest.pause();
  return differences;
}

TEST_P(DirtyContract, NothingIsLostWhileTheGuestRuns) {
  EXPECT_EQ(migrate(guest(), random_lists(kTargets), Plant::kNone), 0u);
}

TEST_P(DirtyContract, TheTestFindsPagesMarkedCleanAfterTheCopy) {
  EXPECT_GT(migrate(guest(), random_lists(kTargets), Plant::kCleanAfterCopy), 0u);
}

TEST_P(DirtyContract, TheTestFindsALastHarvestLeftOut) {
  EXPECT_GT(migrate(guest(), random_lists(kTargets), Plant::kSkipLastHarvest), 0u);
}

// Harvests on one thread, copies on another, as a round in parallel with sending has it.
TEST_P(DirtyContract, NothingIsLostWithASenderBesideTheHarvest) {
  const auto lists = random_lists(400);
  guest().run(lists, How::kForever);
  start();
  Shadow shadow(guest());
  shadow.copy_all();
  for (int pauses = 0; pauses < 10; ++pauses) {
    guest().wait_for_a_pass();
    std::atomic<bool> done{false};
    std::thread sender([&] {
      while (!done) shadow.copy_marked(guest().drain());
    });
    for (int round = 0; round < 20; ++round) {
      const auto harvested = tracker().harvest();
      EXPECT_TRUE(harvested) << harvested.error().detail;
    }
    guest().pause();
    const auto last = tracker().harvest();
    EXPECT_TRUE(last) << last.error().detail;
    done = true;
    sender.join();
    shadow.copy_marked(guest().drain());
    ASSERT_EQ(shadow.differences(), 0u) << "pause " << pauses;
    guest().run(lists, How::kForever);
  }
}

TEST_P(DirtyContract, HarvestsFromManyThreads) {
  const auto lists = random_lists(400);
  start();
  Shadow shadow(guest());
  shadow.copy_all();
  guest().run(lists, How::kForever);
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i) {
    threads.emplace_back([this] {
      for (int round = 0; round < 50; ++round) EXPECT_TRUE(tracker().harvest());
    });
  }
  for (std::thread& thread : threads) thread.join();
  guest().wait_for_a_pass();
  guest().pause();
  EXPECT_TRUE(tracker().harvest());
  shadow.copy_marked(guest().drain());
  EXPECT_EQ(shadow.differences(), 0u);
}

std::string name_of_param(const testing::TestParamInfo<DirtyContract::ParamType>& info) {
  const bool memfd = std::get<2>(info.param) == TestMemory::Kind::kMemfd;
  return fmt::format("{}_{}_{}", name_of(std::get<0>(info.param)), std::get<1>(info.param),
                     memfd ? "memfd" : "anonymous");
}

INSTANTIATE_TEST_SUITE_P(
    All, DirtyContract,
    testing::Combine(testing::Values(DirtyBackend::kGetLog, DirtyBackend::kManualProtect,
                                     DirtyBackend::kRing, DirtyBackend::kUffd),
                     testing::Values(1u, 2u),
                     testing::Values(TestMemory::Kind::kAnonymous, TestMemory::Kind::kMemfd)),
    name_of_param);

}  // namespace
}  // namespace sealift
