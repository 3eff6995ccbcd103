#include "vmm_glue/exits/memory_fault.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <string>

namespace sealift {
namespace {

using Kind = MemoryFaultOutcome::Kind;

constexpr auto kToShared = PageClass::kShared;
constexpr auto kToPrivate = PageClass::kPrivate;
constexpr ExitAbi kLanded{};
constexpr ExitAbi kPosted{.memory_fault_exit = kPostedExitMemoryFault};

// Bookkeeping, or what the test wants the platform to answer.
class FakeConverter final : public Converter {
 public:
  FakeConverter(PageMap& map, DirtySet& dirty) : inner_(map, dirty) {}
  Converted convert(GfnRange range, PageClass cls) override {
    ++conversions;
    return answer == Converted::kDone ? inner_.convert(range, cls) : answer;
  }
  Converted settle(GfnRange range, PageClass cls) override {
    if (answer != Converted::kDone) return convert(range, cls);
    const Converted result = inner_.settle(range, cls);
    if (result == Converted::kDone) ++conversions;
    return result;
  }
  Converted answer = Converted::kDone;
  int conversions = 0;

 private:
  MapConverter inner_;
};

// RAM: gfn 0..0xff (0x40..0x4f shared) and 0x200..0x3ff.
struct Guest {
  MemoryLayout layout = *MemoryLayout::make({{Gfn{0}, 0x100}, {Gfn{0x200}, 0x200}});
  PageMap map{layout.span_pages()};
  DirtySet dirty{layout.span_pages()};
  FakeConverter converter{map, dirty};
  Guest() { map.convert(GfnRange{Gfn{0x40}, 0x10}, kToShared); }
};

KvmRun fault_of(std::uint32_t reason, std::uint64_t flags, std::uint64_t gpa, std::uint64_t size) {
  KvmRun run{};
  run.exit_reason = reason;
  run.exit.memory_fault = {.flags = flags, .gpa = gpa, .size = size};
  return run;
}

struct Case {
  const char* name;
  ExitAbi abi;
  bool may_convert;
  int error;
  std::uint32_t reason;
  std::uint64_t flags, gpa, size;
  Kind kind;
  const char* why;  // part of it
};

const Case kCases[] = {
    {"to_private", kLanded, true, EFAULT, 39, 8, 0x40000, 4096, Kind::kConverted, ""},
    {"to_shared", kLanded, true, EFAULT, 39, 0, 0x50000, 4096, Kind::kConverted, ""},
    {"shared_already", kLanded, true, EFAULT, 39, 0, 0x40000, 4096, Kind::kRetry, ""},
    {"private_already", kLanded, true, EFAULT, 39, 8, 0x50000, 4096, Kind::kRetry, ""},
    {"range", kPosted, true, 0, 38, 8, 0x4e000, 0x4000, Kind::kConverted, ""},
    {"posted_with_errno", kPosted, true, EFAULT, 38, 8, 0x40000, 4096, Kind::kConverted, ""},
    {"posted_sees_39", kPosted, true, EFAULT, 39, 8, 0x40000, 4096, Kind::kFatal,
     "EFAULT (Bad address) and exit reason 39"},
    {"landed_sees_38", kLanded, true, EFAULT, 38, 8, 0x40000, 4096, Kind::kFatal, "exit reason 38"},
    {"bare_efault", kLanded, true, EFAULT, 0, 8, 0x40000, 4096, Kind::kFatal,
     "host memory behind the guest"},
    {"poison", kLanded, true, EHWPOISON, 39, 8, 0x40000, 4096, Kind::kFatal,
     "hardware error in the memory behind gpa 0x40000"},
    {"bare_poison", kLanded, true, EHWPOISON, 0, 8, 0x40000, 4096, Kind::kFatal, "EHWPOISON"},
    {"flag_bit_0", kLanded, true, EFAULT, 39, 9, 0x40000, 4096, Kind::kFatal, "unknown flags 0x9"},
    {"flag_bit_63", kLanded, true, EFAULT, 39, 1ULL << 63, 0x40000, 4096, Kind::kFatal,
     "unknown flags"},
    {"unaligned", kLanded, true, EFAULT, 39, 8, 0x40008, 4096, Kind::kFatal, "multiple of 4096"},
    {"size_0", kLanded, true, EFAULT, 39, 8, 0x40000, 0, Kind::kFatal, "empty"},
    {"size_1", kLanded, true, EFAULT, 39, 8, 0x40000, 1, Kind::kFatal, "multiple of 4096"},
    {"size_huge", kLanded, true, EFAULT, 39, 8, 0x40000, ~0xfffULL, Kind::kFatal, "wrapping"},
    {"hole", kLanded, true, EFAULT, 39, 8, 0x100000, 4096, Kind::kFatal, "not RAM"},
    {"past_ram", kLanded, true, EFAULT, 39, 0, 0x400000, 4096, Kind::kFatal, "not RAM"},
    {"policy_private", kLanded, false, EFAULT, 39, 8, 0x40000, 4096, Kind::kFatal,
     "private access to gpa 0x40000, which the guest did not announce as private"},
    {"policy_shared", kLanded, false, EFAULT, 39, 0, 0x50000, 4096, Kind::kFatal,
     "did not announce as shared"},
    {"policy_race", kLanded, false, EFAULT, 39, 0, 0x40000, 4096, Kind::kRetry, ""},
};

class MemoryFaultTable : public testing::TestWithParam<Case> {};

TEST_P(MemoryFaultTable, RetriesConvertsOrEnds) {
  const Case& test = GetParam();
  Guest guest;
  const auto digest = guest.map.digest();
  const MemoryFaultRules rules{.may_convert = test.may_convert};
  MemoryFaultHandler handler(test.abi, rules, guest.layout, guest.map, guest.converter);
  const KvmRun run = fault_of(test.reason, test.flags, test.gpa, test.size);
  ASSERT_TRUE(handler.handles(test.error, run));
  const auto out = handler.handle(test.error, run);
  EXPECT_EQ(out.kind, test.kind) << out.why;
  if (test.kind == Kind::kFatal) {
    EXPECT_NE(out.why.find(test.why), std::string::npos) << out.why;
  }
  if (test.kind == Kind::kConverted) {
    EXPECT_EQ(out.cls, test.flags == 8 ? kToPrivate : kToShared);
    EXPECT_EQ(out.range, (GfnRange{page_of(Gpa{test.gpa}), test.size / 4096}));
    EXPECT_TRUE(all_pages_are(guest.map, out.range, out.cls));
    EXPECT_EQ(guest.dirty.count(), out.range.pages);
    EXPECT_EQ(guest.converter.conversions, 1);
  } else {
    EXPECT_EQ(guest.map.digest(), digest);
    EXPECT_EQ(guest.dirty.count(), 0u);
    EXPECT_EQ(guest.converter.conversions, 0);
  }
}

INSTANTIATE_TEST_SUITE_P(All, MemoryFaultTable, testing::ValuesIn(kCases),
                         [](const auto& row) { return std::string(row.param.name); });

TEST(MemoryFault, OtherEndsOfKvmRunAreNotOurs) {
  Guest guest;
  const MemoryFaultHandler landed(kLanded, {}, guest.layout, guest.map, guest.converter);
  const MemoryFaultHandler posted(kPosted, {}, guest.layout, guest.map, guest.converter);
  EXPECT_FALSE(landed.handles(0, fault_of(39, 8, 0x40000, 4096)));
  EXPECT_FALSE(landed.handles(0, fault_of(38, 8, 0x40000, 4096)));
  EXPECT_FALSE(posted.handles(0, fault_of(39, 8, 0x40000, 4096)));
  for (const int error : {EINTR, EAGAIN, EINVAL, EIO, ENOMEM}) {
    EXPECT_FALSE(landed.handles(error, fault_of(39, 8, 0x40000, 4096)));
    EXPECT_FALSE(posted.handles(error, fault_of(38, 8, 0x40000, 4096)));
  }
}

TEST(MemoryFault, OnePageThatFaultsForEverEndsTheGuest) {
  Guest guest;
  MemoryFaultHandler handler(kLanded, {.repeats_max = 5}, guest.layout, guest.map, guest.converter);
  const KvmRun run = fault_of(39, 8, 0x50000, 4096);
  for (int i = 0; i < 5; ++i) ASSERT_EQ(handler.handle(EFAULT, run).kind, Kind::kRetry) << i;
  const auto out = handler.handle(EFAULT, run);
  EXPECT_EQ(out.kind, Kind::kFatal);
  EXPECT_EQ(out.why, "the private access to gpa 0x50000 faulted 6 times in a row");
}

TEST(MemoryFault, AnotherPageClassOrExitIsProgressForOnePage) {
  Guest guest;
  MemoryFaultHandler handler(kLanded, {.repeats_max = 2}, guest.layout, guest.map, guest.converter);
  const KvmRun here = fault_of(39, 8, 0x50000, 4096);
  const KvmRun there = fault_of(39, 8, 0x60000, 4096);
  const KvmRun shared_here = fault_of(39, 0, 0x50000, 4096);
  for (int i = 0; i < 20; ++i) {
    for (const KvmRun& run : {here, here, there, here, shared_here, here}) {
      ASSERT_NE(handler.handle(EFAULT, run).kind, Kind::kFatal) << i;
    }
    handler.progress();
  }
}

TEST(MemoryFault, ManyPagesInTurnsEndTheGuestToo) {
  Guest guest;
  MemoryFaultHandler handler(kLanded, {.faults_max = 100}, guest.layout, guest.map,
                             guest.converter);
  int faults = 0;
  MemoryFaultOutcome out;
  do {
    out = handler.handle(
        EFAULT, fault_of(39, faults % 4 < 2 ? 8 : 0, faults % 2 == 0 ? 0x50000 : 0x60000, 4096));
    ++faults;
  } while (out.kind != Kind::kFatal && faults < 1000);
  EXPECT_EQ(faults, 101);
  EXPECT_NE(out.why.find("101 memory faults without any other exit"), std::string::npos) << out.why;
}

TEST(MemoryFault, ProgressRenewsTheBudget) {
  Guest guest;
  MemoryFaultHandler handler(kLanded, {.faults_max = 10}, guest.layout, guest.map, guest.converter);
  for (int i = 0; i < 100; ++i) {
    const KvmRun run = fault_of(39, i % 2 == 0 ? 8 : 0, 0x50000, 4096);
    ASSERT_NE(handler.handle(EFAULT, run).kind, Kind::kFatal) << i;
    if (i % 10 == 9) handler.progress();
  }
}

TEST(MemoryFault, TheOwnBudgetLetsAGuestTouchAllItsMemoryTwice) {
  Guest guest;
  MemoryFaultHandler handler(kLanded, {}, guest.layout, guest.map, guest.converter);
  for (const unsigned flags : {0u, 8u, 0u, 8u}) {
    for (std::uint64_t gfn = 0x200; gfn < 0x400; ++gfn) {
      ASSERT_EQ(handler.handle(EFAULT, fault_of(39, flags, gfn << 12, 4096)).kind,
                Kind::kConverted);
    }
  }
  EXPECT_EQ(guest.dirty.count(), 0x200u);
}

TEST(MemoryFault, APlatformThatIsBusyCostsOnlyTheBudget) {
  Guest guest;
  guest.converter.answer = Converted::kLater;
  MemoryFaultHandler handler(kLanded, {.repeats_max = 3, .faults_max = 50}, guest.layout, guest.map,
                             guest.converter);
  const KvmRun run = fault_of(39, 0, 0x50000, 4096);
  for (int i = 0; i < 50; ++i) ASSERT_EQ(handler.handle(EFAULT, run).kind, Kind::kLater) << i;
  EXPECT_EQ(handler.handle(EFAULT, run).kind, Kind::kFatal);
}

TEST(MemoryFault, APlatformThatFailsEndsTheGuestUnchanged) {
  Guest guest;
  guest.converter.answer = Converted::kFailed;
  const auto digest = guest.map.digest();
  MemoryFaultHandler handler(kLanded, {}, guest.layout, guest.map, guest.converter);
  const auto out = handler.handle(EFAULT, fault_of(39, 0, 0x50000, 4096));
  EXPECT_EQ(out.kind, Kind::kFatal);
  EXPECT_EQ(out.why, "gpa 0x50000 could not be converted to shared");
  EXPECT_EQ(guest.map.digest(), digest);
}

}  // namespace
}  // namespace sealift
