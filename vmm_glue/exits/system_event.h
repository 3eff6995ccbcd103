// The end of a guest by its own doing, in words: KVM_EXIT_SYSTEM_EVENT and KVM_EXIT_SHUTDOWN.
//
// Spec:    Linux Documentation/virt/kvm/api.rst (KVM_EXIT_SYSTEM_EVENT); AMD 56421 (GHCB
//          termination: MSR request 0x100 and exit 0x8000FFFE); Intel GHCI
//          (TDG.VP.VMCALL<ReportFatalError>); reason set 1 is that of Linux
//          arch/x86/include/asm/sev-common.h.
// Threads: any vCPU thread, each with its own kvm_run.
// Failure: none: what cannot be decoded is said to be so. Nothing in `run` is trusted.
// Invariants:
//   I1  Only data[0 .. ndata - 1] is read, never more than 16 words; save for the posted form of
//       SEV_TERM, whose kernels announced one word and wrote the second.
//   I2  `why` is one line of printable ASCII of at most kGuestEndBytesMax characters.
//   I3  `run` is not changed.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "engine/types.h"
#include "vmm_glue/abi/kvm_run.h"
#include "vmm_glue/exits/exit_abi.h"
#include "vmm_glue/exits/guest_bytes.h"

namespace sealift {

inline constexpr std::size_t kTdxMessageBytesMax = 64;  // eight registers
inline constexpr std::size_t kGuestEndBytesMax = 512;

enum class GuestEndKind : std::uint8_t {
  kTripleFault,    // KVM_EXIT_SHUTDOWN
  kShutdown,       // the guest switched itself off
  kReset,          // it wants to start again
  kCrash,          // it reported that it crashed
  kSevTerminated,  // SEV-ES, SNP: it refused to go on
  kTdxFatal,       // TDX: ReportFatalError
  kUnknown,
};

struct SevTermination {
  std::uint64_t ghcb = 0;   // the GHCB MSR: a request, or the address of the GHCB
  bool has_reason = false;  // reason_set and reason_code are the guest's
  std::uint32_t reason_set = 0;
  std::uint32_t reason_code = 0;
  std::uint64_t detail = 0;  // SW_EXITINFO2 of the GHCB form (Linux: features it lacks)
};

struct TdxFatal {
  std::uint32_t error_code = 0;
  std::optional<std::uint64_t> gpa;  // of a shared page with more about it
  std::string message;               // escaped
};

struct GuestEnd {
  GuestEndKind kind = GuestEndKind::kUnknown;
  std::string why;  // for "terminated: …"
  std::optional<SevTermination> sev;
  std::optional<TdxFatal> tdx;
};

// `memory` may be null: a termination by GHCB page then has no reason.
// REQUIRES: run.exit_reason is kKvmExitSystemEvent or kKvmExitShutdown.
GuestEnd decode_guest_end(const KvmRun& run, const ExitAbi& abi, const GuestBytes* memory);

}  // namespace sealift
