#include "vmm_glue/exits/hypercall.h"

#include <fmt/core.h>

#include <algorithm>

#include "engine/assert.h"
#include "vmm_glue/exits/guest_range.h"

namespace sealift {
namespace {

constexpr std::uint64_t kHintMask = 0xf;  // bits 3:0 of the attributes
constexpr std::uint64_t kHintMax = 2;     // 0: 4 KiB, 1: 2 MiB, 2: 1 GiB
constexpr std::uint64_t kEncryptedBit =
    0x10;  // bit 4; all above are reserved and KVM does not check them

HypercallRefusal refusal_of(RangeFault fault) {
  switch (fault) {
    case RangeFault::kNone:
      return HypercallRefusal::kNone;
    case RangeFault::kUnaligned:
      return HypercallRefusal::kUnaligned;
    case RangeFault::kNoPages:
      return HypercallRefusal::kNoPages;
    case RangeFault::kWraps:
      return HypercallRefusal::kWraps;
    case RangeFault::kNotRam:
      break;
  }
  return HypercallRefusal::kNotRam;
}

HypercallRefusal refusal_of(Converted converted) {
  switch (converted) {
    case Converted::kDone:
    case Converted::kAlready:
      return HypercallRefusal::kNone;
    case Converted::kLater:
      return HypercallRefusal::kLater;
    case Converted::kFailed:
      break;
  }
  return HypercallRefusal::kFailed;
}

// The third argument: sets `encrypted`, or says what is wrong with it.
HypercallRefusal check_attributes(HypercallForm form, std::uint64_t word, bool& encrypted) {
  if (form == HypercallForm::kPageEncStatus) {
    if (word > 1) return HypercallRefusal::kNotABoolean;
    encrypted = word == 1;
    return HypercallRefusal::kNone;
  }
  if ((word & ~(kHintMask | kEncryptedBit)) != 0) return HypercallRefusal::kReservedBits;
  // The hint is a preference, not a promise of alignment: it is checked and then ignored.
  if ((word & kHintMask) > kHintMax) return HypercallRefusal::kPageSizeHint;
  encrypted = (word & kEncryptedBit) != 0;
  return HypercallRefusal::kNone;
}

HypercallRefusal decode(const KvmRun::Hypercall& call, const HypercallRules& rules,
                        const MemoryLayout& layout, HypercallOutcome& out) {
  if (call.nr != kKvmHypercallPageState) return HypercallRefusal::kOtherNumber;
  if (rules.form == HypercallForm::kNone) return HypercallRefusal::kNotAdvertised;
  const RangeFault fault = check_guest_range(call.args[0], call.args[1], layout);
  if (fault != RangeFault::kNone && fault != RangeFault::kNotRam) return refusal_of(fault);
  bool encrypted = false;
  const auto bad_attributes = check_attributes(rules.form, call.args[2], encrypted);
  if (bad_attributes != HypercallRefusal::kNone) return bad_attributes;
  out.range = GfnRange{page_of(Gpa{call.args[0]}), call.args[1]};
  out.cls = encrypted ? PageClass::kPrivate : PageClass::kShared;
  if (fault == RangeFault::kNone) return HypercallRefusal::kNone;
  out.no_ram = rules.caller == PageStateCaller::kTdx && !encrypted && !has_ram(out.range, layout);
  return out.no_ram ? HypercallRefusal::kNone : HypercallRefusal::kNotRam;
}

// A negative code for "ask again" does not exist in the guest's ABI, so kPlain gets "invalid".
std::uint64_t answer_to(HypercallRefusal refusal, const HypercallRules& rules) {
  if (refusal == HypercallRefusal::kNone) return kKvmHypercallDone;
  if (rules.caller != PageStateCaller::kPlain) {
    return refusal == HypercallRefusal::kLater && rules.knows_retry ? kPageStateRetry
                                                                    : kPageStateInvalid;
  }
  const bool unknown =
      refusal == HypercallRefusal::kOtherNumber || refusal == HypercallRefusal::kNotAdvertised;
  return unknown ? kKvmHypercallUnknown : kKvmHypercallInvalid;
}

const char* reason_of(HypercallRefusal refusal) {
  switch (refusal) {
    case HypercallRefusal::kNone:
      return "accepted";
    case HypercallRefusal::kOtherNumber:
      return "no such hypercall here";
    case HypercallRefusal::kNotAdvertised:
      return "page-state hypercalls are not advertised to this guest";
    case HypercallRefusal::kUnaligned:
      return "the address is not a multiple of 4096";
    case HypercallRefusal::kNoPages:
      return "zero pages";
    case HypercallRefusal::kWraps:
      return "the range wraps around the address space";
    case HypercallRefusal::kNotRam:
      return "the range is not wholly RAM";
    case HypercallRefusal::kNotABoolean:
      return "enc is neither 0 nor 1";
    case HypercallRefusal::kReservedBits:
      return "reserved attribute bits are set";
    case HypercallRefusal::kPageSizeHint:
      return "the page-size hint is above 2";
    case HypercallRefusal::kLater:
      return "the pages cannot be converted now";
    case HypercallRefusal::kFailed:
      return "the platform failed to convert the pages";
  }
  return "unknown";
}

}  // namespace

const char* name_of(HypercallForm form) {
  switch (form) {
    case HypercallForm::kNone:
      return "none";
    case HypercallForm::kPageEncStatus:
      return "page-enc-status";
    case HypercallForm::kMapGpaRange:
      return "map-gpa-range";
  }
  return "unknown";
}

std::string describe(const HypercallOutcome& outcome) {
  if (outcome.refusal == HypercallRefusal::kNone) {
    return fmt::format("hypercall converted {} pages from gfn {:#x} to {}{}", outcome.range.pages,
                       value(outcome.range.first), name_of(outcome.cls),
                       outcome.no_ram ? ": no RAM, nothing to do" : "");
  }
  return fmt::format("hypercall {} ({:#x}, {:#x}, {:#x}) refused: {}", outcome.nr, outcome.args[0],
                     outcome.args[1], outcome.args[2], reason_of(outcome.refusal));
}

HypercallOutcome handle_hypercall(KvmRun& run, const HypercallRules& rules,
                                  const MemoryLayout& layout, Converter& converter) {
  SEALIFT_ASSERT(run.exit_reason == kKvmExitHypercall);
  // One copy: the page is shared with the kernel, so a value is not read twice.
  const KvmRun::Hypercall call = run.exit.hypercall;
  HypercallOutcome out;
  out.nr = call.nr;
  std::copy_n(call.args, 3, out.args);
  out.refusal = decode(call, rules, layout, out);
  if (out.converted()) out.refusal = refusal_of(converter.convert(out.range, out.cls));
  out.ret = answer_to(out.refusal, rules);
  run.exit.hypercall.ret = out.ret;
  return out;
}

}  // namespace sealift
