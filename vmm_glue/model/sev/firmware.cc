#include "vmm_glue/model/sev/firmware.h"

#include <algorithm>

#include "vmm_glue/model/sev/firmware_internal.h"

namespace sealift::sev {
namespace {

bool is_set(std::uint8_t mask, unsigned state) { return (unsigned{mask} >> state & 1u) != 0; }

}  // namespace

Firmware::Firmware(const FirmwareConfig& config, RandomSource& random, MemoryController& memory)
    : config_(config),
      random_(random),
      memory_(memory),
      identity_(random, config.version, config.owner_key),
      asids_(std::size_t{config.asids} + 1),
      scratch_(std::max(config.packet_bytes_max, kVmsaBytes)) {}

const GuestContext* Firmware::find(std::uint32_t handle) const {
  const auto found = guests_.find(handle);
  return found == guests_.end() ? nullptr : &found->second;
}

Status Firmware::command(MailboxCommand id, MutableBytes buffer) {
  const Command* command = find_command(id);
  const bool absent = id == MailboxCommand::kSendCancel && !config_.has_send_cancel;
  if (command == nullptr || absent) return Status::kInvalidCommand;
  SEALIFT_ASSERT(buffer.size() == command->bytes);
  Call call(id, buffer);
  Status status = admit(*command, call);
  if (status == Status::kSuccess && command->check != nullptr) {
    status = (this->*command->check)(call);
  }
  if (status == Status::kSuccess) (this->*command->run)(call);
  return status;
}

Status Firmware::admit(const Command& command, Call& call) const {
  if (!is_set(command.platform_states, static_cast<unsigned>(state_))) {
    return Status::kInvalidPlatformState;
  }
  for (const std::uint8_t at : command.reserved) {
    std::uint32_t word = 0;
    if (at != 0) std::memcpy(&word, call.buffer.data() + at, sizeof(word));
    if (word != 0) return Status::kInvalidParam;
  }
  switch (command.subject) {
    case Command::Subject::kPlatform:
      return Status::kSuccess;
    case Command::Subject::kGuest:
      return admit_guest(command, call);
    case Command::Subject::kNewGuest:
      return admit_new_guest(call);
  }
  return Status::kInvalidCommand;
}

Status Firmware::admit_guest(const Command& command, Call& call) const {
  MailboxHandle handle;  // every such buffer starts with it
  std::memcpy(&handle, call.buffer.data(), sizeof(handle));
  call.guest = find(handle.handle);
  if (call.guest == nullptr) return Status::kInvalidGuest;
  const GuestContext& guest = *call.guest;
  if (!is_set(command.guest_states, static_cast<unsigned>(guest.state))) {
    return Status::kInvalidGuestState;
  }
  const Status lack = command.fits != nullptr ? (this->*command.fits)(guest) : Status::kSuccess;
  if (lack != Status::kSuccess) return lack;
  if ((guest.policy & command.forbidding_policy) != 0) return Status::kPolicyFailure;
  if (command.needs_asid && guest.asid == 0) return Status::kInactive;
  return Status::kSuccess;
}

// A handle in the start command asks to share that guest's memory key.
Status Firmware::admit_new_guest(Call& call) const {
  const auto start = call.get<MailboxStart>();
  const GuestContext* other = find(start.handle);
  if (start.handle != 0 && other == nullptr) return Status::kInvalidGuest;
  if ((start.policy & kPolicyEs) != 0 && !es_) return Status::kUnsupported;
  if (other == nullptr) return Status::kSuccess;
  const bool forbidden = ((start.policy | other->policy) & kPolicyNoKeySharing) != 0;
  return forbidden ? Status::kPolicyFailure : Status::kSuccess;
}

GuestContext& Firmware::guest_of(const Call& call) { return guests_.at(call.guest->handle); }

Block Firmware::random_block() {
  Block out{};
  random_.fill(out);
  return out;
}

Status check_buffers(std::initializer_list<ByteView> buffers) {
  const auto first = [](ByteView buffer) { return reinterpret_cast<std::uint64_t>(buffer.data()); };
  for (const ByteView& buffer : buffers) {
    const std::uint64_t end = first(buffer) + buffer.size();
    if (first(buffer) == 0 || end < first(buffer)) return Status::kInvalidAddress;
    for (const ByteView& other : buffers) {
      const bool apart = end <= first(other) || first(other) + other.size() <= first(buffer);
      if (&other != &buffer && !apart) return Status::kInvalidAddress;
    }
  }
  return Status::kSuccess;
}

Status status_of(std::initializer_list<SignatureVerdict> verdicts) {
  const auto any = [&](SignatureVerdict verdict) {
    return std::find(verdicts.begin(), verdicts.end(), verdict) != verdicts.end();
  };
  if (any(SignatureVerdict::kBadForm)) return Status::kInvalidCertificate;
  return any(SignatureVerdict::kBadSignature) ? Status::kBadSignature : Status::kSuccess;
}

}  // namespace sealift::sev
