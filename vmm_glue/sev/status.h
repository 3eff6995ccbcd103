// Status words of the SEV firmware, and how a caller reacts to each.
//
// Spec: AMD SEV API 55766 as read in Linux 6.1 include/uapi/linux/psp-sev.h and AMD sev-tool.
// Plain values: no ownership, no threads, no failure.
#pragma once

#include <cstdint>
#include <string>

#include "engine/result.h"

namespace sealift::sev {

enum class Status : std::uint16_t {
  kSuccess = 0x00,
  kInvalidPlatformState = 0x01,
  kInvalidGuestState = 0x02,
  kInvalidConfig = 0x03,
  kInvalidLength = 0x04,
  kAlreadyOwned = 0x05,
  kInvalidCertificate = 0x06,
  kPolicyFailure = 0x07,
  kInactive = 0x08,
  kInvalidAddress = 0x09,
  kBadSignature = 0x0a,
  kBadMeasurement = 0x0b,
  kAsidOwned = 0x0c,
  kInvalidAsid = 0x0d,
  kWbinvdRequired = 0x0e,
  kDfFlushRequired = 0x0f,
  kInvalidGuest = 0x10,
  kInvalidCommand = 0x11,
  kActive = 0x12,
  kHwErrorPlatform = 0x13,
  kHwErrorUnsafe = 0x14,
  kUnsupported = 0x15,
  kInvalidParam = 0x16,
  kResourceLimit = 0x17,
  kSecureDataInvalid = 0x18,
};

// "0x000b BAD_MEASUREMENT (a MAC does not match)"; a number no source names is "0x0042 (unknown)".
std::string describe(Status status);
// How the caller of a failed command reacts.
ErrorClass class_of(Status status);

}  // namespace sealift::sev
