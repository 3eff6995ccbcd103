#include "schemas/record_type.h"

namespace sealift {

const char* record_type_name(std::uint16_t type) {
  switch (RecordType{type}) {
    case RecordType::kInvalid:
      break;
    case RecordType::kHello:
      return "Hello";
    case RecordType::kSessionStart:
      return "SessionStart";
    case RecordType::kSessionAccept:
      return "SessionAccept";
    case RecordType::kPlatformStart:
      return "PlatformStart";
    case RecordType::kSessionReady:
      return "SessionReady";
    case RecordType::kSharedPages:
      return "SharedPages";
    case RecordType::kPrivatePages:
      return "PrivatePages";
    case RecordType::kConversions:
      return "Conversions";
    case RecordType::kEpochEnd:
      return "EpochEnd";
    case RecordType::kEpochAck:
      return "EpochAck";
    case RecordType::kVcpuState:
      return "VcpuState";
    case RecordType::kDeviceState:
      return "DeviceState";
    case RecordType::kFinish:
      return "Finish";
    case RecordType::kReady:
      return "Ready";
    case RecordType::kHandover:
      return "Handover";
    case RecordType::kRunning:
      return "Running";
    case RecordType::kAbort:
      return "Abort";
    case RecordType::kPlatformState:
      return "PlatformState";
    case RecordType::kPlatformCard:
      return "PlatformCard";
    case RecordType::kClaim:
      return "Claim";
    case RecordType::kInquiry:
      return "Inquiry";
    case RecordType::kAnswer:
      return "Answer";
    case RecordType::kStreamJoin:
      return "StreamJoin";
    case RecordType::kEpochBegin:
      return "EpochBegin";
    case RecordType::kLivePages:
      return "LivePages";
    case RecordType::kKeepAlive:
      return "KeepAlive";
  }
  return "unknown record";
}

RecordTraits record_traits(std::uint16_t type) {
  constexpr RecordTraits kControl{.known = true, .has_payload = false, .any_stream = false};
  switch (RecordType{type}) {
    case RecordType::kInvalid:
      return {};
    case RecordType::kSharedPages:
    case RecordType::kPrivatePages:
    case RecordType::kLivePages:
      return {.known = true, .has_payload = true, .any_stream = true};
    case RecordType::kStreamJoin:
    case RecordType::kEpochEnd:
    case RecordType::kKeepAlive:
      return {.known = true, .has_payload = false, .any_stream = true};
    case RecordType::kVcpuState:
    case RecordType::kDeviceState:
    case RecordType::kPlatformState:
      return {.known = true, .has_payload = true, .any_stream = false};
    case RecordType::kHello:
    case RecordType::kSessionStart:
    case RecordType::kSessionAccept:
    case RecordType::kPlatformStart:
    case RecordType::kSessionReady:
    case RecordType::kConversions:
    case RecordType::kEpochAck:
    case RecordType::kFinish:
    case RecordType::kReady:
    case RecordType::kHandover:
    case RecordType::kRunning:
    case RecordType::kAbort:
    case RecordType::kPlatformCard:
    case RecordType::kClaim:
    case RecordType::kInquiry:
    case RecordType::kAnswer:
    case RecordType::kEpochBegin:
      return kControl;
  }
  return {};
}

}  // namespace sealift
