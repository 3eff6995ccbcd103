// The exit decoder of page-state hypercalls: KVM_EXIT_HYPERCALL in, one conversion or one refusal
// out.
//
// Spec:    Linux Documentation/virt/kvm/x86/hypercalls.rst (KVM_HC_MAP_GPA_RANGE), api.rst
//          (KVM_EXIT_HYPERCALL); the older KVM_HC_PAGE_ENC_STATUS is that of the SEV live migration
//          series of 2020/21.
// Threads: any vCPU thread, each with its own kvm_run; PageMap and DirtySet order concurrent
//          conversions.
// Failure: none: whatever the guest asked, it gets an answer. Nothing in `run` is trusted.
// Invariants:
//   I1  hypercall.ret is stored on every path: kernels before 6.14 leave an old value there.
//   I2  A conversion reaches PageMap and DirtySet by exactly one convert_pages(); a refusal changes
//       neither.
#pragma once

#include <cstdint>
#include <string>

#include "engine/dirty_set.h"
#include "engine/memory_layout.h"
#include "engine/page_map.h"
#include "engine/types.h"
#include "vmm_glue/abi/kvm_run.h"

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
};

struct HypercallOutcome {
  HypercallRefusal refusal = HypercallRefusal::kNone;  // kNone: `range` is now `cls`
  GfnRange range;
  PageClass cls = PageClass::kPrivate;
  std::uint64_t ret = 0;
  std::uint64_t nr = 0;
  std::uint64_t args[3] = {};
  bool converted() const { return refusal == HypercallRefusal::kNone; }
};
std::string describe(const HypercallOutcome& outcome);  // one line for a log

// REQUIRES: run.exit_reason == kKvmExitHypercall; the vCPU does not run before this returns.
HypercallOutcome handle_hypercall(KvmRun& run, HypercallForm form, const MemoryLayout& layout,
                                  PageMap& map, DirtySet& dirty);

}  // namespace sealift
