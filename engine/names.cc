#include <type_traits>

#include "engine/records.h"
#include "engine/result.h"
#include "engine/right_notes.h"
#include "engine/types.h"

namespace sealift {

const char* name_of(PageClass cls) {
  switch (cls) {
    case PageClass::kShared:
      return "shared";
    case PageClass::kPrivate:
      return "private";
  }
  return "invalid page class";
}

const char* name_of(Platform platform) {
  switch (platform) {
    case Platform::kNone:
      return "none";
    case Platform::kSev:
      return "sev";
    case Platform::kSevEs:
      return "sev-es";
    case Platform::kSnp:
      return "snp";
    case Platform::kTdx:
      return "tdx";
    case Platform::kSwProtected:
      return "sw-protected";
  }
  return "invalid platform";
}

const char* name_of(ErrorClass cls) {
  switch (cls) {
    case ErrorClass::kLocalFault:
      return "local fault";
    case ErrorClass::kPeerFault:
      return "peer fault";
    case ErrorClass::kMalformed:
      return "malformed";
    case ErrorClass::kRefused:
      return "refused";
    case ErrorClass::kDisconnected:
      return "disconnected";
    case ErrorClass::kCancelled:
      return "cancelled";
    case ErrorClass::kTimedOut:
      return "timed out";
    case ErrorClass::kPolicy:
      return "policy";
    case ErrorClass::kUsage:
      return "usage";
  }
  return "invalid error class";
}

const char* name_of(RightStep step) {
  switch (step) {
    case RightStep::kBegun:
      return "Begun";
    case RightStep::kOffered:
      return "Offered";
    case RightStep::kReady:
      return "Ready";
    case RightStep::kCommitting:
      return "Committing";
    case RightStep::kTaken:
      return "Taken";
    case RightStep::kReleased:
      return "Released";
    case RightStep::kKept:
      return "Kept";
    case RightStep::kDiscarded:
      return "Discarded";
  }
  return "invalid step";
}

namespace {
struct RecordNames {
  const char* operator()(const Hello&) const { return "Hello"; }
  const char* operator()(const SessionStart&) const { return "SessionStart"; }
  const char* operator()(const SessionAccept&) const { return "SessionAccept"; }
  const char* operator()(const PlatformStart&) const { return "PlatformStart"; }
  const char* operator()(const SessionReady&) const { return "SessionReady"; }
  const char* operator()(const SharedBatch&) const { return "SharedPages"; }
  const char* operator()(const PrivateBatch&) const { return "PrivatePages"; }
  const char* operator()(const Conversions&) const { return "Conversions"; }
  const char* operator()(const EpochEnd&) const { return "EpochEnd"; }
  const char* operator()(const EpochAck&) const { return "EpochAck"; }
  const char* operator()(const StateBlob& blob) const {
    switch (blob.kind) {
      case StateBlob::Kind::kVcpu:
        return "VcpuState";
      case StateBlob::Kind::kDevice:
        return "DeviceState";
      case StateBlob::Kind::kPlatform:
        return "PlatformState";
    }
    return "invalid state";
  }
  const char* operator()(const Finish&) const { return "Finish"; }
  const char* operator()(const Ready&) const { return "Ready"; }
  const char* operator()(const Handover&) const { return "Handover"; }
  const char* operator()(const Running&) const { return "Running"; }
  const char* operator()(const Abort&) const { return "Abort"; }
  const char* operator()(const KeepAlive&) const { return "KeepAlive"; }
  const char* operator()(const PlatformCard&) const { return "PlatformCard"; }
  const char* operator()(const Claim&) const { return "Claim"; }
  const char* operator()(const Inquiry&) const { return "Inquiry"; }
  const char* operator()(const Answer&) const { return "Answer"; }
  const char* operator()(const StreamJoin&) const { return "StreamJoin"; }
  const char* operator()(const EpochBegin&) const { return "EpochBegin"; }
  const char* operator()(const LivePages&) const { return "LivePages"; }
};
}  // namespace

const char* name_of(const Record& record) { return std::visit(RecordNames{}, record); }

}  // namespace sealift
