// Whole exports and imports between two software hosts, and every ioctl failing once.

#include <gtest/gtest.h>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <ctime>
#include <thread>

#include "vmm_glue/host_copy.h"
#include "vmm_glue/sev/blobs.h"
#include "vmm_glue/sev/test_support.h"

namespace sealift::sev {
namespace {

constexpr std::uint32_t kPolicy = kPolicyNoDebug | kPolicyNoKeySharing;
constexpr std::uint64_t kPages = 8;

struct Pair {
  explicit Pair(std::uint64_t pages = kPages)
      : source(source_host, pages), target(target_host, pages) {
    source.launch_with_pattern(kPolicy);
    target.prepare();
  }
  SoftSevHost source_host;
  SoftSevHost target_host;
  TestGuest source;
  TestGuest target;
  SevExporter exporter{source.vm, source.ram.lookup(), {}};
  SevImporter importer{target.vm, target.ram.lookup(), {}};

  void begin() { must(importer.begin(must(exporter.begin(must(importer.identity()))))); }
};

TEST(SevMigration, GuestSeesTheSameBytesAndTheHostDoesNot) {
  Pair pair;
  EXPECT_EQ(pair.source.guest_sees(), pair.source.plain);
  EXPECT_NE(pair.source.host_sees(), pair.source.plain);
  pair.begin();
  EXPECT_EQ(pair.source.state(), GuestState::kSendUpdate);
  EXPECT_TRUE(pair.source_host.may_run(pair.source.vm.vm_fd));
  EXPECT_FALSE(pair.target_host.may_run(pair.target.vm.vm_fd));

  const auto sent = must(pair.exporter.export_batch(3, 7, pair.source.gfns()));
  EXPECT_EQ(sent.firmware_commands, kPages);
  EXPECT_EQ(sent.outcomes, std::vector(kPages, ExportOutcome::kExported));
  EXPECT_EQ(sent.batch.stream, 3);
  EXPECT_EQ(sent.batch.epoch, 7u);
  EXPECT_EQ(sent.batch.batch_auth.size(), kBatchAuthBytes);
  EXPECT_EQ(sent.batch.page_auth.size(), kPages * kPacketHeaderBytes);
  EXPECT_NE(sent.batch.body, pair.source.plain);
  EXPECT_NE(sent.batch.body, pair.source.host_sees());

  must(pair.importer.import_batch(sent.batch));
  EXPECT_TRUE(must(pair.exporter.end_epoch(7)).empty());
  must(pair.importer.end_epoch(7, {}));
  must(pair.importer.seal(must(pair.exporter.seal())));
  must(pair.importer.commit());
  must(pair.exporter.release());
  EXPECT_EQ(pair.target.guest_sees(), pair.source.plain);
  EXPECT_NE(pair.target.host_sees(), pair.source.plain);
  EXPECT_NE(pair.target.host_sees(), pair.source.host_sees());
  EXPECT_EQ(pair.source.state(), GuestState::kSent);
  EXPECT_EQ(pair.target.state(), GuestState::kRunning);
  EXPECT_FALSE(pair.source_host.may_run(pair.source.vm.vm_fd));
  EXPECT_TRUE(pair.target_host.may_run(pair.target.vm.vm_fd));
}

TEST(SevMigration, PageSentTheWrongWayIsGarbage) {
  Pair pair;
  pair.begin();
  // Private, but sent plain: the target's guest decrypts the source's ciphertext with another key.
  const Bytes ciphertext = pair.source.host_sees();
  copy_to_guest(pair.target.ram.page(0).data(), ByteView(ciphertext).first(kPageBytes));
  // Shared, but sent through the firmware: plain text is "decrypted" on the way.
  const Bytes shared(kPageBytes, std::byte{0x5a});
  copy_to_guest(pair.source.ram.page(1).data(), shared);
  const std::vector<Gfn> gfns{Gfn{1}};
  must(pair.importer.import_batch(must(pair.exporter.export_batch(0, 0, gfns)).batch));
  const Bytes seen = pair.target.guest_sees();
  const ByteView wanted(pair.source.plain);
  EXPECT_FALSE(std::equal(seen.begin(), seen.begin() + kPageBytes, wanted.begin()));
  EXPECT_FALSE(std::equal(shared.begin(), shared.end(), pair.target.ram.page(1).begin()));
}

TEST(SevMigration, CancelLeavesARunningGuestAndASecondStartHasNewKeys) {
  Pair pair;
  const Bytes identity = must(pair.importer.identity());
  const StartBlob first = must(decode_start(must(pair.exporter.begin(identity))));
  const auto old = must(pair.exporter.export_batch(0, 0, pair.source.gfns()));
  must(pair.exporter.cancel(std::nullopt));
  must(pair.exporter.cancel(std::nullopt));
  EXPECT_EQ(pair.source.state(), GuestState::kRunning);
  EXPECT_EQ(pair.source.guest_sees(), pair.source.plain);
  const auto late = pair.exporter.export_batch(0, 0, pair.source.gfns());
  EXPECT_FALSE(late.has_value());

  const Bytes start = must(pair.exporter.begin(identity));
  const StartBlob second = must(decode_start(start));
  EXPECT_NE(second.session, first.session);
  EXPECT_NE(second.key, first.key);
  EXPECT_NE(second.nonce, first.nonce);
  must(pair.importer.begin(start));
  const Bytes before = pair.target.host_sees();
  const auto refused = pair.importer.import_batch(old.batch);
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().cls, ErrorClass::kMalformed);
  EXPECT_EQ(refused.error().detail,
            "SEV batch 0 (epoch 0, 8 pages) is not as the source of this session made it.");
  EXPECT_EQ(pair.target.host_sees(), before);
  EXPECT_EQ(pair.target_host.commands_issued(MailboxCommand::kReceiveUpdateData), 0u);
}

// A slow firmware, a guest that converts pages, an operator who has seen enough.
TEST(SevMigration, CancelStopsABatchAfterThePageInHand) {
  constexpr std::uint64_t kMany = 400;
  SoftSevConfig slow;
  slow.latency[MailboxCommand::kSendUpdateData] = std::chrono::milliseconds(5);
  SoftSevHost source_host(slow);
  SoftSevHost target_host;
  TestGuest source(source_host, kMany);
  TestGuest target(target_host, kMany);
  source.launch_with_pattern(kPolicy);
  target.prepare();
  SevExporter exporter(source.vm, source.ram.lookup(), {});
  SevImporter importer(target.vm, target.ram.lookup(), {});
  must(importer.begin(must(exporter.begin(must(importer.identity())))));
  std::optional<Error> error;
  std::thread exports([&] {
    const auto sent = exporter.export_batch(0, 1, source.gfns());
    if (!sent) error = sent.error();
  });
  std::thread converts([&] {
    for (std::uint64_t i = 0; i < 1000; ++i) {
      EXPECT_EQ(exporter.may_convert({Gfn{i % kMany}, 1}, PageClass::kShared),
                ConvertVerdict::kNow);
    }
  });
  while (source_host.commands_issued(MailboxCommand::kSendUpdateData) < 2) {
    std::this_thread::yield();
  }
  must(exporter.cancel(std::nullopt));
  EXPECT_EQ(source.state(), GuestState::kRunning);
  exports.join();
  converts.join();
  ASSERT_TRUE(error.has_value());
  EXPECT_EQ(error->cls, ErrorClass::kCancelled);
  EXPECT_LT(source_host.commands_issued(MailboxCommand::kSendUpdateData), kMany);
}

TEST(SevMigration, AfterReleaseNothingBringsTheGuestBack) {
  Pair pair;
  pair.begin();
  const auto early = pair.exporter.release();  // nothing was sealed: no SEND_FINISH
  ASSERT_FALSE(early.has_value());
  EXPECT_EQ(pair.source_host.commands_issued(MailboxCommand::kSendFinish), 0u);
  (void)must(pair.exporter.seal());
  must(pair.exporter.release());
  must(pair.exporter.release());
  const auto cancelled = pair.exporter.cancel(std::nullopt);
  ASSERT_FALSE(cancelled.has_value());
  EXPECT_EQ(pair.source.state(), GuestState::kSent);
}

TEST(SevMigration, PolicyDecides) {
  SoftSevHost source_host;
  SoftSevHost stranger;
  const auto identity_of = [](SoftSevHost& host) {
    TestGuest target(host, 1);
    target.prepare();
    return must(SevImporter(target.vm, target.ram.lookup(), {}).identity());
  };
  struct Case {
    std::uint32_t policy;
    const char* status;
  };
  const Bytes identity = identity_of(stranger);
  for (const Case& row :
       {Case{kPolicyNoSend, "0x0007 POLICY_FAILURE"}, Case{kPolicyDomain, "0x0007 POLICY_FAILURE"},
        Case{kPolicySev, "0x0015 UNSUPPORTED"}, Case{0, nullptr}}) {
    TestGuest source(source_host, 1);
    source.launch_with_pattern(row.policy);
    SevExporter exporter(source.vm, source.ram.lookup(), {});
    const auto begun = exporter.begin(identity);
    if (row.status == nullptr) {
      EXPECT_TRUE(begun.has_value());
    } else {
      ASSERT_FALSE(begun.has_value()) << row.policy;
      EXPECT_NE(begun.error().detail.find(row.status), std::string::npos) << begun.error().detail;
      must(exporter.cancel(std::nullopt));
      EXPECT_EQ(source.state(), GuestState::kRunning);
    }
  }
}

TEST(SevMigration, DomainGoesToHostsOfTheSameOwner) {
  SystemRandom random;
  const auto owner = std::make_shared<const EcKey>(EcKey::generate(random));
  SoftSevHost source_host({.firmware = {.owner_key = owner}});
  SoftSevHost target_host({.firmware = {.owner_key = owner}});
  TestGuest source(source_host, 1);
  TestGuest target(target_host, 1);
  source.launch_with_pattern(kPolicyDomain | 0x33010000);
  target.prepare();
  SevExporter exporter(source.vm, source.ram.lookup(), {});
  SevImporter importer(target.vm, target.ram.lookup(), {});
  must(importer.begin(must(exporter.begin(must(importer.identity())))));
}

// Returns false when nothing was left to fail.
bool source_survives(std::uint64_t nth, FaultyIoctl::When when, int error) {
  SCOPED_TRACE(fmt::format("ioctl {} fails with {}", nth, error));
  SoftSevHost source_host;
  SoftSevHost target_host;
  FaultyIoctl line(source_host, nth, when, error);
  TestGuest source(source_host, line, 3);
  TestGuest target(target_host, 3);
  source.launch_with_pattern(kPolicy);
  target.prepare();
  SevExporter exporter(source.vm, source.ram.lookup(), {});
  SevImporter importer(target.vm, target.ram.lookup(), {});
  const auto done = migrate(exporter, importer, source.gfns());
  if (line.fired()) {
    EXPECT_FALSE(done.has_value());
    EXPECT_NE(done.error().detail.find("failed: "), std::string::npos) << done.error().detail;
  } else {
    EXPECT_TRUE(done.has_value());
  }
  // The fault may hit cancel() itself: its caller tries again.
  if (!exporter.cancel(std::nullopt)) must(exporter.cancel(std::nullopt));
  EXPECT_EQ(source.state(), GuestState::kRunning);
  EXPECT_EQ(source.guest_sees(), source.plain);
  return line.fired();
}

TEST(SevMigration, WhicheverIoctlFailsTheSourceRunsAgainAfterCancel) {
  using When = FaultyIoctl::When;
  const std::pair<When, int> faults[] = {{When::kBefore, EIO},
                                         {When::kBefore, ENOMEM},
                                         {When::kAfter, EFAULT},
                                         {When::kAfter, ETIMEDOUT}};
  for (const auto& [when, error] : faults) {
    std::uint64_t nth = 0;
    while (source_survives(nth, when, error)) ++nth;
    // identity of the source, query, SEND_START, three pages, SEND_CANCEL
    EXPECT_EQ(nth, 7u);
  }
}

// A failed import ends with abort(); the VM is then destroyed with its handle and keys.
TEST(SevMigration, WhicheverIoctlFailsTheTargetAborts) {
  for (std::uint64_t nth = 0;; ++nth) {
    SCOPED_TRACE(nth);
    Pair pair;
    FaultyIoctl line(pair.target_host, nth, FaultyIoctl::When::kBefore, EIO);
    SevImporter importer({line, pair.target.vm.vm_fd, pair.target.vm.sev_fd},
                         pair.target.ram.lookup(), {});
    const auto done = migrate(pair.exporter, importer, pair.source.gfns());
    EXPECT_EQ(done.has_value(), !line.fired());
    if (!line.fired()) break;
    EXPECT_FALSE(pair.target_host.may_run(pair.target.vm.vm_fd));
    EXPECT_TRUE(importer.abort().has_value());
    EXPECT_TRUE(importer.abort().has_value());
    EXPECT_EQ(importer.identity().error().cls, ErrorClass::kCancelled);
    EXPECT_EQ(importer.seal({}).error().cls, ErrorClass::kCancelled);
  }
}

// Changes what the kernel writes back for one command.
class LyingIoctl final : public HostIoctl {
 public:
  using Lie = std::function<void(KvmSevCmd& cmd, int& result)>;
  LyingIoctl(HostIoctl& inner, Lie lie) : inner_(inner), lie_(std::move(lie)) {}
  int ioctl(int fd, unsigned long request, void* arg) override {
    int result = inner_.ioctl(fd, request, arg);
    if (request == kKvmMemoryEncryptOp) lie_(*static_cast<KvmSevCmd*>(arg), result);
    return result;
  }

