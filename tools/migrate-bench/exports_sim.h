// A guest, its firmware and its link in simulated time, driven by the production classes: what an
// exporter that knows the heat of pages saves against one that goes round by address.
//
// The guest writes single pages at random moments; the dirty log is harvested every 100 ms. The
// firmware exports 350 to 450 pages/s, one after the other; what was never populated costs nothing.
// Shared pages leave beside it at the speed of a wire. Stopping the vCPUs takes 20 ms.
//
// Owner: the caller. Threads: one. Failure: none; the same seed gives the same figures.
#pragma once

#include <cstdint>
#include <string>

#include "engine/policy.h"

namespace sealift::bench {

enum class Writes : std::uint8_t { kIdle, kSweep, kHotset, kZipfInOrder, kZipfShuffled, kRandom };

struct ExportsCase {
  Writes writes = Writes::kIdle;
  std::uint64_t guest_pages = 65536;
  double writes_per_s = 0;  // to private pages
  std::uint64_t seed = 1;
};

// How the pages of an epoch are chosen.
enum class Order : std::uint8_t {
  kHeat,        // engine/round.h
  kRoundRobin,  // whatever is dirty, from where the last export was on
  kAllKnowing,  // whatever is dirty, coldest first by the true chances: what no sender can know
};

struct ExportsOutcome {
  std::uint64_t populated_pages = 0;     // private ones
  std::uint64_t exports = 0;             // with those of the pause
  std::uint64_t dirty_at_pause = 0;      // populated private pages
  std::uint64_t again_at_pause = 0;      // of them, those that had been exported before
  std::uint64_t shared_late_max_ns = 0;  // the longest a shared page was dirty before it left
  std::uint64_t heat_bytes = 0;
  double live_s = 0;
  double predicted_ms = 0;
  double downtime_ms = 0;
  std::string reason;

  std::uint64_t re_exports() const { return exports - populated_pages; }
  // Known in hindsight: every populated page once, and again what was dirty at the pause.
  std::uint64_t bound() const { return populated_pages + again_at_pause; }
};

ExportsOutcome simulate(const ExportsCase& which, Order order, const Goals& goals);

}  // namespace sealift::bench
