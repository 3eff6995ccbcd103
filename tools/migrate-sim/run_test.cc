// The simulator on what is shipped: no violation, and the same seed gives the same trace.
#include "tools/migrate-sim/run.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <set>

namespace sealift::sim {
namespace {

std::uint64_t seeds() { return std::getenv("SEALIFT_LONG") != nullptr ? 100'000 : 2'000; }

std::string again(const RunOptions& options) {
  return fmt::format("migrate-sim --seed {} --mode {} --trace", options.seed,
                     options.mode == Mode::kSafety ? "safety" : "liveness");
}

void expect_sound(Mode mode) {
  Counts counts;
  std::array<std::uint64_t, kEnds> ends{};
  for (std::uint64_t seed = 1; seed <= seeds(); ++seed) {
    RunOptions options;
    options.seed = seed;
    options.mode = mode;
    const RunResult result = run_seed(options);
    ASSERT_EQ(result.violation, "") << again(options);
    counts.add(result.counts);
    ++ends[static_cast<std::size_t>(result.end)];
  }
  // What is never drawn is not tested.
  EXPECT_GT(counts.kills, 0u);
  EXPECT_GT(counts.power_failures, 0u);
  EXPECT_GT(counts.disk_errors, 0u);
  EXPECT_GT(counts.firmware_errors, 0u);
  EXPECT_GT(counts.cuts, 0u);
  EXPECT_GT(counts.dead_directions, 0u);
  EXPECT_GT(counts.partitions, 0u);
  EXPECT_GT(counts.in_doubt, 0u);
  EXPECT_GT(counts.holding, 0u);
  EXPECT_GT(counts.settled_by_recover, 0u);
  EXPECT_GT(ends[static_cast<std::size_t>(End::kRunsAtDestination)], 0u);
  EXPECT_GT(ends[static_cast<std::size_t>(End::kRunsAtSource)], 0u);
}

TEST(Simulation, LivenessHolds) { expect_sound(Mode::kLiveness); }
TEST(Simulation, SafetyHolds) { expect_sound(Mode::kSafety); }

TEST(Simulation, TheSameSeedGivesTheSameTrace) {
  RunOptions options;
  options.keep_trace = true;
  std::set<std::uint64_t> hashes;
  for (options.seed = 1; options.seed <= 50; ++options.seed) {
    const RunResult first = run_seed(options);
    const RunResult second = run_seed(options);
    EXPECT_EQ(first.trace, second.trace) << options.seed;
    EXPECT_EQ(first.trace_hash, second.trace_hash) << options.seed;
    hashes.insert(first.trace_hash);
  }
  EXPECT_EQ(hashes.size(), 50u);
}

}  // namespace
}  // namespace sealift::sim
