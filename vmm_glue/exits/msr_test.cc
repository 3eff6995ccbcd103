#include "vmm_glue/exits/msr.h"

#include <gtest/gtest.h>

#include <string>
#include <thread>

namespace sealift {
namespace {

using State = MigrationReadiness::State;

constexpr std::uint64_t kStale = 0xdeadbeefdeadbeef;

KvmRun exit_of(std::uint32_t reason, std::uint32_t index, std::uint64_t data) {
  KvmRun run{};
  run.exit_reason = reason;
  run.exit.msr.error = 0x77;  // what an earlier exit left
  run.exit.msr.reason = 4;
  run.exit.msr.index = index;
  run.exit.msr.data = data;
  return run;
}

struct Case {
  const char* name;
  State before;
  bool is_write;
  std::uint32_t index;
  std::uint64_t data;
  MsrRefusal refusal;
  State after;
  std::uint64_t given;  // to a read, with encrypted memory
};

constexpr std::uint32_t kMsr = kMsrKvmMigrationControl;
constexpr auto kNone = MsrRefusal::kNone;
constexpr auto kOther = MsrRefusal::kOtherMsr;
constexpr auto kBits = MsrRefusal::kReservedBits;

const Case kCases[] = {
    {"read_at_first", State::kNeverWritten, false, kMsr, kStale, kNone, State::kNeverWritten, 0},
    {"read_when_ready", State::kReady, false, kMsr, kStale, kNone, State::kReady, 1},
    {"read_when_withdrawn", State::kWithdrawn, false, kMsr, kStale, kNone, State::kWithdrawn, 0},
    {"write_1", State::kNeverWritten, true, kMsr, 1, kNone, State::kReady, 0},
    {"write_0", State::kReady, true, kMsr, 0, kNone, State::kWithdrawn, 0},
    {"write_0_at_first", State::kNeverWritten, true, kMsr, 0, kNone, State::kWithdrawn, 0},
    {"write_1_again", State::kWithdrawn, true, kMsr, 1, kNone, State::kReady, 0},
    {"write_2", State::kReady, true, kMsr, 2, kBits, State::kReady, 0},
    {"write_3", State::kNeverWritten, true, kMsr, 3, kBits, State::kNeverWritten, 0},
    {"write_bit_63", State::kReady, true, kMsr, 1ULL << 63, kBits, State::kReady, 0},
    {"write_bit_32", State::kWithdrawn, true, kMsr, 1ULL << 32 | 1, kBits, State::kWithdrawn, 0},
    {"write_next_msr", State::kNeverWritten, true, kMsr + 1, 1, kOther, State::kNeverWritten, 0},
    {"read_msr_0", State::kReady, false, 0, kStale, kOther, State::kReady, kStale},
    {"read_last_msr", State::kReady, false, ~0u, kStale, kOther, State::kReady, kStale},
};

class MsrTable : public testing::TestWithParam<Case> {};

TEST_P(MsrTable, AnswersAndKeeps) {
  const Case& test = GetParam();
  MigrationReadiness readiness(true);
  ASSERT_TRUE(readiness.restore(static_cast<std::uint64_t>(test.before)));
  KvmRun run = exit_of(test.is_write ? kKvmExitWrmsr : kKvmExitRdmsr, test.index, test.data);
  const auto out = handle_msr(run, readiness);
  EXPECT_EQ(out.refusal, test.refusal) << describe(out);
  EXPECT_EQ(out.is_write, test.is_write);
  EXPECT_EQ(out.index, test.index);
  EXPECT_EQ(run.exit.msr.error, test.refusal == kNone ? 0 : 1);
  EXPECT_EQ(run.exit.msr.data, test.is_write ? test.data : test.given);
  EXPECT_EQ(readiness.state(), test.after);
}

INSTANTIATE_TEST_SUITE_P(All, MsrTable, testing::ValuesIn(kCases),
                         [](const auto& row) { return std::string(row.param.name); });

TEST(MigrationReadiness, SilenceMeansReadyOnlyWithoutEncryptedMemory) {
  EXPECT_FALSE(MigrationReadiness(true).allows());
  EXPECT_EQ(MigrationReadiness(true).read(), 0u);
  EXPECT_TRUE(MigrationReadiness(false).allows());
  EXPECT_EQ(MigrationReadiness(false).read(), 1u);
  MigrationReadiness plain(false);
  ASSERT_TRUE(plain.write(0));
  EXPECT_FALSE(plain.allows());
}

TEST(MigrationReadiness, SaysWhy) {
  MigrationReadiness readiness(true);
  EXPECT_NE(readiness.reason().find("was not written"), std::string::npos);
  ASSERT_TRUE(readiness.write(1));
  EXPECT_EQ(readiness.reason(), "the guest wrote 1 to MSR_KVM_MIGRATION_CONTROL");
  ASSERT_TRUE(readiness.write(0));
  EXPECT_NE(readiness.reason().find("a CPU goes offline"), std::string::npos);
  EXPECT_NE(MigrationReadiness(false).reason().find("no encrypted memory"), std::string::npos);
}

TEST(MigrationReadiness, MigratesAsOneWordAndRefusesWhatIsNone) {
  for (const State state : {State::kNeverWritten, State::kReady, State::kWithdrawn}) {
    MigrationReadiness source(true);
    ASSERT_TRUE(source.restore(static_cast<std::uint64_t>(state)));
    MigrationReadiness destination(true);
    ASSERT_TRUE(destination.restore(source.save()));
    EXPECT_EQ(destination.state(), state);
  }
  MigrationReadiness readiness(true);
  ASSERT_TRUE(readiness.write(1));
  for (const std::uint64_t word :
       {std::uint64_t{0}, std::uint64_t{4}, std::uint64_t{0x102}, ~std::uint64_t{0}}) {
    const auto result = readiness.restore(word);
    ASSERT_FALSE(result) << word;
    EXPECT_EQ(result.error().cls, ErrorClass::kMalformed);
    EXPECT_EQ(readiness.state(), State::kReady);
  }
}

TEST(MigrationReadiness, AnyThreadMayAskWhileVcpusWrite) {
  MigrationReadiness readiness(true);
  std::thread writer([&] {
    for (unsigned i = 0; i < 10000; ++i) (void)readiness.write(i % 2);
  });
  for (int i = 0; i < 10000; ++i) ASSERT_LE(readiness.read(), 1u);
  writer.join();
  EXPECT_TRUE(readiness.allows());
}

TEST(Msr, SaysWhatItDid) {
  MigrationReadiness readiness(true);
  KvmRun run = exit_of(kKvmExitWrmsr, kMsr, 5);
  EXPECT_EQ(describe(handle_msr(run, readiness)),
            "write of 0x5 to MSR 0x4b564d08 refused: reserved bits are set");
  run = exit_of(kKvmExitRdmsr, 0x10, 0);
  EXPECT_EQ(describe(handle_msr(run, readiness)), "read of MSR 0x10 refused: no such MSR here");
  run = exit_of(kKvmExitRdmsr, kMsr, kStale);
  EXPECT_EQ(describe(handle_msr(run, readiness)), "read of MSR 0x4b564d08 gave 0x0");
}

}  // namespace
}  // namespace sealift
