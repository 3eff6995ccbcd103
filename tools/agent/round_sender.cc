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
    : guest_(guest), exporter_(exporter), channel_(channel), progress_(progress) {}

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
  if (epoch == 1) SEALIFT_CHECK(send_conversions(0));
  for (int pass = 0; pass == 0 || (paused && guest_.dirty().count() > 0); ++pass) {
    if (pass == kPausedPassesMax) {
      return fail(ErrorClass::kLocalFault,
                  "{} pages could not be exported in {} passes while the guest was paused",
                  guest_.dirty().count(), pass);
    }
    if (epoch > 1 && pass == 0) SEALIFT_CHECK(send_conversions(epoch));
    SEALIFT_CHECK(send_pages(stats));
  }
  EpochEnd marker;
  marker.epoch = epoch;
  marker.shared_pages = stats.shared_pages + stats.zero_pages;
  marker.private_pages = stats.private_pages;
  if (exporter_ != nullptr) {
    SEALIFT_TRY(marker.token, exporter_->end_epoch(epoch));
  }
  SEALIFT_CHECK(channel_.send(std::move(marker)));
  stats.total_ns = watch.elapsed_ns();
  return stats;
}

Result<void> RoundSender::send_conversions(std::uint32_t epoch) {
  std::vector<GfnRange> now = guest_.page_map().shared_ranges();
  for (Conversions& record : conversions_between(epoch, sent_shared_ranges_, now)) {
    SEALIFT_CHECK(channel_.send(std::move(record)));
  }
  sent_shared_ranges_ = std::move(now);
  return {};
}

Result<void> RoundSender::send_pages(RoundStats& stats) {
  Round round(guest_.dirty(), batch_pages_max_);
  progress_.update([&](ProgressSnapshot& p) { p.round_pages = round.pages(); });
  while (auto plan = round.next(guest_.page_map(), !stats.guest_paused)) {
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

Result<void> RoundSender::send_shared(std::vector<Gfn> gfns, RoundStats& stats) {
  SharedBatch batch;
  batch.epoch = stats.epoch;
  batch.gfns = std::move(gfns);
  batch.body.reserve(batch.gfns.size() * kPageBytes);
  std::array<std::byte, kPageBytes> page;
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
  SEALIFT_CHECK(exporter_->prepare(gfns));
  SEALIFT_TRY(ExportResult exported, exporter_->export_batch(0, stats.epoch, gfns));
  SEALIFT_ASSERT(exported.outcomes.size() == gfns.size());
  for (std::size_t i = 0; i < gfns.size(); ++i) {
    switch (exported.outcomes[i]) {
      case ExportOutcome::kExported:
        ++stats.private_pages;
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
  stats.private_bytes += exported.batch.body.size() + exported.batch.page_auth.size();
  if (exported.batch.gfns.empty()) return {};
  return channel_.send(std::move(exported.batch));
}

}  // namespace sealift
