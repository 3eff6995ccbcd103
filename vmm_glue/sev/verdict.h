// Before anything moves: would this destination's platform take this guest, and may the guest go
// there? The firmware decides again when it happens; this says all reasons at once, in words.
//
// Spec:    AMD SEV API 55766, the policy word, as read in AMD sev-tool and Linux 6.1
//          Documentation/virt/kvm/x86/amd-memory-encryption.rst; CPUID 8000001F (C-bit); what the
//          firmware asks of certificates: model/sev/firmware.h.
// Plain values, pure functions: no ownership, no threads, no failure. Cards of others are not
// trusted: certificates that do not parse are a reason to refuse.
//
// MODEL CHOICE (no source says): the receiver's API version is the lower one of its PEK and its
// PDH; DOMAIN compares the keys of the two OCAs, not their bytes.
#pragma once

#include <cstdint>
#include <string>

#include "engine/platform_check.h"
#include "vmm_glue/sev/host_card.h"

namespace sealift::sev {

struct GuestFacts {
  std::uint32_t policy = 0;
  std::uint64_t memory_bytes = 0;
  std::uint32_t vcpus = 0;
  bool es = false;  // its registers are encrypted, whether the policy asks for that or not
};

// KVM pins a page more while it moves one.
inline constexpr std::uint64_t kMemlockSlackBytes = kPageBytes;

// Findings, always in this order: modelled, nosend, policy, api, chain, domain, es, c-bit, memlock.
// Each name comes exactly once.
PlatformFindings judge(const HostCard& source, const GuestFacts& guest,
                       const HostCard& destination);
// A line for each finding: level, name, text.
std::string text_of(const PlatformFindings& findings);

// "0x01000025: NODBG, ES, SEV, API 1.0 or later".
std::string policy_words(std::uint32_t policy);

}  // namespace sealift::sev
