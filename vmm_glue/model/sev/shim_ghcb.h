// What KVM keeps of a SEV-ES vCPU's GHCB, and its answers in the MSR protocol.
//
// Spec:    AMD 56421 as Linux arch/x86/kvm/svm/sev.c (sev_handle_vmgexit_msr_protocol) uses it:
//          0x002 asks for versions and C-bit, 0x080 for features, 0x100 ends the guest, and a value
//          with bits 11:0 zero is the address of the GHCB itself. Requests that KVM does not know
//          leave the MSR as it was.
// Owner:   one SoftVcpu. Threads: the host's mailbox mutex is held. Failure: none.
//
// MODEL CHOICE
//   0x012      answered with 0x013 and the same address. KVM does so for SEV-SNP guests and ends
//              others with SEV_TERM.
//   0x080      no features on Linux 6.1; SNP and AP creation on 6.12, as its KVM says to any guest.
//   0x004      CPUID: left as it was; the modelled guest has none.
//   0x100      the VM may not run any more. KVM reports the termination and would go on when asked.
#pragma once

#include <cstdint>
#include <optional>

namespace sealift::sev {

// As KVM_SYSTEM_EVENT_SEV_TERM tells it: data[0] is the value of the GHCB MSR.
struct GhcbTermination {
  std::uint64_t ghcb_msr = 0;
  std::uint32_t reason_set = 0;
  std::uint32_t reason_code = 0;
};

struct GhcbReply {
  std::uint64_t value = 0;  // of the MSR when the guest goes on
  std::optional<GhcbTermination> termination = std::nullopt;
};

struct GhcbVersions {
  std::uint16_t max = 1;
  std::uint64_t features = 0;
};

struct GhcbState {
  std::uint64_t gpa = 0;
  bool registered = false;  // by 0x012
};

GhcbReply answer_ghcb_msr(GhcbState& state, const GhcbVersions& versions, std::uint64_t value);

}  // namespace sealift::sev
