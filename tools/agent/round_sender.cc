#include "tools/agent/round_sender.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <thread>
#include <utility>

#include "engine/assert.h"
#include "engine/conversions.h"
#include "engine/zero_scan.h"
#include "tools/agent/clock.h"
#include "tools/agent/fault_point.h"

namespace sealift {
namespace {

// A paused guest dirties nothing; pages a platform is not ready to export yet are tried again this
// often without any progress.
constexpr int kIdlePassesMax = 64;
// One batch through a slow firmware must not hold up a cancel (AMD's does about 400 pages/s).
constexpr double kExportBatchMax_s = 0.2;
// A round that may export nothing lasts this part of a slice at least.
constexpr std::uint64_t kIdleRoundsPerSlice = 4;
// While streams are at work: how often their progress is told, and the peer that we live.
constexpr std::chrono::milliseconds kStreamTick{100};
constexpr std::uint64_t kTicksPerKeepAlive = 5;

}  // namespace

RoundSender::RoundSender(GuestPort& guest, PrivateExporter* exporter, RecordChannel& channel,
                         Progress& progress)
    : guest_(guest),
      exporter_(exporter),
      channel_(channel),
      progress_(progress),
      announced_(guest.layout().span_pages()) {
  if (exporter_ != nullptr) traits_ = exporter_->traits();
}

void RoundSender::set_batch_pages_max(std::uint32_t pages) {
  batch_pages_max_ = std::min(pages, traits_.batch_pages_max);
}

void RoundSender::stop() {
  {
    const std::lock_guard lock(stop_mutex_);
    stop_.store(true);
  }
  stopped_.notify_all();
  if (streams_ != nullptr) streams_->stop();
}

Result<RoundStats> RoundSender::send_round(const RoundOrder& order) {
  RoundStats stats;
  stats.epoch = order.epoch;
  stats.guest_paused = order.paused;
  round_.lap();
  const PageMap& map = guest_.page_map();
  SEALIFT_CHECK(guest_.harvest_dirty());
  stats.harvest_ns = round_.elapsed_ns();
  // What travels first is what there is, whatever the log says: a first harvest may report every
  // page. Nothing that was marked before the look at the memory is lost: what was written then is
  // there to be seen, and what is written later is marked later, since the log is on. (Nor does a
  // first harvest say how hot a page is.)
  if (order.epoch == 1) {
    guest_.dirty().clear();
    SEALIFT_CHECK(guest_.mark_populated());
    heat_ = &guest_.dirty().watch_heat(map);
    since_heat_.lap();
  }
  int idle_passes = 0;
  do {
    const std::uint64_t dirty_pages = guest_.dirty().count();
    SEALIFT_CHECK(send_pages(order, stats));
    idle_passes = guest_.dirty().count() < dirty_pages ? 0 : idle_passes + 1;
    if (order.paused && idle_passes == kIdlePassesMax && guest_.dirty().count() > 0) {
      return fail(ErrorClass::kLocalFault,
                  "{} pages could not be exported in {} passes while the guest was paused",
                  guest_.dirty().count(), idle_passes);
    }
  } while (order.paused && guest_.dirty().count() > 0);
  SEALIFT_CHECK(end_epoch(stats));
  stats.total_ns = round_.elapsed_ns();
  if (heat_ == nullptr) return stats;
  heat_->guest_ran(static_cast<double>(since_heat_.lap()) / 1e9 * (100 - order.throttle_percent) /
                   100);
  return stats;
}

// The map is read after the dirty state was cleared: a conversion that this misses marks its pages,
// and the next epoch announces it before it sends them. Both sides classify by what was announced.
Result<void> RoundSender::announce(std::uint32_t epoch) {
  std::vector<GfnRange> now = guest_.page_map().shared_ranges();
  for (Conversions& record : conversions_between(epoch, announced_ranges_, now)) {
    for (GfnRange range : record.to_shared) announced_.convert(range, PageClass::kShared);
    for (GfnRange range : record.to_private) announced_.convert(range, PageClass::kPrivate);
    SEALIFT_CHECK(channel_.send(std::move(record)));
  }
  announced_ranges_ = std::move(now);
  return {};
}

// The other streams wait for this, since Conversions are not ordered against them.
Result<void> RoundSender::begin_epoch(std::uint32_t epoch) {
  if (streams_ == nullptr || begun_epoch_ == epoch) return {};
  begun_epoch_ = epoch;
  return channel_.send(EpochBegin{epoch});
}

Result<void> RoundSender::send_pages(const RoundOrder& order, RoundStats& stats) {
  RoundLimits limits;
  if (!order.paused) limits.leave_hottest = order.leave_hottest_pages;
  const bool exports = exporter_ == nullptr || traits_.live_export || order.paused;
  Round round(guest_.dirty(), guest_.page_map(), heat_, exports ? limits : RoundLimits{1, ~0ULL});
  SEALIFT_CHECK(announce(stats.epoch == 1 ? 0 : stats.epoch));
  SEALIFT_CHECK(begin_epoch(stats.epoch));
  progress_.update([&](ProgressSnapshot& p) { p.round_pages = round.pages(); });
  stats.left_private_pages = 0;
  RoundStats shared = stats;
  shared_left_.store(round.has_shared());
  Result<void> shared_sent;
  std::jthread beside;
  if (round.has_shared() && round.has_private()) {
    beside = std::jthread([&] { shared_sent = send_shared_pages(round, shared); });
  } else {
    shared_sent = send_shared_pages(round, shared);
  }
  auto exported = export_private_pages(round, stats);
  if (beside.joinable()) beside.join();
  SEALIFT_CHECK(std::move(shared_sent));
  SEALIFT_CHECK(std::move(exported));
  stats.shared_pages = shared.shared_pages;
  stats.zero_pages = shared.zero_pages;
  stats.shared_bytes = shared.shared_bytes;
  stats.plain_ns = shared.plain_ns;
  stats.skipped_pages += round.skipped_pages();
  if (!exports) {
    stats.skipped_pages += round.unlisted_private_pages();
    return {};
  }
  const std::uint64_t cut_pages = stats.left_private_pages + round.unasked_private_pages();
  stats.left_private_pages = cut_pages + round.unlisted_private_pages();
  const bool listed_all = round.unlisted_private_pages() <= limits.leave_hottest;
  stats.passes = cut_pages == 0 && listed_all ? 1 : 0;
  const bool idle = !round.has_private() && stats.left_private_pages > 0;
  if (idle && !order.paused) await_colder_pages();
  return {};
}

// All that is dirty is too hot for now: rounds that export nothing are not repeated at full speed.
void RoundSender::await_colder_pages() {
  const std::uint64_t least_ns = slice_ns_ / kIdleRoundsPerSlice;
  const std::uint64_t passed_ns = std::min(round_.elapsed_ns(), least_ns);
  std::unique_lock lock(stop_mutex_);
  stopped_.wait_for(lock, std::chrono::nanoseconds(least_ns - passed_ns),
                    [&] { return stop_.load(); });
}

bool RoundSender::slice_is_over(const RoundStats& stats) const {
  return !stats.guest_paused && !shared_left_.load() && round_.elapsed_ns() >= slice_ns_;
}

Result<void> RoundSender::send_on_streams(Round& round, RoundStats& stats) {
  const RoundStats before = stats;
  const auto add = [&](const StreamSenders::Totals& totals) {
    stats.shared_pages = before.shared_pages + totals.shared_pages;
    stats.zero_pages = before.zero_pages + totals.zero_pages;
    stats.shared_bytes = before.shared_bytes + totals.shared_bytes;
    progress_.update([&](ProgressSnapshot& p) {
      p.round.shared_pages = stats.shared_pages;
      p.round.zero_pages = stats.zero_pages;
      p.round.shared_bytes = stats.shared_bytes;
      p.round.plain_ns = stats.plain_ns;
    });
  };
  Stopwatch watch;
  Result<void> alive;
  streams_->begin_round(round, announced_, stats.epoch, !stats.guest_paused);
  for (std::uint64_t ticks = 1; !streams_->wait(kStreamTick); ++ticks) {
    stats.plain_ns = before.plain_ns + watch.elapsed_ns();
    add(streams_->sent());
    if (ticks % kTicksPerKeepAlive == 0 && alive) alive = channel_.send(KeepAlive{});
    if (!alive || other_failed_.load()) streams_->stop();
  }
  auto totals = streams_->end_round();
  SEALIFT_CHECK(std::move(alive));
  if (!totals && other_failed_.load() && !stop_.load()) return {};  // that error is the round's
  if (!totals) return fail(std::move(totals.error()));
  stats.plain_ns = before.plain_ns + totals->ns;
  add(*totals);
  return {};
}

Result<void> RoundSender::send_shared_pages(Round& round, RoundStats& stats) {
  Result<void> sent;
  if (streams_ != nullptr) {
    if (round.has_shared()) sent = send_on_streams(round, stats);
    shared_left_.store(false);
    if (!sent) other_failed_.store(true);
    return sent;
  }
  while (sent) {
    SEALIFT_FAULT_POINT("source.round", stats.guest_paused ? "paused" : "live");
    if (stop_.load()) return fail(ErrorClass::kCancelled, "the round was stopped");
    if (other_failed_.load()) break;
    Stopwatch watch;
    std::vector<Gfn> gfns = round.next_shared(announced_, batch_pages_max_, !stats.guest_paused);
    if (gfns.empty()) break;
    sent = send_shared(std::move(gfns), stats);
    stats.plain_ns += watch.lap();
    progress_.update([&](ProgressSnapshot& p) {
      p.round.shared_pages = stats.shared_pages;
      p.round.zero_pages = stats.zero_pages;
      p.round.shared_bytes = stats.shared_bytes;
      p.round.plain_ns = stats.plain_ns;
    });
  }
  shared_left_.store(false);
  if (!sent) other_failed_.store(true);
  return sent;
}

Result<void> RoundSender::export_private_pages(Round& round, RoundStats& stats) {
  Result<void> sent;
  while (sent) {
    if (stop_.load()) return fail(ErrorClass::kCancelled, "the round was stopped");
    if (other_failed_.load() || slice_is_over(stats)) break;
    Stopwatch watch;
    const std::size_t pages =
        traits_.prepare_window_pages > 0 ? traits_.prepare_window_pages : export_pages_;
    const std::vector<Gfn> gfns =
        round.next_private(announced_, static_cast<std::uint32_t>(pages), !stats.guest_paused);
    if (gfns.empty()) break;
    sent = send_private(gfns, stats);
    stats.firmware_ns += watch.lap();
    progress_.update([&](ProgressSnapshot& p) {
      p.round.private_pages = stats.private_pages;
      p.round.private_bytes = stats.private_bytes;
      p.round.skipped_pages = stats.skipped_pages;
      p.round.firmware_commands = stats.firmware_commands;
      p.round.firmware_ns = stats.firmware_ns;
    });
  }
  if (!sent) other_failed_.store(true);
  return sent;
}
Result<void> RoundSender::end_epoch(RoundStats& stats) {
  EpochEnd marker;
  marker.epoch = stats.epoch;
  if (streams_ == nullptr) {
    marker.shared_pages = stats.shared_pages + stats.zero_pages;
  } else {
    SEALIFT_CHECK(streams_->end_epoch(stats.epoch));
  }
  if (exporter_ != nullptr) {
    for (;;) {
      SEALIFT_TRY(std::optional<PrivateBatch> extra, exporter_->next_extra(stats.epoch));
      if (!extra) break;
      SEALIFT_CHECK(send_batch(std::move(*extra), stats));
    }
    SEALIFT_TRY(marker.token, exporter_->end_epoch(stats.epoch));
  }
  marker.private_pages = stats.private_pages;
  return channel_.send(std::move(marker));
}

Result<void> RoundSender::send_batch(PrivateBatch batch, RoundStats& stats) {
  stats.private_pages +=
      static_cast<std::uint64_t>(std::count_if(batch.ops.begin(), batch.ops.end(), is_page));
  stats.private_bytes += batch.body.size() + batch.page_auth.size() + batch.batch_auth.size();
  return channel_.send(std::move(batch));
}

Result<void> RoundSender::send_shared(std::vector<Gfn> gfns, RoundStats& stats) {
  SharedBatch batch;
  batch.epoch = stats.epoch;
  batch.gfns = std::move(gfns);
  batch.body.reserve(batch.gfns.size() * kPageBytes);
  alignas(64) std::array<std::byte, kPageBytes> page{};
  for (Gfn gfn : batch.gfns) {
    SEALIFT_CHECK(guest_.read_plain(gfn, page));
    if (is_zero(page.data(), page.size())) {
      batch.encodings.push_back(PageEncoding::kZero);
      ++stats.zero_pages;
    } else {
      batch.encodings.push_back(PageEncoding::kRaw);
      batch.body.insert(batch.body.end(), page.begin(), page.end());
      ++stats.shared_pages;
    }
  }
  stats.shared_bytes += batch.body.size();
  return channel_.send(std::move(batch));
}

Result<void> RoundSender::send_private(std::span<const Gfn> gfns, RoundStats& stats) {
  if (exporter_ == nullptr) {
    return fail(ErrorClass::kLocalFault,
                "page gfn {:#x} is private, but the guest has no platform to export it",
                value(gfns.front()));
  }
  if (traits_.prepare_window_pages > 0) SEALIFT_CHECK(exporter_->prepare(stats.epoch, gfns));
  while (!gfns.empty()) {
    if (stop_.load()) return fail(ErrorClass::kCancelled, "the round was stopped");
    if (slice_is_over(stats)) break;
    const std::size_t pages = std::min(export_pages_, gfns.size());
    const std::uint64_t sent_before = stats.private_pages;
    Stopwatch watch;
    SEALIFT_CHECK(export_and_send(gfns.first(pages), stats));
    gfns = gfns.subspan(pages);
    const std::uint64_t sent = stats.private_pages - sent_before;
    if (sent == 0) continue;  // what has never been populated costs nothing and shows no rate
    const double pages_per_s =
        static_cast<double>(sent) * 1e9 / static_cast<double>(watch.elapsed_ns() + 1);
    export_pages_ = static_cast<std::size_t>(
        std::clamp(pages_per_s * kExportBatchMax_s, 1.0, static_cast<double>(batch_pages_max_)));
  }
  for (Gfn gfn : gfns) guest_.dirty().put_back(gfn);
  stats.left_private_pages += gfns.size();
  return {};
}

Result<void> RoundSender::export_and_send(std::span<const Gfn> gfns, RoundStats& stats) {
  SEALIFT_TRY(ExportResult exported, exporter_->export_batch(0, stats.epoch, gfns));
  SEALIFT_ASSERT(exported.outcomes.size() == gfns.size());
  for (std::size_t i = 0; i < gfns.size(); ++i) {
    switch (exported.outcomes[i]) {
      case ExportOutcome::kExported:
        break;
      case ExportOutcome::kSkipped:
        ++stats.skipped_pages;
        break;
      case ExportOutcome::kRetry:
        guest_.dirty().put_back(gfns[i]);
        break;
    }
  }
  stats.firmware_commands += exported.firmware_commands;
  if (exported.batch.gfns.empty()) return {};
  return send_batch(std::move(exported.batch), stats);
}

}  // namespace sealift
