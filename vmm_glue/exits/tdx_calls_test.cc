#include "vmm_glue/exits/tdx_calls.h"

#include <gtest/gtest.h>

#include <cstring>
#include <optional>
#include <string>

#include "vmm_glue/exits/vmgexit_test_support.h"

namespace sealift {
namespace {

using test::FakeGuest;
constexpr std::uint64_t kBuffer = 0x10000;
constexpr std::uint64_t kInvalid = 0x8000000000000000;
constexpr std::uint64_t kAlign = 0x8000000000000002;
constexpr std::uint64_t kUnsupported = 0x8000000000000003;
constexpr std::uint64_t kStale = 0xdead'beef;

// Keeps the requests until the test completes them.
struct HeldProvider final : QuoteProvider {
  void request(Bytes report, Done done) override {
    reports.push_back(std::move(report));
    held.push_back(std::move(done));
  }
  std::vector<Bytes> reports;
  std::vector<Done> held;
};

// RAM: gfn 0..0xfff; 0x10..0x7ff is shared.
struct Machine {
  explicit Machine(bool provides = true, bool notifies = true)
      : guest({GfnRange{Gfn{0}, 0x1000}}),
        calls(guest, provides ? &provider : nullptr,
              notifies ? TdxCalls::Notify([this](TdxNotify n) { notified.push_back(n); })
                       : TdxCalls::Notify(),
              TdxCallInfo{0x10, 0xff, 0x20, 0xff}) {
    guest.share({Gfn{0x10}, 0x7f0});
  }
  void put_request(std::uint64_t gpa, const Bytes& report) {
    guest.poke_word(gpa, TdxQuoteHeader{1, 0x77, static_cast<std::uint32_t>(report.size()), 0x99});
    guest.poke(gpa + 24, report);
  }
  TdxOutcome quote(std::uint64_t gpa, std::uint64_t size) {
    run = {};
    run.exit_reason = kKvmExitTdx;
    run.exit.tdx.nr = kTdxGetQuote;
    run.exit.tdx.get_quote = {kStale, gpa, size};
    return calls.handle(run, 0);
  }
  TdxOutcome setup(std::uint64_t vector, std::uint32_t apic_id) {
    run = {};
    run.exit_reason = kKvmExitTdx;
    run.exit.tdx.nr = kTdxSetupEventNotifyInterrupt;
    run.exit.tdx.setup_event_notify = {kStale, vector};
    return calls.handle(run, apic_id);
  }
  std::uint64_t status(std::uint64_t gpa = kBuffer) const {
    return guest.peek<TdxQuoteHeader>(gpa).status;
  }

