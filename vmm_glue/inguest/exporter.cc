#include "vmm_glue/inguest/exporter.h"

#include <algorithm>

#include "engine/assert.h"
#include "engine/limits.h"

namespace sealift::inguest {
namespace {

// Nothing is exported while the guest runs, so the prediction of the pause has nothing that was
// measured. One core did 35000 (portable code) to 65000 (AVX2) pages/s; too long a pause is the
// better guess.
constexpr double kPagesPerSecondHint = 20000;

}  // namespace

PrivateTraits inguest_traits() {
  return {.platform = Platform::kSwProtected,
          .batch_pages_max = limits::kBatchPagesMax,
          .streams_max = 1,
          .live_export = false,
          .pages_per_s_hint = kPagesPerSecondHint};
}

const char* InGuestExporter::name_of(Phase phase) {
  switch (phase) {
    case Phase::kIdle:
      return "not begun";
    case Phase::kBegun:
      return "begun with a running guest";
    case Phase::kPaused:
      return "exporting";
    case Phase::kSealed:
      return "sealed";
    case Phase::kReleased:
      return "released";
  }
  return "unknown";
}

Result<void> InGuestExporter::require(Phase phase, const char* call) const {
  if (cancelling_) return fail(ErrorClass::kCancelled, "The in-guest export was cancelled.");
  if (phase_ == phase) return {};
  return fail(ErrorClass::kLocalFault, "In-guest {} came while the export was {} instead of {}.",
              call, name_of(phase_), name_of(phase));
}

void InGuestExporter::use_streams(std::uint32_t streams) { SEALIFT_ASSERT(streams == 1); }

Result<Bytes> InGuestExporter::begin(ByteView identity) {
  const std::lock_guard lock(mutex_);
  SEALIFT_CHECK(require(Phase::kIdle, "begin"));
  SEALIFT_TRY(const IdentityBlob peer, decode_identity(identity));
  SEALIFT_CHECK(commands_.restart());
  SEALIFT_TRY(const StartBlob start, commands_.offer(peer));
  phase_ = Phase::kBegun;
  return encode(start);
}

Result<void> InGuestExporter::prepare(std::uint32_t, std::span<const Gfn>) { return {}; }

Result<ExportResult> InGuestExporter::export_batch(std::uint8_t stream, std::uint32_t epoch,
                                                   std::span<const Gfn> gfns) {
  SEALIFT_ASSERT(gfns.size() <= limits::kBatchPagesMax);
  const std::lock_guard lock(mutex_);
  ExportResult out;
  PrivateBatch& batch = out.batch;
  batch.epoch = epoch;
  batch.stream = stream;
  batch.gfns.assign(gfns.begin(), gfns.end());
  batch.ops.assign(gfns.size(), PrivateOp::kImport);
  batch.page_auth_bytes = kPageAuthBytes;
  batch.page_auth.resize(gfns.size() * kPageAuthBytes);
  batch.page_body_bytes = kPageBytes;
  batch.body.resize(gfns.size() * kPageBytes);
  for (std::size_t at = 0; at < gfns.size(); at += kEntriesMax) {
    const std::size_t pages = std::min<std::size_t>(kEntriesMax, gfns.size() - at);
    SEALIFT_CHECK(require(Phase::kPaused, "export_batch"));
    SEALIFT_CHECK(commands_.export_pages(
        epoch, gfns.subspan(at, pages),
        std::span(batch.page_auth).subspan(at * kPageAuthBytes, pages * kPageAuthBytes),
        std::span(batch.body).subspan(at * kPageBytes, pages * kPageBytes)));
    ++out.firmware_commands;
  }
  out.outcomes.assign(gfns.size(), ExportOutcome::kExported);
  return out;
}

// The helper keeps no record of single pages.
ConvertVerdict InGuestExporter::may_convert(GfnRange, PageClass) { return ConvertVerdict::kNow; }

Result<std::optional<PrivateBatch>> InGuestExporter::next_extra(std::uint32_t) {
  return std::optional<PrivateBatch>();
}

Result<void> InGuestExporter::fault_back(Gfn gfn) {
  return fail(ErrorClass::kLocalFault,
              "In-guest export never takes a page away, yet gfn {:#x} is asked for.", value(gfn));
}

// Each entry carries its epoch under its tag.
Result<Bytes> InGuestExporter::end_epoch(std::uint32_t) { return Bytes{}; }

Result<void> InGuestExporter::guest_paused() {
  const std::lock_guard lock(mutex_);
  SEALIFT_CHECK(require(Phase::kBegun, "guest_paused"));
  phase_ = Phase::kPaused;
  return {};
}

// KVM lets the VMM read the registers of such a guest: they travel with the VMM's own state.
Result<std::vector<StateBlob>> InGuestExporter::save_state() { return std::vector<StateBlob>(); }

Result<Bytes> InGuestExporter::seal() {
  const std::lock_guard lock(mutex_);
  SEALIFT_CHECK(require(Phase::kPaused, "seal"));
  SEALIFT_TRY(const SealTag tag, commands_.seal());
  phase_ = Phase::kSealed;
  return Bytes(tag.begin(), tag.end());
}

// The helper erased its keys when it sealed.
Result<void> InGuestExporter::release() {
  const std::lock_guard lock(mutex_);
  if (phase_ == Phase::kReleased) return {};
  SEALIFT_CHECK(require(Phase::kSealed, "release"));
  phase_ = Phase::kReleased;
  return {};
}

// A helper that is beyond wiping keeps its keys in memory that the host cannot read, and has no use
// for them: that is no reason to lose the guest. begin() starts it anew.
Result<void> InGuestExporter::cancel(std::optional<ByteView>) {
  cancelling_ = true;
  const std::lock_guard lock(mutex_);
  cancelling_ = false;
  if (phase_ == Phase::kReleased) {
    return fail(ErrorClass::kLocalFault,
                "The in-guest export was released: the guest runs at the destination.");
  }
  if (phase_ != Phase::kIdle) (void)commands_.wipe();
  phase_ = Phase::kIdle;
  return {};
}

}  // namespace sealift::inguest
