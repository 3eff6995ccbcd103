// Parts that the firmware's .cc files share. Nobody else includes this.
#pragma once

#include <array>
#include <cstring>
#include <initializer_list>
#include <optional>
#include <span>
#include <type_traits>

#include "engine/assert.h"
#include "vmm_glue/model/sev/firmware.h"

namespace sealift::sev {

inline constexpr std::uint32_t kBlockBytes = MemoryCipher::kBlockBytes;

struct NoBuffer {};  // of commands without one

// One command under way: its buffer, its guest, and what its checks found for its run.
struct Firmware::Call {
  MailboxCommand id;
  MutableBytes buffer;
  const GuestContext* guest = nullptr;

  std::byte* memory = nullptr;  // guest memory, and its system physical address
  std::uint64_t spa = 0;
  PacketHeader header;
  PacketCipher* cipher = nullptr;
  std::optional<TransportKeys> session;
  std::optional<EcPublicKey> receiver;
  std::optional<SevCertificate> pek;
  std::optional<SevCertificate> oca;

  Call(MailboxCommand command, MutableBytes bytes) : id(command), buffer(bytes) {}
  ~Call() {
    if (session) erase_secret(std::as_writable_bytes(std::span(&*session, 1)));
  }
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  bool is_vmsa() const {
    return id == MailboxCommand::kLaunchUpdateVmsa || id == MailboxCommand::kSendUpdateVmsa ||
           id == MailboxCommand::kReceiveUpdateVmsa;
  }
  template <class T>
  T get() const {
    SEALIFT_ASSERT(buffer.size() == sizeof(T));
    T out;
    std::memcpy(&out, buffer.data(), sizeof(T));
    return out;
  }
  template <class T>
  void put(const T& value) {
    SEALIFT_ASSERT(buffer.size() == sizeof(T));
    std::memcpy(buffer.data(), &value, sizeof(T));
  }
  // The answer to a length query: `value` says what is required.
  template <class T>
  Status needs_length(const T& value) {
    put(value);
    return Status::kInvalidLength;
  }
};

// A row of the command table: what is checked, in this order, and what then runs.
struct Firmware::Command {
  enum class Subject : std::uint8_t { kPlatform, kGuest, kNewGuest };
  using Fits = Status (Firmware::*)(const GuestContext& guest) const;
  using Check = Status (Firmware::*)(Call& call) const;
  using Run = void (Firmware::*)(Call& call);
  using Reserved = std::array<std::uint8_t, 3>;  // offsets of u32 fields that must be zero; 0: none

  MailboxCommand id;
  std::size_t bytes = 0;
  std::uint8_t platform_states = 0;  // bit for each PlatformState
  Reserved reserved{};
  Subject subject = Subject::kPlatform;
  std::uint8_t guest_states = 0;  // bit for each GuestState
  Fits fits = nullptr;            // what guest or platform lacks; null: nothing to ask
  std::uint32_t forbidding_policy = 0;
  bool needs_asid = false;
  Check check = nullptr;  // the rest of the order of checks; null: there is none
  Run run = nullptr;

  template <class Buffer>
  static constexpr Command of(MailboxCommand id, std::uint8_t platform_states, Subject subject,
                              std::uint8_t guest_states, Check check, Run run) {
    return {.id = id,
            .bytes = std::is_empty_v<Buffer> ? 0 : sizeof(Buffer),
            .platform_states = platform_states,
            .subject = subject,
            .guest_states = guest_states,
            .check = check,
            .run = run};
  }
  template <class Buffer>
  static constexpr Command platform(MailboxCommand id, std::uint8_t states, Check check, Run run) {
    return of<Buffer>(id, states, Subject::kPlatform, 0, check, run);
  }
  template <class Buffer>
  static constexpr Command guest(MailboxCommand id, std::uint8_t states, Check check, Run run) {
    constexpr auto kWorking = 1u << static_cast<unsigned>(PlatformState::kWorking);
    return of<Buffer>(id, kWorking, Subject::kGuest, states, check, run);
  }
  constexpr Command zero_at(Reserved offsets) const {
    Command out = *this;
    out.reserved = offsets;
    return out;
  }
  constexpr Command if_fits(Fits predicate) const {
    Command out = *this;
    out.fits = predicate;
    return out;
  }
  constexpr Command forbidden_by(std::uint32_t policy) const {
    Command out = *this;
    out.forbidding_policy = policy;
    return out;
  }
  constexpr Command with_asid() const {
    Command out = *this;
    out.needs_asid = true;
    return out;
  }
};

inline ByteView kernel_bytes(std::uint64_t address, std::uint32_t bytes) {
  return {reinterpret_cast<const std::byte*>(address), bytes};
}
inline MutableBytes kernel_memory(std::uint64_t address, std::uint32_t bytes) {
  return {reinterpret_cast<std::byte*>(address), bytes};
}
inline void write_kernel(ByteView from, std::uint64_t address) {
  std::memcpy(reinterpret_cast<void*>(address), from.data(), from.size());
}
// Addresses: none null, no two overlapping. REQUIRES: none is empty.
Status check_buffers(std::initializer_list<ByteView> buffers);
// Form goes before signature, whichever link has it.
Status status_of(std::initializer_list<SignatureVerdict> verdicts);

}  // namespace sealift::sev
