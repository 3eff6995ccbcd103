// The exhaustive small model: one migration of a tiny guest, with every order of its steps and at
// most one failure at every place where one can be, enumerated.
//
// A run is replayed from its beginning along a path of choices; a state that was reached before,
// with as many failures left, is not gone into again. A state is what each process has done and
// seen, what is on its way, and what the operator has done. What a process does between two
// messages is not interleaved with the other process's: it commutes with it.
//
// Threads: one. Failure: a violation is in the result; the search goes on.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "tools/migrate-sim/run.h"

namespace sealift::sim {

struct ExploreOptions {
  Platform platform = Platform::kNone;
  Plant plant = Plant::kNone;
  std::uint32_t failures_max = 1;
  std::uint64_t runs_max = 5'000'000;
};

struct ExploreResult {
  std::uint64_t runs = 0;
  std::uint64_t states = 0;
  std::uint64_t steps = 0;
  std::uint64_t violations = 0;
  bool complete = false;  // not stopped by runs_max
  std::array<std::uint64_t, kEnds> ends{};
  Counts counts;
  std::string first_violation;
  std::vector<std::string> first_trace;
};

ExploreResult explore(const ExploreOptions& options);

}  // namespace sealift::sim
