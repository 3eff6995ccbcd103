// RoundSender: performs one round of the source: harvest, classify, read or export, send. The order
// is the product's correctness (engine/round.h).
//
// A live round is a slice: all shared pages that are dirty when it begins, and as many private ones
// as the firmware exports within kSlice_ns or until the shared ones have left, coldest first. So
// what the guest shares with its host, which includes all its I/O, waits for one slice at most,
// however much private memory is left. A paused round sends everything.
//
// Owner: SourceRunner. Threads: send_round() runs on the round thread, and shared pages leave on
// one of its own beside the exports, joined before it returns, or on those of StreamSenders; stop()
// from any.
// Failure: the first failing read, export or send ends the round with its error; pages of the round
// that were not sent are lost from the dirty set, so the migration must be given up (the guest
// loses nothing: it runs here).
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <span>
#include <vector>

#include "engine/guest_port.h"
#include "engine/heat.h"
#include "engine/private_path.h"
#include "engine/records.h"
#include "engine/round.h"
#include "engine/stats.h"
#include "tools/agent/clock.h"
#include "tools/agent/progress.h"
#include "tools/agent/stream_senders.h"

namespace sealift {

// What the session asks of a round.
struct RoundOrder {
  std::uint32_t epoch = 0;
  bool paused = false;
  // How much of the dirty private memory, the hottest of it, is not worth its export now.
  std::uint64_t leave_hottest_pages = 0;
  std::uint32_t throttle_percent = 0;  // how much of the time the guest is kept from running
};

class RoundSender {
 public:
  // `exporter` is null for guests without a platform.
  RoundSender(GuestPort& guest, PrivateExporter* exporter, RecordChannel& channel,
              Progress& progress);

  void set_batch_pages_max(std::uint32_t pages);  // what both sides agreed on
  void set_slice_ns(std::uint64_t slice_ns) { slice_ns_ = slice_ns; }
  // Shared pages leave on these from now on, which outlive it. REQUIRES: no round runs.
  void use_streams(StreamSenders& streams) { streams_ = &streams; }

  // kCancelled when stop() was called. The page map's changes go first, as Conversions of this
  // epoch (epoch 1 also carries the whole map as epoch 0).
  Result<RoundStats> send_round(const RoundOrder& order);
  void stop();

  // REQUIRES: no round runs.
  HeatEstimate heat_estimate() const { return heat_ ? heat_->estimate() : HeatEstimate{}; }

  static constexpr std::uint64_t kSlice_ns = 1'000'000'000;

 private:
  Result<void> announce(std::uint32_t epoch);
  Result<void> begin_epoch(std::uint32_t epoch);
  Result<void> send_pages(const RoundOrder& order, RoundStats& stats);
  Result<void> send_shared_pages(Round& round, RoundStats& stats);
  Result<void> send_on_streams(Round& round, RoundStats& stats);
  Result<void> export_private_pages(Round& round, RoundStats& stats);
  Result<void> send_shared(std::vector<Gfn> gfns, RoundStats& stats);
  Result<void> send_private(std::span<const Gfn> gfns, RoundStats& stats);
  Result<void> send_batch(PrivateBatch batch, RoundStats& stats);
  Result<void> end_epoch(RoundStats& stats);
  Result<void> export_and_send(std::span<const Gfn> gfns, RoundStats& stats);
  void await_colder_pages();
  bool slice_is_over(const RoundStats& stats) const;

  GuestPort& guest_;
  PrivateExporter* exporter_;
  RecordChannel& channel_;
  Progress& progress_;
  StreamSenders* streams_ = nullptr;  // null: shared pages leave on the channel
  std::uint32_t begun_epoch_ = 0;     // with streams: the last one they were told of
  PrivateTraits traits_;              // of the exporter; the default without one
  std::uint32_t batch_pages_max_ = 1;
  std::uint64_t slice_ns_ = kSlice_ns;
  std::size_t export_pages_ = 16;           // per batch; follows the firmware's measured speed
  std::vector<GfnRange> announced_ranges_;  // the page map as the destination knows it …
  PageMap announced_;     // … and pages travel by it, so that both sides agree on each
  Heat* heat_ = nullptr;  // of the guest's dirty set, from epoch 1 on
  Stopwatch since_heat_;  // guest time the heat was not told of
  Stopwatch round_;
  std::atomic<bool> shared_left_{false};   // the shared pages of the round are still being sent
  std::atomic<bool> other_failed_{false};  // one of the round's two threads: the other stops
  std::atomic<bool> stop_{false};
  std::mutex stop_mutex_;
  std::condition_variable stopped_;
};

}  // namespace sealift
