// One simulated life: migrations, operators and failures drawn by a seed; then everything heals and
// an end is demanded.
//
// Threads: none shared: runs are independent. Failure: a violation is in the result.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "tools/migrate-sim/world.h"

namespace sealift::sim {

enum class Mode : std::uint8_t {
  kSafety,    // twice the chaos, more failures; nothing is demanded of the end
  kLiveness,  // after the chaos everything heals and is settled in bounded time
};

struct RunOptions {
  std::uint64_t seed = 0;
  Mode mode = Mode::kLiveness;
  std::optional<Platform> platform;  // empty: drawn
  Plant plant = Plant::kNone;
  bool keep_trace = false;
};

enum class End : std::uint8_t {
  kRunsAtSource,  // where it was launched
  kRunsAtDestination,
  kLost,  // with an excuse
  kOpen,  // safety mode: nobody asked
  kViolation
};
inline constexpr std::size_t kEnds = 5;
const char* name_of(End end);

struct RunResult {
  End end = End::kOpen;
  std::string violation;
  std::string excuse;
  std::uint64_t trace_hash = 0;
  Counts counts;
  std::vector<std::string> trace;
};

RunResult run_seed(const RunOptions& options);

// From a world in which nothing more fails: steps and recovers until it is settled, or violates O5.
void settle_world(World& world);
End end_of(World& world);

}  // namespace sealift::sim
