// A guest's launch: memory encrypted in place, measured, given a secret; and its attestation.
#include <algorithm>

#include "vmm_glue/host_copy.h"
#include "vmm_glue/model/sev/firmware.h"
#include "vmm_glue/model/sev/firmware_internal.h"
#include "vmm_glue/sev/attestation_report.h"

namespace sealift::sev {

Status Firmware::check_launch_start(Call& call) const {
  const auto start = call.get<MailboxStart>();
  Status status = Status::kSuccess;
  if (start.pdh_address != 0) status = open_session(start, call);
  if (status == Status::kSuccess) status = check_new_policy(start.policy);
  return status == Status::kSuccess ? check_capacity() : status;
}

void Firmware::launch_start(Call& call) {
  auto start = call.get<MailboxStart>();
  GuestContext& guest = add_guest(start, GuestState::kLaunchUpdate);
  guest.launch = std::make_unique<LaunchContext>();
  guest.launch->tik = call.session ? call.session->tik : random_block();
  if (call.session) guest.launch->secrets = std::make_unique<PacketCipher>(*call.session);
  start.handle = guest.handle;
  call.put(start);
}

Status Firmware::check_launch_update(Call& call) const {
  const auto update = call.get<MailboxLaunchUpdate>();
  const bool bad_vmsa = call.is_vmsa() && update.len != kVmsaBytes;
  if (update.len == 0 || update.len % kBlockBytes != 0 || bad_vmsa) return Status::kInvalidLength;
  return check_guest_memory(update.address, update.len, call);
}

// Encrypts in place; the digest is over the plain text of all calls, in their order.
void Firmware::launch_update(Call& call) {
  const auto update = call.get<MailboxLaunchUpdate>();
  GuestContext& guest = guest_of(call);
  const auto piece_max = static_cast<std::uint32_t>(scratch_.size());
  for (std::uint32_t done = 0; done < update.len;) {
    const auto piece = std::min(update.len - done, piece_max);
    const MutableBytes plain = std::span(scratch_).first(piece);
    // The host wrote this memory without the C-bit: the firmware reads it so, and writes it back
    // with the guest's key.
    copy_from_guest(call.memory + done, plain);
    guest.launch->digest.add(plain);
    guest.memory->store(call.spa + done, call.memory + done, plain);
    done += piece;
  }
}

Status Firmware::check_launch_measure(Call& call) const {
  auto request = call.get<MailboxLaunchMeasure>();
  if (request.len < kMeasurementBytes) {
    request.len = kMeasurementBytes;
    return call.needs_length(request);
  }
  return check_buffers({kernel_bytes(request.address, kMeasurementBytes)});
}

void Firmware::launch_measure(Call& call) {
  auto request = call.get<MailboxLaunchMeasure>();
  GuestContext& guest = guest_of(call);
  LaunchContext& launch = *guest.launch;
  const Block nonce = random_block();
  guest.launch_digest = launch.digest.finish();
  launch.measure =
      sev::launch_measure(launch.tik, config_.version, guest.policy, *guest.launch_digest, nonce);
  write_kernel(launch.measure, request.address);
  write_kernel(nonce, request.address + launch.measure.size());
  request.len = kMeasurementBytes;
  call.put(request);
  guest.state = GuestState::kLaunchSecret;
}

Status Firmware::fits_launch_secret(const GuestContext& guest) const {
  return guest.launch->secrets == nullptr ? Status::kInvalidGuestState : Status::kSuccess;
}

Status Firmware::check_launch_secret(Call& call) const {
  constexpr FirmwareVersion kFirst{.api_major = 0, .api_minor = 17, .build = 0};
  const auto& own = config_.version;
  const bool binds = own.api_major > kFirst.api_major || own.api_minor >= kFirst.api_minor;
  const LaunchContext& launch = *call.guest->launch;
  return check_packet(call, *launch.secrets, PacketContext::kSecret,
                      binds ? ByteView(launch.measure) : ByteView());
}

Status Firmware::fits_attestation(const GuestContext& guest) const {
  return guest.launch_digest ? Status::kSuccess : Status::kUnsupported;
}

Status Firmware::check_attestation(Call& call) const {
  auto request = call.get<MailboxAttestation>();
  if (request.len < kAttestationBytes) {
    request.len = kAttestationBytes;
    return call.needs_length(request);
  }
  return check_buffers({kernel_bytes(request.address, kAttestationBytes)});
}

void Firmware::attestation(Call& call) {
  auto request = call.get<MailboxAttestation>();
  AttestationReport report{.launch_digest = *call.guest->launch_digest,
                           .policy = call.guest->policy};
  std::memcpy(report.nonce.data(), request.mnonce, report.nonce.size());
  write_kernel(sign_attestation(report, identity_.pek_key()), request.address);
  request.len = kAttestationBytes;
  call.put(request);
}

}  // namespace sealift::sev
