#include "vmm_glue/exits/memory_fault.h"

#include <fmt/core.h>

#include <cerrno>

#include "engine/assert.h"
#include "vmm_glue/abi/kvm_memory.h"
#include "vmm_glue/exits/guest_range.h"
#include "vmm_glue/host_ioctl.h"

namespace sealift {
namespace {

using Kind = MemoryFaultOutcome::Kind;

constexpr std::uint64_t kFaultsPerPage = 4;
constexpr std::uint64_t kFaultsAtLeast = 65536;

MemoryFaultOutcome fatal(std::string why) {
  return MemoryFaultOutcome{.kind = Kind::kFatal, .range = {}, .why = std::move(why)};
}

const char* words_of(RangeFault fault) {
  switch (fault) {
    case RangeFault::kNone:
      return "fine";
    case RangeFault::kUnaligned:
      return "not a multiple of 4096";
    case RangeFault::kNoPages:
      return "empty";
    case RangeFault::kWraps:
      return "wrapping around the address space";
    case RangeFault::kNotRam:
      break;
  }
  return "not RAM";
}

}  // namespace

MemoryFaultHandler::MemoryFaultHandler(const ExitAbi& abi, const MemoryFaultRules& rules,
                                       const MemoryLayout& layout, const PageMap& map,
                                       Converter& converter)
    : abi_(abi), rules_(rules), layout_(layout), map_(map), converter_(converter) {
  if (rules_.faults_max == 0) rules_.faults_max = kFaultsPerPage * layout.pages() + kFaultsAtLeast;
}

// For any other errno exit_reason may be that of an earlier exit. As posted, the exit was a normal
// one; as landed, it comes with an errno.
bool MemoryFaultHandler::handles(int run_errno, const KvmRun& run) const {
  if (run_errno == EFAULT || run_errno == EHWPOISON) return true;
  return run_errno == 0 && abi_.memory_fault_exit == kPostedExitMemoryFault &&
         run.exit_reason == kPostedExitMemoryFault;
}

MemoryFaultOutcome MemoryFaultHandler::handle(int run_errno, const KvmRun& run) {
  SEALIFT_ASSERT(handles(run_errno, run));
  if (run.exit_reason != abi_.memory_fault_exit) {
    return fatal(
        fmt::format("KVM_RUN failed with {} and exit reason {}: host memory behind the "
                    "guest is gone or not mapped",
                    errno_text(run_errno), run.exit_reason));
  }
  const KvmRun::MemoryFault fault = run.exit.memory_fault;
  if (run_errno == EHWPOISON) {
    return fatal(
        fmt::format("hardware error in the memory behind gpa {:#x} (EHWPOISON)", fault.gpa));
  }
  if ((fault.flags & ~kKvmFaultPrivate) != 0) {
    return fatal(
        fmt::format("memory fault at gpa {:#x} with unknown flags {:#x}", fault.gpa, fault.flags));
  }
  const PageClass cls =
      (fault.flags & kKvmFaultPrivate) != 0 ? PageClass::kPrivate : PageClass::kShared;
  const RangeFault bad = fault.size % kPageBytes != 0
                             ? RangeFault::kUnaligned
                             : check_guest_range(fault.gpa, fault.size / kPageBytes, layout_);
  if (bad != RangeFault::kNone) {
    return fatal(fmt::format("{} access to {:#x} bytes at gpa {:#x}: {}", name_of(cls), fault.size,
                             fault.gpa, words_of(bad)));
  }
  return settle(GfnRange{page_of(Gpa{fault.gpa}), fault.size / kPageBytes}, cls);
}

MemoryFaultOutcome MemoryFaultHandler::settle(GfnRange range, PageClass cls) {
  if (auto why = storm(range, cls); !why.empty()) return fatal(std::move(why));
  MemoryFaultOutcome out{.kind = Kind::kRetry, .range = range, .cls = cls, .why = {}};
  if (!rules_.may_convert) {
    // A vCPU that lost a race against a conversion has done nothing wrong.
    if (all_pages_are(map_, range, cls)) return out;
    return fatal(fmt::format("{} access to gpa {:#x}, which the guest did not announce as {}",
                             name_of(cls), value(base_of(range.first)), name_of(cls)));
  }
  switch (converter_.settle(range, cls)) {
    case Converted::kAlready:
      return out;
    case Converted::kDone:
      out.kind = Kind::kConverted;
      return out;
    case Converted::kLater:
      // Not the guest's fault: only the budget counts it.
      --repeats_;
      out.kind = Kind::kLater;
      out.why = fmt::format("gpa {:#x} cannot be converted now", value(base_of(range.first)));
      return out;
    case Converted::kFailed:
      break;
  }
  return fatal(fmt::format("gpa {:#x} could not be converted to {}", value(base_of(range.first)),
                           name_of(cls)));
}

// Counts this fault; a reason when it is one too many.
std::string MemoryFaultHandler::storm(GfnRange range, PageClass cls) {
  repeats_ = range == last_ && cls == last_cls_ ? repeats_ + 1 : 1;
  last_ = range;
  last_cls_ = cls;
  ++faults_;
  if (repeats_ > rules_.repeats_max) {
    return fmt::format("the {} access to gpa {:#x} faulted {} times in a row", name_of(cls),
                       value(base_of(range.first)), repeats_);
  }
  if (faults_ > rules_.faults_max) {
    return fmt::format("{} memory faults without any other exit, the last a {} access to gpa {:#x}",
                       faults_, name_of(cls), value(base_of(range.first)));
  }
  return {};
}

void MemoryFaultHandler::progress() {
  repeats_ = 0;
  faults_ = 0;
}

}  // namespace sealift
