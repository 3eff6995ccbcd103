#include "vmm_glue/sev/importer.h"

#include <fmt/format.h>

#include <utility>

#include "engine/assert.h"
#include "engine/limits.h"
#include "vmm_glue/sev/blobs.h"
#include "vmm_glue/sev/es_state.h"

namespace sealift::sev {
namespace {

std::uint64_t address_of(const std::byte* bytes) { return reinterpret_cast<std::uint64_t>(bytes); }

}  // namespace

SevImporter::SevImporter(const SevVm& vm, HostAddress host_address, SevConfig config)
    : vm_(vm), host_address_(std::move(host_address)), config_(std::move(config)) {
  SEALIFT_ASSERT(host_address_ != nullptr);
  SEALIFT_ASSERT(config_.amd_certs.size() <= kFirmwareBlobBytesMax);
  SEALIFT_ASSERT(config_.vcpus <= limits::kVcpusMax);
}

PrivateTraits SevImporter::traits() const {
  return {.platform = config_.es ? Platform::kSevEs : Platform::kSev,
          .batch_pages_max = limits::kBatchPagesMax,
          .streams_max = 1,
          .live_export = true};
}

const char* SevImporter::name_of(Phase phase) {
  switch (phase) {
    case Phase::kIdle:
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

Result<void> SevImporter::require(Phase phase, const char* call) const {
  if (phase_ == phase) return {};
  if (phase_ == Phase::kAborted) {
    return fail(ErrorClass::kCancelled, "SEV {} came after the import was aborted.", call);
  }
  return fail(ErrorClass::kLocalFault, "SEV {} came while the import was {} instead of {}.", call,
              name_of(phase_), name_of(phase));
}

// Asked for anew before each migration: a PDH that was renewed since would fail at RECEIVE_START.
Result<Bytes> SevImporter::identity() {
  const std::lock_guard lock(mutex_);
  SEALIFT_CHECK(require(Phase::kIdle, "identity"));
  SEALIFT_CHECK(require_es_support(vm_, config_));
  SEALIFT_TRY(PlatformCertificates own, export_certificates(vm_));
  SystemRandom random;
  keys_.emplace(random);
  if (config_.reveal) config_.reveal("binding-private-key", keys_->private_key());
  Bytes out = encode(IdentityBlob{.pdh = std::move(own.pdh),
                                  .chain = std::move(own.chain),
                                  .amd_certs = config_.amd_certs,
                                  .key = keys_->public_key()});
  if (config_.reveal) config_.reveal("identity", out);  // public, but not in the source's capture
  identity_hash_ = sha256_of(out);
  return out;
}

void SevImporter::use_streams(std::uint32_t streams) { SEALIFT_ASSERT(streams == 1); }

Result<void> SevImporter::begin(ByteView start) {
  const std::lock_guard lock(mutex_);
  SEALIFT_CHECK(require(Phase::kIdle, "begin"));
  if (!keys_) return fail(ErrorClass::kLocalFault, "SEV begin came before identity.");
  SEALIFT_TRY(const StartBlob blob, decode_start(start));
  SEALIFT_CHECK(check_pdh(blob.pdh));
  SEALIFT_CHECK(check_guest_policy(config_, blob.policy));
  SEALIFT_TRY(const BindingSecret secret, keys_->agree(blob.key));
  KvmSevStart receive;
  receive.policy = blob.policy;
  receive.pdh_uaddr = address_of(blob.pdh.data());
  receive.pdh_len = static_cast<std::uint32_t>(blob.pdh.size());
  receive.session_uaddr = address_of(blob.session.data());
  receive.session_len = static_cast<std::uint32_t>(blob.session.size());
  constexpr auto kCommand = KvmCommand::kReceiveStart;
  const CommandResult outcome = issue(vm_, kCommand, &receive);
  // Linux 6.1 does not stop a second RECEIVE_START from replacing the first one's handle, so that
  // one failed attempt is the last.
  phase_ = outcome.ok() ? Phase::kReceiving : Phase::kFailed;
  SEALIFT_CHECK(check(outcome, sev::name_of(kCommand)));
  binding_.emplace(secret, BindingTerms{.source_key = blob.key,
                                        .destination_key = keys_->public_key(),
                                        .nonce = blob.nonce,
                                        .identity_hash = identity_hash_,
                                        .start_hash = sha256_of(start)});
  keys_.reset();
  return {};
}

Result<void> SevImporter::check_batch(const PrivateBatch& batch) const {
  constexpr auto kBad = ErrorClass::kMalformed;
  const std::size_t pages = batch.gfns.size();
  if (pages > limits::kBatchPagesMax || batch.ops.size() != pages) {
    return fail(kBad, "A SEV batch has {} pages (at most {}) and {} operations.", pages,
                limits::kBatchPagesMax, batch.ops.size());
  }
  if (batch.page_auth_bytes != kPacketHeaderBytes || batch.page_body_bytes != kPageBytes) {
    return fail(kBad, "A SEV batch has {}-byte headers and {}-byte bodies instead of {} and {}.",
                batch.page_auth_bytes, batch.page_body_bytes, kPacketHeaderBytes, kPageBytes);
  }
  if (batch.page_auth.size() != pages * kPacketHeaderBytes ||
      batch.body.size() != pages * kPageBytes) {
    return fail(kBad, "A SEV batch of {} pages has {} bytes of headers and {} bytes of bodies.",
                pages, batch.page_auth.size(), batch.body.size());
  }
  for (std::size_t i = 0; i < pages; ++i) {
    if (batch.ops[i] != PrivateOp::kImport) {
      return fail(kBad, "A SEV batch asks for operation {} on gfn {:#x}; SEV knows only import.",
                  static_cast<int>(batch.ops[i]), value(batch.gfns[i]));
    }
    if (host_address_(batch.gfns[i]) == nullptr) {
      return fail(kBad, "A SEV batch names gfn {:#x}, which is no RAM of the guest.",
                  value(batch.gfns[i]));
    }
  }
  return {};
}

Result<void> SevImporter::import_batch(const PrivateBatch& batch) {
  const std::lock_guard lock(mutex_);
  SEALIFT_CHECK(require(Phase::kReceiving, "import_batch"));
  SEALIFT_CHECK(check_batch(batch));
  SEALIFT_CHECK(binding_->accept(batch));
  for (std::size_t i = 0; i < batch.gfns.size(); ++i) {
    if (auto done = import_page(batch, i); !done) {
      phase_ = Phase::kFailed;  // the batch counts as arrived, and one of its pages has not
      return done;
    }
  }
  return {};
}

Result<void> SevImporter::import_page(const PrivateBatch& batch, std::size_t index) {
  KvmSevUpdateData update;
  update.hdr_uaddr = address_of(batch.page_auth.data() + index * kPacketHeaderBytes);
  update.hdr_len = kPacketHeaderBytes;
  update.guest_uaddr = address_of(host_address_(batch.gfns[index]));
  update.guest_len = kPageBytes;
  update.trans_uaddr = address_of(batch.body.data() + index * kPageBytes);
  update.trans_len = kPageBytes;
  const CommandResult outcome = issue(vm_, KvmCommand::kReceiveUpdateData, &update);
  if (outcome.ok()) return {};
  return check(outcome, sev::name_of(KvmCommand::kReceiveUpdateData),
               fmt::format(" of gfn {:#x}", value(batch.gfns[index])));
}

// The firmware keeps no record of single pages.
Result<void> SevImporter::converted(GfnRange, PageClass) { return {}; }

Result<void> SevImporter::end_epoch(std::uint32_t epoch, ByteView token) {
  const std::lock_guard lock(mutex_);
  SEALIFT_CHECK(require(Phase::kReceiving, "end_epoch"));
  if (!token.empty()) {
    return fail(ErrorClass::kMalformed, "Epoch {} ends with a token of {} bytes; SEV knows none.",
                epoch, token.size());
  }
  binding_->end_epoch(epoch);
  return {};
}

Result<void> SevImporter::load_state(std::vector<StateBlob> state) {
  const std::lock_guard lock(mutex_);
  SEALIFT_CHECK(require(Phase::kReceiving, "load_state"));
  if (config_.es) {
    auto loaded = load_es_state(vm_, config_.vcpus, state, *binding_);
    if (!loaded) phase_ = Phase::kFailed;
    return loaded;
  }
  if (state.empty()) return {};
  return fail(ErrorClass::kMalformed, "{} items of platform state came; a SEV guest has none.",
              state.size());
}

Result<void> SevImporter::seal(ByteView token) {
  const std::lock_guard lock(mutex_);
  SEALIFT_CHECK(require(Phase::kReceiving, "seal"));
  SEALIFT_CHECK(binding_->check_seal(token));
  binding_.reset();
  constexpr auto kCommand = KvmCommand::kReceiveFinish;
  const CommandResult outcome = issue(vm_, kCommand, nullptr);
  phase_ = outcome.ok() ? Phase::kSealed : Phase::kFailed;
  return check(outcome, sev::name_of(kCommand));
}

// RECEIVE_FINISH made the guest runnable; who may run it is the engine's decision, not the
// firmware's.
Result<void> SevImporter::commit() {
  const std::lock_guard lock(mutex_);
  return require(Phase::kSealed, "commit");
}

// No command leads from RECEIVE_UPDATE back: the owner destroys the VM, and KVM decommissions the
// guest.
Result<Bytes> SevImporter::abort() {
  const std::lock_guard lock(mutex_);
  phase_ = Phase::kAborted;
  keys_.reset();
  binding_.reset();
  return Bytes{};
}

}  // namespace sealift::sev
