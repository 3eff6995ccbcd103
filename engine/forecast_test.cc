#include "engine/forecast.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace sealift {
namespace {

constexpr double kPagesOfMiB = 256;

GuestModel guest(double hot_mib, double writes_per_s) {
  GuestModel model;
  model.groups = {{PageClass::kShared, (2048 - hot_mib) * kPagesOfMiB, 0},
                  {PageClass::kShared, hot_mib * kPagesOfMiB, writes_per_s}};
  return model;
}

PathModel path(double mib_per_s) {
  PathModel model;
  model.plain_pages_per_s = mib_per_s * kPagesOfMiB;
  model.round_trip_s = 0.001;
  model.firmware_pages_per_s = 400;
  return model;
}

TEST(Forecast, AnIdleGuestTakesOnePassAndPausesForItsTurns) {
  const Forecast seen = forecast(guest(1, 0), path(128), {});
  EXPECT_EQ(seen.end, Step::kSwitchover);
  EXPECT_EQ(seen.rounds, 1u);
  EXPECT_NEAR(seen.total_s, 16, 0.1);
  EXPECT_NEAR(seen.downtime_s, 0.004, 0.001);
  EXPECT_NEAR(seen.predicted_downtime_s, seen.downtime_s, 0.001);
  EXPECT_NEAR(seen.plain_pages, 2048 * kPagesOfMiB, 1);
  EXPECT_EQ(seen.slowdown, 0);
}

// Zero pages cost an eighth.
TEST(Forecast, ZeroPagesAreCheap) {
  GuestModel half = guest(1, 0);
  half.zero_share = 0.5;
  EXPECT_NEAR(forecast(half, path(128), {}).total_s, 16 * (0.5 + 0.5 / 8), 0.2);
}

// 100 MiB that are always dirty take 800 ms at 128 MiB/s: only a throttle brings that down.
TEST(Forecast, AGuestThatOutrunsTheLinkNeedsTheThrottle) {
  GuestModel busy = guest(100, 100);
  busy.faults_per_s = 300'000;
  const Forecast forced = forecast(busy, path(128), {});
  EXPECT_EQ(forced.end, Step::kSwitchover);
  EXPECT_GT(forced.downtime_s, 0.5);
  EXPECT_LT(forced.total_s, 16 + 8) << "QEMU never ends: a stall is known after 5 s";
  EXPECT_NEAR(forced.predicted_downtime_s / forced.downtime_s, 1, 0.2);
  EXPECT_THAT(forced.reason, testing::HasSubstr("no progress for 5 s"));

  Goals cancel;
  cancel.on_stall = OnStall::kCancel;
  EXPECT_EQ(forecast(busy, path(128), cancel).end, Step::kGiveUp);

  Goals held;
  held.throttle_max_percent = 99;
  const Forecast seen = forecast(busy, path(128), held);
  EXPECT_EQ(seen.end, Step::kSwitchover);
  EXPECT_LE(seen.downtime_s, 0.3);
  EXPECT_GE(seen.throttle_percent, 50u);
  EXPECT_GT(seen.slowdown, 0);
  EXPECT_LT(seen.slowdown, 0.2) << "the last resort, and only at the end";
  held.throttle_max_percent = 50;
  EXPECT_EQ(forecast(busy, path(128), held).throttle_percent, 50u);
}

TEST(Forecast, AGuestThatConvergesIsNeverHeldBack) {
  Goals held;
  held.throttle_max_percent = 99;
  for (const double writes_per_s : {0.0, 0.05, 0.2}) {
    const Forecast seen = forecast(guest(512, writes_per_s), path(700), held);
    EXPECT_EQ(seen.throttle_percent, 0u) << writes_per_s;
    EXPECT_LE(seen.downtime_s, 0.3) << writes_per_s;
  }
}

TEST(Forecast, PrivatePagesLeaveAtTheFirmwaresRate) {
  GuestModel model;
  model.groups = {{PageClass::kPrivate, 4000, 0.0001}, {PageClass::kShared, 1000, 1}};
  const Forecast seen = forecast(model, path(700), {});
  EXPECT_NEAR(seen.total_s, 10, 1);
  EXPECT_NEAR(seen.exports, 4000, 40);
  EXPECT_LE(seen.downtime_s, 0.3);

  PathModel paused_only = path(700);
  paused_only.live_export = false;
  Goals goals;
  goals.firmware_pages_per_s_hint = 400;
  const Forecast all = forecast(model, paused_only, goals);
  EXPECT_EQ(all.end, Step::kSwitchover);
  EXPECT_NEAR(all.downtime_s, 10, 0.2) << "everything in the pause";
}

TEST(Forecast, WhatTheFirmwareCannotKeepUpWithIsKnownEarly) {
  GuestModel model;
  model.groups = {{PageClass::kPrivate, 60'000, 0.0001}, {PageClass::kPrivate, 3000, 0.5}};
  Goals cancel;
  cancel.on_stall = OnStall::kCancel;
  const Forecast seen = forecast(model, path(700), cancel);
  EXPECT_EQ(seen.end, Step::kGiveUp);
  EXPECT_LT(seen.total_s, 10);
  EXPECT_THAT(seen.reason, testing::HasSubstr("private pages/s and the firmware exports 400"));
}

TEST(Forecast, TheTimeLimitCancelsOrForces) {
  const GuestModel busy = guest(512, 0.6);  // its rounds take seconds
  Goals goals;
  goals.on_stall = OnStall::kSwitchover;
  goals.throttle_max_percent = 0;
  const Forecast cancelled = forecast(busy, path(128), goals, 17);
  EXPECT_EQ(cancelled.end, Step::kGiveUp);
  EXPECT_EQ(cancelled.reason, "the time limit passed");
  goals.on_timeout = OnTimeout::kForce;
  const Forecast forced = forecast(busy, path(128), goals, 17);
  EXPECT_EQ(forced.end, Step::kSwitchover);
  EXPECT_THAT(forced.reason, testing::StartsWith("the time limit passed, last pages would take"));
  EXPECT_LT(forced.total_s, forecast(busy, path(128), goals).total_s);
}

// 9 s busy, 2 s quiet: what is dirty comes and goes, and the pause over the budget finds a low.
TEST(Forecast, APauseThatMustBeLongWaitsForAQuietPhase) {
  GuestModel phases = guest(512, 0.4);
  phases.activity = {{9, 1.5}, {2, 0.05}};
  GuestModel busy = guest(512, 0.4 * 1.5);
  EXPECT_LT(forecast(phases, path(128), {}).downtime_s,
            0.75 * forecast(busy, path(128), {}).downtime_s);
}

}  // namespace
}  // namespace sealift
