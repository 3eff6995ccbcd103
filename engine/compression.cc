#include "engine/compression.h"

#include <algorithm>
#include <utility>

#include "engine/assert.h"

namespace sealift {
namespace {

// Of a new value against what was known: contents change from one part of memory to the next.
constexpr double kWeight = 0.3;
constexpr unsigned kBanMax_windows = 1024;

double mixed(double known, double seen) { return known + kWeight * (seen - known); }
double share(std::uint64_t part, std::uint64_t whole) {
  return whole == 0 ? 0 : static_cast<double>(part) / static_cast<double>(whole);
}

}  // namespace

const char* name_of(CompressionLevel level) {
  switch (level) {
    case CompressionLevel::kOff:
      return "off";
    case CompressionLevel::kFastest:
      return "fastest";
    case CompressionLevel::kFast:
      return "fast";
    case CompressionLevel::kGood:
      return "good";
  }
  return "?";
}

void CompressionChooser::observe(const CompressionSample& sample) {
  SEALIFT_ASSERT(sample.level == next() && sample.raw_bytes > 0);
  learn(sample);
  ++window_.batches;
  window_.raw_bytes += sample.raw_bytes;
  window_.wire_bytes += sample.wire_bytes;
  window_.busy_ns += sample.compress_ns;
  window_.send_ns += sample.send_ns;
  window_.blocked_ns += std::min(sample.blocked_ns, sample.send_ns);
  probe_ = sample.level != current_ ? next_probe() : CompressionLevel::kOff;
  if (window_.batches >= kWindowBatches && window_.elapsed_ns() >= kWindow_ns) end_window();
}

void CompressionChooser::learn(const CompressionSample& sample) {
  const double raw = static_cast<double>(sample.raw_bytes);
  if (sample.level != CompressionLevel::kOff) {
    Cost& cost = cost_of(sample.level);
    const double ns_per_byte = static_cast<double>(sample.compress_ns) / raw;
    const double ratio = static_cast<double>(sample.wire_bytes) / raw;
    cost.ns_per_byte = cost.known ? mixed(cost.ns_per_byte, ns_per_byte) : ns_per_byte;
    cost.ratio = cost.known ? mixed(cost.ratio, ratio) : ratio;
    cost.known = true;
    cost.age_windows = 0;
  }
  if (sample.wire_bytes == 0) return;
  const std::uint64_t own_ns = sample.send_ns - std::min(sample.blocked_ns, sample.send_ns);
  const double seen = static_cast<double>(own_ns) / static_cast<double>(sample.wire_bytes);
  send_ns_per_byte_ = send_ns_per_byte_ == 0 ? seen : mixed(send_ns_per_byte_, seen);
}

void CompressionChooser::end_window() {
  const double blocked_share = share(window_.blocked_ns, window_.elapsed_ns());
  const double achieved = share(window_.raw_bytes, window_.elapsed_ns());
  const double wire_rate = share(window_.wire_bytes, window_.elapsed_ns());
  window_ = {};
  for (Cost& cost : costs_) {
    ++cost.age_windows;
    if (cost.banned_windows > 0) --cost.banned_windows;
  }
  // Where it waited the link gave its rate; where it did not, the link is at least so fast.
  if (blocked_share >= kBlockedShareLeast) {
    link_bytes_per_ns_ = link_bytes_per_ns_ == 0 ? wire_rate : mixed(link_bytes_per_ns_, wire_rate);
  } else {
    link_bytes_per_ns_ = std::max(link_bytes_per_ns_, wire_rate);
  }
  if (std::exchange(settling_, false)) return;
  decide(blocked_share, achieved);
}

void CompressionChooser::decide(double blocked_share, double achieved) {
  if (std::exchange(on_trial_, false)) {
    Cost& cost = cost_of(current_);
    if (achieved < achieved_before_) {
      cost.banned_windows = cost.ban_windows;
      cost.ban_windows = std::min(2 * cost.ban_windows, kBanMax_windows);
      change_to(before_, 0);
      on_trial_ = false;
      return;
    }
    cost.ban_windows = kProbeEvery_windows;
  }
  const bool link_bound = blocked_share >= kBlockedShareLeast;
  unbound_windows_ = link_bound ? 0 : unbound_windows_ + 1;
  if (current_ == CompressionLevel::kOff && !link_bound) return;
  CompressionLevel best = current_;
  double best_rate = achieved * kGainLeast;
  for (unsigned i = 0; i < kCompressionLevels; ++i) {
    const auto level = static_cast<CompressionLevel>(i);
    if (level == current_ || !costs_[i].known || costs_[i].banned_windows > 0) continue;
    const double rate = predicted(costs_[i]);
    if (rate <= best_rate) continue;
    best = level;
    best_rate = rate;
  }
  if (best != current_) {
    change_to(best, achieved);
    return;
  }
  probe_ = next_probe();
}

// A link that could have taken more for a while has no known limit.
double CompressionChooser::predicted(const Cost& cost) const {
  const double own_ns = cost.ns_per_byte + send_ns_per_byte_ * cost.ratio;
  const bool limit_known = unbound_windows_ < kProbeEvery_windows;
  const double link_ns = limit_known ? cost.ratio / link_bytes_per_ns_ : 0;
  return 1 / std::max({own_ns, link_ns, 1e-6});
}

void CompressionChooser::change_to(CompressionLevel level, double achieved) {
  before_ = current_;
  achieved_before_ = achieved;
  current_ = level;
  on_trial_ = settling_ = true;
}

// One that was never tried, or the one that was not for longest. What takes longer than the link
// already takes for the raw byte cannot win, and of levels that cost more and more neither can
// those above it.
CompressionLevel CompressionChooser::next_probe() const {
  CompressionLevel probe = CompressionLevel::kOff;
  unsigned oldest = 0;
  for (unsigned i = 1; i < kCompressionLevels; ++i) {
    const Cost& cost = costs_[i];
    if (!cost.known) return static_cast<CompressionLevel>(i);
    if (static_cast<CompressionLevel>(i) != current_ && cost.banned_windows == 0 &&
        cost.age_windows >= kProbeEvery_windows && cost.age_windows > oldest) {
      probe = static_cast<CompressionLevel>(i);
      oldest = cost.age_windows;
    }
    if (cost.ns_per_byte * link_bytes_per_ns_ > 1) break;
  }
  return probe;
}

}  // namespace sealift
