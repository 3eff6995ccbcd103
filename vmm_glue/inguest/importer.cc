#include "vmm_glue/inguest/importer.h"

#include <algorithm>

#include "engine/assert.h"
#include "engine/limits.h"
#include "vmm_glue/inguest/exporter.h"

namespace sealift::inguest {

PrivateTraits InGuestImporter::traits() const { return inguest_traits(); }

const char* InGuestImporter::name_of(Phase phase) {
  switch (phase) {
    case Phase::kIdle:
      return "not identified";
    case Phase::kIdentified:
      return "not begun";
    case Phase::kReceiving:
      return "receiving";
    case Phase::kSealed:
      return "sealed";
    case Phase::kFailed:
      return "failed";
    case Phase::kAborted:
      return "aborted";
  }
  return "unknown";
}

Result<void> InGuestImporter::require(Phase phase, const char* call) const {
  if (phase_ == phase) return {};
  if (phase_ == Phase::kAborted) {
    return fail(ErrorClass::kCancelled, "In-guest {} came after the import was aborted.", call);
  }
  return fail(ErrorClass::kLocalFault, "In-guest {} came while the import was {} instead of {}.",
              call, name_of(phase_), name_of(phase));
}

Result<Bytes> InGuestImporter::identity() {
  const std::lock_guard lock(mutex_);
  if (phase_ != Phase::kIdentified) SEALIFT_CHECK(require(Phase::kIdle, "identity"));
  phase_ = Phase::kIdle;
  SEALIFT_CHECK(commands_.restart());
  SEALIFT_TRY(const IdentityBlob own, commands_.identify());
  phase_ = Phase::kIdentified;
  return encode(own);
}

void InGuestImporter::use_streams(std::uint32_t streams) { SEALIFT_ASSERT(streams == 1); }

// One attempt: the helper erases its key pair when the agreement fails.
Result<void> InGuestImporter::begin(ByteView start) {
  const std::lock_guard lock(mutex_);
  SEALIFT_CHECK(require(Phase::kIdentified, "begin"));
  SEALIFT_TRY(const StartBlob blob, decode_start(start));
  auto accepted = commands_.accept(blob);
  phase_ = accepted ? Phase::kReceiving : Phase::kFailed;
  return accepted;
}

Result<void> InGuestImporter::check_batch(const PrivateBatch& batch) const {
  constexpr auto kBad = ErrorClass::kMalformed;
  const std::size_t pages = batch.gfns.size();
  if (pages > limits::kBatchPagesMax || batch.ops.size() != pages) {
    return fail(kBad, "An in-guest batch has {} pages (at most {}) and {} operations.", pages,
                limits::kBatchPagesMax, batch.ops.size());
  }
  if (!batch.batch_auth.empty()) {
    return fail(kBad, "An in-guest batch has {} bytes of batch authentication instead of none.",
                batch.batch_auth.size());
  }
  if (batch.page_auth_bytes != kPageAuthBytes || batch.page_body_bytes != kPageBytes) {
    return fail(kBad, "An in-guest batch has {}-byte tags and {}-byte bodies instead of {} and {}.",
                batch.page_auth_bytes, batch.page_body_bytes, kPageAuthBytes, kPageBytes);
  }
  if (batch.page_auth.size() != pages * kPageAuthBytes || batch.body.size() != pages * kPageBytes) {
    return fail(kBad, "An in-guest batch of {} pages has {} bytes of tags and {} bytes of bodies.",
                pages, batch.page_auth.size(), batch.body.size());
  }
  for (std::size_t i = 0; i < pages; ++i) {
    if (batch.ops[i] != PrivateOp::kImport) {
      return fail(kBad, "An in-guest batch asks for operation {} on gfn {:#x}, which has only 1.",
                  static_cast<int>(batch.ops[i]), value(batch.gfns[i]));
    }
    if (!ram_.contains(batch.gfns[i])) {
      return fail(kBad, "An in-guest batch names gfn {:#x}, which is no RAM of the guest.",
                  value(batch.gfns[i]));
    }
  }
  return {};
}

Result<void> InGuestImporter::import_batch(const PrivateBatch& batch) {
  const std::lock_guard lock(mutex_);
  SEALIFT_CHECK(require(Phase::kReceiving, "import_batch"));
  SEALIFT_CHECK(check_batch(batch));
  for (std::size_t at = 0; at < batch.gfns.size(); at += kEntriesMax) {
    const std::size_t pages = std::min<std::size_t>(kEntriesMax, batch.gfns.size() - at);
    auto imported = commands_.import_pages(
        batch.epoch, std::span(batch.gfns).subspan(at, pages),
        std::span(batch.page_auth).subspan(at * kPageAuthBytes, pages * kPageAuthBytes),
        std::span(batch.body).subspan(at * kPageBytes, pages * kPageBytes));
    if (!imported) {
      phase_ = Phase::kFailed;
      return imported;
    }
  }
  return {};
}

// The helper keeps no record of single pages.
Result<void> InGuestImporter::converted(GfnRange, PageClass) { return {}; }

Result<void> InGuestImporter::end_epoch(std::uint32_t epoch, ByteView token) {
  const std::lock_guard lock(mutex_);
  SEALIFT_CHECK(require(Phase::kReceiving, "end_epoch"));
  if (token.empty()) return {};
  return fail(ErrorClass::kMalformed, "Epoch {} ends with a token of {} bytes instead of none.",
              epoch, token.size());
}

Result<void> InGuestImporter::load_state(std::vector<StateBlob> state) {
  if (state.empty()) return {};
  return fail(ErrorClass::kMalformed, "{} items of platform state came; in-guest export has none.",
              state.size());
}

Result<void> InGuestImporter::seal(ByteView token) {
  const std::lock_guard lock(mutex_);
  SEALIFT_CHECK(require(Phase::kReceiving, "seal"));
  SEALIFT_TRY(const SealTag tag, decode_seal(token));
  auto checked = commands_.check_seal(tag);
  phase_ = checked ? Phase::kSealed : Phase::kFailed;
  return checked;
}

// The helper erased its keys when it accepted the seal; who may run the guest is the engine's
// decision.
Result<void> InGuestImporter::commit() {
  const std::lock_guard lock(mutex_);
  return require(Phase::kSealed, "commit");
}

// A helper that is beyond wiping dies with its VM, which the owner destroys.
Result<Bytes> InGuestImporter::abort() {
  const std::lock_guard lock(mutex_);
  if (phase_ != Phase::kIdle && phase_ != Phase::kAborted) (void)commands_.wipe();
  phase_ = Phase::kAborted;
  return Bytes{};
}

}  // namespace sealift::inguest
