#include <algorithm>
#include <utility>

#include "vmm_glue/host_copy.h"
#include "vmm_glue/model/sev/firmware.h"
#include "vmm_glue/model/sev/firmware_internal.h"

namespace sealift::sev {

// What any policy must satisfy on this platform, whoever brings it.
Status Firmware::check_new_guest_policy(std::uint32_t policy) const {
  const FirmwareVersion own = config_.version;
  const auto needed = std::pair(policy_api_major(policy), policy_api_minor(policy));
  const bool too_old = std::pair(own.api_major, own.api_minor) < needed;
  return (policy & kPolicyReserved) != 0 || too_old ? Status::kPolicyFailure : Status::kSuccess;
}

// A handle in the start command asks to share that guest's memory key.
Status Firmware::check_shared_key(std::uint32_t handle, std::uint32_t policy) const {
  if (handle == 0) return Status::kSuccess;
  const GuestContext* other = find(handle);
  if (other == nullptr) return Status::kInvalidGuest;
  const bool forbidden = ((policy | other->policy) & kPolicyNoKeySharing) != 0;
  return forbidden ? Status::kPolicyFailure : Status::kSuccess;
}

Status Firmware::open_session(const MailboxStart& start, TransportKeys& keys) const {
  if (start.pdh_len != kCertificateBytes || start.session_len != kSessionBytes) {
    return Status::kInvalidLength;
  }
  if (start.pdh_address == 0 || start.session_address == 0) return Status::kInvalidAddress;
  // No chain comes with the sender's PDH: its form is all that can be checked.
  const auto pdh = SevCertificate::parse(kernel_bytes(start.pdh_address, start.pdh_len));
  if (!pdh || pdh->usage != KeyUsage::kPdh) return Status::kInvalidCertificate;
  const auto sender = EcPublicKey::from_point(pdh->key);
  if (!sender) return Status::kInvalidCertificate;
  EcNumber secret = identity_.pdh_key().shared_secret(*sender);
  const ByteView session = kernel_bytes(start.session_address, kSessionBytes);
  const auto opened = unwrap_session(secret, session.first<kSessionBytes>(), start.policy);
  erase_secret(secret);
  if (!opened) return Status::kBadMeasurement;
  keys = *opened;
  return Status::kSuccess;
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

Status Firmware::launch_start(Call& call) {
  auto start = call.get<MailboxStart>();
  if ((start.policy & kPolicyEs) != 0) return Status::kUnsupported;
  Status status = check_shared_key(start.handle, start.policy);
  if (status != Status::kSuccess) return status;
  TransportKeys keys{.tek = {}, .tik = random_block()};
  if (start.pdh_address != 0) status = open_session(start, keys);
  if (status == Status::kSuccess) status = check_new_guest_policy(start.policy);
  if (status == Status::kSuccess && guests_.size() >= config_.guests_max) {
    status = Status::kResourceLimit;
  }
  if (status == Status::kSuccess) {
    GuestContext& guest = add_guest(start, GuestState::kLaunchUpdate);
    guest.launch = std::make_unique<LaunchContext>();
    guest.launch->tik = keys.tik;
    start.handle = guest.handle;
    call.put(start);
  }
  erase_secret(std::as_writable_bytes(std::span(&keys, 1)));
  return status;
}

// Encrypts in place; the digest is over the plain text of all calls, in their order.
Status Firmware::launch_update_data(Call& call) {
  const auto update = call.get<MailboxLaunchUpdate>();
  if (update.len == 0 || update.len % kPacketAlignment != 0) return Status::kInvalidLength;
  std::uint64_t spa = without_c_bit(update.address);
  std::byte* host = memory_.host(spa, update.len);
  if (spa % kPacketAlignment != 0 || host == nullptr) return Status::kInvalidAddress;
  const MemoryCipher& memory = *call.guest->memory;
  for (std::uint32_t left = update.len; left > 0;) {
    const auto piece = std::min<std::uint32_t>(left, kPacketBytesMax);
    const MutableBytes plain = std::span(scratch_).first(piece);
    // The host wrote this memory without the C-bit: the firmware reads it so, and writes it back
    // with the guest's key.
    copy_from_guest(host, plain);
    call.guest->launch->digest.add(plain);
    memory.store(spa, host, plain);
    spa += piece;
    host += piece;
    left -= piece;
  }
  return Status::kSuccess;
}

Status Firmware::launch_measure(Call& call) {
  auto request = call.get<MailboxLaunchMeasure>();
  if (request.len < kMeasurementBytes) {
    request.len = kMeasurementBytes;
    call.put(request);
    return Status::kInvalidLength;
  }
  if (request.address == 0) return Status::kInvalidAddress;
  LaunchContext& launch = *call.guest->launch;
  const Block nonce = random_block();
  const Digest measure = sev::launch_measure(launch.tik, config_.version, call.guest->policy,
                                             launch.digest.finish(), nonce);
  const MutableBytes out = kernel_memory(request.address, kMeasurementBytes);
  std::copy(measure.begin(), measure.end(), out.begin());
  std::copy(nonce.begin(), nonce.end(), out.begin() + sizeof(measure));
  request.len = kMeasurementBytes;
  call.put(request);
  call.guest->state = GuestState::kLaunchSecret;
  return Status::kSuccess;
}

Status Firmware::launch_finish(Call& call) {
  call.guest->erase_channel();
  call.guest->state = GuestState::kRunning;
  return Status::kSuccess;
}

}  // namespace sealift::sev
