#include "engine/compression.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <optional>
#include <string>

namespace sealift {
namespace {

constexpr double kMiB = 1 << 20;
constexpr std::uint64_t kBatchBytes = 1 << 20;

// What a level costs and saves on some content.
struct Effect {
  double ns_per_byte = 0;
  double ratio = 1;
};
using Content = std::array<Effect, kCompressionLevels>;
constexpr Content kText{{{0, 1}, {1.6, 0.56}, {3.2, 0.43}, {11, 0.38}}};
constexpr Content kRandom{{{0, 1}, {0.9, 1}, {1.2, 1}, {2.0, 1}}};
constexpr Content kSparse{{{0, 1}, {0.4, 0.1}, {0.6, 0.07}, {2.0, 0.06}}};

struct Link {
  double bytes_per_ns = 0;
  double expand_ns_per_byte = 0.7;  // of raw memory, at the destination, where it was compressed
};
constexpr Link kLoopback{4.0};
constexpr Link kTenGigabit{1.18};
constexpr Link kGigabit{0.118};
constexpr Link kHundredMegabit{0.0118};

// A sender, the buffers of its link, and a destination that takes them out one batch after another.
class Wire {
 public:
  explicit Wire(Link link) : link_(link) {}
  void set_link(Link link) { link_ = link; }
  double now_ns() const { return now_ns_; }

  CompressionSample send(CompressionLevel level, const Content& content) {
    const Effect& effect = content[static_cast<unsigned>(level)];
    CompressionSample sample{level, kBatchBytes};
    const double raw = static_cast<double>(kBatchBytes);
    const double wire = raw * effect.ratio;
    const double compress = raw * effect.ns_per_byte;
    now_ns_ += compress;
    const double copy = wire * kCopy_ns;
    now_ns_ += copy;
    // The destination is done with this batch then; the buffers hold kBuffer bytes before it.
    const double expand = level == CompressionLevel::kOff ? 0 : raw * link_.expand_ns_per_byte;
    const double drain = std::max(wire / link_.bytes_per_ns, expand);
    drained_ns_ = std::max(drained_ns_, now_ns_) + drain;
    const double room_ns = drained_ns_ - kBuffer / link_.bytes_per_ns;
    const double blocked = std::max(0.0, room_ns - now_ns_);
    now_ns_ += blocked;
    sample.wire_bytes = static_cast<std::uint64_t>(wire);
    sample.compress_ns = static_cast<std::uint64_t>(compress);
    sample.send_ns = static_cast<std::uint64_t>(copy + blocked);
    sample.blocked_ns = static_cast<std::uint64_t>(blocked);
    return sample;
  }

 private:
  static constexpr double kCopy_ns = 0.2;
  static constexpr double kBuffer = 2 * kMiB;
  Link link_;
  double now_ns_ = 0;
  double drained_ns_ = 0;
};

// Raw bytes per ns over `bytes`; no level: as the chooser says.
double speed(Link link, const Content& content, double bytes,
             std::optional<CompressionLevel> fixed = {}) {
  Wire wire(link);
  CompressionChooser chooser;
  double sent = 0;
  for (; sent < bytes; sent += static_cast<double>(kBatchBytes)) {
    const CompressionSample sample = wire.send(fixed.value_or(chooser.next()), content);
    if (!fixed) chooser.observe(sample);
  }
  return sent / wire.now_ns();
}

double best_fixed(Link link, const Content& content, double bytes) {
  double best = 0;
  for (unsigned i = 0; i < kCompressionLevels; ++i) {
    best = std::max(best, speed(link, content, bytes, static_cast<CompressionLevel>(i)));
  }
  return best;
}

struct Case {
  std::string name;
  Link link;
  Content content;
  double bytes;
  double least;  // of the best fixed level
};

class AutoCompression : public testing::TestWithParam<Case> {};

TEST_P(AutoCompression, IsNearTheBestFixedLevel) {
  const auto& [name, link, content, bytes, least] = GetParam();
  EXPECT_GE(speed(link, content, bytes), least * best_fixed(link, content, bytes));
}

TEST_P(AutoCompression, IsNeverMuchSlowerThanOff) {
  const auto& [name, link, content, bytes, least] = GetParam();
  const double off = speed(link, content, bytes, CompressionLevel::kOff);
  EXPECT_GE(speed(link, content, bytes), std::min(least, 0.97) * off);
}

INSTANTIATE_TEST_SUITE_P(
    Links, AutoCompression,
    testing::Values(Case{"TextLoopback", kLoopback, kText, 2048 * kMiB, 0.97},
                    Case{"TextTenGigabit", kTenGigabit, kText, 2048 * kMiB, 0.97},
                    Case{"TextGigabit", kGigabit, kText, 4096 * kMiB, 0.95},
                    Case{"TextHundredMegabit", kHundredMegabit, kText, 1024 * kMiB, 0.92},
                    Case{"RandomLoopback", kLoopback, kRandom, 2048 * kMiB, 0.97},
                    Case{"RandomGigabit", kGigabit, kRandom, 1024 * kMiB, 0.97},
                    Case{"SparseTenGigabit", kTenGigabit, kSparse, 2048 * kMiB, 0.90},
                    Case{"SparseGigabit", kGigabit, kSparse, 8192 * kMiB, 0.85},
                    Case{"SlowExpander", Link{0.25, 9.0}, kText, 8192 * kMiB, 0.95}),
    [](const auto& each) { return each.param.name; });

TEST(CompressionChooser, TriesNothingOnALinkThatIsFastEnough) {
  Wire wire(Link{100});
  CompressionChooser chooser;
  for (int i = 0; i < 4096; ++i) {
    ASSERT_EQ(chooser.next(), CompressionLevel::kOff);
    chooser.observe(wire.send(chooser.next(), kText));
  }
}

TEST(CompressionChooser, FollowsALinkThatBecomesSlowAndFastAgain) {
  Wire wire(kLoopback);
  CompressionChooser chooser;
  const auto run = [&](double until_ns) {
    while (wire.now_ns() < until_ns) chooser.observe(wire.send(chooser.next(), kText));
  };
  run(1e9);
  EXPECT_EQ(chooser.current(), CompressionLevel::kOff);
  wire.set_link(kGigabit);
  run(3e9);
  EXPECT_EQ(chooser.current(), CompressionLevel::kFast);
  wire.set_link(kLoopback);
  run(5e9);
  EXPECT_EQ(chooser.current(), CompressionLevel::kOff);
}

TEST(CompressionChooser, FollowsTheContent) {
  Wire wire(kGigabit);
  CompressionChooser chooser;
  const auto run = [&](const Content& content, double for_ns) {
    for (const double end = wire.now_ns() + for_ns; wire.now_ns() < end;) {
      chooser.observe(wire.send(chooser.next(), content));
    }
  };
  run(kRandom, 5e9);
  run(kText, 5e9);
  EXPECT_EQ(chooser.current(), CompressionLevel::kFast);
}

// Compressing and expanding at a slow host: what was predicted from this side is not reached.
TEST(CompressionChooser, LeavesALevelThatDisappoints) {
  Wire wire(Link{0.25, 9.0});
  CompressionChooser chooser;
  int compressed = 0;
  constexpr int kBatches = 20'000;
  for (int i = 0; i < kBatches; ++i) {
    compressed += chooser.current() != CompressionLevel::kOff ? 1 : 0;
    chooser.observe(wire.send(chooser.next(), kText));
  }
  EXPECT_GT(compressed, 0) << "the case is one in which the prediction misleads";
  EXPECT_LT(compressed, kBatches / 50);
}

}  // namespace
}  // namespace sealift
