// KVM_EXIT_HYPERCALL: any calls in a row, for any kind of guest and platform.
//
// Input: rules u8, then calls of {flags u8, nr u64, gpa u64, pages u64, attributes u64}. Rules:
// 1:0 form, 3:2 caller, 4 the kernel knows EAGAIN, 6:5 what the platform answers. Flags: 1 takes nr
// as it is, else 12; 2 takes gpa and pages as they are, else they are cut to the first 2048 pages.
#include <string>

#include "tests/fuzz/fuzz_input.h"
#include "vmm_glue/exits/hypercall.h"

namespace sealift::fuzz {
namespace {

constexpr int kCallsMax = 32;
constexpr std::uint64_t kRamEnd = 0x400;

// RAM: gfn 0..0xff and 0x200..0x3ff.
bool is_ram(std::uint64_t gfn) { return gfn < 0x100 || (gfn >= 0x200 && gfn < kRamEnd); }

class AnyConverter final : public Converter {
 public:
  AnyConverter(PageMap& map, DirtySet& dirty, Converted answer)
      : inner_(map, dirty), answer_(answer) {}
  Converted convert(GfnRange range, PageClass cls) override {
    ++calls;
    for (std::uint64_t i = 0; i < range.pages; ++i) {
      FUZZ_CHECK(is_ram(value(range.first) + i));
    }
    return answer_ == Converted::kDone ? inner_.convert(range, cls) : answer_;
  }
  int calls = 0;

 private:
  MapConverter inner_;
  Converted answer_;
};

void check_answer(std::uint64_t ret, const HypercallRules& rules) {
  const auto code = static_cast<std::int64_t>(ret);
  if (rules.caller == PageStateCaller::kPlain) {
    FUZZ_CHECK(code == 0 || code == -22 || code == -1000);
  } else {
    FUZZ_CHECK(code == 0 || code == 22 || (code == 11 && rules.knows_retry));
  }
}

void call_once(FuzzInput& input, const HypercallRules& rules, const MemoryLayout& layout,
               const PageMap& map, const DirtySet& dirty, AnyConverter& converter) {
  const auto flags = input.take<std::uint8_t>();
  KvmRun run{};
  run.exit_reason = kKvmExitHypercall;
  auto& call = run.exit.hypercall;
  call.nr = (flags & 1) != 0 ? input.take<std::uint64_t>() : kKvmHypercallPageState;
  call.args[0] = input.take<std::uint64_t>() & ((flags & 2) != 0 ? ~0ULL : 0x7ff000);
  call.args[1] = input.take<std::uint64_t>() & ((flags & 2) != 0 ? ~0ULL : 0x7ff);
  call.args[2] = input.take<std::uint64_t>();
  call.ret = 0x5a5a5a5a5a5a5a5a;
  const KvmRun::Hypercall asked = call;
  const auto digest = map.digest();
  const auto dirty_pages = dirty.count();
  const int calls = converter.calls;

  const auto out = handle_hypercall(run, rules, layout, converter);

  FUZZ_CHECK(call.ret == out.ret);
  check_answer(out.ret, rules);
  FUZZ_CHECK((out.ret == 0) == (out.refusal == HypercallRefusal::kNone));
  FUZZ_CHECK(describe(out).size() < 256);
  FUZZ_CHECK(converter.calls <= calls + 1);
  if (out.no_ram) {
    FUZZ_CHECK(rules.caller == PageStateCaller::kTdx && (asked.args[2] & 16) == 0);
    for (std::uint64_t gfn = 0; gfn < kRamEnd; ++gfn) {
      FUZZ_CHECK(!is_ram(gfn) || gfn - (asked.args[0] >> 12) >= asked.args[1]);
    }
  }
  if (!out.converted()) {
    FUZZ_CHECK(map.digest() == digest && dirty.count() == dirty_pages);
    return;
  }
  const bool is_private =
      rules.form == HypercallForm::kPageEncStatus ? asked.args[2] == 1 : (asked.args[2] & 16) != 0;
  FUZZ_CHECK(asked.nr == 12 && rules.form != HypercallForm::kNone);
  for (std::uint64_t i = 0; i < asked.args[1]; ++i) {
    const Gfn gfn{(asked.args[0] >> 12) + i};
    FUZZ_CHECK(map.class_of(gfn) == (is_private ? PageClass::kPrivate : PageClass::kShared));
    FUZZ_CHECK(dirty.is_marked(gfn));
  }
}

void fuzz_hypercall(ByteView bytes) {
  FuzzInput input(reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size());
  const auto choice = input.take<std::uint8_t>();
  const HypercallRules rules{.form = static_cast<HypercallForm>((choice & 3) % 3),
                             .caller = static_cast<PageStateCaller>((choice >> 2 & 3) % 3),
                             .knows_retry = (choice & 16) != 0};
  const auto answer = static_cast<Converted>((choice >> 5 & 3) % 3);
  const auto layout =
      MemoryLayout::make({GfnRange{Gfn{0}, 0x100}, GfnRange{Gfn{0x200}, kRamEnd - 0x200}});
  FUZZ_CHECK(layout.has_value());
  PageMap map(layout->span_pages());
  DirtySet dirty(layout->span_pages());
  AnyConverter converter(map, dirty, answer);
  for (int i = 0; i < kCallsMax && !input.empty(); ++i) {
    call_once(input, rules, *layout, map, dirty, converter);
  }
}

}  // namespace
}  // namespace sealift::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t bytes) {
  sealift::fuzz::fuzz_hypercall(std::as_bytes(std::span(data, bytes)));
  return 0;
}
