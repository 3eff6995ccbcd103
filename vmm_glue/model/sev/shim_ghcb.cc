#include "vmm_glue/model/sev/shim_ghcb.h"

#include <bit>

#include "vmm_glue/abi/ghcb.h"
#include "vmm_glue/model/sev/memory_controller.h"

namespace sealift::sev {
namespace {

constexpr std::uint64_t kSevInfoResponse = 0x001;  // 63:48 max version, 47:32 min, 31:24 C-bit
constexpr std::uint64_t kSevInfoRequest = 0x002;
constexpr std::uint64_t kRegisterRequest = 0x012;  // 63:12 gfn
constexpr std::uint64_t kRegisterResponse = 0x013;
constexpr std::uint64_t kFeaturesRequest = 0x080;
constexpr std::uint64_t kFeaturesResponse = 0x081;  // 63:12 bitmap
constexpr std::uint64_t kTerminate = 0x100;         // 15:12 reason set, 23:16 code
constexpr std::uint64_t kVersionMin = 1;
constexpr std::uint64_t kCBitPosition = std::countr_zero(kCBit);

}  // namespace

GhcbReply answer_ghcb_msr(GhcbState& state, const GhcbVersions& versions, std::uint64_t value) {
  const std::uint64_t address = value & ~kGhcbMsrCodeMask;
  switch (value & kGhcbMsrCodeMask) {
    case 0:
      state = {.gpa = address, .registered = state.registered && state.gpa == address};
      return {.value = value};
    case kSevInfoRequest:
      return {.value = std::uint64_t{versions.max} << 48 | kVersionMin << 32 | kCBitPosition << 24 |
                       kSevInfoResponse};
    case kRegisterRequest:
      state = {.gpa = address, .registered = true};
      return {.value = address | kRegisterResponse};
    case kFeaturesRequest:
      return {.value = versions.features << 12 | kFeaturesResponse};
    case kTerminate:
      return {.value = value,
              .termination =
                  GhcbTermination{.ghcb_msr = value,
                                  .reason_set = static_cast<std::uint32_t>(value >> 12 & 0xf),
                                  .reason_code = static_cast<std::uint32_t>(value >> 16 & 0xff)}};
    default:
      return {.value = value};
  }
}

}  // namespace sealift::sev
