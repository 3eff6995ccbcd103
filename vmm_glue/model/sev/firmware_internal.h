// Parts that the firmware's .cc files share. Nobody else includes this.
#pragma once

#include <array>
#include <cstring>
#include <span>

#include "engine/assert.h"
#include "vmm_glue/model/sev/firmware.h"

namespace sealift::sev {

inline constexpr std::uint32_t kPacketBytesMax = 16384;
inline constexpr std::uint32_t kPacketAlignment = 16;

// One command under way: its buffer and, after admit(), its guest.
struct Firmware::Call {
  MutableBytes buffer;
  GuestContext* guest = nullptr;

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
};

// A row of the command table: what is checked before the handler runs.
struct Firmware::Command {
  using Run = Status (Firmware::*)(Call& call);
  using Reserved = std::array<std::uint8_t, 3>;  // offsets of u32 fields that must be zero; 0: none

  MailboxCommand id;
  std::size_t bytes = 0;
  Run run = nullptr;
  std::uint8_t platform_states = 0;  // bit for each PlatformState
  bool has_guest = false;            // the buffer starts with the handle of a guest
  std::uint8_t guest_states = 0;     // bit for each GuestState
  Reserved reserved{};
  std::uint32_t forbidding_policy = 0;
  bool needs_asid = false;

  template <class Buffer>
  static constexpr Command platform(MailboxCommand id, std::uint8_t states, Run run,
                                    Reserved reserved = {}) {
    return {.id = id,
            .bytes = sizeof(Buffer),
            .run = run,
            .platform_states = states,
            .reserved = reserved};
  }
  template <class Buffer>
  static constexpr Command guest(MailboxCommand id, std::uint8_t states, Run run,
                                 Reserved reserved = {}) {
    return {.id = id,
            .bytes = sizeof(Buffer),
            .run = run,
            .platform_states = 1u << static_cast<unsigned>(PlatformState::kWorking),
            .has_guest = true,
            .guest_states = states,
            .reserved = reserved};
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
inline std::uint64_t without_c_bit(std::uint64_t spa) { return spa & ~kCBit; }

}  // namespace sealift::sev
