#include "vmm_glue/model/sev/firmware.h"

#include <algorithm>
#include <utility>

#include "vmm_glue/model/sev/firmware_internal.h"

namespace sealift::sev {
namespace {

constexpr std::uint8_t in(PlatformState state) {
  return static_cast<std::uint8_t>(1u << static_cast<unsigned>(state));
}
constexpr std::uint8_t in(GuestState state) {
  return static_cast<std::uint8_t>(1u << static_cast<unsigned>(state));
}
constexpr std::uint8_t kEvery = 0xff;

bool is_set(std::uint8_t mask, unsigned state) { return (unsigned{mask} >> state & 1u) != 0; }

}  // namespace

// State tables of AMD sev-tool. Reserved offsets follow mailbox.h.
const Firmware::Command* Firmware::find_command(MailboxCommand id) {
  using enum MailboxCommand;
  using C = Command;
  using F = Firmware;
  using Handle = MailboxHandle;
  constexpr auto kStarted = in(PlatformState::kInit) | in(PlatformState::kWorking);
  constexpr auto kUp = static_cast<std::uint8_t>(kStarted);
  constexpr auto kDown = in(PlatformState::kUninit);
  constexpr auto kNotSent = static_cast<std::uint8_t>(kEvery & ~in(GuestState::kSent));
  constexpr auto kLaunch = in(GuestState::kLaunchUpdate);
  constexpr auto kSecret = in(GuestState::kLaunchSecret);
  constexpr auto kRunning = in(GuestState::kRunning);
  constexpr auto kSending = in(GuestState::kSendUpdate);
  constexpr auto kReceiving = in(GuestState::kReceiveUpdate);
  static const std::array kCommands = {
      C::platform<MailboxInit>(kInit, kDown, &F::init, {4}),
      C::platform<MailboxPlatformStatus>(kPlatformStatus, kEvery, &F::platform_status),
      C::platform<MailboxPdhCertExport>(kPdhCertExport, kUp, &F::pdh_cert_export, {12}),
      C::platform<MailboxStart>(kLaunchStart, kUp, &F::launch_start, {20}),
      C::platform<MailboxStart>(kReceiveStart, kUp, &F::receive_start, {20}),

      C::guest<Handle>(kDecommission, kEvery, &F::decommission),
      C::guest<MailboxActivate>(kActivate, kNotSent, &F::activate),
      C::guest<Handle>(kDeactivate, kEvery, &F::deactivate),
      C::guest<MailboxGuestStatus>(kGuestStatus, kEvery, &F::guest_status),

      C::guest<MailboxLaunchUpdate>(kLaunchUpdateData, kLaunch, &F::launch_update_data, {4})
          .with_asid(),
      C::guest<MailboxLaunchMeasure>(kLaunchMeasure, kLaunch, &F::launch_measure, {4}),
      C::guest<Handle>(kLaunchFinish, kSecret, &F::launch_finish),

      C::guest<MailboxSendStart>(kSendStart, kRunning, &F::send_start, {20, 36, 52})
          .forbidden_by(kPolicyNoSend),
      C::guest<MailboxUpdate>(kSendUpdateData, kSending, &F::send_update_data, {4, 20, 36})
          .with_asid(),
      C::guest<Handle>(kSendFinish, kSending, &F::send_finish),
      C::guest<Handle>(kSendCancel, kSending, &F::send_cancel),

      C::guest<MailboxUpdate>(kReceiveUpdateData, kReceiving, &F::receive_update_data, {4, 20, 36})
          .with_asid(),
      C::guest<Handle>(kReceiveFinish, kReceiving, &F::receive_finish).with_asid(),
  };
  const auto found = std::find_if(kCommands.begin(), kCommands.end(),
                                  [&](const Command& command) { return command.id == id; });
  return found == kCommands.end() ? nullptr : &*found;
}

Firmware::Firmware(const FirmwareConfig& config, RandomSource& random, MemoryController& memory)
    : config_(config),
      random_(random),
      memory_(memory),
      identity_(random, config.version, config.owner_key),
      scratch_(kPacketBytesMax) {}

const GuestContext* Firmware::find(std::uint32_t handle) const {
  const auto found = guests_.find(handle);
  return found == guests_.end() ? nullptr : &found->second;
}

Status Firmware::command(MailboxCommand id, MutableBytes buffer) {
  const Command* command = find_command(id);
  if (command == nullptr) return Status::kInvalidCommand;
  SEALIFT_ASSERT(buffer.size() == command->bytes);
  Call call{.buffer = buffer};
  if (const Status status = admit(*command, call); status != Status::kSuccess) return status;
  return (this->*command->run)(call);
}

// Steps 1 to 7 of the order of checks (firmware.h); the handler does the rest.
Status Firmware::admit(const Command& command, Call& call) {
  if (!is_set(command.platform_states, static_cast<unsigned>(state_))) {
    return Status::kInvalidPlatformState;
  }
  const auto word = [&](std::size_t at) {
    std::uint32_t out = 0;
    std::memcpy(&out, call.buffer.data() + at, sizeof(out));
    return out;
  };
  for (const std::uint8_t at : command.reserved) {
    if (at != 0 && word(at) != 0) return Status::kInvalidParam;
  }
  if (!command.has_guest) return Status::kSuccess;
  const auto found = guests_.find(word(0));
  if (found == guests_.end()) return Status::kInvalidGuest;
  call.guest = &found->second;
  const GuestContext& guest = *call.guest;
  if (!is_set(command.guest_states, static_cast<unsigned>(guest.state))) {
    return Status::kInvalidGuestState;
  }
  if ((guest.policy & command.forbidding_policy) != 0) return Status::kPolicyFailure;
  if (command.needs_asid && guest.asid == 0) return Status::kInactive;
  return Status::kSuccess;
}

Block Firmware::random_block() {
  Block out{};
  random_.fill(out);
  return out;
}

Status Firmware::init(Call& call) {
  constexpr std::uint32_t kFlagEs = 1;
  if ((call.get<MailboxInit>().flags & kFlagEs) != 0) return Status::kUnsupported;
  state_ = PlatformState::kInit;
  return Status::kSuccess;
}

Status Firmware::platform_status(Call& call) {
  auto out = call.get<MailboxPlatformStatus>();
  out.api_major = config_.version.api_major;
  out.api_minor = config_.version.api_minor;
  out.build = config_.version.build;
  out.state = static_cast<std::uint8_t>(state_);
  out.flags = 0;
  out.config = 0;
  out.guest_count = static_cast<std::uint32_t>(guests_.size());
  call.put(out);
  return Status::kSuccess;
}

Status Firmware::pdh_cert_export(Call& call) {
  auto request = call.get<MailboxPdhCertExport>();
  if (request.pdh_len < kCertificateBytes || request.chain_len < kChainBytes) {
    request.pdh_len = kCertificateBytes;
    request.chain_len = kChainBytes;
    call.put(request);
    return Status::kInvalidLength;
  }
  if (request.pdh_address == 0 || request.chain_address == 0) return Status::kInvalidAddress;
  const auto write = [](const SevCertificate& certificate, std::uint64_t address) {
    const CertificateBytes bytes = certificate.encode();
    std::copy(bytes.begin(), bytes.end(), kernel_memory(address, kCertificateBytes).begin());
  };
  write(identity_.pdh(), request.pdh_address);
  write(identity_.pek(), request.chain_address);
  write(identity_.oca(), request.chain_address + kCertificateBytes);
  write(identity_.cek(), request.chain_address + 2 * kCertificateBytes);
  request.pdh_len = kCertificateBytes;
  request.chain_len = kChainBytes;
  call.put(request);
  return Status::kSuccess;
}

Status Firmware::activate(Call& call) {
  const auto request = call.get<MailboxActivate>();
  if (request.asid == 0 || request.asid > config_.asids) return Status::kInvalidAsid;
  if (call.guest->asid != 0) return Status::kActive;
  for (const auto& [handle, guest] : guests_) {
    if (guest.asid == request.asid) return Status::kAsidOwned;
  }
  call.guest->asid = request.asid;
  memory_.load_key(request.asid, call.guest->memory);
  return Status::kSuccess;
}

Status Firmware::deactivate(Call& call) {
  if (call.guest->asid == 0) return Status::kInactive;
  memory_.drop_key(call.guest->asid);
  call.guest->asid = 0;
  return Status::kSuccess;
}

Status Firmware::decommission(Call& call) {
  if (call.guest->asid != 0) return Status::kActive;
  guests_.erase(call.guest->handle);
  if (guests_.empty()) state_ = PlatformState::kInit;
  return Status::kSuccess;
}

Status Firmware::guest_status(Call& call) {
  auto out = call.get<MailboxGuestStatus>();
  out.policy = call.guest->policy;
  out.asid = call.guest->asid;
  out.state = static_cast<std::uint8_t>(call.guest->state);
  call.put(out);
  return Status::kSuccess;
}

}  // namespace sealift::sev
