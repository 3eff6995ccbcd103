// The simulator on what is shipped: no violation, and the same seed gives the same trace.
#include "tools/migrate-sim/run.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <set>

#include "tools/migrate-sim/explore.h"

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

// A planted bug that is no longer found is a simulator that looks at nothing.
TEST(Simulation, EveryPlantedBugIsFound) {
  EXPECT_GT(plants().size(), 20u);
  for (const PlantText& plant : plants()) {
    if (plant.plant == Plant::kNone) continue;
    // One takes a crash and an operator who is late, at the same time.
    const std::uint64_t within = plant.plant == Plant::kBusyIsNotSaid ? 8'000 : 2'000;
    std::uint64_t found_at = 0;
    std::string how;
    for (std::uint64_t seed = 1; seed <= within && found_at == 0; ++seed) {
      for (const Mode mode : {Mode::kLiveness, Mode::kSafety}) {
        RunOptions options;
        options.seed = seed;
        options.mode = mode;
        options.plant = plant.plant;
        const RunResult result = run_seed(options);
        if (result.violation.empty()) continue;
        found_at = seed;
        how = result.violation;
        break;
      }
    }
    EXPECT_NE(found_at, 0u) << plant.name << " is not found";
    fmt::print("{:<28} seed {:>4}: {}\n", plant.name, found_at, how);
  }
}

void expect_none_in_model(Platform platform) {
  ExploreOptions options;
  options.platform = platform;
  const ExploreResult result = explore(options);
  EXPECT_EQ(result.violations, 0u) << result.first_violation;
  EXPECT_TRUE(result.complete);
  fmt::print("{} runs, {} states\n", result.runs, result.states);
  EXPECT_GT(result.states, 100'000u);
}
TEST(Exhaustive, None) { expect_none_in_model(Platform::kNone); }
TEST(Exhaustive, Sev) { expect_none_in_model(Platform::kSev); }
TEST(Exhaustive, Tdx) { expect_none_in_model(Platform::kTdx); }

TEST(Exhaustive, FindsAPlantedBug) {
  ExploreOptions options;
  options.plant = Plant::kResumeOnLostReply;
  options.runs_max = 5'000;
  EXPECT_GT(explore(options).violations, 0u);
}

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
