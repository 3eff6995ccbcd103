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
  enum class Guest : std::uint8_t { kNone, kByHandle };
  MailboxCommand id;
  std::size_t bytes = 0;
  std::uint8_t platform_states = 0;  // bit for each PlatformState
  Guest guest = Guest::kNone;
  std::uint8_t guest_states = 0;  // bit for each GuestState
  std::uint32_t forbidding_policy = 0;
  bool needs_asid = false;
  Status (Firmware::*run)(Call& call) = nullptr;
  std::array<std::uint8_t, 3> reserved{};  // offsets of u32 fields that must be zero; 0: none
};

inline ByteView kernel_bytes(std::uint64_t address, std::uint32_t bytes) {
  return {reinterpret_cast<const std::byte*>(address), bytes};
}
inline MutableBytes kernel_memory(std::uint64_t address, std::uint32_t bytes) {
  return {reinterpret_cast<std::byte*>(address), bytes};
}
inline std::uint64_t without_c_bit(std::uint64_t spa) { return spa & ~kCBit; }

}  // namespace sealift::sev
