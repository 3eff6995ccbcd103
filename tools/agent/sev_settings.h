// What an operator says of a SEV guest and of the software platform under it.
//
// Plain values. Failure: kUsage naming the key, the value and what would be right.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "engine/result.h"
#include "engine/types.h"
#include "vmm_glue/abi/sev_abi.h"

namespace sealift {

struct SevSettings {
  std::uint32_t policy = sev::kPolicyNoDebug;  // of the guest; SEV-ES adds its bit
  bool slow_firmware = false;      // about 400 exports a second, as AMD measured on hardware
  bool kernel_moves_vmsa = false;  // no kernel of today does
  bool given = false;              // some sev- key was
};

// "nodbg,noks,nosend,domain,sev,api=1.51", or a number as 0x33010001; "none" is no bit at all.
Result<std::uint32_t> parse_sev_policy(std::string_view text);

// kUsage for settings that contradict the guest's platform.
Result<void> check_sev_settings(const SevSettings& settings, Platform platform);

// sev-policy, sev-firmware, sev-vmsa. kUsage for any other key.
Result<void> set_sev_key(SevSettings& settings, std::string_view key, std::string_view text);

}  // namespace sealift
