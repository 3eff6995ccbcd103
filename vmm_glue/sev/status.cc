#include "vmm_glue/sev/status.h"

#include <fmt/format.h>

#include <array>

namespace sealift::sev {
namespace {

struct Row {
  Status status;
  ErrorClass cls;
  const char* text;
};

// 06, 07 and 0A are verdicts on certificates or policy. 0B says that somebody changed bytes on the
// way or made them for other keys: the peer's bytes are not to be trusted. The rest concerns this
// host.
constexpr auto kLocal = ErrorClass::kLocalFault;
constexpr auto kPolicy = ErrorClass::kPolicy;
constexpr auto kRows = std::to_array<Row>({
    {Status::kSuccess, kLocal, "SUCCESS"},
    {Status::kInvalidPlatformState, kLocal, "INVALID_PLATFORM_STATE"},
    {Status::kInvalidGuestState, kLocal, "INVALID_GUEST_STATE"},
    {Status::kInvalidConfig, kLocal, "INVALID_CONFIG"},
    {Status::kInvalidLength, kLocal, "INVALID_LENGTH (a buffer has the wrong size)"},
    {Status::kAlreadyOwned, kLocal, "ALREADY_OWNED (the platform has an owner)"},
    {Status::kInvalidCertificate, kPolicy, "INVALID_CERTIFICATE"},
    {Status::kPolicyFailure, kPolicy, "POLICY_FAILURE (the guest's policy forbids it)"},
    {Status::kInactive, kLocal, "INACTIVE (the guest has no ASID)"},
    {Status::kInvalidAddress, kLocal, "INVALID_ADDRESS"},
    {Status::kBadSignature, kPolicy, "BAD_SIGNATURE"},
    {Status::kBadMeasurement, ErrorClass::kMalformed, "BAD_MEASUREMENT (a MAC does not match)"},
    {Status::kAsidOwned, kLocal, "ASID_OWNED (the ASID belongs to another guest)"},
    {Status::kInvalidAsid, kLocal, "INVALID_ASID"},
    {Status::kWbinvdRequired, kLocal, "WBINVD_REQUIRED"},
    {Status::kDfFlushRequired, kLocal, "DF_FLUSH_REQUIRED"},
    {Status::kInvalidGuest, kLocal, "INVALID_GUEST (no guest has this handle)"},
    {Status::kInvalidCommand, kLocal, "INVALID_COMMAND"},
    {Status::kActive, kLocal, "ACTIVE (the guest still has an ASID)"},
    {Status::kHwErrorPlatform, kLocal, "HWERROR_PLATFORM (retry after a platform reset)"},
    {Status::kHwErrorUnsafe, kLocal, "HWERROR_UNSAFE"},
    {Status::kUnsupported, kLocal, "UNSUPPORTED"},
    {Status::kInvalidParam, kLocal, "INVALID_PARAM"},
    {Status::kResourceLimit, kLocal, "RESOURCE_LIMIT"},
    {Status::kSecureDataInvalid, kLocal, "SECURE_DATA_INVALID"},
});

const Row* find(Status status) {
  for (const Row& row : kRows) {
    if (row.status == status) return &row;
  }
  return nullptr;
}

}  // namespace

std::string describe(Status status) {
  const Row* row = find(status);
  return fmt::format("{:#06x} {}", static_cast<unsigned>(status),
                     row != nullptr ? row->text : "(unknown)");
}

ErrorClass class_of(Status status) {
  const Row* row = find(status);
  return row != nullptr ? row->cls : ErrorClass::kLocalFault;
}

}  // namespace sealift::sev
