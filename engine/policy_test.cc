#include "engine/policy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <limits>

namespace sealift {
namespace {

constexpr std::uint64_t kSecond = 1'000'000'000;
constexpr std::uint64_t kNever = std::numeric_limits<std::uint64_t>::max();

// A round at 100,000 plain and 400 firmware pages a second.
RoundStats round(std::uint64_t shared, std::uint64_t priv, std::uint64_t dirty_shared,
                 std::uint64_t dirty_private) {
  RoundStats stats;
  stats.shared_pages = shared;
  stats.private_pages = priv;
  stats.plain_ns = shared * kSecond / 100'000;
  stats.firmware_ns = priv * kSecond / 400;
  stats.total_ns = stats.plain_ns + stats.firmware_ns;
  stats.dirty_after = {dirty_shared, dirty_private};
  return stats;
}

TEST(Policy, TheTwoRatesAreMeasuredApart) {
  const Rates rates = measure_rates({round(100'000, 400, 0, 0)});
  EXPECT_NEAR(rates.plain_pages_per_s, 100'000, 1);
  EXPECT_NEAR(rates.firmware_pages_per_s, 400, 0.01);
}

TEST(Policy, ARoundWithoutAClassDoesNotChangeItsRate) {
  const Rates rates = measure_rates({round(100'000, 400, 0, 0), round(5'000, 0, 0, 0)});
  EXPECT_NEAR(rates.firmware_pages_per_s, 400, 0.01);
}

TEST(Policy, PredictsFromBothClasses) {
  const Rates rates{100'000, 400};
  EXPECT_EQ(predict_ns({0, 0}, rates), 0u);
  EXPECT_NEAR(static_cast<double>(predict_ns({50'000, 100}, rates)), 0.75e9, 1e6);
  EXPECT_EQ(predict_ns({0, 1}, Rates{100'000, 0}), kNever);
}

TEST(Policy, SwitchesOverWithinTheBudget) {
  const Decision decision =
      decide({round(1000, 400, 100, 100)}, Goals{300'000'000, 30, OnStall::kCancel});
  EXPECT_EQ(decision.step, Step::kSwitchover) << decision.reason;
}

// The plain path alone would allow it; the firmware does not.
TEST(Policy, TheSlowFirmwareDecides) {
  const Decision decision =
      decide({round(1000, 400, 100, 200)}, Goals{300'000'000, 30, OnStall::kCancel});
  EXPECT_EQ(decision.step, Step::kAnotherRound) << decision.reason;
  EXPECT_NEAR(static_cast<double>(decision.predicted_downtime_ns), 0.501e9, 1e6);
}

TEST(Policy, AtTheRoundLimitItDoesWhatItWasTold) {
  const std::vector<RoundStats> rounds(3, round(1000, 400, 100, 400));
  EXPECT_EQ(decide(rounds, Goals{1000, 3, OnStall::kSwitchover}).step, Step::kSwitchover);
  const Decision decision = decide(rounds, Goals{1000, 3, OnStall::kCancel});
  EXPECT_EQ(decision.step, Step::kGiveUp);
  EXPECT_NE(decision.reason.find("round limit reached after 3 rounds"), std::string::npos)
      << decision.reason;
  EXPECT_NE(decision.reason.find("400 private pages"), std::string::npos) << decision.reason;
}

TEST(Policy, StallsWhenTheRestDoesNotShrink) {
  std::vector<RoundStats> rounds = {round(100'000, 4000, 0, 800)};
  for (int i = 0; i < 5; ++i) rounds.push_back(round(0, 800, 0, 800));
  const Decision decision = decide(rounds, Goals{1000, 100, OnStall::kCancel});
  EXPECT_EQ(decision.step, Step::kGiveUp);
  EXPECT_NE(decision.reason.find("no progress"), std::string::npos) << decision.reason;
}

// A platform that exports nothing live measures nothing live: its own expectation stands in.
TEST(Policy, UsesTheHintUntilTheFirmwareWasMeasured) {
  const std::vector<RoundStats> rounds = {round(1000, 0, 0, 100)};
  Goals goals{300'000'000, 30, OnStall::kCancel};
  EXPECT_EQ(decide(rounds, goals).step, Step::kAnotherRound);
  goals.firmware_pages_per_s_hint = 1000;
  EXPECT_EQ(decide(rounds, goals).step, Step::kSwitchover);
  EXPECT_EQ(decide({round(1000, 400, 0, 200)}, goals).step,
            Step::kAnotherRound);  // measured: 400/s
}

// The guest is slowed down step by step, up to what was allowed; only then a stall counts.
TEST(Policy, ThrottlesAGuestThatOutrunsTheMigration) {
  Goals goals{1000, 100, OnStall::kCancel};
  goals.throttle_max_percent = 45;
  std::vector<RoundStats> rounds;
  std::vector<std::uint32_t> percents;
  std::uint32_t percent = 0;
  Decision decision;
  for (int i = 0; i < 20 && decision.step == Step::kAnotherRound; ++i) {
    rounds.push_back(round(0, 800, 0, 800));
    rounds.back().throttle_percent = percent;
    decision = decide(rounds, goals);
    percent = decision.throttle_percent;
    percents.push_back(percent);
  }
  EXPECT_THAT(percents, testing::ElementsAre(20, 30, 40, 45, 45, 45, 45, 45, 45, 45))
      << decision.reason;
  EXPECT_EQ(decision.step, Step::kGiveUp);
}

TEST(Policy, DoesNotThrottleUnlessAskedNorWithoutNeed) {
  const std::vector<RoundStats> diverging(3, round(0, 800, 0, 900));
  EXPECT_EQ(decide(diverging, Goals{1000, 100, OnStall::kCancel}).throttle_percent, 0u);
  Goals goals{1000, 100, OnStall::kCancel};
  goals.throttle_max_percent = 90;
  EXPECT_EQ(decide({round(0, 4000, 0, 400)}, goals).throttle_percent, 0u);
}

TEST(Policy, TheEtaIsARange) {
  const Decision converging = decide({round(0, 4000, 0, 1000)}, Goals{1, 30, OnStall::kCancel});
  EXPECT_LT(converging.eta.low_ns, converging.eta.high_ns);
  EXPECT_NE(converging.eta.high_ns, kNever);
  const Decision diverging = decide({round(0, 400, 0, 500)}, Goals{1, 30, OnStall::kCancel});
  EXPECT_EQ(diverging.eta.high_ns, kNever);
  EXPECT_NE(diverging.reason.find("the guest dirtied"), std::string::npos) << diverging.reason;
}

}  // namespace
}  // namespace sealift
