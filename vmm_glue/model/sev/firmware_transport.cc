#include <algorithm>
#include <optional>
#include <utility>

#include "vmm_glue/model/sev/firmware.h"
#include "vmm_glue/model/sev/firmware_internal.h"

namespace sealift::sev {
namespace {

constexpr std::uint32_t kChainPolicies = kPolicyDomain | kPolicySev;

Status status_of(SignatureVerdict verdict) {
  switch (verdict) {
    case SignatureVerdict::kGood:
      return Status::kSuccess;
    case SignatureVerdict::kBadForm:
      return Status::kInvalidCertificate;
    case SignatureVerdict::kBadSignature:
      return Status::kBadSignature;
  }
  return Status::kInvalidCertificate;
}

bool fits_a_packet(std::uint32_t bytes) {
  return bytes != 0 && bytes % kPacketAlignment == 0 && bytes <= kPacketBytesMax;
}

}  // namespace

// A policy without DOMAIN and SEV puts no condition on the receiver: then its PDH's form is enough.
// DOMAIN wants the receiver's PDH to descend from our own owner's OCA. Whether real firmware
// compares the OCA's bytes or its key is unknown; the model compares the key.
Status Firmware::check_receiver(const MailboxSendStart& start, std::uint32_t policy,
                                std::optional<EcPublicKey>& receiver) const {
  const auto pdh = SevCertificate::parse(kernel_bytes(start.pdh_address, start.pdh_len));
  if (!pdh || pdh->usage != KeyUsage::kPdh) return Status::kInvalidCertificate;
  receiver = EcPublicKey::from_point(pdh->key);
  if (!receiver) return Status::kInvalidCertificate;
  if ((policy & kChainPolicies) == 0) return Status::kSuccess;
  if ((policy & kPolicySev) != 0) return Status::kUnsupported;  // no RSA chain yet

  const ByteView chain = kernel_bytes(start.plat_address, kChainBytes);
  const auto pek = SevCertificate::parse(chain.first(kCertificateBytes));
  const auto oca = SevCertificate::parse(chain.subspan(kCertificateBytes, kCertificateBytes));
  if (!pek || !oca) return Status::kInvalidCertificate;
  for (const SignatureVerdict verdict :
       {check_signature(*oca, *oca), check_signature(*pek, *oca), check_signature(*pdh, *pek)}) {
    if (const Status status = status_of(verdict); status != Status::kSuccess) return status;
  }
  const auto api = std::min(std::pair(pek->api_major, pek->api_minor),
                            std::pair(pdh->api_major, pdh->api_minor));
  const bool too_old = api < std::pair(policy_api_major(policy), policy_api_minor(policy));
  const bool stranger = oca->key != identity_.oca().key;
  return too_old || stranger ? Status::kPolicyFailure : Status::kSuccess;
}

Status Firmware::send_start(Call& call) {
  auto start = call.get<MailboxSendStart>();
  GuestContext& guest = *call.guest;
  if (start.session_len != kSessionBytes) {
    start.session_len = kSessionBytes;
    call.put(start);
    return Status::kInvalidLength;
  }
  const bool wants_chain = (guest.policy & kChainPolicies) != 0;
  if (start.pdh_len != kCertificateBytes || (wants_chain && start.plat_len != kChainBytes)) {
    return Status::kInvalidLength;
  }
  if (start.pdh_address == 0 || start.session_address == 0 ||
      (wants_chain && start.plat_address == 0)) {
    return Status::kInvalidAddress;
  }
  std::optional<EcPublicKey> receiver;
  const Status status = check_receiver(start, guest.policy, receiver);
  if (status != Status::kSuccess) return status;

  TransportKeys keys{.tek = random_block(), .tik = random_block()};
  const SessionSeed seed{.nonce = random_block(), .wrap_iv = random_block()};
  EcNumber secret = identity_.pdh_key().shared_secret(*receiver);
  const SessionBytes session = make_session(secret, seed, keys, guest.policy);
  guest.packets = std::make_unique<PacketCipher>(keys);
  erase_secret(secret);
  erase_secret(std::as_writable_bytes(std::span(&keys, 1)));
  std::copy(session.begin(), session.end(),
            kernel_memory(start.session_address, kSessionBytes).begin());
  start.policy = guest.policy;
  call.put(start);
  guest.state = GuestState::kSendUpdate;
  return Status::kSuccess;
}

Status Firmware::send_update_data(Call& call) {
  auto update = call.get<MailboxUpdate>();
  if (update.hdr_len < kPacketHeaderBytes) {
    update.hdr_len = kPacketHeaderBytes;
    call.put(update);
    return Status::kInvalidLength;
  }
  if (!fits_a_packet(update.guest_len) || update.trans_len < update.guest_len) {
    return Status::kInvalidLength;
  }
  const std::uint64_t spa = without_c_bit(update.guest_address);
  const std::byte* host = memory_.host(spa, update.guest_len);
  if (spa % kPacketAlignment != 0 || host == nullptr || update.hdr_address == 0 ||
      update.trans_address == 0) {
    return Status::kInvalidAddress;
  }
  GuestContext& guest = *call.guest;
  const MutableBytes plain = std::span(scratch_).first(update.guest_len);
  const MutableBytes out = kernel_memory(update.trans_address, update.guest_len);
  guest.memory->load(spa, host, plain);
  PacketHeader header;
  header.iv = random_block();
  guest.packets->crypt(header.iv, plain, out);
  header.mac = guest.packets->mac(PacketContext::kData, header.flags, header.iv, out);
  write_packet_header(
      header, kernel_memory(update.hdr_address, kPacketHeaderBytes).first<kPacketHeaderBytes>());
  update.hdr_len = kPacketHeaderBytes;
  update.trans_len = update.guest_len;
  call.put(update);
  return Status::kSuccess;
}

Status Firmware::send_finish(Call& call) {
  call.guest->erase_channel();
  call.guest->state = GuestState::kSent;
  return Status::kSuccess;
}

Status Firmware::send_cancel(Call& call) {
  call.guest->erase_channel();
  call.guest->state = GuestState::kRunning;
  return Status::kSuccess;
}

Status Firmware::receive_start(Call& call) {
  auto start = call.get<MailboxStart>();
  if ((start.policy & kPolicyEs) != 0) return Status::kUnsupported;
  TransportKeys keys;
  Status status = open_session(start, keys);
  if (status == Status::kSuccess) status = check_new_guest_policy(start.policy);
  if (status == Status::kSuccess) status = check_shared_key(start.handle, start.policy);
  if (status == Status::kSuccess && guests_.size() >= config_.guests_max) {
    status = Status::kResourceLimit;
  }
  if (status == Status::kSuccess) {
    GuestContext& guest = add_guest(start, GuestState::kReceiveUpdate);
    guest.packets = std::make_unique<PacketCipher>(keys);
    start.handle = guest.handle;
    call.put(start);
  }
  erase_secret(std::as_writable_bytes(std::span(&keys, 1)));
  return status;
}

Status Firmware::receive_update_data(Call& call) {
  const auto update = call.get<MailboxUpdate>();
  if (update.hdr_len != kPacketHeaderBytes || update.trans_len != update.guest_len ||
      !fits_a_packet(update.guest_len)) {
    return Status::kInvalidLength;
  }
  const std::uint64_t spa = without_c_bit(update.guest_address);
  std::byte* host = memory_.host(spa, update.guest_len);
  if (spa % kPacketAlignment != 0 || host == nullptr || update.hdr_address == 0 ||
      update.trans_address == 0) {
    return Status::kInvalidAddress;
  }
  GuestContext& guest = *call.guest;
  const ByteView data = kernel_bytes(update.trans_address, update.trans_len);
  const PacketHeader header = parse_packet_header(
      kernel_bytes(update.hdr_address, kPacketHeaderBytes).first<kPacketHeaderBytes>());
  if (!guest.packets->authentic(PacketContext::kData, header, data)) {
    return Status::kBadMeasurement;
  }
  if (header.flags != 0) return Status::kUnsupported;  // compression
  const MutableBytes plain = std::span(scratch_).first(update.guest_len);
  guest.packets->crypt(header.iv, data, plain);
  guest.memory->store(spa, host, plain);
  return Status::kSuccess;
}

Status Firmware::receive_finish(Call& call) {
  call.guest->erase_channel();
  call.guest->state = GuestState::kRunning;
  return Status::kSuccess;
}

}  // namespace sealift::sev