 private:
  HostIoctl& inner_;
  const Lie lie_;
};

TEST(SevMigration, SessionLengthIsAskedForAndChecked) {
  Pair pair;
  const Bytes identity = must(pair.importer.identity());
  const auto begin_with = [&](LyingIoctl::Lie lie) {
    LyingIoctl line(pair.source_host, std::move(lie));
    SevExporter exporter({line, pair.source.vm.vm_fd, pair.source.vm.sev_fd},
                         pair.source.ram.lookup(), {});
    const auto begun = exporter.begin(identity);
    return begun ? std::string() : begun.error().detail;
  };
  EXPECT_EQ(begin_with([](KvmSevCmd& cmd, int&) {
              auto* query = reinterpret_cast<KvmSevSendStart*>(cmd.data);
              if (query->session_len == kSessionBytes) query->session_len = 160;
            }),
            "KVM_SEV_SEND_START asks for 160 bytes of session data instead of 128.");
  EXPECT_EQ(begin_with([](KvmSevCmd&, int& result) { result = 0; }),
            "KVM_SEV_SEND_START accepted a length query as if it were a command.");
  EXPECT_EQ(begin_with([](KvmSevCmd& cmd, int&) { cmd.error = 0x42; }),
            "KVM_SEV_SEND_START (length query) failed: EIO (Input/output error), firmware status "
            "0x0042 (unknown).");
  EXPECT_EQ(pair.source.state(), GuestState::kRunning);
}

double megabytes_per_second(std::uint64_t pages, std::clock_t took) {
  const double seconds = static_cast<double>(took) / CLOCKS_PER_SEC;
  return static_cast<double>(pages * kPageBytes) / 1e6 / seconds;
}

// Printed, not asserted: what one core does with each side, in processor time.
TEST(SevMigration, Throughput) {
  constexpr std::uint64_t kRounds = 8;
  Pair pair(512);
  pair.begin();
  std::clock_t exporting = 0;
  std::clock_t importing = 0;
  for (std::uint64_t round = 0; round < kRounds; ++round) {
    const auto start = std::clock();
    const auto sent = must(pair.exporter.export_batch(0, 0, pair.source.gfns()));
    const auto middle = std::clock();
    must(pair.importer.import_batch(sent.batch));
    importing += std::clock() - middle;
    exporting += middle - start;
  }
  EXPECT_EQ(pair.target.guest_sees(), pair.source.plain);
  const std::uint64_t pages = kRounds * 512;
  std::printf("SEV model: export %.0f MB/s, import %.0f MB/s (MB = 10^6 bytes)\n",
              megabytes_per_second(pages, exporting), megabytes_per_second(pages, importing));
}

}  // namespace
}  // namespace sealift::sev
