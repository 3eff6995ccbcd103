// The decoder of KVM_EXIT_MEMORY_FAULT: a guest touched a page as the other class than the one it
// has, without having asked for a conversion. Either the page is converted as if it had, or the
// guest ends; an access that another vCPU's conversion has overtaken is simply run again.
//
// Spec:    Linux Documentation/virt/kvm/api.rst (KVM_EXIT_MEMORY_FAULT, KVM_CAP_MEMORY_FAULT_INFO);
//          the form of July 2023 (RFC v11) where ExitAbi says so.
// Owner:   one for each vCPU; layout, map and converter outlive it.
// Threads: the vCPU's own.
// Failure: kFatal with one sentence; `run` and the errno are not trusted.
// REQUIRES: the map's converter is `converter`.
// Invariants:
//   I1  No endless loop: `repeats_max` faults in a row at one page and class, or `faults_max`
//       faults without progress() between them, are fatal. Both count; no clock.
//   I2  After kFatal neither map nor platform has changed by this fault.
#pragma once

#include <cstdint>
#include <string>

#include "engine/memory_layout.h"
#include "engine/types.h"
#include "vmm_glue/abi/kvm_run.h"
#include "vmm_glue/exits/converter.h"
#include "vmm_glue/exits/exit_abi.h"

namespace sealift {

struct MemoryFaultRules {
  bool may_convert = true;         // false: only what the guest announces is converted
  std::uint32_t repeats_max = 64;  // of one page and class in a row; kLater does not count
  std::uint64_t faults_max = 0;    // 0: four for each page of RAM, and 65536
};

struct MemoryFaultOutcome {
  enum class Kind : std::uint8_t {
    kRetry,      // run the vCPU again: the map agrees with the access
    kLater,      // run it again, but not at once: the platform cannot convert now
    kConverted,  // run it again: the page has the class of the access
    kFatal,
  };
  Kind kind = Kind::kFatal;
  GfnRange range;
  PageClass cls = PageClass::kPrivate;
  std::string why;  // kFatal and kLater: the reason
};

class MemoryFaultHandler {
 public:
  MemoryFaultHandler(const ExitAbi& abi, const MemoryFaultRules& rules, const MemoryLayout& layout,
                     const PageMap& map, Converter& converter);

  // Whether a KVM_RUN that ended so is ours: the memory-fault exit of this kernel, or EFAULT or
  // EHWPOISON without one.
  bool handles(int run_errno, const KvmRun& run) const;
  // REQUIRES: handles(run_errno, run).
  MemoryFaultOutcome handle(int run_errno, const KvmRun& run);
  // Another exit of this vCPU was served; a run that was only interrupted is no progress.
  void progress();

 private:
  MemoryFaultOutcome settle(GfnRange range, PageClass cls);
  std::string storm(GfnRange range, PageClass cls);

  ExitAbi const abi_;
  MemoryFaultRules rules_;
  const MemoryLayout& layout_;
  const PageMap& map_;
  Converter& converter_;
  GfnRange last_;
  PageClass last_cls_ = PageClass::kPrivate;
  std::uint32_t repeats_ = 0;
  std::uint64_t faults_ = 0;
};

}  // namespace sealift
