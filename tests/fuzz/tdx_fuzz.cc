// KVM_EXIT_TDX: calls of the guest, ends of quotes, conversions of the buffers and the abandoning
// of quotes, in any order.
//
// Input: steps of an opcode u8 and its operands, until the bytes end or 64 steps are done.
#include "tests/fuzz/fuzz_input.h"
#include "vmm_glue/exits/tdx_calls.h"
#include "vmm_glue/exits/vmgexit_test_support.h"

namespace sealift::fuzz {
namespace {

constexpr int kStepsMax = 64;
constexpr std::uint64_t kPreset = kTdxSubfuncUnsupported;

struct HeldProvider final : QuoteProvider {
  void request(Bytes report, Done done) override {
    report_bytes = report.size();
    held.push_back(std::move(done));
  }
  std::size_t report_bytes = 0;
  std::vector<Done> held;
};

struct Scene {
  Scene() { guest.share({Gfn{0x10}, 0x60}); }

  test::FakeGuest guest{{GfnRange{Gfn{0}, 0x80}}};
  HeldProvider provider;
  std::uint64_t notified = 0;
  TdxCalls calls{guest, &provider,
                 [this](TdxNotify n) {
                   ++notified;
                   FUZZ_CHECK(n.vector >= 32);
                 },
                 TdxCallInfo{0, ~0ULL, 0, ~0ULL}};
  std::vector<std::pair<std::uint64_t, std::uint64_t>> buffers;  // accepted: gpa, bytes
};

bool is_status(std::uint64_t ret) {
  return ret == kTdxSuccess || ret == kTdxRetry || ret == kTdxInvalidOperand ||
         ret == kTdxAlignError || ret == kTdxSubfuncUnsupported;
}

// Inside one accepted buffer, and neither its version nor in_len.
void check_writes(Scene& scene) {
  for (const auto& write : scene.guest.writes) {
    FUZZ_CHECK(std::ranges::any_of(scene.buffers, [&](const auto& buffer) {
      return write.gpa >= buffer.first + 8 &&
             write.gpa + write.bytes <= buffer.first + buffer.second;
    }));
  }
  scene.guest.writes.clear();
  FUZZ_CHECK(scene.calls.quotes_in_flight() <= TdxCalls::kQuotesMax);
}

void get_quote(Scene& scene, FuzzInput& input) {
  const auto gpa_word = input.take<std::uint64_t>();
  const auto size_word = input.take<std::uint32_t>();
  // Bit 0 of the words: as they are; else whole pages near RAM, which no mutation finds by itself.
  const std::uint64_t gpa = (gpa_word & 1) != 0 ? gpa_word : gpa_word & 0xff000;
  const std::uint64_t size = (size_word & 1) != 0 ? size_word : size_word & 0x3f000;
  if (gpa < 0x80000) {
    scene.guest.poke(gpa, input.take_bytes(sizeof(TdxQuoteHeader)));
  }
  KvmRun run{};
  run.exit_reason = kKvmExitTdx;
  run.exit.tdx.nr = kTdxGetQuote;
  run.exit.tdx.get_quote = {kPreset, gpa, size};
  scene.guest.reads = 0;
  scene.guest.read_limit = 1;
  const std::size_t before = scene.provider.held.size();
  const auto out = scene.calls.handle(run, 0);
  FUZZ_CHECK(run.exit.tdx.get_quote.ret == out.ret && is_status(out.ret));
  FUZZ_CHECK(scene.provider.held.size() == before + (out.ret == kTdxSuccess ? 1 : 0));
  if (out.ret != kTdxSuccess) {
    FUZZ_CHECK(scene.guest.writes.empty());
    return;
  }
  FUZZ_CHECK(scene.provider.report_bytes <= size - sizeof(TdxQuoteHeader));
  FUZZ_CHECK(scene.guest.peek<TdxQuoteHeader>(gpa).status == kTdxQuoteInFlight);
  scene.buffers.emplace_back(gpa, size);
}

void other_call(Scene& scene, FuzzInput& input) {
  KvmRun run{};
  run.exit_reason = kKvmExitTdx;
  run.exit.tdx.flags = input.take<std::uint8_t>() & 1;
  run.exit.tdx.nr = 0x10000u + input.take<std::uint8_t>() % 8u;
  if (run.exit.tdx.nr == kTdxGetQuote) return;
  run.exit.tdx.unknown.ret = kPreset;
  for (auto& word : run.exit.tdx.unknown.data) word = input.take<std::uint64_t>();
  const auto out = scene.calls.handle(run, input.take<std::uint32_t>());
  FUZZ_CHECK(is_status(out.ret) && run.exit.tdx.unknown.ret == out.ret);
  FUZZ_CHECK(scene.guest.writes.empty());
}

void complete(Scene& scene, FuzzInput& input) {
  const auto which = input.take<std::uint8_t>();
  const auto length = input.take<std::uint32_t>() & 0x3ffff;
  const auto cls = input.take<std::uint8_t>();
  if (scene.provider.held.empty()) return;
  const auto done = scene.provider.held[which % scene.provider.held.size()];
  if (cls == 1) {
    done(fail(ErrorClass::kRefused, "unavailable"));
  } else if (cls == 2) {
    done(fail(ErrorClass::kLocalFault, "failed"));
  } else {
    done(Bytes(length, std::byte{0x22}));
  }
}

void abandon(Scene& scene) {
  scene.calls.abandon_quotes();
  check_writes(scene);
  for (const auto& done : scene.provider.held) done(Bytes(8));
  FUZZ_CHECK(scene.guest.writes.empty());
  scene.provider.held.clear();
  scene.buffers.clear();
}

void convert(Scene& scene, FuzzInput& input) {
  const auto first = input.take<std::uint8_t>() % 0x80u;
  const bool share = (input.take<std::uint8_t>() & 1) != 0;
  scene.guest.map.convert({Gfn{first}, 1}, share ? PageClass::kShared : PageClass::kPrivate);
}

}  // namespace
}  // namespace sealift::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t bytes) {
  using namespace sealift::fuzz;
  FuzzInput input(data, bytes);
  Scene scene;
  for (int step = 0; step < kStepsMax && !input.empty(); ++step) {
    switch (input.take<std::uint8_t>() % 8) {
      case 0:
        other_call(scene, input);
        break;
      case 1:
      case 2:
        complete(scene, input);
        break;
      case 3:
        convert(scene, input);
        break;
      case 4:
        abandon(scene);
        break;
      default:
        get_quote(scene, input);
    }
    check_writes(scene);
  }
  return 0;
}
