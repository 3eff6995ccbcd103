#include "vmm_glue/sev/exporter.h"

#include <fmt/format.h>

#include <utility>

#include "engine/assert.h"
#include "engine/limits.h"
#include "vmm_glue/sev/es_state.h"
#include "vmm_glue/sev/setup.h"
#include "vmm_glue/sev/verdict.h"

namespace sealift::sev {
namespace {

template <class Container>
std::uint64_t address_of(Container& bytes) {
  return reinterpret_cast<std::uint64_t>(bytes.data());
}

std::uint32_t size_of(ByteView bytes) { return static_cast<std::uint32_t>(bytes.size()); }

// KVM's SEND_START with session_len 0 only asks for the length: the firmware answers INVALID_LENGTH
// and KVM writes the length back (Linux 6.1 sev.c, __sev_send_start_query_session_length).
Result<void> query_session_length(const SevVm& vm) {
  KvmSevSendStart query;
  constexpr auto kCommand = KvmCommand::kSendStart;
  const CommandResult outcome = issue(vm, kCommand, &query);
  if (!outcome.answers_length_query()) {
    SEALIFT_CHECK(check(outcome, name_of(kCommand), " (length query)"));
    return fail(ErrorClass::kLocalFault, "{} accepted a length query as if it were a command.",
                name_of(kCommand));
  }
  if (query.session_len != kSessionBytes) {
    return fail(ErrorClass::kLocalFault, "{} asks for {} bytes of session data instead of {}.",
                name_of(kCommand), query.session_len, kSessionBytes);
  }
  return {};
}

// Makes room for one page more and gives its header and body.
std::pair<MutableBytes, MutableBytes> append_page(PrivateBatch& batch, Gfn gfn) {
  batch.gfns.push_back(gfn);
  batch.ops.push_back(PrivateOp::kImport);
  batch.page_auth.resize(batch.page_auth.size() + kPacketHeaderBytes);
  batch.body.resize(batch.body.size() + kPageBytes);
  return {MutableBytes(batch.page_auth).last(kPacketHeaderBytes),
          MutableBytes(batch.body).last(kPageBytes)};
}

}  // namespace

Result<void> require_es_support(const SevVm& vm, const SevConfig& config) {
  if (!config.es) return {};
  SEALIFT_TRY(const bool moves, kernel_moves_vmsa(vm));
  if (moves) return {};
  return fail(ErrorClass::kRefused,
              "This is a SEV-ES guest, and this kernel cannot move its registers: KVM of today "
              "answers EINVAL to SEND_UPDATE_VMSA.");
}

Result<void> check_guest_policy(const SevConfig& config, std::uint32_t policy) {
  if (config.policy && *config.policy != policy) {
    return fail(ErrorClass::kPolicy, "The guest's SEV policy is {:#010x}, expected was {:#010x}.",
                policy, *config.policy);
  }
  if (((policy & kPolicyEs) != 0) != config.es) {
    return fail(ErrorClass::kRefused,
                "The guest's SEV policy {:#010x} says SEV-ES {}, this side was set up for {}.",
                policy, config.es ? "no" : "yes", config.es ? "SEV-ES" : "SEV");
  }
  return {};
}

Result<PlatformCertificates> export_certificates(const SevVm& vm) {
  PlatformCertificates out{.pdh = Bytes(kCertificateBytes), .chain = Bytes(kChainBytes)};
  SevPdhCertExport request;
  request.pdh_cert_address = address_of(out.pdh);
  request.pdh_cert_len = size_of(out.pdh);
  request.cert_chain_address = address_of(out.chain);
  request.cert_chain_len = size_of(out.chain);
  constexpr auto kCommand = SevDeviceCommand::kPdhCertExport;
  SEALIFT_CHECK(check(issue(vm, kCommand, &request), name_of(kCommand)));
  if (request.pdh_cert_len != kCertificateBytes || request.cert_chain_len != kChainBytes) {
    return fail(ErrorClass::kLocalFault, "{} gave {} and {} bytes instead of {} and {}.",
                name_of(kCommand), request.pdh_cert_len, request.cert_chain_len, kCertificateBytes,
                kChainBytes);
  }
  return out;
}

SevExporter::SevExporter(const SevVm& vm, HostAddress host_address, SevConfig config)
    : vm_(vm), host_address_(std::move(host_address)), config_(std::move(config)) {
  SEALIFT_ASSERT(host_address_ != nullptr);
  SEALIFT_ASSERT(config_.vcpus <= limits::kVcpusMax);
}

PrivateTraits SevExporter::traits() const {
  return {.platform = config_.es ? Platform::kSevEs : Platform::kSev,
          .batch_pages_max = limits::kBatchPagesMax,
          .streams_max = 1,
          .prepare_window_pages = config_.coherent_caches ? 0 : kFlushWindowPages,
          .live_export = true};
}

Result<PlatformFindings> SevExporter::judge(ByteView card) {
  if (!config_.describe_host) {
    return fail(ErrorClass::kRefused, "This host has no card to compare the destination's with.");
  }
  SEALIFT_TRY(const HostCard destination, decode_host_card(card));
  SEALIFT_TRY(const HostCard own, config_.describe_host());
  SEALIFT_TRY(const KvmSevGuestStatus guest, guest_status(vm_));
  return sev::judge(own,
                    {.policy = guest.policy,
                     .memory_bytes = config_.memory_bytes,
                     .vcpus = config_.vcpus,
                     .es = config_.es},
                    destination);
}

Result<Bytes> SevExporter::begin(ByteView identity) {
  const std::lock_guard lock(mutex_);
  if (phase_ != Phase::kIdle) {
    return fail(ErrorClass::kLocalFault,
                "A SEV export was begun while the last one is not known to be cancelled.");
  }
  SEALIFT_TRY(const IdentityBlob peer, decode_identity(identity));
  SEALIFT_CHECK(check_pdh(peer.pdh));
  SEALIFT_CHECK(require_es_support(vm_, config_));
  SystemRandom random;
  const BindingKeyPair keys(random);
  SEALIFT_TRY(const BindingSecret secret, keys.agree(peer.key));
  SEALIFT_CHECK(query_session_length(vm_));
  SEALIFT_TRY(StartBlob start, send_start(peer));
  SEALIFT_CHECK(check_guest_policy(config_, start.policy));
  start.key = keys.public_key();
  random.fill(start.nonce);
  Bytes out = encode(start);
  binding_.emplace(secret, BindingTerms{.source_key = start.key,
                                        .destination_key = peer.key,
                                        .nonce = start.nonce,
                                        .identity_hash = sha256_of(identity),
                                        .start_hash = sha256_of(out)});
  settled_.clear();
  prepared_ = false;
  paused_ = false;
  phase_ = Phase::kSending;
  return out;
}

// Leaves the phase in doubt: what begin() does next may fail too.
Result<StartBlob> SevExporter::send_start(const IdentityBlob& identity) {
  // Our PDH is read before it is used: a PDH that changes in between fails at the destination by
  // its wrap MAC, which is what should happen.
  SEALIFT_TRY(PlatformCertificates own, export_certificates(vm_));
  StartBlob out;
  out.pdh = std::move(own.pdh);
  out.session.resize(kSessionBytes);
  // KVM copies all three blobs in before it asks whether the policy needs them, and refuses an
  // empty one with EINVAL (Linux 6.1 sev.c, sev_send_start), so that "none" has to be one zero
  // byte.
  const Bytes none(1);
  const Bytes& amd = !identity.amd_certs.empty()  ? identity.amd_certs
                     : !config_.amd_certs.empty() ? config_.amd_certs
                                                  : none;
  KvmSevSendStart start;
  start.pdh_cert_uaddr = address_of(identity.pdh);
  start.pdh_cert_len = size_of(identity.pdh);
  start.plat_certs_uaddr = address_of(identity.chain);
  start.plat_certs_len = size_of(identity.chain);
  start.amd_certs_uaddr = address_of(amd);
  start.amd_certs_len = size_of(amd);
  start.session_uaddr = address_of(out.session);
  start.session_len = size_of(out.session);
  phase_ = Phase::kInDoubt;
  SEALIFT_CHECK(check(issue(vm_, KvmCommand::kSendStart, &start), name_of(KvmCommand::kSendStart)));
  out.policy = start.policy;
  return out;
}

void SevExporter::use_streams(std::uint32_t streams) { SEALIFT_ASSERT(streams == 1); }

Result<void> SevExporter::prepare(std::uint32_t, std::span<const Gfn>) {
  const std::lock_guard lock(mutex_);
  prepared_ = true;
  window_flushed_ = false;
  return {};
}

Result<void> SevExporter::require_sending(const char* call) const {
  if (cancelling_) return fail(ErrorClass::kCancelled, "The SEV export was cancelled.");
  if (phase_ == Phase::kSending) return {};
  return fail(ErrorClass::kLocalFault, "SEV {} came while no export is under way.", call);
}

Result<ExportResult> SevExporter::export_batch(std::uint8_t stream, std::uint32_t epoch,
                                               std::span<const Gfn> gfns) {
  SEALIFT_ASSERT(gfns.size() <= limits::kBatchPagesMax);
  const std::lock_guard lock(mutex_);
  ExportResult out;
  PrivateBatch& batch = out.batch;
  batch.epoch = epoch;
  batch.stream = stream;
  batch.page_auth_bytes = kPacketHeaderBytes;
  batch.page_body_bytes = kPageBytes;
  batch.page_auth.reserve(gfns.size() * kPacketHeaderBytes);
  batch.body.reserve(gfns.size() * kPageBytes);
  for (const Gfn gfn : gfns) {
    SEALIFT_CHECK(require_sending("export_batch"));
    std::byte* host = host_address_(gfn);
    if (host == nullptr) {
      return fail(ErrorClass::kLocalFault, "Guest page {:#x} has no host address.", value(gfn));
    }
    SEALIFT_TRY(const bool skip, holds_nothing(gfn, host));
    out.outcomes.push_back(skip ? ExportOutcome::kSkipped : ExportOutcome::kExported);
    if (skip) continue;
    SEALIFT_CHECK(export_page(gfn, host, batch));
    ++out.firmware_commands;
  }
  if (!batch.gfns.empty()) binding_->sign(batch);
  return out;
}

// populated.h has the rule and its proof.
Result<bool> SevExporter::holds_nothing(Gfn gfn, const std::byte* host) {
  if (settled_.contains(gfn) || !never_written(host)) return false;
  if (config_.coherent_caches) return true;
  if (!prepared_) return false;
  if (!window_flushed_) {
    SEALIFT_CHECK(flush_all_caches(vm_));
    window_flushed_ = true;
  }
  flush_host_view(host);
  return never_written(host);
}

// KVM moves at most one 4 KiB page with a command (Linux 6.1 sev.c, sev_send_update_data). The
// lengths are ours: the one a query would give for the body does not follow from the guest's page.
Result<void> SevExporter::export_page(Gfn gfn, std::byte* host, PrivateBatch& batch) {
  settled_.add({gfn, 1});
  const auto [auth, body] = append_page(batch, gfn);
  KvmSevUpdateData update;
  update.hdr_uaddr = address_of(auth);
  update.hdr_len = size_of(auth);
  update.guest_uaddr = reinterpret_cast<std::uint64_t>(host);
  update.guest_len = kPageBytes;
  update.trans_uaddr = address_of(body);
  update.trans_len = size_of(body);
  const CommandResult outcome = issue(vm_, KvmCommand::kSendUpdateData, &update);
  if (outcome.ok()) return {};
  return check(outcome, name_of(KvmCommand::kSendUpdateData),
               fmt::format(" of gfn {:#x}", value(gfn)));
}

// The firmware keeps no record of single pages: a page that turned shared needs no word to it.
ConvertVerdict SevExporter::may_convert(GfnRange range, PageClass) {
  settled_.add(range);
  return ConvertVerdict::kNow;
}

Result<std::optional<PrivateBatch>> SevExporter::next_extra(std::uint32_t) {
  return std::optional<PrivateBatch>();
}

Result<void> SevExporter::fault_back(Gfn gfn) {
  return fail(ErrorClass::kLocalFault,
              "SEV export never takes a page away, yet gfn {:#x} is asked for.", value(gfn));
}

Result<Bytes> SevExporter::end_epoch(std::uint32_t epoch) {
  const std::lock_guard lock(mutex_);
  SEALIFT_CHECK(require_sending("end_epoch"));
  binding_->end_epoch(epoch);
  return Bytes{};
}

Result<void> SevExporter::guest_paused() {
  const std::lock_guard lock(mutex_);
  SEALIFT_CHECK(require_sending("guest_paused"));
  paused_ = true;
  return {};
}

// vCPU registers of a plain SEV guest are not encrypted: they travel with the VMM's own state.
Result<std::vector<StateBlob>> SevExporter::save_state() {
  if (!config_.es) return std::vector<StateBlob>();
  const std::lock_guard lock(mutex_);
  SEALIFT_CHECK(require_sending("save_state"));
  if (!paused_) {
    return fail(ErrorClass::kLocalFault, "SEV-ES state was asked for while the guest runs.");
  }
  return save_es_state(vm_, config_.vcpus, *binding_);
}

Result<Bytes> SevExporter::seal() {
  const std::lock_guard lock(mutex_);
  SEALIFT_CHECK(require_sending("seal"));
  const Digest tag = binding_->seal_tag();
  binding_.reset();
  phase_ = Phase::kSealed;
  return Bytes(tag.begin(), tag.end());
}

Result<void> SevExporter::release() {
  const std::lock_guard lock(mutex_);
  if (phase_ == Phase::kReleased) return {};
  if (phase_ == Phase::kReleasing) {  // SEND_FINISH was tried before: did it happen?
    SEALIFT_TRY(const KvmSevGuestStatus status, guest_status(vm_));
    if (static_cast<GuestState>(status.state) == GuestState::kSent) {
      phase_ = Phase::kReleased;
      return {};
    }
  } else if (phase_ != Phase::kSealed) {
    return fail(ErrorClass::kLocalFault, "SEV release came while no export was sealed.");
  }
  phase_ = Phase::kReleasing;
  SEALIFT_CHECK(
      check(issue(vm_, KvmCommand::kSendFinish, nullptr), name_of(KvmCommand::kSendFinish)));
  phase_ = Phase::kReleased;
  return {};
}

Result<void> SevExporter::cancel(std::optional<ByteView>) {
  cancelling_ = true;
  const std::lock_guard lock(mutex_);
  cancelling_ = false;
  binding_.reset();
  if (phase_ == Phase::kIdle) return {};
  if (phase_ == Phase::kInDoubt) {
    SEALIFT_TRY(const KvmSevGuestStatus status, guest_status(vm_));
    if (static_cast<GuestState>(status.state) == GuestState::kRunning) {
      phase_ = Phase::kIdle;
      return {};
    }
  }
  if (phase_ == Phase::kReleasing || phase_ == Phase::kReleased) {
    return fail(ErrorClass::kLocalFault,
                "The SEV guest was released to the destination and must not run here again.");
  }
  phase_ = Phase::kInDoubt;
  SEALIFT_CHECK(
      check(issue(vm_, KvmCommand::kSendCancel, nullptr), name_of(KvmCommand::kSendCancel)));
  phase_ = Phase::kIdle;
  return {};
}

}  // namespace sealift::sev
