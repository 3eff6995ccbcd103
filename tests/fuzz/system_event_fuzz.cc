// KVM_EXIT_SYSTEM_EVENT and KVM_EXIT_SHUTDOWN: any event, any registers, any GHCB page.
//
// Input: flags u8, type u32, ndata u32, 16 words, then the shared page at 0x7f000. Flags: 1
// shutdown; 2 the kernel has KVM_CAP_SYSTEM_EVENT_DATA; 4 memory cannot be read; 6:5 type: as it
// is, 6, 7, 4 with bit 31.
#include <array>

#include "tests/fuzz/fuzz_input.h"
#include "vmm_glue/exits/system_event.h"

namespace sealift::fuzz {
namespace {

constexpr std::uint64_t kPageGpa = 0x7f000;

class OnePage final : public GuestBytes {
 public:
  explicit OnePage(ByteView content) { std::ranges::copy(content, page_.begin()); }
  bool read(Gpa gpa, MutableBytes out) const override {
    if (value(gpa) < kPageGpa || value(gpa) - kPageGpa > kPageBytes - out.size()) return false;
    std::memcpy(out.data(), &page_[value(gpa) - kPageGpa], out.size());
    return true;
  }
  bool write(Gpa, ByteView) override {
    std::abort();  // the decoder writes nothing
  }

 private:
  std::array<std::byte, kPageBytes> page_{};
};

bool is_one_plain_line(const std::string& text) {
  return std::ranges::all_of(text, [](char c) { return c >= 0x20 && c < 0x7f; });
}

void fuzz_system_event(ByteView bytes) {
  FuzzInput input(reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size());
  const auto flags = input.take<std::uint8_t>();
  const auto type = input.take<std::uint32_t>();
  constexpr std::uint32_t kTypes[] = {0, 6, 7, 4 | 1u << 31};
  const unsigned pick = flags >> 5 & 3;
  KvmRun run{};
  run.exit_reason = (flags & 1) != 0 ? kKvmExitShutdown : kKvmExitSystemEvent;
  run.exit.system_event.type = pick == 0 ? type : kTypes[pick];
  run.exit.system_event.ndata = input.take<std::uint32_t>();
  for (auto& word : run.exit.system_event.data) word = input.take<std::uint64_t>();
  const OnePage memory(input.take_bytes(kPageBytes));
  const KvmRun before = run;

  const ExitAbi abi{.has_system_event_data = (flags & 2) != 0};
  const GuestEnd end = decode_guest_end(run, abi, (flags & 4) != 0 ? nullptr : &memory);

  FUZZ_CHECK(std::memcmp(&run, &before, sizeof run) == 0);
  FUZZ_CHECK(!end.why.empty() && end.why.size() <= kGuestEndBytesMax);
  FUZZ_CHECK(is_one_plain_line(end.why));
  FUZZ_CHECK(!end.sev || end.kind == GuestEndKind::kSevTerminated);
  FUZZ_CHECK(!end.tdx || end.kind == GuestEndKind::kTdxFatal);
  if (end.sev) FUZZ_CHECK(end.sev->reason_set <= 0xf && end.sev->reason_code <= 0xff);
  if (end.tdx) {
    FUZZ_CHECK(run.exit.system_event.ndata >= 16);
    FUZZ_CHECK(end.tdx->message.size() <= 4 * kTdxMessageBytesMax);
    if (run.exit.system_event.data[1] == 0) FUZZ_CHECK(end.tdx->message.empty());
  }
  if ((flags & 1) != 0) FUZZ_CHECK(end.kind == GuestEndKind::kTripleFault);
}

}  // namespace
}  // namespace sealift::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t bytes) {
  sealift::fuzz::fuzz_system_event(std::as_bytes(std::span(data, bytes)));
  return 0;
}
