// RoundSender: performs one round of the source: harvest, classify, read or export, send. The order
// is the product's correctness (engine/round.h).
//
// Owner: SourceRunner. Threads: send_round() runs on the round thread; stop() from any.
// Failure: the first failing read, export or send ends the round with its error; pages of the round
// that were not sent are lost from the dirty set, so the migration must be given up (the guest
// loses nothing: it runs here).
#pragma once

#include <atomic>
#include <cstdint>
#include <span>
#include <vector>

#include "engine/guest_port.h"
#include "engine/private_path.h"
#include "engine/records.h"
#include "engine/round.h"
#include "engine/stats.h"
#include "tools/agent/progress.h"

namespace sealift {

class RoundSender {
 public:
  // `exporter` is null for guests without a platform.
  RoundSender(GuestPort& guest, PrivateExporter* exporter, RecordChannel& channel,
              Progress& progress);

  void set_batch_pages_max(std::uint32_t pages);  // what both sides agreed on

  // kCancelled when stop() was called. The page map's changes go first, as Conversions of this
  // epoch (epoch 1 also carries the whole map as epoch 0).
  Result<RoundStats> send_round(std::uint32_t epoch, bool paused);
  void stop() { stop_.store(true); }

 private:
  Result<void> announce(std::uint32_t epoch);
  Result<void> send_pages(RoundStats& stats);
  Result<void> send_shared(std::vector<Gfn> gfns, RoundStats& stats);
  Result<void> send_private(std::span<const Gfn> gfns, RoundStats& stats);
  Result<void> send_batch(PrivateBatch batch, RoundStats& stats);
  Result<void> end_epoch(RoundStats& stats);
  Result<void> export_and_send(std::span<const Gfn> gfns, RoundStats& stats);

  GuestPort& guest_;
  PrivateExporter* exporter_;
  RecordChannel& channel_;
  Progress& progress_;
  PrivateTraits traits_;  // of the exporter; the default without one
  std::uint32_t batch_pages_max_ = 1;
  std::size_t export_pages_ = 16;           // per batch; follows the firmware's measured speed
  std::vector<GfnRange> announced_ranges_;  // the page map as the destination knows it …
  PageMap announced_;  // … and pages travel by it, so that both sides agree on each
  std::atomic<bool> stop_{false};
};

}  // namespace sealift
