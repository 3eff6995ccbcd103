#include "vmm_glue/vmm/run_control.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <thread>

namespace sealift {
namespace {

constexpr std::uint64_t kMs = 1'000'000;
constexpr std::chrono::seconds kPatience{20};

// vCPUs that count, and look at should_stop() as those of the VMs do.
class Counters : public VcpuRunner {
 public:
  static constexpr std::uint32_t kVcpus = 2;
  Result<void> start_thread(std::uint32_t) override { return {}; }
  void run(std::uint32_t) override {
    while (!control.should_stop()) {
      ++turns;
      std::this_thread::yield();
    }
    ++left;
  }
  void kick(std::uint32_t, pthread_t) override {}

  bool turns_grow() {
    const std::uint64_t before = turns.load();
    const auto deadline = std::chrono::steady_clock::now() + kPatience;
    while (turns.load() == before && std::chrono::steady_clock::now() < deadline)
      std::this_thread::yield();
    return turns.load() != before;
  }
  bool all_leave(std::uint64_t times) {
    const auto deadline = std::chrono::steady_clock::now() + kPatience;
    while (left.load() < times && std::chrono::steady_clock::now() < deadline)
      std::this_thread::yield();
    return left.load() == times;
  }

  std::atomic<std::uint64_t> turns{0};
  std::atomic<std::uint64_t> left{0};
  RunControl control{*this, kVcpus};
};

std::uint64_t now_ns() { return RunControl::boot_now_ns(); }
constexpr std::uint64_t kLong_ns = 3'600'000 * kMs;

class RunControlTest : public ::testing::Test {
 protected:
  void SetUp() override { ASSERT_TRUE(vcpus_.control.set_ready()); }
  // A stopped guest's count stands from here on.
  void expect_stands() {
    const std::uint64_t before = vcpus_.turns.load();
    for (int i = 0; i < 1000; ++i) std::this_thread::yield();
    EXPECT_EQ(vcpus_.turns.load(), before);
  }
  Counters vcpus_;
};

TEST_F(RunControlTest, RunsWithoutAnEndUnlessOneIsGiven) {
  ASSERT_TRUE(vcpus_.control.resume());
  EXPECT_TRUE(vcpus_.turns_grow());
  ASSERT_TRUE(vcpus_.control.pause());
  expect_stands();
}

TEST_F(RunControlTest, AMomentThatHasPassedStopsItBeforeTheCallReturns) {
  ASSERT_TRUE(vcpus_.control.resume());
  ASSERT_TRUE(vcpus_.turns_grow());
  ASSERT_TRUE(vcpus_.control.permit_until(now_ns()));
  EXPECT_EQ(vcpus_.left.load(), 2U);
  EXPECT_EQ(vcpus_.control.state(), VmState::kPaused);
  expect_stands();
  ASSERT_TRUE(vcpus_.control.permit_until(now_ns() + kLong_ns));
  EXPECT_EQ(vcpus_.control.state(), VmState::kRunning);
  EXPECT_TRUE(vcpus_.turns_grow());
}

// Nobody calls when the moment comes: the thread that should is late.
TEST_F(RunControlTest, VcpusStandByThemselvesWhenTimeIsUp) {
  ASSERT_TRUE(vcpus_.control.permit_until(now_ns() + 50 * kMs));
  ASSERT_TRUE(vcpus_.control.resume());
  ASSERT_TRUE(vcpus_.all_leave(2));
  expect_stands();
  ASSERT_TRUE(vcpus_.control.permit_until(now_ns() + kLong_ns));  // and run on, both of them
  EXPECT_TRUE(vcpus_.turns_grow());
  ASSERT_TRUE(vcpus_.control.pause());
  EXPECT_EQ(vcpus_.left.load(), 4U);
}

TEST_F(RunControlTest, AResumeWaitsForPermission) {
  ASSERT_TRUE(vcpus_.control.permit_until(0));
  ASSERT_TRUE(vcpus_.control.resume());
  EXPECT_EQ(vcpus_.control.state(), VmState::kPaused);
  expect_stands();
  EXPECT_EQ(vcpus_.turns.load(), 0U);
  ASSERT_TRUE(vcpus_.control.permit_until(now_ns() + kLong_ns));
  EXPECT_TRUE(vcpus_.turns_grow());
}

TEST_F(RunControlTest, PermissionDoesNotResumeWhatWasPaused) {
  ASSERT_TRUE(vcpus_.control.permit_until(0));
  ASSERT_TRUE(vcpus_.control.resume());
  ASSERT_TRUE(vcpus_.control.pause());
  ASSERT_TRUE(vcpus_.control.permit_until(now_ns() + kLong_ns));
  expect_stands();
  EXPECT_EQ(vcpus_.turns.load(), 0U);
}

TEST_F(RunControlTest, PermissionAndPauseFromTwoThreads) {
  ASSERT_TRUE(vcpus_.control.resume());
  std::jthread lease([&](const std::stop_token& stop) {
    for (std::uint64_t i = 0; !stop.stop_requested(); ++i) {
      EXPECT_TRUE(vcpus_.control.permit_until(i % 3 == 0 ? 0 : now_ns() + kLong_ns));
    }
  });
  for (int i = 0; i < 200; ++i) {
    ASSERT_TRUE(vcpus_.control.pause());
    const std::uint64_t before = vcpus_.turns.load();
    std::this_thread::yield();
    EXPECT_EQ(vcpus_.turns.load(), before);
    ASSERT_TRUE(vcpus_.control.resume());
  }
}

}  // namespace
}  // namespace sealift
