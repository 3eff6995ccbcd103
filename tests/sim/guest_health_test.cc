// What the guest itself has to say about its migration: that it ended, that it is not ready, that
// it is held back.
#include <gtest/gtest.h>

#include "tests/sim/rig.h"

namespace sealift::test {
namespace {

// At whichever record the guest ends: nobody runs it, the reason arrives on both sides, the
// platform is closed.
TEST(GuestHealth, AGuestThatEndsAtAnyRecordEndsItsMigration) {
  unsigned ended = 0;
  for (unsigned n = 0; n < 60; ++n) {
    SCOPED_TRACE(n);
    Rig rig(n + 1);
    unsigned sent = 0;
    rig.source_end->on_send = [&](Record&) {
      // Once paused a guest cannot end.
      if (sent++ == n && rig.source.running()) rig.source.has_ended = true;
    };
    rig.run();
    if (!rig.source.has_ended || rig.report.outcome == Outcome::kDone) continue;
    ++ended;
    EXPECT_EQ(rig.report.outcome, Outcome::kGuestEnded) << rig.text();
    ASSERT_TRUE(rig.report.error);
    EXPECT_NE(rig.report.error->detail.find("the guest terminated: triple fault"),
              std::string::npos);
    EXPECT_FALSE(rig.destination_runs());
    EXPECT_FALSE(rig.source.tracking());
    EXPECT_EQ(rig.exporter.begun, rig.exporter.cancelled);
    if (!rig.report_destination.error) continue;  // it had not heard of anything yet
    EXPECT_NE(rig.report_destination.error->detail.find("triple fault"), std::string::npos);
  }
  EXPECT_GT(ended, 20u);
}

// It may withdraw its readiness while it is being sent; then it stays, and runs.
TEST(GuestHealth, AGuestThatIsNotReadyAtThePauseStays) {
  Rig rig(1);
  rig.source.not_ready = "a CPU went offline";
  rig.run();
  EXPECT_EQ(rig.report.outcome, Outcome::kRefused) << rig.text();
  EXPECT_NE(rig.report.error->detail.find("a CPU went offline"), std::string::npos);
  EXPECT_TRUE(rig.source.running());
  EXPECT_FALSE(rig.destination_runs());

  Rig forced(1);
  forced.source.not_ready = "a CPU went offline";
  forced.source_config.ignore_readiness = true;
  forced.run();
  EXPECT_EQ(forced.report.outcome, Outcome::kDone) << forced.text();
}

// The throttle follows the policy's word, is reported for each round, and is gone at the end.
TEST(GuestHealth, TheThrottleIsSetByThePolicyAndTakenOffAtTheEnd) {
  for (const bool cancelled : {false, true}) {
    Rig rig(2);
    rig.source_config.goals.rounds_max = 8;
    rig.source_config.goals.throttle_max_percent = 50;
    if (cancelled) rig.source_config.goals.on_stall = OnStall::kCancel;
    rig.run();
    EXPECT_EQ(rig.report.outcome, cancelled ? Outcome::kSourceRuns : Outcome::kDone) << rig.text();
    std::uint32_t last = 0;
    for (const RoundStats& round : rig.report.rounds) {
      EXPECT_GE(round.throttle_percent, last);
      last = round.throttle_percent;
    }
    EXPECT_EQ(last, 50u);
    EXPECT_EQ(rig.source.throttle_percent(), 0u);
  }
}

}  // namespace
}  // namespace sealift::test
