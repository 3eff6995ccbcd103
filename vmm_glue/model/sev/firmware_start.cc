// Sessions: who may receive a guest, and what a new guest has to satisfy.
#include <algorithm>
#include <utility>

#include "vmm_glue/model/sev/firmware.h"
#include "vmm_glue/model/sev/firmware_internal.h"
#include "vmm_glue/sev/amd_certificate.h"

namespace sealift::sev {
namespace {

constexpr std::uint32_t kChainPolicies = kPolicyDomain | kPolicySev;

std::optional<SevCertificate> certificate_at(std::uint64_t address, KeyUsage usage) {
  auto parsed = SevCertificate::parse(kernel_bytes(address, kCertificateBytes));
  if (!parsed || parsed->usage != usage) return std::nullopt;
  return *std::move(parsed);
}

// The chip knows its ARK by hash; the ARK signs the ASK, the ASK the CEK.
Status check_amd_chain(ByteView ask_ark, const SevCertificate& cek, const Digest& fused) {
  const ByteView ark_bytes = ask_ark.last(ask_ark.size() / 2);
  const auto ask = AmdCertificate::parse(ask_ark.first(ask_ark.size() / 2));
  const auto ark = AmdCertificate::parse(ark_bytes);
  Sha256 digest;
  digest.add(ark_bytes);
  if (!ask || !ark || digest.finish() != fused) return Status::kInvalidCertificate;
  return status_of(
      {check_signature(*ark, *ark), check_signature(*ask, *ark), check_signature(cek, *ask)});
}

// Form goes before signature.
Status worse_of(Status a, Status b) {
  if (a == Status::kInvalidCertificate || b == Status::kInvalidCertificate) {
    return Status::kInvalidCertificate;
  }
  return a != Status::kSuccess ? a : b;
}

}  // namespace

Status Firmware::fits_send_start(const GuestContext& guest) const {
  const bool rootless = (guest.policy & kPolicySev) != 0 && !config_.fused_ark_sha256;
  return rootless ? Status::kUnsupported : Status::kSuccess;
}

// A policy without DOMAIN and SEV puts no condition on the receiver: then its PDH's form is enough.
// DOMAIN wants the PDH to descend from our own owner's OCA, SEV from AMD's root.
Status Firmware::check_receiver(const MailboxSendStart& start, std::uint32_t policy,
                                Call& call) const {
  const auto pdh = certificate_at(start.pdh_address, KeyUsage::kPdh);
  if (!pdh) return Status::kInvalidCertificate;
  call.receiver = EcPublicKey::from_point(pdh->key);
  if (!call.receiver) return Status::kInvalidCertificate;
  if ((policy & kChainPolicies) == 0) return Status::kSuccess;

  const auto pek = certificate_at(start.plat_address, KeyUsage::kPek);
  if (!pek) return Status::kInvalidCertificate;
  Status status = status_of({check_signature(*pdh, *pek)});
  bool stranger = false;
  if ((policy & kPolicyDomain) != 0) {
    const auto oca = certificate_at(start.plat_address + kCertificateBytes, KeyUsage::kOca);
    if (!oca) return Status::kInvalidCertificate;
    stranger = oca->key != identity_.oca().key;
    status =
        worse_of(status, status_of({check_signature(*oca, *oca), check_signature(*pek, *oca)}));
  }
  if ((policy & kPolicySev) != 0) {
    const auto cek = certificate_at(start.plat_address + 2 * kCertificateBytes, KeyUsage::kCek);
    if (!cek) return Status::kInvalidCertificate;
    status = worse_of(status, status_of({check_signature(*pek, *cek)}));
    status = worse_of(status, check_amd_chain(kernel_bytes(start.amd_address, start.amd_len), *cek,
                                              *config_.fused_ark_sha256));
  }
  if (status != Status::kSuccess) return status;
  const auto api = std::min(std::pair(pek->api_major, pek->api_minor),
                            std::pair(pdh->api_major, pdh->api_minor));
  const bool too_old = api < std::pair(policy_api_major(policy), policy_api_minor(policy));
  return too_old || stranger ? Status::kPolicyFailure : Status::kSuccess;
}

Status Firmware::check_send_start(Call& call) const {
  auto start = call.get<MailboxSendStart>();
  const std::uint32_t policy = call.guest->policy;
  if (start.session_len != kSessionBytes) {
    start.session_len = kSessionBytes;
    return call.needs_length(start);
  }
  const bool wants_chain = (policy & kChainPolicies) != 0;
  const bool wants_amd = (policy & kPolicySev) != 0;
  const bool is_amd = start.amd_len == 2 * kAmdSmallBytes || start.amd_len == 2 * kAmdLargeBytes;
  if (start.pdh_len != kCertificateBytes || (wants_chain && start.plat_len != kChainBytes) ||
      (wants_amd && !is_amd)) {
    return Status::kInvalidLength;
  }
  const ByteView pdh = kernel_bytes(start.pdh_address, start.pdh_len);
  const ByteView session = kernel_bytes(start.session_address, kSessionBytes);
  const ByteView plat = kernel_bytes(start.plat_address, start.plat_len);
  const ByteView amd = kernel_bytes(start.amd_address, start.amd_len);
  Status status = check_buffers({pdh, session});
  if (wants_chain && status == Status::kSuccess) status = check_buffers({pdh, session, plat});
  if (wants_amd && status == Status::kSuccess) status = check_buffers({pdh, session, plat, amd});
  return status == Status::kSuccess ? check_receiver(start, policy, call) : status;
}

void Firmware::send_start(Call& call) {
  auto start = call.get<MailboxSendStart>();
  GuestContext& guest = guest_of(call);
  call.session = TransportKeys{.tek = random_block(), .tik = random_block()};
  const SessionSeed seed{.nonce = random_block(), .wrap_iv = random_block()};
  EcNumber secret = identity_.pdh_key().shared_secret(*call.receiver);
  write_kernel(make_session(secret, seed, *call.session, guest.policy), start.session_address);
  erase_secret(secret);
  guest.packets = std::make_unique<PacketCipher>(*call.session);
  start.policy = guest.policy;
  call.put(start);
  guest.state = GuestState::kSendUpdate;
}

// Opens the session of LAUNCH_START or RECEIVE_START with our PDH. No chain comes with the sender's
// PDH: its form is all that can be checked.
Status Firmware::open_session(const MailboxStart& start, Call& call) const {
  if (start.pdh_len != kCertificateBytes || start.session_len != kSessionBytes) {
    return Status::kInvalidLength;
  }
  const ByteView session = kernel_bytes(start.session_address, kSessionBytes);
  const Status status = check_buffers({kernel_bytes(start.pdh_address, start.pdh_len), session});
  if (status != Status::kSuccess) return status;
  const auto pdh = certificate_at(start.pdh_address, KeyUsage::kPdh);
  const auto sender = pdh ? EcPublicKey::from_point(pdh->key) : std::nullopt;
  if (!sender) return Status::kInvalidCertificate;
  EcNumber secret = identity_.pdh_key().shared_secret(*sender);
  call.session = unwrap_session(secret, session.first<kSessionBytes>(), start.policy);
  erase_secret(secret);
  return call.session ? Status::kSuccess : Status::kBadMeasurement;
}

// What any policy must satisfy on this platform, whoever brings it.
Status Firmware::check_new_policy(std::uint32_t policy) const {
  const FirmwareVersion own = config_.version;
  const auto needed = std::pair(policy_api_major(policy), policy_api_minor(policy));
  const bool too_old = std::pair(own.api_major, own.api_minor) < needed;
  return (policy & kPolicyReserved) != 0 || too_old ? Status::kPolicyFailure : Status::kSuccess;
}

Status Firmware::check_capacity() const {
  return guests_.size() >= config_.guests_max ? Status::kResourceLimit : Status::kSuccess;
}

GuestContext& Firmware::add_guest(const MailboxStart& start, GuestState state) {
  const GuestContext* other = find(start.handle);
  const std::uint32_t handle = next_handle_++;
  GuestContext& guest = guests_[handle];
  guest.handle = handle;
  guest.policy = start.policy;
  guest.state = state;
  guest.memory = other != nullptr
                     ? other->memory
                     : std::make_shared<const MemoryCipher>(random_, config_.encrypts_memory);
  state_ = PlatformState::kWorking;
  return guest;
}

Status Firmware::check_receive_start(Call& call) const {
  const auto start = call.get<MailboxStart>();
  Status status = open_session(start, call);
  if (status == Status::kSuccess) status = check_new_policy(start.policy);
  return status == Status::kSuccess ? check_capacity() : status;
}

void Firmware::receive_start(Call& call) {
  auto start = call.get<MailboxStart>();
  GuestContext& guest = add_guest(start, GuestState::kReceiveUpdate);
  guest.packets = std::make_unique<PacketCipher>(*call.session);
  start.handle = guest.handle;
  call.put(start);
}

}  // namespace sealift::sev
