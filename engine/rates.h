// Rates: how fast each class of pages leaves, as the rounds measured it, and what a pause would
// take at them.
//
// Plain values.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/stats.h"

namespace sealift {

// Pages per second of each class; 0 = not measured yet.
struct Rates {
  double plain_pages_per_s = 0;
  double firmware_pages_per_s = 0;
};

// A zero page is read, but hardly sent: it counts as this share of a page of the plain path.
inline constexpr double kZeroPageCost = 1.0 / 8;

// Pages by time, both with exponentially falling weight, newest first: a round that sent little of
// a class changes its rate little.
Rates measure_rates(const std::vector<RoundStats>& rounds);

// Time to send `dirty` at `rates`; the classes leave side by side but share one link, so the sum is
// what is sure. 0 when nothing is dirty; a class without a measured rate counts as instantaneous
// only if it has no dirty page, otherwise the prediction is UINT64_MAX.
std::uint64_t predict_ns(const DirtyCounts& dirty, const Rates& rates);

// What a pause takes beside its pages: stopping, the last harvest, state, and the turns between the
// two sides. The destination may still be applying what was sent; the acknowledgement of the last
// round tells how long that takes. REQUIRES: not empty.
std::uint64_t pause_cost_ns(const std::vector<RoundStats>& rounds);

// Sums and conversions that saturate at UINT64_MAX, "unknown" or "never".
std::uint64_t add_ns(std::uint64_t a_ns, std::uint64_t b_ns);
std::uint64_t ns_of_seconds(double seconds);

}  // namespace sealift
