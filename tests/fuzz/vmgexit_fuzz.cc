// KVM_EXIT_VMGEXIT: any GHCB MSR, any GHCB page, a guest that writes meanwhile, a converter that
// gives any answer. The map is compared with one that is changed entry by entry.
//
// Input: flags u8, script u32 (2 bits for each convert()), ghcb_msr u64, scratch offset u16, usage
// u8, then the page-state buffer. Flags: 1 the MSR is raw, else the GHCB's address; 2 the scratch
// offset is used; 4 the guest overwrites the buffer after the first read; 8 gfns are cut to RAM's
// size, which no mutation finds by itself.
#include <array>

#include "tests/fuzz/fuzz_input.h"
#include "vmm_glue/exits/vmgexit.h"
#include "vmm_glue/exits/vmgexit_test_support.h"

namespace sealift::fuzz {
namespace {

constexpr std::uint64_t kGhcb = 0x3000;
constexpr std::uint64_t kStale = 0x5a5a;

struct Scene {
  test::FakeGuest guest{{GfnRange{Gfn{0}, 0x1000}, GfnRange{Gfn{0x1200}, 0xe00}}};
  KvmRun run{};
  std::uint64_t buffer = kGhcb + kGhcbSharedBuffer;
  PscHeader header;                                // as it is read
  std::array<PscEntry, kPscEntriesMax> entries{};  // as they are read
  std::size_t capacity = 0;
};

void set_up(Scene& scene, FuzzInput& input) {
  const auto flags = input.take<std::uint8_t>();
  const auto script = input.take<std::uint32_t>();
  const auto msr = input.take<std::uint64_t>();
  const auto offset = input.take<std::uint16_t>();
  const std::uint32_t usage = input.take<std::uint8_t>() == 1 ? 1 : 0;
  auto& guest = scene.guest;
  guest.share({page_of(Gpa{kGhcb}), 1});
  for (unsigned bit = 0; bit < 32; bit += 2) {
    const unsigned two = script >> bit & 3;
    guest.answers.push_back(two == 1   ? Converted::kLater
                            : two == 2 ? Converted::kFailed
                                       : Converted::kDone);
  }
  if ((flags & 2) != 0) scene.buffer = kGhcb + offset;
  std::array<std::uint64_t, 1 + kPscEntriesMax> words{};
  const ByteView bytes = input.take_bytes(sizeof words);
  std::memcpy(words.data(), bytes.data(), bytes.size());
  if ((flags & 8) != 0) {
    for (std::size_t i = 1; i < words.size(); ++i) words[i] &= ~(0x7ffffffULL << 25);
  }
  if (scene.buffer >= kGhcb && scene.buffer + 8 <= kGhcb + kPageBytes) {
    const std::size_t room = kGhcb + kPageBytes - scene.buffer;
    guest.poke(scene.buffer, std::as_bytes(std::span(words)).first(std::min(room, sizeof words)));
  }
  guest.poke_word(kGhcb + kGhcbExitCode, kNaePageStateChange);
  guest.poke_word(kGhcb + kGhcbScratch, scene.buffer);
  guest.poke_word(kGhcb + kGhcbUsage, usage);
  const std::uint64_t end = kGhcb + kGhcbSharedBuffer + kGhcbSharedBufferBytes;
  if (scene.buffer >= kGhcb + kGhcbSharedBuffer && scene.buffer + 8 <= end) {
    scene.capacity = (end - scene.buffer - 8) / 8;
    const auto copy = guest.peek<decltype(words)>(scene.buffer);
    std::memcpy(&scene.header, copy.data(), sizeof scene.header);
    std::memcpy(scene.entries.data(), copy.data() + 1, 8 * scene.capacity);
  }
  if ((flags & 4) != 0) {
    guest.on_read = [&guest, at = scene.buffer] { guest.poke(at, Bytes(64, std::byte{0x21})); };
  }
  guest.read_limit = 1;
  scene.run.exit_reason = kPostedExitVmgexit;
  scene.run.exit.posted_vmgexit = {(flags & 1) != 0 ? msr : kGhcb, kStale};
}

// Entries [cur_entry, done), applied one after the other.
std::vector<GfnRange> expected_ranges(const Scene& scene, std::size_t done) {
  PageMap map(scene.guest.layout.span_pages());
  map.convert({page_of(Gpa{kGhcb}), 1}, PageClass::kShared);
  for (std::size_t i = scene.header.cur_entry; i < done; ++i) {
    const PscEntry entry = scene.entries[i];
    const std::uint64_t pages = entry.pages() - entry.cur_page();
    PageClass cls{};
    if (pages == 0 || !class_wanted(entry.operation(), cls)) continue;
    map.convert({entry.gfn() + entry.cur_page(), pages}, cls);
  }
  return map.shared_ranges();
}

void check_page_form(const Scene& scene, const PscOutcome& out) {
  const auto& guest = scene.guest;
  FUZZ_CHECK(scene.run.exit.posted_vmgexit.ret == out.answer);
  FUZZ_CHECK(out.answer == 0 || out.answer == kPscHeaderInvalid || out.answer == kPscEntryInvalid ||
             out.answer == kPscFailed);
  for (const auto& write : guest.writes) {
    FUZZ_CHECK(write.gpa >= scene.buffer && write.gpa >= kGhcb + kGhcbSharedBuffer);
    FUZZ_CHECK(write.gpa + write.bytes <= scene.buffer + 8 + 8 * scene.capacity);
  }
  if (out.refusal == PscRefusal::kUnwritable) return;  // progress is not recorded
  std::size_t done = scene.header.cur_entry;
  for (const auto& write : guest.writes) {
    if (write.gpa == scene.buffer) done = guest.peek<std::uint16_t>(scene.buffer);
  }
  FUZZ_CHECK(done >= scene.header.cur_entry);
  FUZZ_CHECK(done == scene.header.cur_entry || done <= scene.header.end_entry + 1u);
  FUZZ_CHECK(guest.map.shared_ranges() == expected_ranges(scene, done));
  if (out.refusal == PscRefusal::kNone) FUZZ_CHECK(done > scene.header.end_entry);
}

void check_msr_form(const Scene& scene, const PscOutcome& out, std::uint64_t msr) {
  FUZZ_CHECK(scene.run.exit.posted_vmgexit.ret == kStale);
  FUZZ_CHECK(scene.run.exit.posted_vmgexit.ghcb_msr == out.answer);
  FUZZ_CHECK(scene.guest.reads == 0 && scene.guest.writes.empty());
  FUZZ_CHECK(out.answer == kGhcbMsrPscResponse || out.answer == kGhcbMsrPscFailed ||
             ((msr & kGhcbMsrCodeMask) != kGhcbMsrPscRequest && out.answer == msr));
  if (out.refusal != PscRefusal::kNone) FUZZ_CHECK(scene.guest.map.shared_pages() == 1);
}

}  // namespace
}  // namespace sealift::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t bytes) {
  using namespace sealift;
  fuzz::FuzzInput input(data, bytes);
  fuzz::Scene scene;
  fuzz::set_up(scene, input);
  const std::uint64_t msr = scene.run.exit.posted_vmgexit.ghcb_msr;
  const auto out = handle_vmgexit(scene.run, scene.guest.layout, scene.guest, scene.guest);
  FUZZ_CHECK(out.conversions <= kPscEntriesMax);
  if ((msr & kGhcbMsrCodeMask) == 0) {
    fuzz::check_page_form(scene, out);
  } else {
    fuzz::check_msr_form(scene, out, msr);
  }
  return 0;
}
