#include "vmm_glue/exits/vmgexit.h"

#include <gtest/gtest.h>

#include <cstring>
#include <string>

#include "vmm_glue/exits/vmgexit_test_support.h"

namespace sealift {
namespace {

using test::FakeGuest;
using Why = PscRefusal;
constexpr std::uint64_t kGhcb = 0x3000;  // gfn 3, shared from the start
constexpr std::uint64_t kBuffer = kGhcb + kGhcbSharedBuffer;
constexpr std::uint64_t kStale = 0xdead'beef;
constexpr auto kPrivate = PageClass::kPrivate;
constexpr auto kShared = PageClass::kShared;

// RAM: gfn 0..0xfff and 0x1200..0x1fff.
struct Machine {
  Machine() : guest({GfnRange{Gfn{0}, 0x1000}, GfnRange{Gfn{0x1200}, 0xe00}}) {
    guest.share({page_of(Gpa{kGhcb}), 1});
    guest.poke_word(kGhcb + kGhcbExitCode, kNaePageStateChange);
    guest.poke_word(kGhcb + kGhcbScratch, kBuffer);
  }

  void put(std::uint16_t cur, std::uint16_t end, const std::vector<std::uint64_t>& entries) {
    guest.poke_word(kBuffer, PscHeader{cur, end, 0});
    for (std::size_t i = 0; i < entries.size(); ++i)
      guest.poke_word(kBuffer + 8 + 8 * i, entries[i]);
  }

  PscOutcome exit(std::uint64_t msr = kGhcb) {
    run = {};
    run.exit_reason = kPostedExitVmgexit;
    run.exit.posted_vmgexit = {msr, kStale};
    guest.calls.clear();
    guest.writes.clear();
    guest.reads = 0;
    return handle_vmgexit(run, guest.layout, guest, guest);
  }

  PscHeader header() const { return guest.peek<PscHeader>(kBuffer); }
  PscEntry entry(std::size_t i) const { return guest.peek<PscEntry>(kBuffer + 8 + 8 * i); }

