#include "vmm_glue/exits/vmgexit.h"

#include <array>

#include "engine/assert.h"

namespace sealift {
namespace {

constexpr std::uint64_t kMsrReserved = 0xffULL << 56;

PscRefusal convert_one(std::uint64_t msr, const MemoryLayout& layout, Converter& converter) {
  if ((msr & kMsrReserved) != 0) return PscRefusal::kReservedBits;
  PageClass cls{};
  if (!class_wanted(psc_operation(msr), cls)) return PscRefusal::kBadOperation;
  const GfnRange page{psc_gfn(msr), 1};
  if (!layout.contains(page)) return PscRefusal::kNotRam;
  return refusal_of(converter.convert(page, cls));
}

// The MSR has no word for "ask again": kLater is a failure here.
PscOutcome handle_msr(std::uint64_t msr, const MemoryLayout& layout, Converter& converter) {
  PscOutcome out;
  out.answer = msr;
  out.refusal = PscRefusal::kOtherRequest;
  if ((msr & kGhcbMsrCodeMask) != kGhcbMsrPscRequest) return out;
  out.refusal = convert_one(msr, layout, converter);
  out.answer = out.refusal == PscRefusal::kNone ? kGhcbMsrPscResponse : kGhcbMsrPscFailed;
  if (out.refusal == PscRefusal::kNone) out.converted_pages = out.conversions = 1;
  return out;
}

bool has_fields(ByteView ghcb) {
  const ByteView bitmap = ghcb.subspan(kGhcbValidBitmap, 16);
  if (load_at<std::uint64_t>(bitmap, 0) == 0 && load_at<std::uint64_t>(bitmap, 8) == 0) return true;
  for (std::size_t field : {kGhcbExitCode, kGhcbExitInfo1, kGhcbExitInfo2, kGhcbScratch}) {
    const std::size_t bit = field / 8;
    if ((std::to_integer<unsigned>(bitmap[bit / 8]) >> (bit % 8) & 1) == 0) return false;
  }
  return true;
}

// Sets `offset` of the buffer in the page, or says why the page is no page-state change.
PscRefusal check_ghcb(ByteView ghcb, Gpa gpa, std::size_t& offset) {
  if (load_at<std::uint32_t>(ghcb, kGhcbUsage) != 0) return PscRefusal::kBadUsage;
  if (!has_fields(ghcb)) return PscRefusal::kMissingField;
  if (load_at<std::uint64_t>(ghcb, kGhcbExitCode) != kNaePageStateChange)
    return PscRefusal::kOtherRequest;
  const auto scratch = load_at<std::uint64_t>(ghcb, kGhcbScratch);
  const std::uint64_t first = value(gpa) + kGhcbSharedBuffer;
  const std::uint64_t last = first + kGhcbSharedBufferBytes - sizeof(PscHeader);
  if (scratch < first || scratch > last) return PscRefusal::kBadScratch;
  offset = scratch - value(gpa);
  return PscRefusal::kNone;
}

PscOutcome handle_page(Gpa gpa, const MemoryLayout& layout, Converter& converter,
                       GuestBytes& guest) {
  std::array<std::byte, kPageBytes> ghcb;
  std::size_t offset = 0;
  PscOutcome out;
  out.refusal = guest.read(gpa, ghcb) ? check_ghcb(ghcb, gpa, offset) : PscRefusal::kNoGhcb;
  out.answer = kPscFailed;
  if (out.refusal != PscRefusal::kNone) return out;
  const std::size_t end = kGhcbSharedBuffer + kGhcbSharedBufferBytes;
  return change_page_states(ByteView(ghcb).subspan(offset, end - offset), Gpa{value(gpa) + offset},
                            layout, converter, guest);
}

}  // namespace

PscOutcome handle_vmgexit(KvmRun& run, const MemoryLayout& layout, Converter& converter,
                          GuestBytes& guest) {
  SEALIFT_ASSERT(run.exit_reason == kPostedExitVmgexit);
  const std::uint64_t msr = run.exit.posted_vmgexit.ghcb_msr;
  if ((msr & kGhcbMsrCodeMask) != 0) {
    const PscOutcome out = handle_msr(msr, layout, converter);
    run.exit.posted_vmgexit.ghcb_msr = out.answer;
    return out;
  }
  const PscOutcome out = handle_page(Gpa{msr}, layout, converter, guest);
  run.exit.posted_vmgexit.ret = out.answer;
  return out;
}

}  // namespace sealift
