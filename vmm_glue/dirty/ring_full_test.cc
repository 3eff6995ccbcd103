// What only the ring has: rings that fill up, on a real KVM.
#include <numeric>

#include "vmm_glue/dirty/dirty_test_support.h"

namespace sealift {
namespace {

using namespace test;
using List = std::vector<std::uint64_t>;

class RingFull : public testing::TestWithParam<std::uint32_t> {
 protected:
  void SetUp() override {
    auto guest = TestGuest::make(GetParam(), {DirtyBackend::kRing, kRingEntriesMin},
                                 TestMemory::Kind::kAnonymous);
    if (!guest) GTEST_SKIP() << guest.error().detail;
    guest_ = std::move(*guest);
    std::iota(all_.begin(), all_.end(), 0);
    ASSERT_TRUE(guest_->tracker().start());
  }
  List all_ = List(kTargets);
  std::unique_ptr<TestGuest> guest_;
};

TEST_P(RingFull, StopsTheVcpuUntilItIsEmptied) {
  ASSERT_GT(kTargets, kRingEntriesMin);
  for (int round = 1; round < 4; ++round) {
    guest_->run(std::vector<List>(GetParam(), all_), TestGuest::How::kOnce);
    guest_->wait_done();
    if (GetParam() == 1) {
      EXPECT_GE(guest_->ring_full_exits(), static_cast<std::uint64_t>(round));
    }
    // Part came with the exits, the rest comes now.
    EXPECT_EQ(guest_->harvest().count(), kTargets);
  }
  EXPECT_GE(guest_->ring_full_exits(), 1u);
}

TEST_P(RingFull, BesideHarvests) {
  guest_->run(std::vector<List>(GetParam(), all_), TestGuest::How::kForever);
  for (int i = 0; i < 20; ++i) {
    guest_->wait_for_a_pass();
    EXPECT_TRUE(guest_->tracker().harvest());
  }
  guest_->pause();
  EXPECT_GE(guest_->ring_full_exits(), 1u);
  (void)guest_->harvest();
  EXPECT_EQ(guest_->harvest().count(), 0u);
}

TEST_P(RingFull, WhileNobodyHarvestsIsNoDeadlock) {
  guest_->run(std::vector<List>(GetParam(), all_), TestGuest::How::kForever);
  guest_->wait_for_a_pass();
  EXPECT_TRUE(guest_->tracker().stop());
  guest_->wait_for_a_pass();
  guest_->pause();
  const auto unknown = guest_->tracker().on_ring_full(7);
  ASSERT_FALSE(unknown);
  EXPECT_EQ(unknown.error().detail, "the dirty ring of vCPU 7 was never attached");
}

INSTANTIATE_TEST_SUITE_P(Vcpus, RingFull, testing::Values(1u, 2u));

// A slot that is logged but not the tracker's: its pages cannot be named.
TEST(RingPages, OfAForeignSlotAreAnError) {
  auto made =
      TestGuest::make(1, {DirtyBackend::kRing, kRingEntriesMin}, TestMemory::Kind::kAnonymous);
  if (!made) GTEST_SKIP() << made.error().detail;
  TestGuest& guest = **made;
  ASSERT_TRUE(guest.tracker().start());
  guest.log_control_slot();
  guest.run({{0, TestGuest::kControlTarget, 1}}, TestGuest::How::kOnce);
  guest.wait_done();
  const auto harvested = guest.tracker().harvest();
  ASSERT_FALSE(harvested);
  EXPECT_EQ(harvested.error().detail, "a dirty ring names page 63 of slot 0x2, which is not ours");
  EXPECT_EQ(pages_of(guest.drain()), (List{0, 1})) << "what is ours is marked all the same";
  EXPECT_TRUE(guest.tracker().harvest()) << "and the ring goes on";
}

}  // namespace
}  // namespace sealift
