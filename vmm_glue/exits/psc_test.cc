#include "vmm_glue/exits/psc.h"

#include <gtest/gtest.h>

#include <string>

#include "vmm_glue/exits/vmgexit_test_support.h"

namespace sealift {
namespace {

using test::FakeGuest;
using Why = PscRefusal;
constexpr std::uint64_t kBuffer = 0x3800;
constexpr std::size_t kRoom = 2032;
constexpr auto kPrivate = PageClass::kPrivate;
constexpr auto kShared = PageClass::kShared;

constexpr std::uint64_t entry_of(std::uint64_t op, std::uint64_t gfn, bool huge = false,
                                 std::uint64_t cur_page = 0) {
  return (huge ? 1ULL << 56 : 0) | op << 52 | gfn << 12 | cur_page;
}
constexpr std::uint64_t to_private(std::uint64_t gfn) { return entry_of(1, gfn); }
constexpr std::uint64_t to_shared(std::uint64_t gfn) { return entry_of(2, gfn); }
constexpr std::uint64_t to_shared_2m(std::uint64_t gfn, std::uint64_t done = 0) {
  return entry_of(2, gfn, true, done);
}

// RAM: gfn 0..0xfff and 0x1200..0x20fff; the page of the buffer is shared.
struct Machine {
  Machine() : guest({GfnRange{Gfn{0}, 0x1000}, GfnRange{Gfn{0x1200}, 0x1fe00}}) {
    guest.share({Gfn{3}, 1});
  }
  PscOutcome change(PscHeader header, const std::vector<std::uint64_t>& entries) {
    guest.poke_word(kBuffer, header);
    for (std::size_t i = 0; i < entries.size(); ++i)
      guest.poke_word(kBuffer + 8 + 8 * i, entries[i]);
    return again();
  }
  PscOutcome again() {
    Bytes copy(kRoom);
    EXPECT_TRUE(guest.read(Gpa{kBuffer}, copy));
    guest.calls.clear();
    guest.writes.clear();
    return change_page_states(copy, Gpa{kBuffer}, guest.layout, guest, guest);
  }
  PscHeader header() const { return guest.peek<PscHeader>(kBuffer); }
  std::uint64_t done(std::size_t i) const {
    return guest.peek<PscEntry>(kBuffer + 8 + 8 * i).cur_page();
  }
  FakeGuest guest;
};

using Calls = std::vector<std::pair<GfnRange, PageClass>>;
GfnRange pages(std::uint64_t first, std::uint64_t count) { return {Gfn{first}, count}; }

struct Case {
  const char* name;
  PscHeader header;
  std::vector<std::uint64_t> entries;
  Why why;
  std::uint64_t answer;
  std::uint16_t cur_entry;  // afterwards
  Calls calls;
};

const std::vector<Case>& cases() {
  static const std::vector<Case> kCases = {
      {"one_4k_shared", {0, 0, 0}, {to_shared(16)}, Why::kNone, 0, 1, {{pages(16, 1), kShared}}},
      {"one_4k_private", {0, 0, 0}, {to_private(16)}, Why::kNone, 0, 1, {{pages(16, 1), kPrivate}}},
      {"one_2m", {0, 0, 0}, {to_shared_2m(512)}, Why::kNone, 0, 1, {{pages(512, 512), kShared}}},
      {"begins_at_cur_entry",
       {1, 1, 0},
       {to_shared(16), to_shared(32)},
       Why::kNone,
       0,
       2,
       {{pages(32, 1), kShared}}},
      {"cur_past_end_is_done", {2, 1, 0}, {to_shared(16), to_shared(17)}, Why::kNone, 0, 2, {}},
      {"cur_far_past_end", {0xffff, 0, 0}, {to_shared(16)}, Why::kNone, 0, 0xffff, {}},
      {"end_past_the_buffer", {0, 253, 0}, {to_shared(16)}, Why::kBadHeader, 0x100000001, 0, {}},
      {"end_all_ones", {0, 0xffff, 0}, {to_shared(16)}, Why::kBadHeader, 0x100000001, 0, {}},
      {"header_reserved", {0, 0, 1}, {to_shared(16)}, Why::kBadHeader, 0x100000001, 0, {}},
      {"cur_page_above_4k",
       {0, 0, 0},
       {entry_of(2, 16, false, 2)},
       Why::kBadEntry,
       0x100000002,
       0,
       {}},
      {"cur_page_above_2m",
       {0, 0, 0},
       {to_shared_2m(512, 513)},
       Why::kBadEntry,
       0x100000002,
       0,
       {}},
      {"unaligned_2m", {0, 0, 0}, {to_shared_2m(513)}, Why::kBadEntry, 0x100000002, 0, {}},
      {"entry_reserved",
       {0, 0, 0},
       {to_shared(16) | 1ULL << 57},
       Why::kBadEntry,
       0x100000002,
       0,
       {}},
      {"entry_reserved_63",
       {0, 0, 0},
       {to_shared(16) | 1ULL << 63},
       Why::kBadEntry,
       0x100000002,
       0,
       {}},
      {"bad_entry_after_a_good_one",
       {0, 1, 0},
       {to_shared(16), to_shared_2m(1)},
       Why::kBadEntry,
       0x100000002,
       1,
       {{pages(16, 1), kShared}}},
      {"contiguous_bad_entry_is_not_merged",
       {0, 1, 0},
       {to_shared(16), entry_of(2, 17, false, 2)},
       Why::kBadEntry,
       0x100000002,
       1,
       {{pages(16, 1), kShared}}},
      {"contiguous_unaligned_2m",
       {0, 1, 0},
       {to_shared(16), to_shared_2m(17)},
       Why::kBadEntry,
       0x100000002,
       1,
       {{pages(16, 1), kShared}}},
      {"contiguous_reserved",
       {0, 1, 0},
       {to_shared(16), to_shared(17) | 1ULL << 57},
       Why::kBadEntry,
       0x100000002,
       1,
       {{pages(16, 1), kShared}}},
      {"not_ram", {0, 0, 0}, {to_shared(0x1000)}, Why::kNotRam, 0x10000000000, 0, {}},
      {"2m_across_the_end_of_ram",
       {0, 0, 0},
       {to_shared_2m(0x1000)},
       Why::kNotRam,
       0x10000000000,
       0,
       {}},
      {"highest_gfn", {0, 0, 0}, {to_shared((1ULL << 40) - 1)}, Why::kNotRam, 0x10000000000, 0, {}},
      {"run_that_leaves_ram_is_refused_whole",
       {0, 1, 0},
       {to_shared(0xfff), to_shared(0x1000)},
       Why::kNotRam,
       0x10000000000,
       0,
       {}},
      {"psmash_and_unsmash_are_complete",
       {0, 1, 0},
       {entry_of(3, 512, true), entry_of(4, 512)},
       Why::kNone,
       0,
       2,
       {}},
      {"operation_0_and_15_are_complete",
       {0, 1, 0},
       {entry_of(0, 16), entry_of(15, 0x1000)},
       Why::kNone,
       0,
       2,
       {}},
      {"psmash_is_checked_too",
       {0, 0, 0},
       {entry_of(3, 513, true)},
       Why::kBadEntry,
       0x100000002,
       0,
       {}},
      {"complete_entries_are_passed",
       {0, 2, 0},
       {entry_of(2, 16, false, 1), to_shared_2m(512, 512), to_shared(32)},
       Why::kNone,
       0,
       3,
       {{pages(32, 1), kShared}}},
      {"all_complete", {0, 0, 0}, {entry_of(2, 0x1000, false, 1)}, Why::kNone, 0, 1, {}},
      {"complete_then_bad",
       {0, 1, 0},
       {entry_of(2, 16, false, 1), to_shared_2m(1)},
       Why::kBadEntry,
       0x100000002,
       1,
       {}},
      {"partial_2m",
       {0, 0, 0},
       {to_shared_2m(512, 500)},
       Why::kNone,
       0,
       1,
       {{pages(1012, 12), kShared}}},
      {"partial_2m_merges_what_follows",
       {0, 1, 0},
       {to_shared_2m(512, 511), to_shared_2m(1024)},
       Why::kNone,
       0,
       2,
       {{pages(1023, 513), kShared}}},
      {"a_partial_entry_begins_a_run",
       {0, 1, 0},
       {to_shared_2m(512), to_shared_2m(1024, 1)},
       Why::kNone,
       0,
       2,
       {{pages(512, 512), kShared}, {pages(1025, 511), kShared}}},
      {"contiguous_4k",
       {0, 2, 0},
       {to_shared(16), to_shared(17), to_shared(18)},
       Why::kNone,
       0,
       3,
       {{pages(16, 3), kShared}}},
      {"sizes_mix",
       {0, 2, 0},
       {to_shared(511), to_shared_2m(512), to_shared(1024)},
       Why::kNone,
       0,
       3,
       {{pages(511, 514), kShared}}},
      {"gap",
       {0, 1, 0},
       {to_shared(16), to_shared(18)},
       Why::kNone,
       0,
       2,
       {{pages(16, 1), kShared}, {pages(18, 1), kShared}}},
      {"descending",
       {0, 1, 0},
       {to_shared(17), to_shared(16)},
       Why::kNone,
       0,
       2,
       {{pages(17, 1), kShared}, {pages(16, 1), kShared}}},
      {"other_operation",
       {0, 1, 0},
       {to_shared(16), to_private(17)},
       Why::kNone,
       0,
       2,
       {{pages(16, 1), kShared}, {pages(17, 1), kPrivate}}},
      {"there_and_back",
       {0, 1, 0},
       {to_shared(16), to_private(16)},
       Why::kNone,
       0,
       2,
       {{pages(16, 1), kShared}, {pages(16, 1), kPrivate}}},
  };
  return kCases;
}

TEST(Psc, EveryRow) {
  for (const Case& row : cases()) {
    SCOPED_TRACE(row.name);
    Machine m;
    PageMap expected(m.guest.layout.span_pages());
    expected.convert({Gfn{3}, 1}, kShared);
    std::uint64_t converted = 0;
    for (const auto& [range, cls] : row.calls) {
      expected.convert(range, cls);
      converted += range.pages;
    }
    const auto out = m.change(row.header, row.entries);
    EXPECT_EQ(out.refusal, row.why) << describe(out);
    EXPECT_EQ(out.answer, row.answer);
    EXPECT_EQ(m.guest.calls, row.calls);
    EXPECT_EQ(m.guest.map.digest(), expected.digest());
    EXPECT_EQ(out.converted_pages, converted);
    EXPECT_EQ(out.conversions, row.calls.size());
    EXPECT_EQ(m.header().cur_entry, row.cur_entry);
    EXPECT_EQ(m.header().end_entry, row.header.end_entry);
    EXPECT_EQ(m.header().reserved, row.header.reserved);
    for (std::size_t i = 0; i < row.entries.size(); ++i) {
      const PscEntry before{row.entries[i]};
      const bool passed = i >= row.header.cur_entry && i < row.cur_entry;
      EXPECT_EQ(m.guest.peek<std::uint64_t>(kBuffer + 8 + 8 * i),
                passed ? before.completed().word : before.word)
          << "entry " << i;
    }
  }
}

TEST(Psc, FullBufferOf2mIsOneConversion) {
  Machine m;
  std::vector<std::uint64_t> entries;
  for (std::uint64_t i = 0; i < 253; ++i) entries.push_back(to_shared_2m(0x1200 + 512 * i));
  const auto out = m.change({0, 252, 0}, entries);
  EXPECT_EQ(out.refusal, Why::kNone);
  EXPECT_EQ(m.guest.calls, (Calls{{pages(0x1200, 253 * 512), kShared}}));
  EXPECT_EQ(m.header().cur_entry, 253);
  for (std::size_t i = 0; i < 253; ++i) ASSERT_EQ(m.done(i), 512u) << i;
  EXPECT_EQ(m.guest.writes.size(), 2u);
}

TEST(Psc, LaterLeavesTheRestForTheGuestToAskAgain) {
  Machine m;
  m.guest.answers = {Converted::kDone, Converted::kLater};
  auto out = m.change({0, 2, 0}, {to_shared(16), to_shared(32), to_shared(33)});
  EXPECT_EQ(out.refusal, Why::kLater);
  EXPECT_EQ(out.answer, 0u);  // interrupted: cur_entry <= end_entry
  EXPECT_EQ(m.header().cur_entry, 1);
  EXPECT_EQ(m.done(0), 1u);
  EXPECT_EQ(m.done(1), 0u);
  EXPECT_EQ(m.guest.map.class_of(Gfn{32}), kPrivate);
  out = m.again();
  EXPECT_EQ(out.refusal, Why::kNone);
  EXPECT_EQ(m.guest.calls, (Calls{{pages(32, 2), kShared}}));
  EXPECT_EQ(m.header().cur_entry, 3);
}

TEST(Psc, PlatformThatRefusesTheNthRunLeavesTheEarlierOnes) {
  for (std::size_t nth = 0; nth < 4; ++nth) {
    Machine m;
    m.guest.answers.assign(nth, Converted::kDone);
    m.guest.answers.push_back(Converted::kFailed);
    const auto out =
        m.change({0, 3, 0}, {to_shared(16), to_shared(32), to_shared(48), to_shared(64)});
    EXPECT_EQ(out.refusal, Why::kFailed);
    EXPECT_EQ(out.answer, 0x10000000000u);
    EXPECT_EQ(m.header().cur_entry, nth);
    EXPECT_EQ(out.converted_pages, nth);
    EXPECT_EQ(m.guest.map.shared_pages(), 1 + nth);
    for (std::size_t i = 0; i < 4; ++i) EXPECT_EQ(m.done(i), i < nth ? 1u : 0u);
  }
}

// The buffer's own page becomes private: what was converted stays so, and nothing further is.
TEST(Psc, BufferThatConvertsItself) {
  Machine m;
  const auto out = m.change({0, 1, 0}, {to_private(3), to_shared(16)});
  EXPECT_EQ(out.refusal, Why::kUnwritable);
  EXPECT_EQ(out.answer, 0x10000000000u);
  EXPECT_EQ(m.guest.calls, (Calls{{pages(3, 1), kPrivate}}));
  EXPECT_EQ(m.guest.map.shared_pages(), 0u);
  EXPECT_TRUE(m.guest.writes.empty());
}

TEST(Psc, NothingOutsideTheRunIsWritten) {
  Machine m;
  std::vector<std::uint64_t> entries(253, to_shared(0x1000));
  entries[7] = to_shared(16);
  entries[8] = to_shared(17);
  const auto out = m.change({7, 8, 0}, entries);
  EXPECT_EQ(out.refusal, Why::kNone);
  ASSERT_EQ(m.guest.writes.size(), 2u);
  EXPECT_EQ(m.guest.writes[0].gpa, kBuffer + 8 + 7 * 8);
  EXPECT_EQ(m.guest.writes[0].bytes, 16u);
  EXPECT_EQ(m.guest.writes[1].gpa, kBuffer);
  EXPECT_EQ(m.guest.writes[1].bytes, 2u);
}

TEST(Psc, BufferLargerThanAnyGhcbHolds253Entries) {
  Machine m;
  m.guest.share({Gfn{4}, 1});
  Bytes copy(8 + 300 * 8);
  const PscHeader header{253, 253, 0};
  std::memcpy(copy.data(), &header, sizeof header);
  const auto out = change_page_states(copy, Gpa{kBuffer}, m.guest.layout, m.guest, m.guest);
  EXPECT_EQ(out.answer, 0x100000001u);
}

}  // namespace
}  // namespace sealift
