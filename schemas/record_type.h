// Record types of protocol version 1: the number in each frame's header. Normative:
// docs/spec/wire.md, "Record types".
//
// Plain values. Numbers are never reused; a retired one keeps its line and says what it was.
#pragma once

#include <cstdint>

namespace sealift {

// Bit 15 clear: mandatory; a receiver that does not know it stops with kMalformed. Bit 15 set: may
// be skipped.
enum class RecordType : std::uint16_t {
  kInvalid = 0x0000,  // a zeroed buffer is never a record
  kHello = 0x0001,
  kSessionStart = 0x0002,
  kSessionAccept = 0x0003,
  kPlatformStart = 0x0004,
  kSessionReady = 0x0005,
  kSharedPages = 0x0006,
  kPrivatePages = 0x0007,
  kConversions = 0x0008,
  kEpochEnd = 0x0009,
  kEpochAck = 0x000a,
  kVcpuState = 0x000b,
  kDeviceState = 0x000c,
  kFinish = 0x000d,
  kReady = 0x000e,
  kHandover = 0x000f,  // the only record that moves the right to run
  kRunning = 0x0010,
  kAbort = 0x0011,
  kPlatformState = 0x0012,
  kPlatformCard = 0x0013,
  kClaim = 0x0014,
  kInquiry = 0x0015,
  kAnswer = 0x0016,
  kStreamJoin = 0x0018,
  kEpochBegin = 0x0019,
  kLivePages = 0x001a,  // transport/frame.h knows it: its payload has no checksum
  kKeepAlive = 0x8001,
};

inline constexpr std::uint16_t kOptionalRecordBit = 0x8000;

constexpr std::uint16_t value(RecordType type) { return static_cast<std::uint16_t>(type); }
constexpr bool is_optional(std::uint16_t type) { return (type & kOptionalRecordBit) != 0; }

// The name in wire.md, or "unknown record" for any other number. Never null.
const char* record_type_name(std::uint16_t type);

// What the header alone says about a record. Unknown types have known == false and the rest unset.
struct RecordTraits {
  bool known = false;
  bool has_payload = false;
  bool any_stream = false;  // false: stream 0 only
};
RecordTraits record_traits(std::uint16_t type);

}  // namespace sealift
