// The exit decoder of page-state hypercalls: KVM_EXIT_HYPERCALL in, one conversion or one refusal
// out.
//
// Spec:    Linux Documentation/virt/kvm/x86/hypercalls.rst (KVM_HC_MAP_GPA_RANGE), api.rst
//          (KVM_EXIT_HYPERCALL); the older KVM_HC_PAGE_ENC_STATUS is that of the SEV live migration
//          series of 2020/21. What each caller accepts as an answer: arch/x86/kvm/svm/sev.c and
//          vmx/tdx.c of Linux 7.3.
// Threads: any vCPU thread, each with its own kvm_run; the Converter orders concurrent conversions.
// Failure: none: whatever the guest asked, it gets an answer. Nothing in `run` is trusted.
// Invariants:
//   I1  hypercall.ret is stored on every path: kernels before 6.14 leave an old value there.
//   I2  A conversion reaches the Converter by exactly one convert(); a refused request reaches it
//       not at all.
//   I3  hypercall.flags is never read: KVM does not write it for SNP.
#pragma once

#include <cstdint>
#include <string>

#include "engine/memory_layout.h"
#include "engine/types.h"
#include "vmm_glue/abi/kvm_run.h"
#include "vmm_glue/exits/converter.h"

namespace sealift {

// The form of hypercall 12 that this guest's CPUID announces. Both forms share the number and their
// third arguments overlap (1 is "encrypted" in one, "shared, 2 MiB preferred" in the other), so a
// value never tells them apart.
enum class HypercallForm : std::uint8_t {
  kNone = 0,           // nothing advertised: every call is answered "unknown"
  kPageEncStatus = 1,  // args: gpa, npages, enc (0 or 1)
  kMapGpaRange = 2,  // args: gpa, npages, attributes: 3:0 page-size hint, 4 encrypted, others zero
};
const char* name_of(HypercallForm form);

// Who reads the answer. A property of the VM: an SNP or TDX guest's VMCALL/VMMCALL/vendor hypercall
// gives the same exit as the one that KVM makes from its page-state change. There the answer is
// positive all the same, because KVM_RUN fails on a negative one and the guest sees a non-zero
// value either way.
enum class PageStateCaller : std::uint8_t {
  // The guest itself, in its result register: SEV, SEV-ES, ordinary guests, and a TDX vendor
  // hypercall where the VMM can tell. 0, or a negative KVM code. Linux ignores it.
  kPlain,
  // KVM, for a GHCB page-state change: 0, EINVAL, EAGAIN. Linux ends itself after either error:
  // EAGAIN is no retry here, so a gate that answers kLater kills such a guest.
  kSnp,
  // KVM, for TDG.VP.VMCALL<MapGPA>, in chunks of at most 2 MiB: 0 next chunk or success, EINVAL
  // INVALID_OPERAND, EAGAIN the guest asks again. To-shared where there is no RAM at all is
  // accepted with nothing to do: firmware does so for MMIO.
  kTdx,
};

// Answers to KVM: positive errno values.
inline constexpr std::uint64_t kPageStateInvalid = 22;
inline constexpr std::uint64_t kPageStateRetry = 11;

struct HypercallRules {
  HypercallForm form = HypercallForm::kNone;  // kMapGpaRange for kSnp and kTdx
  PageStateCaller caller = PageStateCaller::kPlain;
  bool knows_retry = false;  // ExitAbi::knows_page_state_retry; without: kLater is answered EINVAL
};

enum class HypercallRefusal : std::uint8_t {
  kNone = 0,
  kOtherNumber,
  kNotAdvertised,
  kUnaligned,
  kNoPages,
  kWraps,
  kNotRam,
  kNotABoolean,
  kReservedBits,
  kPageSizeHint,
  kLater,   // the platform cannot convert now
  kFailed,  // the platform failed
};

struct HypercallOutcome {
  HypercallRefusal refusal = HypercallRefusal::kNone;  // kNone: `range` is now `cls`, or no RAM
  bool no_ram = false;                                 // accepted, nothing to convert (kTdx)
  GfnRange range;
  PageClass cls = PageClass::kPrivate;
  std::uint64_t ret = 0;
  std::uint64_t nr = 0;
  std::uint64_t args[3] = {};
  bool converted() const { return refusal == HypercallRefusal::kNone && !no_ram; }
};
std::string describe(const HypercallOutcome& outcome);  // one line for a log

// REQUIRES: run.exit_reason == kKvmExitHypercall; the vCPU does not run before this returns.
HypercallOutcome handle_hypercall(KvmRun& run, const HypercallRules& rules,
                                  const MemoryLayout& layout, Converter& converter);

}  // namespace sealift
