#include "tools/agent/round_sender.h"

#include <algorithm>
#include <array>
#include <utility>

#include "engine/assert.h"
#include "engine/conversions.h"
#include "tools/agent/clock.h"

namespace sealift {
namespace {

// A paused guest dirties nothing; pages a platform is not ready to export yet are tried again this
// often.
constexpr int kPausedPassesMax = 64;
// One batch through a slow firmware must not hold up a cancel (AMD's does about 400 pages/s).
constexpr double kExportBatchMax_s = 0.2;

bool is_zero(std::span<const std::byte> page) {
  return std::all_of(page.begin(), page.end(), [](std::byte b) { return b == std::byte{0}; });
}

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

Result<RoundStats> RoundSender::send_round(std::uint32_t epoch, bool paused) {
  RoundStats stats;
  stats.epoch = epoch;
  stats.guest_paused = paused;
  Stopwatch watch;
  // Everything of a first round is dirty, whatever the log says.
  if (epoch == 1) {
    for (GfnRange range : guest_.layout().ranges()) guest_.dirty().mark(range);
  }
  SEALIFT_CHECK(guest_.harvest_dirty());
  for (int pass = 0; pass == 0 || (paused && guest_.dirty().count() > 0); ++pass) {
    if (pass == kPausedPassesMax) {
      return fail(ErrorClass::kLocalFault,
                  "{} pages could not be exported in {} passes while the guest was paused",
                  guest_.dirty().count(), pass);
    }
    SEALIFT_CHECK(send_pages(stats));
  }
  SEALIFT_CHECK(end_epoch(stats));
  stats.total_ns = watch.elapsed_ns();
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

Result<void> RoundSender::send_pages(RoundStats& stats) {
  Round round(guest_.dirty(), batch_pages_max_,
              std::max(batch_pages_max_, traits_.prepare_window_pages));
  SEALIFT_CHECK(announce(stats.epoch == 1 ? 0 : stats.epoch));
  progress_.update([&](ProgressSnapshot& p) { p.round_pages = round.pages(); });
  while (auto plan = round.next(announced_, !stats.guest_paused)) {
    if (stop_.load()) return fail(ErrorClass::kCancelled, "the round was stopped");
    Stopwatch watch;
    if (plan->cls == PageClass::kShared) {
      SEALIFT_CHECK(send_shared(std::move(plan->gfns), stats));
      stats.plain_ns += watch.lap();
    } else {
      SEALIFT_CHECK(send_private(plan->gfns, stats));
      stats.firmware_ns += watch.lap();
    }
    progress_.update([&](ProgressSnapshot& p) { p.round = stats; });
  }
  stats.skipped_pages += round.skipped_pages();
  return {};
}

Result<void> RoundSender::end_epoch(RoundStats& stats) {
  EpochEnd marker;
  marker.epoch = stats.epoch;
  marker.shared_pages = stats.shared_pages + stats.zero_pages;
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
  std::array<std::byte, kPageBytes> page{};
  for (Gfn gfn : batch.gfns) {
    SEALIFT_CHECK(guest_.read_plain(gfn, page));
    if (is_zero(page)) {
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
  if (!traits_.live_export && !stats.guest_paused) {
    for (Gfn gfn : gfns) guest_.dirty().mark(gfn);  // they leave when the guest is paused
    stats.skipped_pages += gfns.size();
    return {};
  }
  if (traits_.prepare_window_pages > 0) SEALIFT_CHECK(exporter_->prepare(stats.epoch, gfns));
  while (!gfns.empty()) {
    if (stop_.load()) return fail(ErrorClass::kCancelled, "the round was stopped");
    const std::size_t pages = std::min(export_pages_, gfns.size());
    Stopwatch watch;
    SEALIFT_CHECK(export_and_send(gfns.first(pages), stats));
    const double pages_per_s =
        static_cast<double>(pages) * 1e9 / static_cast<double>(watch.elapsed_ns() + 1);
    export_pages_ = static_cast<std::size_t>(
        std::clamp(pages_per_s * kExportBatchMax_s, 1.0, static_cast<double>(batch_pages_max_)));
    gfns = gfns.subspan(pages);
  }
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
        guest_.dirty().mark(gfns[i]);
        break;
    }
  }
  stats.firmware_commands += exported.firmware_commands;
  if (exported.batch.gfns.empty()) return {};
  return send_batch(std::move(exported.batch), stats);
}

}  // namespace sealift