  FakeGuest guest;
  HeldProvider provider;
  std::vector<TdxNotify> notified;
  KvmRun run{};
  TdxCalls calls;
};

// ---- the buffer --------------------------------------------------------------------------------

TEST(TdxQuote, EveryRow) {
  struct Row {
    const char* name;
    std::uint64_t gpa, size, version;
    std::uint32_t in_bytes;
    std::uint64_t ret;
  };
  const Row rows[] = {
      {"one_page", kBuffer, 4096, 1, 1024, 0},
      {"report_fills_the_page", kBuffer, 4096, 1, 4072, 0},
      {"no_report", kBuffer, 4096, 1, 0, 0},
      {"largest", kBuffer, 128 << 10, 1, (128 << 10) - 24, 0},
      {"report_past_the_page", kBuffer, 4096, 1, 4073, kInvalid},
      {"report_all_ones", kBuffer, 4096, 1, 0xffffffff, kInvalid},
      {"version_0", kBuffer, 4096, 0, 1024, kInvalid},
      {"version_2", kBuffer, 4096, 2, 1024, kInvalid},
      {"above_128k", kBuffer, (128 << 10) + 4096, 1, 1024, kInvalid},
      {"size_all_ones", kBuffer, ~0xfffULL, 1, 1024, kInvalid},
      {"no_size", kBuffer, 0, 1, 1024, kInvalid},
      {"no_address", 0, 4096, 1, 1024, kInvalid},
      {"size_unaligned", kBuffer, 4097, 1, 1024, kAlign},
      {"address_unaligned", kBuffer + 8, 4096, 1, 1024, kAlign},
      {"private", 0x8000, 4096, 1, 1024, kInvalid},
      {"half_private", 0x7ff000, 8192, 1, 1024, kInvalid},
      {"past_ram", 0x1000000, 4096, 1, 1024, kInvalid},
      {"wraps", ~0xfffULL, 8192, 1, 1024, kInvalid},
  };
  for (const Row& row : rows) {
    SCOPED_TRACE(row.name);
    Machine m;
    if (row.gpa == 0) m.guest.share({Gfn{0}, 1});  // refused for the address alone
    m.guest.poke_word(row.gpa, TdxQuoteHeader{row.version, 0x77, row.in_bytes, 0x99});
    const auto out = m.quote(row.gpa, row.size);
    EXPECT_EQ(out.ret, row.ret) << describe(out);
    EXPECT_EQ(m.run.exit.tdx.get_quote.ret, row.ret);
    EXPECT_EQ(m.calls.quotes_in_flight(), row.ret == 0 ? 1u : 0u);
    if (row.ret == 0) {
      EXPECT_EQ(m.status(row.gpa), ~0ULL);
      EXPECT_EQ(m.provider.reports.at(0).size(), row.in_bytes);
    } else {
      EXPECT_TRUE(m.guest.writes.empty());
      EXPECT_TRUE(m.provider.reports.empty());
    }
  }
}

TEST(TdxQuote, StatusIsWrittenLastThenTheGuestIsNotified) {
  Machine m;
  EXPECT_EQ(m.setup(0x40, 3).ret, 0u);
  const Bytes report(1024, std::byte{0x11});
  m.put_request(kBuffer, report);
  EXPECT_EQ(m.quote(kBuffer, 8192).ret, 0u);
  EXPECT_EQ(m.provider.reports.at(0), report);
  EXPECT_TRUE(m.notified.empty());
  m.guest.writes.clear();
  m.provider.held.at(0)(Bytes(5000, std::byte{0x22}));
  ASSERT_EQ(m.guest.writes.size(), 3u);
  EXPECT_EQ(m.guest.writes[0].gpa, kBuffer + 24);
  EXPECT_EQ(m.guest.writes[0].bytes, 5000u);
  EXPECT_EQ(m.guest.writes[1].gpa, kBuffer + 20);
  EXPECT_EQ(m.guest.writes[1].bytes, 4u);
  EXPECT_EQ(m.guest.writes[2].gpa, kBuffer + 8);
  EXPECT_EQ(m.guest.writes[2].bytes, 8u);
  const auto header = m.guest.peek<TdxQuoteHeader>(kBuffer);
  EXPECT_EQ(header.status, 0u);
  EXPECT_EQ(header.version, 1u);
  EXPECT_EQ(header.in_bytes, 1024u);
  EXPECT_EQ(header.out_bytes, 5000u);
  EXPECT_EQ(m.guest.peek<std::uint8_t>(kBuffer + 24 + 4999), 0x22);
  EXPECT_EQ(m.guest.peek<std::uint8_t>(kBuffer + 24 + 5000), 0u);
  EXPECT_EQ(m.notified, (std::vector<TdxNotify>{{3, 0x40}}));
  EXPECT_EQ(m.calls.quotes_in_flight(), 0u);
}

TEST(TdxQuote, EveryEndHasItsStatus) {
  struct Row {
    const char* name;
    Result<Bytes> quote;
    std::uint64_t status;
    std::uint32_t out_bytes;
  };
  const Row rows[] = {
      {"fits_exactly", Bytes(4072), 0, 4072},
      {"empty", Bytes(), 0, 0},
      {"too_long", Bytes(4073), 1ULL << 63, 0},
      {"failed", fail(ErrorClass::kLocalFault, "x"), 1ULL << 63, 0},
      {"unavailable", fail(ErrorClass::kRefused, "x"), (1ULL << 63) + 1, 0},
  };
  for (const Row& row : rows) {
    SCOPED_TRACE(row.name);
    Machine m;
    (void)m.setup(0x40, 3);
    m.put_request(kBuffer, Bytes(100));
    ASSERT_EQ(m.quote(kBuffer, 4096).ret, 0u);
    m.provider.held.at(0)(row.quote);
    EXPECT_EQ(m.status(), row.status);
    EXPECT_EQ(m.guest.peek<TdxQuoteHeader>(kBuffer).out_bytes, row.out_bytes);
    EXPECT_EQ(m.notified.size(), 1u);
    for (const auto& write : m.guest.writes) {
      EXPECT_GE(write.gpa, kBuffer);
      EXPECT_LE(write.gpa + write.bytes, kBuffer + 4096);
    }
  }
}

TEST(TdxQuote, SeventeenthHasToComeAgain) {
  Machine m;
  for (std::uint64_t i = 0; i <= 16; ++i) {
    const std::uint64_t gpa = kBuffer + 4096 * i;
    m.put_request(gpa, Bytes(64));
    EXPECT_EQ(m.quote(gpa, 4096).ret, i < 16 ? 0u : 1u) << i;
    EXPECT_EQ(m.status(gpa), i < 16 ? ~0ULL : 0x77u);
  }
  EXPECT_EQ(m.provider.held.size(), 16u);
  m.provider.held[5](Bytes(1));
  EXPECT_EQ(m.quote(kBuffer + 4096 * 16, 4096).ret, 0u);
  EXPECT_EQ(m.quote(kBuffer + 4096 * 16, 4096).ret, 1u);
}

TEST(TdxQuote, BufferThatBecomesPrivateIsLeftAlone) {
  Machine m;
  (void)m.setup(0x40, 3);
  m.put_request(kBuffer, Bytes(64));
  ASSERT_EQ(m.quote(kBuffer, 4096).ret, 0u);
  m.guest.map.convert({page_of(Gpa{kBuffer}), 1}, PageClass::kPrivate);
  m.guest.writes.clear();
  m.provider.held.at(0)(Bytes(64));
  EXPECT_TRUE(m.guest.writes.empty());
  EXPECT_TRUE(m.notified.empty());
  EXPECT_EQ(m.calls.quotes_in_flight(), 0u);
}

// in_len and version change after each read: the report is what the first copy said.
TEST(TdxQuote, GuestThatWritesMeanwhileIsJudgedByOneCopy) {
  Machine m;
  m.put_request(kBuffer, Bytes(100, std::byte{0x11}));
  m.guest.on_read = [&m] {
    m.guest.poke_word(kBuffer, TdxQuoteHeader{9, 0, 0xffffffff, 0});
    m.guest.poke(kBuffer + 24, Bytes(100, std::byte{0x22}));
  };
  EXPECT_EQ(m.quote(kBuffer, 4096).ret, 0u);
  EXPECT_EQ(m.guest.reads, 1u);
  EXPECT_EQ(m.provider.reports.at(0), Bytes(100, std::byte{0x11}));
  m.provider.held.at(0)(Bytes(4072));
  EXPECT_EQ(m.status(), 0u);
}

TEST(TdxQuote, AbandonedQuotesSayUnavailableAndAreNeverWrittenAgain) {
  Machine m;
  (void)m.setup(0x40, 3);
  for (std::uint64_t i = 0; i < 3; ++i) {
    m.put_request(kBuffer + 4096 * i, Bytes(64));
    ASSERT_EQ(m.quote(kBuffer + 4096 * i, 4096).ret, 0u);
  }
  m.calls.abandon_quotes();
  EXPECT_EQ(m.calls.quotes_in_flight(), 0u);
  EXPECT_EQ(m.notified.size(), 3u);
  for (std::uint64_t i = 0; i < 3; ++i) EXPECT_EQ(m.status(kBuffer + 4096 * i), (1ULL << 63) + 1);
  m.guest.writes.clear();
  for (const auto& done : m.provider.held) done(Bytes(64));
  EXPECT_TRUE(m.guest.writes.empty());
  EXPECT_EQ(m.notified.size(), 3u);
}

TEST(TdxQuote, CompletionAfterTheEndDoesNothing) {
  FakeGuest guest({GfnRange{Gfn{0}, 0x1000}});
  guest.share({Gfn{0x10}, 1});
  guest.poke_word(kBuffer, TdxQuoteHeader{1, 0, 0, 0});
  HeldProvider provider;
  {
    TdxCalls calls(guest, &provider, {}, {});
    KvmRun run{};
    run.exit_reason = kKvmExitTdx;
    run.exit.tdx.nr = kTdxGetQuote;
    run.exit.tdx.get_quote = {kStale, kBuffer, 4096};
    ASSERT_EQ(calls.handle(run, 0).ret, 0u);
  }
  guest.writes.clear();
  provider.held.at(0)(Bytes(64));
  EXPECT_TRUE(guest.writes.empty());
}

// ---- the other calls ---------------------------------------------------------------------------

TEST(TdxCall, WithoutAProviderOrAnInjectorTheCallIsUnsupported) {
  Machine m(false, false);
  m.put_request(kBuffer, Bytes(64));
  EXPECT_EQ(m.quote(kBuffer, 4096).ret, kUnsupported);
  EXPECT_EQ(m.run.exit.tdx.get_quote.ret, kUnsupported);
  EXPECT_TRUE(m.guest.writes.empty());
  EXPECT_EQ(m.setup(0x40, 0).ret, kUnsupported);
  EXPECT_EQ(m.run.exit.tdx.setup_event_notify.ret, kUnsupported);
}

TEST(TdxCall, EventNotifyTakesVectors32To255) {
  for (const auto& [vector, ret] : std::initializer_list<std::pair<std::uint64_t, std::uint64_t>>{
           {0, kInvalid},
           {31, kInvalid},
           {32, 0},
           {255, 0},
           {256, kInvalid},
           {1ULL << 32 | 64, kInvalid}}) {
    Machine m;
    EXPECT_EQ(m.setup(vector, 5).ret, ret) << vector;
    EXPECT_EQ(m.run.exit.tdx.setup_event_notify.ret, ret);
    const TdxNotify target{5, static_cast<std::uint8_t>(vector)};
    EXPECT_EQ(m.calls.notify_target(), ret == 0 ? std::optional(target) : std::nullopt);
  }
}

TEST(TdxCall, RegistrationTravels) {
  Machine source;
  Machine destination;
  (void)source.setup(0x50, 2);
  (void)source.setup(0x51, 7);  // the last one counts
  destination.calls.set_notify_target(source.calls.notify_target());
  destination.put_request(kBuffer, Bytes(64));
  ASSERT_EQ(destination.quote(kBuffer, 4096).ret, 0u);
  destination.provider.held.at(0)(Bytes(64));
  EXPECT_EQ(destination.notified, (std::vector<TdxNotify>{{7, 0x51}}));
}

TEST(TdxCall, InfoListsWhatKernelAndVmmCanDo) {
  for (const bool notifies : {true, false}) {
    for (const std::uint64_t leaf : {0ULL, 1ULL, 2ULL, ~0ULL}) {
      Machine m(true, notifies);
      m.run.exit_reason = kKvmExitTdx;
      m.run.exit.tdx.nr = kTdxGetTdVmCallInfo;
      m.run.exit.tdx.get_tdvmcall_info = {kStale, leaf, 7, 7, 7, 7};
      EXPECT_EQ(m.calls.handle(m.run, 0).ret, leaf == 1 ? 0 : kInvalid);
      const auto& call = m.run.exit.tdx.get_tdvmcall_info;
      EXPECT_EQ(call.ret, leaf == 1 ? 0 : kInvalid);
      EXPECT_EQ(call.r11, leaf != 1 ? 0u : notifies ? 0x12u : 0x10u);
      EXPECT_EQ(call.r12, leaf == 1 ? 0x20u : 0u);
      EXPECT_EQ(call.r13 | call.r14, 0u);
    }
  }
}

TEST(TdxCall, UnknownNumbersAndFlagsKeepThePreset) {
  for (const std::uint64_t nr : {0x10001ULL, 0x10003ULL, 0x10005ULL, 0ULL, ~0ULL}) {
    Machine m;
    m.run.exit_reason = kKvmExitTdx;
    m.run.exit.tdx.nr = nr;
    m.run.exit.tdx.unknown = {kUnsupported, {1, 2, 3, 4, 5}};
    KvmRun before = m.run;
    EXPECT_EQ(m.calls.handle(m.run, 0).ret, kUnsupported);
    EXPECT_EQ(std::memcmp(&m.run, &before, sizeof before), 0);
  }
  Machine m;
  m.put_request(kBuffer, Bytes(64));
  m.run.exit_reason = kKvmExitTdx;
  m.run.exit.tdx.flags = 1;
  m.run.exit.tdx.nr = kTdxGetQuote;
  m.run.exit.tdx.get_quote = {kUnsupported, kBuffer, 4096};
  EXPECT_EQ(describe(m.calls.handle(m.run, 0)),
            "TDX call 0x10002 answered 0x8000000000000003: unknown flags");
  EXPECT_TRUE(m.guest.writes.empty());
}

}  // namespace
}  // namespace sealift