  FakeGuest guest;
  KvmRun run{};
};

constexpr std::uint64_t entry_of(std::uint64_t op, std::uint64_t gfn, bool huge = false,
                                 std::uint64_t cur_page = 0) {
  return (huge ? 1ULL << 56 : 0) | op << 52 | gfn << 12 | cur_page;
}

// ---- GHCB MSR protocol -------------------------------------------------------------------------

struct MsrCase {
  const char* name;
  std::uint64_t msr;
  Converted answer;
  Why why;
  std::uint64_t response;
};
constexpr std::uint64_t msr_of(std::uint64_t op, std::uint64_t gfn) {
  return op << 52 | gfn << 12 | 0x014;
}
const MsrCase kMsrCases[] = {
    {"private_page", msr_of(1, 0x10), Converted::kDone, Why::kNone, 0x015},
    {"shared_page", msr_of(2, 0x10), Converted::kDone, Why::kNone, 0x015},
    {"last_ram_page", msr_of(2, 0x1fff), Converted::kDone, Why::kNone, 0x015},
    {"past_ram", msr_of(2, 0x2000), Converted::kDone, Why::kNotRam, 0x8000000000000015},
    {"in_the_hole", msr_of(2, 0x1000), Converted::kDone, Why::kNotRam, 0x8000000000000015},
    {"highest_gfn", msr_of(1, (1ULL << 40) - 1), Converted::kDone, Why::kNotRam,
     0x8000000000000015},
    {"operation_0", msr_of(0, 0x10), Converted::kDone, Why::kBadOperation, 0x8000000000000015},
    {"operation_3", msr_of(3, 0x10), Converted::kDone, Why::kBadOperation, 0x8000000000000015},
    {"operation_15", msr_of(15, 0x10), Converted::kDone, Why::kBadOperation, 0x8000000000000015},
    {"reserved_56", msr_of(2, 0x10) | 1ULL << 56, Converted::kDone, Why::kReservedBits,
     0x8000000000000015},
    {"reserved_63", msr_of(2, 0x10) | 1ULL << 63, Converted::kDone, Why::kReservedBits,
     0x8000000000000015},
    {"later_is_a_failure", msr_of(2, 0x10), Converted::kLater, Why::kLater, 0x8000000000000015},
    {"platform_refused", msr_of(2, 0x10), Converted::kFailed, Why::kFailed, 0x8000000000000015},
    {"sev_info", 0x002, Converted::kDone, Why::kOtherRequest, 0x002},
    {"cpuid", 0x1'0000'0004, Converted::kDone, Why::kOtherRequest, 0x1'0000'0004},
    {"psc_response", 0x015, Converted::kDone, Why::kOtherRequest, 0x015},
    {"register_ghcb", 0x3012, Converted::kDone, Why::kOtherRequest, 0x3012},
    {"terminate", 0x100, Converted::kDone, Why::kOtherRequest, 0x100},
};

TEST(VmgexitMsr, EveryRow) {
  for (const MsrCase& row : kMsrCases) {
    SCOPED_TRACE(row.name);
    Machine m;
    m.guest.answers = {row.answer};
    const auto before = m.guest.map.digest();
    const auto out = m.exit(row.msr);
    EXPECT_EQ(out.refusal, row.why) << describe(out);
    EXPECT_EQ(m.run.exit.posted_vmgexit.ghcb_msr, row.response);
    EXPECT_EQ(m.run.exit.posted_vmgexit.ret, kStale);
    EXPECT_TRUE(m.guest.writes.empty());
    if (row.why == Why::kNone) {
      const Gfn gfn{row.msr >> 12 & 0xff'ffff'ffff};
      ASSERT_EQ(m.guest.calls.size(), 1u);
      EXPECT_EQ(m.guest.calls[0].first, (GfnRange{gfn, 1}));
      EXPECT_EQ(m.guest.map.class_of(gfn), (row.msr >> 52) == 1 ? kPrivate : kShared);
      EXPECT_EQ(out.converted_pages, 1u);
    } else {
      EXPECT_EQ(m.guest.map.digest(), before);
      EXPECT_EQ(out.converted_pages, 0u);
    }
  }
}

// ---- the GHCB page -----------------------------------------------------------------------------

struct PageCase {
  const char* name;
  Why why;
  void (*spoil)(Machine&);
  std::uint64_t msr = kGhcb;
};
void set_valid(Machine& m, std::initializer_list<unsigned> bits) {
  for (unsigned bit : bits) {
    const std::uint64_t at = kGhcb + kGhcbValidBitmap + bit / 8;
    m.guest.poke_word(at,
                      static_cast<std::uint8_t>(m.guest.peek<std::uint8_t>(at) | 1u << bit % 8));
  }
}
const PageCase kPageCases[] = {
    {"bitmap_cleared_by_kvm", Why::kNone, [](Machine&) {}},
    {"bitmap_complete", Why::kNone, [](Machine& m) { set_valid(m, {114, 115, 116, 117}); }},
    {"no_exit_code", Why::kMissingField, [](Machine& m) { set_valid(m, {115, 116, 117}); }},
    {"no_info_1", Why::kMissingField, [](Machine& m) { set_valid(m, {114, 116, 117}); }},
    {"no_info_2", Why::kMissingField, [](Machine& m) { set_valid(m, {114, 115, 117}); }},
    {"no_scratch", Why::kMissingField, [](Machine& m) { set_valid(m, {114, 115, 116}); }},
    {"only_rax", Why::kMissingField, [](Machine& m) { set_valid(m, {63}); }},
    {"usage_1", Why::kBadUsage,
     [](Machine& m) { m.guest.poke_word(kGhcb + kGhcbUsage, std::uint32_t{1}); }},
    {"usage_high", Why::kBadUsage,
     [](Machine& m) { m.guest.poke_word(kGhcb + kGhcbUsage, 1u << 31); }},
    {"mmio_read", Why::kOtherRequest,
     [](Machine& m) { m.guest.poke_word(kGhcb + kGhcbExitCode, std::uint64_t{0x80000001}); }},
    {"guest_request", Why::kOtherRequest,
     [](Machine& m) { m.guest.poke_word(kGhcb + kGhcbExitCode, std::uint64_t{0x80000011}); }},
    {"exit_code_high", Why::kOtherRequest,
     [](Machine& m) { m.guest.poke_word(kGhcb + kGhcbExitCode, 1ULL << 32 | 0x80000010); }},
    {"scratch_below", Why::kBadScratch,
     [](Machine& m) { m.guest.poke_word(kGhcb + kGhcbScratch, kBuffer - 1); }},
    {"scratch_no_header", Why::kBadScratch,
     [](Machine& m) { m.guest.poke_word(kGhcb + kGhcbScratch, kBuffer + 0x7f0 - 7); }},
    {"scratch_elsewhere", Why::kBadScratch,
     [](Machine& m) { m.guest.poke_word(kGhcb + kGhcbScratch, std::uint64_t{0x8000}); }},
    {"scratch_all_ones", Why::kBadScratch,
     [](Machine& m) { m.guest.poke_word(kGhcb + kGhcbScratch, ~0ULL); }},
    {"private_ghcb", Why::kNoGhcb, [](Machine&) {}, 0x4000},
    {"ghcb_past_ram", Why::kNoGhcb, [](Machine&) {}, 0x2000'0000},
    {"ghcb_at_the_end", Why::kNoGhcb, [](Machine&) {}, ~0xfffULL},
};

TEST(VmgexitPage, EveryRow) {
  for (const PageCase& row : kPageCases) {
    SCOPED_TRACE(row.name);
    Machine m;
    m.put(0, 0, {entry_of(2, 0x40)});
    row.spoil(m);
    const auto before = m.guest.map.digest();
    const auto out = m.exit(row.msr);
    EXPECT_EQ(out.refusal, row.why) << describe(out);
    EXPECT_EQ(m.run.exit.posted_vmgexit.ghcb_msr, row.msr);
    EXPECT_EQ(m.run.exit.posted_vmgexit.ret, row.why == Why::kNone ? 0u : 0x10000000000u);
    if (row.why == Why::kNone) continue;
    EXPECT_EQ(m.guest.map.digest(), before);
    EXPECT_TRUE(m.guest.writes.empty());
    EXPECT_TRUE(m.guest.calls.empty());
  }
}

TEST(VmgexitPage, ScratchDecidesHowManyEntriesThereAre) {
  for (std::uint64_t room = 0; room <= 253; ++room) {
    for (const bool fits : {true, false}) {
      Machine m;
      const std::uint64_t buffer = kBuffer + 8 * (253 - room);
      const auto end = static_cast<std::uint16_t>(fits ? room - 1 : room);
      if (fits && room == 0) continue;
      m.guest.poke_word(kGhcb + kGhcbScratch, buffer);
      m.guest.poke_word(buffer, PscHeader{end, end, 0});
      if (fits) m.guest.poke_word(buffer + 8 + 8ULL * end, entry_of(2, 0x40));
      const auto out = m.exit();
      ASSERT_EQ(out.answer, fits ? 0u : 0x100000001u) << room;
      ASSERT_EQ(out.converted_pages, fits ? 1u : 0u) << room;
      ASSERT_EQ(m.guest.writes.empty(), !fits);
    }
  }
}

TEST(VmgexitPage, ScratchNeedsNoAlignment) {
  Machine m;
  const std::uint64_t buffer = kBuffer + 5;
  m.guest.poke_word(kGhcb + kGhcbScratch, buffer);
  m.guest.poke_word(buffer, PscHeader{0, 251, 0});  // room for 252 entries
  m.guest.poke_word(buffer + 8, entry_of(2, 0x40));
  EXPECT_EQ(m.exit().answer, 0u);
  EXPECT_EQ(m.guest.peek<PscHeader>(buffer).cur_entry, 252);
  EXPECT_EQ(m.guest.map.class_of(Gfn{0x40}), kShared);
  m.guest.poke_word(buffer, PscHeader{0, 252, 0});
  EXPECT_EQ(m.exit().answer, 0x100000001u);
}

// The guest changes the whole GHCB after each read: nothing of the second content may count.
TEST(VmgexitPage, GuestThatWritesMeanwhileIsJudgedByOneCopy) {
  Machine m;
  m.put(0, 1, {entry_of(2, 0x40), entry_of(2, 0x80)});
  m.guest.on_read = [&m] {
    const PscHeader header{0, 252, 0};
    m.guest.poke_word(kBuffer, header);
    for (std::uint64_t i = 0; i < 253; ++i)
      m.guest.poke_word(kBuffer + 8 + 8 * i, entry_of(1, 0x3ff'ffff));
  };
  const auto out = m.exit();
  EXPECT_EQ(m.guest.reads, 1u);
  EXPECT_EQ(out.refusal, Why::kNone);
  ASSERT_EQ(m.guest.calls.size(), 2u);
  EXPECT_EQ(m.guest.calls[0], (std::pair{GfnRange{Gfn{0x40}, 1}, kShared}));
  EXPECT_EQ(m.guest.calls[1], (std::pair{GfnRange{Gfn{0x80}, 1}, kShared}));
  EXPECT_EQ(m.guest.map.shared_pages(), 3u);
  EXPECT_EQ(m.header().cur_entry, 2);
  EXPECT_EQ(m.header().end_entry, 252);  // the guest's own, not written back
}

TEST(VmgexitPage, SaysWhatItDid) {
  Machine m;
  m.put(0, 0, {entry_of(2, 0x40)});
  EXPECT_EQ(describe(m.exit()),
            "page-state change of 1 pages in 1 conversions, answer 0x0: complete");
  m.put(0, 0, {entry_of(2, 0x1000)});
  EXPECT_EQ(describe(m.exit()),
            "page-state change of 0 pages in 0 conversions, answer 0x10000000000: the range is not "
            "wholly RAM");
}

}  // namespace
}  // namespace sealift
