#include "engine/rates.h"

#include <algorithm>
#include <limits>

#include "engine/assert.h"

namespace sealift {
namespace {

constexpr std::uint64_t kNever = std::numeric_limits<std::uint64_t>::max();
constexpr double kOlderWeight = 0.4;
constexpr std::uint64_t kStopAndState_ns = 2'000'000;  // a guess that no measurement replaces

// A rate over the rounds, the newest weighing most.
class WeightedRate {
 public:
  void add(double pages, std::uint64_t ns) {
    if (pages <= 0 || ns == 0) return;
    pages_ = kOlderWeight * pages_ + pages;
    ns_ = kOlderWeight * ns_ + static_cast<double>(ns);
  }
  double pages_per_s() const { return ns_ == 0 ? 0 : pages_ * 1e9 / ns_; }

 private:
  double pages_ = 0;
  double ns_ = 0;
};

}  // namespace

Rates measure_rates(const std::vector<RoundStats>& rounds) {
  WeightedRate plain, firmware;
  for (const RoundStats& round : rounds) {
    plain.add(static_cast<double>(round.shared_pages) +
                  static_cast<double>(round.zero_pages) * kZeroPageCost,
              round.plain_ns);
    firmware.add(static_cast<double>(round.private_pages), round.firmware_ns);
  }
  return {plain.pages_per_s(), firmware.pages_per_s()};
}

std::uint64_t predict_ns(const DirtyCounts& dirty, const Rates& rates) {
  double total_s = 0;
  if (dirty.shared_pages > 0) {
    if (rates.plain_pages_per_s <= 0) return kNever;
    total_s += static_cast<double>(dirty.shared_pages) / rates.plain_pages_per_s;
  }
  if (dirty.private_pages > 0) {
    if (rates.firmware_pages_per_s <= 0) return kNever;
    total_s += static_cast<double>(dirty.private_pages) / rates.firmware_pages_per_s;
  }
  return ns_of_seconds(total_s);
}

std::uint64_t pause_cost_ns(const std::vector<RoundStats>& rounds) {
  SEALIFT_ASSERT(!rounds.empty());
  const RoundStats& last = rounds.back();
  std::uint64_t round_trip_ns = last.ack_ns;
  for (const RoundStats& round : rounds) {
    if (round.epochs == 1) round_trip_ns = std::min(round_trip_ns, round.ack_ns);
  }
  // The last pages are applied, and Ready comes back; then Handover and Running.
  return kStopAndState_ns + last.harvest_ns + last.ack_ns + round_trip_ns;
}

std::uint64_t add_ns(std::uint64_t a_ns, std::uint64_t b_ns) {
  return a_ns > kNever - b_ns ? kNever : a_ns + b_ns;
}

std::uint64_t ns_of_seconds(double seconds) {
  constexpr double kLimit = 1e18;
  const double ns = seconds * 1e9;
  return ns >= kLimit ? kNever : static_cast<std::uint64_t>(ns);
}

}  // namespace sealift
