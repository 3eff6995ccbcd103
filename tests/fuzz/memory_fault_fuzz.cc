// KVM_EXIT_MEMORY_FAULT: any ends of KVM_RUN in a row, on any kernel and platform.
//
// Input: rules u8, then ends of {flags u8, errno u8, reason u8, fault flags u64, gpa u64, size
// u64}. Rules: 1 kernel as posted (38); 2 implicit conversion is refused; 4:3 what the platform
// answers. Flags: 1 takes the fault as it is, else it is a plausible one; 2 other progress came
// before.
#include <cerrno>

#include "tests/fuzz/fuzz_input.h"
#include "vmm_glue/exits/memory_fault.h"

namespace sealift::fuzz {
namespace {

using Kind = MemoryFaultOutcome::Kind;

constexpr int kEndsMax = 64;
constexpr std::uint32_t kRepeatsMax = 4;
constexpr std::uint64_t kFaultsMax = 24;

bool is_ram(std::uint64_t gfn) { return gfn < 0x100 || (gfn >= 0x200 && gfn < 0x400); }

class AnyConverter final : public Converter {
 public:
  AnyConverter(PageMap& map, DirtySet& dirty, Converted answer)
      : inner_(map, dirty), answer_(answer) {}
  Converted convert(GfnRange range, PageClass cls) override {
    ++conversions;
    return inner_.convert(range, cls);
  }
  Converted settle(GfnRange range, PageClass cls) override {
    for (std::uint64_t i = 0; i < range.pages; ++i) {
      FUZZ_CHECK(is_ram(value(range.first) + i));
    }
    if (answer_ != Converted::kDone) return answer_;
    const Converted result = inner_.settle(range, cls);
    if (result == Converted::kDone) ++conversions;
    return result;
  }
  int conversions = 0;

 private:
  MapConverter inner_;
  Converted answer_;
};

struct Side {
  const PageMap& map;
  AnyConverter& converter;
  MemoryFaultHandler& handler;
  ExitAbi abi;
  std::uint64_t faults = 0;  // since progress, not fatal
};

// False: the guest has ended.
bool end_once(FuzzInput& input, Side& side) {
  const auto flags = input.take<std::uint8_t>();
  const bool raw = (flags & 1) != 0;
  const auto error = input.take<std::uint8_t>();
  const auto reason = input.take<std::uint8_t>();
  KvmRun run{};
  run.exit_reason = raw ? reason : side.abi.memory_fault_exit;
  auto& fault = run.exit.memory_fault;
  fault.flags = input.take<std::uint64_t>() & (raw ? ~0ULL : 8);
  fault.gpa = input.take<std::uint64_t>() & (raw ? ~0ULL : 0x3ff000);
  fault.size = raw ? input.take<std::uint64_t>() : kPageBytes;
  const int run_errno = raw ? error : EFAULT;
  if ((flags & 2) != 0) {
    side.handler.progress();
    side.faults = 0;
  }
  if (!side.handler.handles(run_errno, run)) {
    FUZZ_CHECK(run_errno != EFAULT && run_errno != EHWPOISON);
    return true;
  }
  const auto digest = side.map.digest();
  const int conversions = side.converter.conversions;

  const auto out = side.handler.handle(run_errno, run);

  FUZZ_CHECK(out.why.size() < 256);
  FUZZ_CHECK(side.converter.conversions == conversions + (out.kind == Kind::kConverted ? 1 : 0));
  if (out.kind != Kind::kConverted) FUZZ_CHECK(side.map.digest() == digest);
  if (out.kind == Kind::kFatal) {
    FUZZ_CHECK(!out.why.empty());
    return false;
  }
  FUZZ_CHECK(run.exit_reason == side.abi.memory_fault_exit && run_errno != EHWPOISON);
  FUZZ_CHECK((fault.flags & ~8ULL) == 0 && fault.gpa % kPageBytes == 0);
  const auto cls = fault.flags == 8 ? PageClass::kPrivate : PageClass::kShared;
  if (out.kind != Kind::kLater) FUZZ_CHECK(all_pages_are(side.map, out.range, cls));
  FUZZ_CHECK(++side.faults <= kFaultsMax);
  return true;
}

void fuzz_memory_fault(ByteView bytes) {
  FuzzInput input(reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size());
  const auto choice = input.take<std::uint8_t>();
  ExitAbi abi;
  if ((choice & 1) != 0) abi.memory_fault_exit = kPostedExitMemoryFault;
  const MemoryFaultRules rules{
      .may_convert = (choice & 2) == 0, .repeats_max = kRepeatsMax, .faults_max = kFaultsMax};
  const auto layout = MemoryLayout::make({GfnRange{Gfn{0}, 0x100}, GfnRange{Gfn{0x200}, 0x200}});
  FUZZ_CHECK(layout.has_value());
  PageMap map(layout->span_pages());
  DirtySet dirty(layout->span_pages());
  AnyConverter converter(map, dirty, static_cast<Converted>((choice >> 3 & 3) % 3));
  MemoryFaultHandler handler(abi, rules, *layout, map, converter);
  Side side{map, converter, handler, abi};
  for (int i = 0; i < kEndsMax && !input.empty(); ++i) {
    if (!end_once(input, side)) return;
  }
}

}  // namespace
}  // namespace sealift::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t bytes) {
  sealift::fuzz::fuzz_memory_fault(std::as_bytes(std::span(data, bytes)));
  return 0;
}
