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
constexpr std::uint8_t kUp = in(PlatformState::kInit) | in(PlatformState::kWorking);
constexpr std::uint8_t kAny = kUp | in(PlatformState::kUninit);
constexpr std::uint8_t kEvery = 0xff;

bool is_set(std::uint8_t mask, unsigned state) { return (mask >> state & 1u) != 0; }

}  // namespace

// State tables of AMD sev-tool. Reserved offsets follow mailbox.h.
const Firmware::Command* Firmware::find_command(MailboxCommand id) {
  using enum MailboxCommand;
  using F = Firmware;
  constexpr auto kHandle = Command::Guest::kByHandle;
  constexpr auto kNone = Command::Guest::kNone;
  constexpr auto kWorking = in(PlatformState::kWorking);
  constexpr auto kSendUpdateState = in(GuestState::kSendUpdate);
  constexpr auto kReceiveUpdateState = in(GuestState::kReceiveUpdate);
  constexpr auto kLaunch = in(GuestState::kLaunchUpdate);
  constexpr auto kSecret = in(GuestState::kLaunchSecret);
  constexpr auto kActivatable = static_cast<std::uint8_t>(kEvery & ~in(GuestState::kSent));
  constexpr std::uint32_t kNoSend = kPolicyNoSend;
  static const std::array kCommands = std::to_array<Command>({
      {kInit, sizeof(MailboxInit), in(PlatformState::kUninit), kNone, 0, 0, false, &F::init, {4}},
      {kPlatformStatus,
       sizeof(MailboxPlatformStatus),
       kAny,
       kNone,
       0,
       0,
       false,
       &F::platform_status,
       {}},
      {kPdhCertExport,
       sizeof(MailboxPdhCertExport),
       kUp,
       kNone,
       0,
       0,
       false,
       &F::pdh_cert_export,
       {12}},
      {kDecommission,
       sizeof(MailboxHandle),
       kWorking,
       kHandle,
       kEvery,
       0,
       false,
       &F::decommission,
       {}},
      {kActivate,
       sizeof(MailboxActivate),
       kWorking,
       kHandle,
       kActivatable,
       0,
       false,
       &F::activate,
       {}},
      {kDeactivate, sizeof(MailboxHandle), kWorking, kHandle, kEvery, 0, false, &F::deactivate, {}},
      {kGuestStatus,
       sizeof(MailboxGuestStatus),
       kWorking,
       kHandle,
       kEvery,
       0,
       false,
       &F::guest_status,
       {}},
      {kLaunchStart, sizeof(MailboxStart), kUp, kNone, 0, 0, false, &F::launch_start, {20}},
      {kLaunchUpdateData,
       sizeof(MailboxLaunchUpdate),
       kWorking,
       kHandle,
       kLaunch,
       0,
       true,
       &F::launch_update_data,
       {4}},
      {kLaunchMeasure,
       sizeof(MailboxLaunchMeasure),
       kWorking,
       kHandle,
       kLaunch,
       0,
       false,
       &F::launch_measure,
       {4}},
      {kLaunchFinish,
       sizeof(MailboxHandle),
       kWorking,
       kHandle,
       kSecret,
       0,
       false,
       &F::launch_finish,
       {}},
      {kSendStart,
       sizeof(MailboxSendStart),
       kWorking,
       kHandle,
       in(GuestState::kRunning),
       kNoSend,
       false,
       &F::send_start,
       {20, 36, 52}},
      {kSendUpdateData,
       sizeof(MailboxUpdate),
       kWorking,
       kHandle,
       kSendUpdateState,
       0,
       true,
       &F::send_update_data,
       {4, 20, 36}},
      {kSendFinish,
       sizeof(MailboxHandle),
       kWorking,
       kHandle,
       kSendUpdateState,
       0,
       false,
       &F::send_finish,
       {}},
      {kSendCancel,
       sizeof(MailboxHandle),
       kWorking,
       kHandle,
       kSendUpdateState,
       0,
       false,
       &F::send_cancel,
       {}},
      {kReceiveStart, sizeof(MailboxStart), kUp, kNone, 0, 0, false, &F::receive_start, {20}},
      {kReceiveUpdateData,
       sizeof(MailboxUpdate),
       kWorking,
       kHandle,
       kReceiveUpdateState,
       0,
       true,
       &F::receive_update_data,
       {4, 20, 36}},
      {kReceiveFinish,
       sizeof(MailboxHandle),
       kWorking,
       kHandle,
       kReceiveUpdateState,
       0,
       true,
       &F::receive_finish,
       {}},
  });
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
  if (command.guest == Command::Guest::kNone) return Status::kSuccess;
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
