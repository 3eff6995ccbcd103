// CompressionChooser: whether, and how hard, the pages of one stream are compressed, decided while
// they are sent.
//
// Compression pays only while the link is the bottleneck. That is seen from how long the sender
// waits for the link to take more: where it hardly waits, nothing is compressed and nothing is
// tried, so that a fast link costs nothing. Where it waits, each level is tried with one batch now
// and then to learn what it costs and saves, and the level is taken that is predicted to move
// guest memory fastest:
//     time of a byte = max(what the sender's CPU needs for it, what is left of it / link rate)
// A choice is a guess about the other host too, whose time to expand cannot be seen from here: what
// a level really achieved is compared with what was achieved before it, and a level that
// disappoints is left alone, each time for twice as long.
//
// Owner: the thread of one stream. Threads: one. Failure: none. No clock: the caller measures.
#pragma once

#include <array>
#include <cstdint>

namespace sealift {

// From cheap to small. What each is in terms of the compressor: transport/page_body.h.
enum class CompressionLevel : std::uint8_t { kOff = 0, kFastest = 1, kFast = 2, kGood = 3 };
inline constexpr unsigned kCompressionLevels = 4;
const char* name_of(CompressionLevel level);

// One batch that was sent. Times on one clock of the sender's.
struct CompressionSample {
  CompressionLevel level = CompressionLevel::kOff;
  std::uint64_t raw_bytes = 0;   // of pages that are not zero
  std::uint64_t wire_bytes = 0;  // what became of them
  std::uint64_t compress_ns = 0;
  std::uint64_t send_ns = 0;     // the whole of sending, waiting included
  std::uint64_t blocked_ns = 0;  // of it, waiting for the link to take more
};

class CompressionChooser {
 public:
  // Of the next batch.
  CompressionLevel next() const { return probe_ != CompressionLevel::kOff ? probe_ : current_; }
  // REQUIRES: sample.level is what next() said; raw_bytes > 0.
  void observe(const CompressionSample& sample);

  CompressionLevel current() const { return current_; }

  // What a decision looks at, at least: so that what waits in buffers weighs little.
  static constexpr std::uint64_t kWindow_ns = 20'000'000;
  static constexpr unsigned kWindowBatches = 8;
  static constexpr double kBlockedShareLeast = 0.15;   // below: the link is not the bottleneck
  static constexpr double kGainLeast = 1.05;           // to change the level
  static constexpr unsigned kProbeEvery_windows = 16;  // of each level, while the link is

 private:
  struct Cost {
    double ns_per_byte = 0;  // compressing a raw byte
    double ratio = 1;        // wire bytes for a raw byte
    bool known = false;
    unsigned age_windows = 0;
    unsigned banned_windows = 0;
    unsigned ban_windows = kProbeEvery_windows;  // the next time
  };
  struct Window {
    unsigned batches = 0;
    std::uint64_t raw_bytes = 0, wire_bytes = 0, busy_ns = 0, send_ns = 0, blocked_ns = 0;
    std::uint64_t elapsed_ns() const { return busy_ns + send_ns; }
  };

  Cost& cost_of(CompressionLevel level) { return costs_[static_cast<unsigned>(level)]; }
  void learn(const CompressionSample& sample);
  void end_window();
  void decide(double blocked_share, double achieved);
  double predicted(const Cost& cost) const;  // raw bytes per ns
  void change_to(CompressionLevel level, double achieved);
  CompressionLevel next_probe() const;

  std::array<Cost, kCompressionLevels> costs_{Cost{0, 1, true}};
  Window window_;
  CompressionLevel current_ = CompressionLevel::kOff;
  CompressionLevel before_ = CompressionLevel::kOff;  // the last change left this …
  double achieved_before_ = 0;                        // … which moved so many raw bytes per ns
  bool on_trial_ = false;                             // current_ has yet to show that it is better
  bool settling_ = false;  // what waits in the link's buffers is still of the level before
  CompressionLevel probe_ = CompressionLevel::kOff;
  double link_bytes_per_ns_ = 0;
  unsigned unbound_windows_ = 0;  // since the link was the bottleneck
  double send_ns_per_byte_ = 0;   // the sender's own work
};

}  // namespace sealift
