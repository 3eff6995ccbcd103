#include "vmm_glue/exits/system_event.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "vmm_glue/exits/guest_text.h"

namespace sealift {
namespace {

using Kind = GuestEndKind;

// One shared page at kGhcb; everything else cannot be read.
class FakeGuest final : public GuestBytes {
 public:
  static constexpr std::uint64_t kGhcb = 0x7f000;
  std::array<std::byte, kPageBytes> page{};

  void put(std::uint64_t at, std::uint64_t word) { std::memcpy(&page[at], &word, sizeof word); }
  bool read(Gpa gpa, MutableBytes out) const override {
    if (value(gpa) < kGhcb || value(gpa) + out.size() > kGhcb + kPageBytes) return false;
    std::copy_n(page.begin() + static_cast<std::ptrdiff_t>(value(gpa) - kGhcb), out.size(),
                out.begin());
    return true;
  }
  bool write(Gpa, ByteView) override { return false; }
};

KvmRun event_of(std::uint32_t type, std::uint32_t ndata, std::vector<std::uint64_t> data = {}) {
  KvmRun run{};
  run.exit_reason = kKvmExitSystemEvent;
  run.exit.system_event.type = type;
  run.exit.system_event.ndata = ndata;
  std::fill_n(run.exit.system_event.data, 16, 0xbad0bad0bad0bad0);  // old bytes
  std::copy(data.begin(), data.end(), run.exit.system_event.data);
  return run;
}

struct Case {
  const char* name;
  std::uint32_t type, ndata;
  std::vector<std::uint64_t> data;
  bool has_data;  // KVM_CAP_SYSTEM_EVENT_DATA
  Kind kind;
  const char* why;
};

constexpr std::uint32_t kBit31 = 1u << 31;
constexpr char kSelf[] = "the guest terminated itself: ";

const Case kCases[] = {
    {"shutdown", 1, 0, {}, true, Kind::kShutdown, "the guest shut itself down"},
    {"reset", 2, 0, {}, true, Kind::kReset, "the guest asked for a reset"},
    {"crash", 3, 0, {}, true, Kind::kCrash, "the guest reported a crash"},
    {"crash_posted", 3 | kBit31, 0, {}, false, Kind::kCrash, "the guest reported a crash"},
    {"wakeup",
     4,
     0,
     {},
     true,
     Kind::kUnknown,
     "the guest ended with system event 0x4, which has no known meaning"},
    {"four_without_bit_31_is_no_sev",
     4,
     1,
     {0x100},
     true,
     Kind::kUnknown,
     "the guest ended with system event 0x4, which has no known meaning"},
    {"suspend",
     5,
     0,
     {},
     true,
     Kind::kUnknown,
     "the guest ended with system event 0x5, which has no known meaning"},
    {"type_0",
     0,
     0,
     {},
     true,
     Kind::kUnknown,
     "the guest ended with system event 0x0, which has no known meaning"},
    {"type_all_ones",
     ~0u,
     ~0u,
     {},
     true,
     Kind::kUnknown,
     "the guest ended with system event 0xffffffff, which has no known meaning"},
    {"sev_general",
     6,
     1,
     {0x100},
     true,
     Kind::kSevTerminated,
     "the guest terminated itself: reason set 0 code 0 (general)"},
    {"sev_protocol",
     6,
     1,
     {0x10100},
     true,
     Kind::kSevTerminated,
     "the guest terminated itself: reason set 0 code 1 (GHCB protocol versions do not meet)"},
    {"sev_features",
     6,
     1,
     {0x20100},
     true,
     Kind::kSevTerminated,
     "the guest terminated itself: reason set 0 code 2 (the hypervisor lacks SNP features)"},
    {"sev_set_0_unknown",
     6,
     1,
     {0x30100},
     true,
     Kind::kSevTerminated,
     "the guest terminated itself: reason set 0 code 3 (no known meaning)"},
    {"sev_set_15_code_255",
     6,
     1,
     {0xfff100},
     true,
     Kind::kSevTerminated,
     "the guest terminated itself: reason set 15 code 255 (no known meaning)"},
    {"sev_upper_bits_do_not_matter",
     6,
     1,
     {0xffffffffff001100},
     true,
     Kind::kSevTerminated,
     "the guest terminated itself: reason set 1 code 0 (GHCB registration failed)"},
    {"sev_no_data",
     6,
     0,
     {0x100},
     true,
     Kind::kSevTerminated,
     "the guest terminated itself; the kernel gave no reason"},
    {"sev_without_the_capability",
     6,
     1,
     {0x100},
     false,
     Kind::kSevTerminated,
     "the guest terminated itself; the kernel gave no reason"},
    {"sev_posted",
     4 | kBit31,
     1,
     {0x11100},
     false,
     Kind::kSevTerminated,
     "the guest terminated itself: reason set 1 code 1 (page-state change failed)"},
    {"sev_posted_in_word_1",
     4 | kBit31,
     1,
     {0xbad, 0x21100},
     false,
     Kind::kSevTerminated,
     "the guest terminated itself: reason set 1 code 2 (PVALIDATE failed)"},
    {"sev_six_with_bit_31",
     6 | kBit31,
     1,
     {0x31100},
     false,
     Kind::kSevTerminated,
     "the guest terminated itself: reason set 1 code 3 (not running at VMPL0)"},
    {"sev_misuse_010",
     6,
     1,
     {0x5010},
     true,
     Kind::kSevTerminated,
     "the guest asked for a GHCB address as only an SNP guest may (GHCB MSR 0x5010)"},
    {"sev_misuse_012",
     6,
     1,
     {0x5012},
     true,
     Kind::kSevTerminated,
     "the guest registered a GHCB as only an SNP guest may (GHCB MSR 0x5012)"},
    {"sev_misuse_014",
     6,
     1,
     {0x5014},
     true,
     Kind::kSevTerminated,
     "the guest asked for a page-state change as only an SNP guest may (GHCB MSR 0x5014)"},
    {"sev_other_request",
     6,
     1,
     {0x5002},
     true,
     Kind::kSevTerminated,
     "the guest ended with GHCB MSR 0x5002, which is no termination"},
    {"tdx_few_registers",
     7,
     15,
     {},
     true,
     Kind::kTdxFatal,
     "the guest reported a fatal error with 15 registers instead of 16"},
};

class SystemEventTable : public testing::TestWithParam<Case> {};

TEST_P(SystemEventTable, IsSaidInWords) {
  const Case& test = GetParam();
  const KvmRun run = event_of(test.type, test.ndata, test.data);
  const GuestEnd end =
      decode_guest_end(run, ExitAbi{.has_system_event_data = test.has_data}, nullptr);
  EXPECT_EQ(end.kind, test.kind);
  EXPECT_EQ(end.why, test.why);
}

INSTANTIATE_TEST_SUITE_P(All, SystemEventTable, testing::ValuesIn(kCases),
                         [](const auto& row) { return std::string(row.param.name); });

TEST(SystemEvent, NamesEveryReasonOfLinux) {
  const char* const kNames[] = {"GHCB registration failed",
                                "page-state change failed",
                                "PVALIDATE failed",
                                "not running at VMPL0",
                                "CPUID table wrong",
                                "CPUID by hypervisor failed",
                                "no secrets page",
                                "no SVSM",
                                "SVSM left the guest at VMPL0",
                                "SVSM calling area wrong",
                                "secure TSC failed",
                                "SVSM calling area not remapped",
                                "secure AVIC failed",
                                "no known meaning"};
  for (std::uint32_t code = 0; code < std::size(kNames); ++code) {
    const KvmRun run = event_of(6, 1, {0x1100 | std::uint64_t{code} << 16});
    const GuestEnd end = decode_guest_end(run, ExitAbi{}, nullptr);
    EXPECT_EQ(end.why,
              kSelf + ("reason set 1 code " + std::to_string(code) + " (" + kNames[code] + ")"));
    ASSERT_TRUE(end.sev);
    EXPECT_TRUE(end.sev->has_reason);
    EXPECT_EQ(end.sev->reason_set, 1u);
    EXPECT_EQ(end.sev->reason_code, code);
  }
}

TEST(SystemEvent, ATerminationByGhcbIsReadFromThePage) {
  FakeGuest guest;
  guest.put(0x390, 0x8000fffe);
  guest.put(0x398, 0x021);
  guest.put(0x3a0, 0xabc);
  const KvmRun run = event_of(6, 1, {FakeGuest::kGhcb});
  const GuestEnd end = decode_guest_end(run, ExitAbi{}, &guest);
  EXPECT_EQ(end.why,
            "the guest terminated itself: reason set 1 code 2 (PVALIDATE failed), "
            "detail 0xabc");
  ASSERT_TRUE(end.sev);
  EXPECT_EQ(end.sev->ghcb, FakeGuest::kGhcb);
  EXPECT_EQ(end.sev->detail, 0xabcu);
}

TEST(SystemEvent, AGhcbThatSaysSomethingElseGivesNoReason) {
  FakeGuest guest;
  guest.put(0x390, 0x80000010);
  guest.put(0x398, 0x021);
  GuestEnd end = decode_guest_end(event_of(6, 1, {FakeGuest::kGhcb}), ExitAbi{}, &guest);
  EXPECT_EQ(end.why,
            "the guest terminated itself; its GHCB at gpa 0x7f000 has exit code 0x80000010 by now");
  EXPECT_FALSE(end.sev->has_reason);
  for (const std::uint64_t gpa : {std::uint64_t{0x80000}, ~std::uint64_t{0xfff}}) {
    end = decode_guest_end(event_of(6, 1, {gpa}), ExitAbi{}, &guest);
    EXPECT_NE(end.why.find("cannot be read"), std::string::npos) << end.why;
    EXPECT_FALSE(end.sev->has_reason);
  }
  end = decode_guest_end(event_of(6, 1, {FakeGuest::kGhcb}), ExitAbi{}, nullptr);
  EXPECT_NE(end.why.find("cannot be read"), std::string::npos) << end.why;
}

std::uint64_t word_of(const char (&text)[9]) {
  std::uint64_t word = 0;
  std::memcpy(&word, text, sizeof word);
  return word;
}

// Registers by their number; all eight of the message exposed unless the test says otherwise.
std::vector<std::uint64_t> fatal_registers() {
  std::vector<std::uint64_t> data(16);
  data[1] = 1u << 14 | 1u << 15 | 1u << 3 | 1u << 7 | 1u << 6 | 1u << 8 | 1u << 9 | 1u << 2;
  data[11] = 0x10003;
  data[14] = word_of("1-firstA");
  data[15] = word_of("2-secon ");
  data[3] = word_of("3-third ");
  data[7] = word_of("4-fourth");
  data[6] = word_of("5-fifth ");
  data[8] = word_of("6-sixth ");
  data[9] = word_of("7-sevent");
  data[2] = word_of("8-eighth");
  return data;
}

TEST(TdxFatal, TheMessageIsInRegisterOrder) {
  const GuestEnd end = decode_guest_end(event_of(7, 16, fatal_registers()), ExitAbi{}, nullptr);
  EXPECT_EQ(end.kind, Kind::kTdxFatal);
  ASSERT_TRUE(end.tdx);
  EXPECT_EQ(end.tdx->message, "1-firstA2-secon 3-third 4-fourth5-fifth 6-sixth 7-sevent8-eighth");
  EXPECT_EQ(end.tdx->message.size(), kTdxMessageBytesMax);
  EXPECT_FALSE(end.tdx->gpa);
  EXPECT_EQ(end.why, "the guest reported fatal error 0x0, \"" + end.tdx->message + "\"");
}

TEST(TdxFatal, OnlyExposedRegistersAreRead) {
  for (const unsigned reg : {14u, 15u, 3u, 7u, 6u, 8u, 9u, 2u}) {
    auto data = fatal_registers();
    const std::string text(reinterpret_cast<const char*>(&data[reg]), 8);
    data[1] = 1u << reg | 1u << 4 | ~0xffffULL;
    const GuestEnd end = decode_guest_end(event_of(7, 16, data), ExitAbi{}, nullptr);
    EXPECT_EQ(end.tdx->message, text);
  }
  auto data = fatal_registers();
  data[1] = 0;
  EXPECT_EQ(decode_guest_end(event_of(7, 16, data), ExitAbi{}, nullptr).why,
            "the guest reported fatal error 0x0");
}

TEST(TdxFatal, CodeAndAddressAreTheGuests) {
  auto data = fatal_registers();
  data[1] = 0;
  data[12] = 1ULL << 63 | 0x7fff00000000 | 0x80010000;
  data[13] = 0x12345000;
  GuestEnd end = decode_guest_end(event_of(7, 16, data), ExitAbi{}, nullptr);
  EXPECT_EQ(end.why, "the guest reported fatal error 0x80010000, more at gpa 0x12345000");
  EXPECT_EQ(end.tdx->error_code, 0x80010000u);
  EXPECT_EQ(end.tdx->gpa, 0x12345000u);
  data[12] = 7;
  end = decode_guest_end(event_of(7, 16, data), ExitAbi{}, nullptr);
  EXPECT_EQ(end.why, "the guest reported fatal error 0x7 (no valid code)");
}

TEST(TdxFatal, TheMessageIsEscapedAndEndsAtNul) {
  auto data = fatal_registers();
  data[14] = word_of("a\nb\x1b[\"\\'");
  data[15] = word_of("ok\0hide!");
  GuestEnd end = decode_guest_end(event_of(7, 16, data), ExitAbi{}, nullptr);
  EXPECT_EQ(end.tdx->message, "a\\x0ab\\x1b[\\x22\\x5c\\x27ok");
  for (auto& word : data) word = ~0ULL;
  end = decode_guest_end(event_of(7, 16, data), ExitAbi{}, nullptr);
  EXPECT_EQ(end.tdx->message.size(), 4 * kTdxMessageBytesMax);
  EXPECT_LE(end.why.size(), kGuestEndBytesMax);
}

TEST(SystemEvent, NdataIsBoundedByWhatIsThere) {
  auto data = fatal_registers();
  const GuestEnd end = decode_guest_end(event_of(7, ~0u, data), ExitAbi{}, nullptr);
  ASSERT_TRUE(end.tdx);
  EXPECT_EQ(end.tdx->message.size(), kTdxMessageBytesMax);
}

TEST(SystemEvent, ATripleFaultIsOfTheSameKindOfNews) {
  KvmRun run = event_of(6, 1, {0x100});
  run.exit_reason = kKvmExitShutdown;
  const GuestEnd end = decode_guest_end(run, ExitAbi{}, nullptr);
  EXPECT_EQ(end.kind, Kind::kTripleFault);
  EXPECT_EQ(end.why, "triple fault (KVM_EXIT_SHUTDOWN)");
}

TEST(GuestText, IsBounded) {
  const std::string text(100, 'x');
  EXPECT_EQ(escape_guest_text(std::as_bytes(std::span(text)), 7), "xxxxxxx");
  EXPECT_EQ(escape_guest_text({}, 7), "");
}

}  // namespace
}  // namespace sealift
