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
      decide({round(1000, 400, 100, 12)}, Goals{300'000'000, 30, OnStall::kCancel});
  EXPECT_EQ(decision.step, Step::kSwitchover) << decision.reason;
  EXPECT_EQ(
      decision.predicted_downtime_ns,
      decision.predicted_plain_ns + decision.predicted_firmware_ns + decision.predicted_other_ns);
}

// Rounds that each leave `share` of what they sent: which of them fit into the budget, and when the
// guest is paused.
std::vector<std::uint64_t> dirty_until_pause(double share, std::uint32_t rounds_max = 30) {
  const Goals goals{300'000'000, rounds_max, OnStall::kCancel};
  std::vector<RoundStats> rounds;
  std::vector<std::uint64_t> dirty;
  double pages = 28'000 / share;  // 280 ms of what is left
  for (Decision decision; decision.step == Step::kAnotherRound; pages *= share) {
    rounds.push_back(
        round(static_cast<std::uint64_t>(pages), 0, static_cast<std::uint64_t>(pages * share), 0));
    dirty.push_back(rounds.back().dirty_after.shared_pages);
    decision = decide(rounds, goals);
  }
  return dirty;
}

// 37.5 ms are allowed at first, then 75, then 150: what shrinks quickly goes on for long.
TEST(Policy, TheLimitOfTheDowntimeIsApproachedWhileItIsWorthIt) {
  EXPECT_THAT(dirty_until_pause(0.1), testing::ElementsAre(28'000, 2'800));
  EXPECT_THAT(dirty_until_pause(0.5), testing::ElementsAre(28'000, 14'000, 7'000));
  EXPECT_THAT(dirty_until_pause(0.6), testing::ElementsAre(28'000));
  EXPECT_THAT(dirty_until_pause(0.1, 1), testing::ElementsAre(28'000)) << "rounds_max";
}

TEST(Policy, APauseCostsMoreThanItsPages) {
  RoundStats last = round(1000, 400, 0, 0);
  last.harvest_ns = 30'000'000;
  last.ack_ns = 50'000'000;
  RoundStats first = last;
  first.ack_ns = 20'000'000;
  const Decision decision = decide({first, last}, Goals{});
  EXPECT_EQ(decision.predicted_downtime_ns, 2'000'000u + 30'000'000 + 50'000'000 + 20'000'000);
}

TEST(Policy, AtTheTimeLimitItPausesAndSaysWhatThatCosts) {
  const Goals goals{300'000'000, 30, OnStall::kCancel};
  const std::vector<RoundStats> rounds{round(0, 4000, 0, 800)};
  EXPECT_EQ(decide(rounds, goals, {}, false).step, Step::kAnotherRound);
  const Decision decision = decide(rounds, goals, {}, true);
  EXPECT_EQ(decision.step, Step::kSwitchover);
  EXPECT_EQ(decision.reason,
            "the time limit passed, last pages would take 2002 ms against a budget of 300 ms");
}

// A guest that works in phases: at the limit of patience the pause waits for a quiet one.
TEST(Policy, APauseOverTheBudgetWaitsForALocalMinimum) {
  const Goals goals{100'000'000, 100, OnStall::kSwitchover};
  std::vector<RoundStats> rounds;
  const std::vector<std::uint64_t> dirty = {60'000, 60'000, 20'000, 60'000, 60'000,
                                            60'000, 60'000, 60'000, 22'000, 60'000};
  std::vector<std::string> later;
  Decision decision;
  for (std::uint64_t pages : dirty) {
    rounds.push_back(round(60'000, 0, pages, 0));
    decision = decide(rounds, goals);
    if (decision.step == Step::kSwitchover) break;
    if (decision.reason.find("better moment") != std::string::npos)
      later.push_back(decision.reason);
  }
  EXPECT_EQ(rounds.size(), 9u) << decision.reason;
  EXPECT_EQ(rounds.back().dirty_after.shared_pages, 22'000u);
  ASSERT_FALSE(later.empty());
  EXPECT_EQ(later.front(),
            "no progress for 5 s: waiting for a better moment, since a pause now "
            "would take 602 ms and 202 ms was possible");
}

TEST(Policy, TheWaitForALocalMinimumEnds) {
  const Goals goals{100'000'000, 100, OnStall::kSwitchover};
  std::vector<RoundStats> rounds{round(60'000, 0, 20'000, 0)};
  while (decide(rounds, goals).step == Step::kAnotherRound) {
    ASSERT_LT(rounds.size(), 20u);
    rounds.push_back(round(60'000, 0, 60'000, 0));
  }
  EXPECT_GT(rounds.size(), 10u);
}

// The plain path alone would allow it; the firmware does not.
TEST(Policy, TheSlowFirmwareDecides) {
  const Decision decision =
      decide({round(1000, 400, 100, 200)}, Goals{300'000'000, 30, OnStall::kCancel});
  EXPECT_EQ(decision.step, Step::kAnotherRound) << decision.reason;
  EXPECT_NEAR(static_cast<double>(decision.predicted_downtime_ns), 0.503e9, 1e6);
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

// The guest is slowed down as far as was seen to be needed, up to what was allowed, once there was
// no progress for a second; only then a stall counts.
TEST(Policy, ThrottlesAGuestThatOutrunsTheMigration) {
  Goals goals{1000, 100, OnStall::kCancel};
  goals.throttle_max_percent = 90;
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
  EXPECT_THAT(percents, testing::ElementsAre(0, 50, 75, 87, 90, 90, 90, 90, 90))  // of 2 s each
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

// A slice of one second at 400 pages/s: what it had no time for, and what was dirtied meanwhile.
RoundStats slice(std::uint64_t left, std::uint64_t dirtied) {
  RoundStats stats = round(1000, 400, 1000, left + dirtied);
  stats.left_private_pages = left;
  stats.passes = 0;
  return stats;
}

// Each slice of a large guest is less than a thousandth of it, which is no stall.
TEST(Policy, HundredsOfSlicesAreOnePass) {
  std::vector<RoundStats> rounds;
  Goals goals{300'000'000, 2, OnStall::kCancel};
  goals.guest_pages = 1'000'000;
  std::uint64_t left = 900'000;
  for (int i = 0; i < 700; ++i) {
    append_round(rounds, slice(left -= 300, 100));
    left += 100;
    const Decision decision = decide(rounds, goals);
    ASSERT_EQ(decision.step, Step::kAnotherRound) << i << ": " << decision.reason;
    ASSERT_NE(decision.eta.high_ns, kNever);
  }
}

TEST(Policy, ASliceThatWinsNothingIsAStallAfterFiveSeconds) {
  std::vector<RoundStats> rounds{slice(50'000, 0)};
  Goals goals{300'000'000, 30, OnStall::kCancel};
  Decision decision;
  for (int i = 0; i < 5; ++i) {
    decision = decide(rounds, goals);
    EXPECT_EQ(decision.step, Step::kAnotherRound) << i << ": " << decision.reason;
    rounds.push_back(slice(49'600, 395));  // 400 away, 395 back
  }
  decision = decide(rounds, goals);
  EXPECT_EQ(decision.step, Step::kGiveUp);
  EXPECT_THAT(decision.reason, testing::StartsWith("no progress for 5 s, last pages would take"));
}

TEST(Policy, ExportingTheGuestTooOftenIsTheRoundLimit) {
  Goals goals{300'000'000, 2, OnStall::kCancel};
  goals.guest_pages = 800;
  std::vector<RoundStats> rounds;
  for (int i = 0; i < 3; ++i) rounds.push_back(slice(50'000, 10));
  EXPECT_EQ(decide(rounds, goals).step, Step::kAnotherRound);
  rounds.push_back(slice(48'000, 10));  // 1600 exports of a guest of 800 pages
  const Decision decision = decide(rounds, goals);
  EXPECT_EQ(decision.step, Step::kGiveUp);
  EXPECT_THAT(decision.reason, testing::HasSubstr("round limit reached after 2 rounds"));
}

HeatEstimate heat(double observed_s, std::uint64_t hot_pages, double hot_writes_per_s) {
  HeatEstimate estimate;
  estimate.observed_s = observed_s;
  estimate.classes[0] = {90'000, 10};
  estimate.classes[1] = {5'000, 50};
  estimate.classes[5] = {hot_pages, hot_writes_per_s};
  return estimate;
}

TEST(Policy, TheFloorIsWhatIsWrittenFasterThanExported) {
  EXPECT_EQ(floor_pages(heat(10, 2000, 200), 400, 0), 0u);    // 260 writes/s are bearable
  EXPECT_EQ(floor_pages(heat(10, 2000, 400), 400, 0), 500u);  // 100 of 400 above 360
  EXPECT_EQ(floor_pages(heat(10, 2000, 400), 400, 50), 0u);   // as the guest runs half the time
  // All 2000, and the next class down to 27 of its 50 writes/s with the coldest ones.
  EXPECT_EQ(floor_pages(heat(10, 2000, 2000), 30, 0), 5300u);
  EXPECT_EQ(floor_pages(HeatEstimate{}, 400, 0), 0u);
}

// 1 in 8 000 pages were exported; the rest of the pass could change nothing.
TEST(Policy, CancelsAsSoonAsTheFloorIsKnownToBeTooHigh) {
  const std::vector<RoundStats> rounds{slice(90'000, 10)};
  const Goals goals{300'000'000, 30, OnStall::kCancel};
  EXPECT_EQ(decide(rounds, goals, heat(4, 2000, 2000)).step, Step::kAnotherRound) << "not firm";
  const Decision decision = decide(rounds, goals, heat(6, 2000, 2000));
  EXPECT_EQ(decision.step, Step::kGiveUp);
  EXPECT_EQ(decision.reason,
            "the guest writes about 2060 private pages/s and the firmware exports 400, so about "
            "1700 stay dirty and take 4250 ms against a budget of 300 ms");
  Goals relaxed = goals;
  relaxed.downtime_max_ns = 5 * kSecond;
  EXPECT_EQ(decide(rounds, relaxed, heat(6, 2000, 2000)).step, Step::kAnotherRound);
}

// The floor is above the budget: the throttle waits until nothing but the floor is left.
TEST(Policy, TheThrottleCountsBeforeItGivesUp) {
  std::vector<RoundStats> rounds{slice(90'000, 10)};
  Goals goals{300'000'000, 30, OnStall::kCancel};
  goals.throttle_max_percent = 90;  // leaves 206 writes/s
  Decision decision = decide(rounds, goals, heat(6, 2000, 2000));
  EXPECT_EQ(decision.step, Step::kAnotherRound);
  EXPECT_EQ(decision.throttle_percent, 0u);
  rounds.push_back(slice(1'700, 10));
  decision = decide(rounds, goals, heat(6, 2000, 2000));
  EXPECT_EQ(decision.step, Step::kAnotherRound);
  EXPECT_EQ(decision.throttle_percent, 50u);
  EXPECT_THAT(decision.reason, testing::HasSubstr("held back for 50 % of the time"));
  goals.throttle_max_percent = 50;
  const Decision hopeless = decide(rounds, goals, heat(6, 2000, 2000));
  EXPECT_EQ(hopeless.step, Step::kGiveUp);
  EXPECT_THAT(hopeless.reason, testing::HasSubstr("even with its vCPUs held back for 50 %"));
}

// Told to switch over all the same, it sends what is worth it first, says what it will cost, and
// exports none of the hot pages that cannot be kept clean.
TEST(Policy, SwitchesOverAtTheFloorAndNotBefore) {
  const Goals goals{300'000'000, 30, OnStall::kSwitchover};
  const Decision before = decide({slice(90'000, 10)}, goals, heat(6, 2000, 2000));
  EXPECT_EQ(before.step, Step::kAnotherRound);
  EXPECT_EQ(before.floor_private_pages, 1700u);
  EXPECT_EQ(before.leave_hottest_pages, 1700u);
  EXPECT_THAT(before.reason, testing::HasSubstr("so about 1700 stay dirty and take 4250 ms"));
  EXPECT_EQ(decide({slice(90'000, 10), slice(1700, 50)}, goals, heat(20, 2000, 2000)).step,
            Step::kAnotherRound)
      << "the floor is not settled yet";
  const Decision at = decide({slice(90'000, 10), slice(1700, 50)}, goals, heat(60, 2000, 2000));
  EXPECT_EQ(at.step, Step::kSwitchover);
  EXPECT_THAT(at.reason, testing::HasSubstr("so about 1700 stay dirty and take 4250 ms"));
}

TEST(Policy, LeavesTheHottestForWhichThePauseHasTime) {
  const Goals goals{300'000'000, 30, OnStall::kCancel};
  const HeatEstimate hot = heat(1, 2000, 200);  // 0.1 writes/s to each, and minutes to go
  const Decision decision = decide({slice(90'000, 10)}, goals, hot);
  EXPECT_NEAR(static_cast<double>(decision.leave_hottest_pages), 58, 1);  // half of 290 ms
  EXPECT_EQ(decide({slice(90'000, 10)}, Goals{1, 30, OnStall::kCancel}, hot).leave_hottest_pages,
            0u);
  // A firmware that is done before any of them is written again exports them all.
  RoundStats fast = slice(90'000, 10);
  fast.firmware_ns = 400 * kSecond / 100'000;
  EXPECT_EQ(decide({fast}, goals, hot).leave_hottest_pages, 0u);
}

TEST(Policy, AShortRoundHardlyChangesARate) {
  RoundStats few = round(0, 2, 0, 0);
  few.firmware_ns = kSecond;  // 2 pages/s
  const Rates rates = measure_rates({round(0, 40'000, 0, 0), few});
  EXPECT_NEAR(rates.firmware_pages_per_s, 395, 5);
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
