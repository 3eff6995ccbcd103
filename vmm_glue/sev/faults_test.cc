// Every firmware command of a migration fails once, on either side: the guest runs at the source,
// nothing is left behind, and it migrates when asked again.

#include <gtest/gtest.h>

#include <map>
#include <optional>

#include "vmm_glue/sev/test_support.h"

namespace sealift::sev {
namespace {

constexpr std::uint64_t kPages = 3;
const Fault kHwError(static_cast<std::uint16_t>(Status::kHwErrorPlatform));

enum class Side : std::uint8_t { kSource, kTarget };
struct Issued {
  Side side = Side::kSource;
  MailboxCommand command{};
  friend auto operator<=>(const Issued&, const Issued&) = default;
};
struct Case {
  Issued what;
  std::uint64_t nth = 0;  // counted from the begin of the migration
  Fault fault = kHwError;
};
using Counts = std::map<Issued, std::uint64_t>;

// Two hosts, a guest that runs on one, and a place for it on the other.
struct Hosts {
  Hosts() { source.launch_with_pattern(kPolicyNoDebug); }

  // Counts from here on, and lets what `wanted` says fail.
  void watch(std::vector<Case> wanted) {
    counts.clear();
    fired = 0;
    const auto hook = [this, wanted](Side side) {
      return [this, wanted, side](MailboxCommand id, std::uint64_t) {
        const std::uint64_t nth = counts[{side, id}]++;
        for (const Case& one : wanted) {
          if (one.what == Issued{side, id} && one.nth == nth) {
            ++fired;
            return std::optional(one.fault);
          }
        }
        return std::optional<Fault>();
      };
    };
    source_host.set_fault(hook(Side::kSource));
    target_host.set_fault(hook(Side::kTarget));
  }
  void unwatch() {
    source_host.set_fault({});
    target_host.set_fault({});
  }
  std::uint64_t count(Side side, MailboxCommand command) { return counts[{side, command}]; }

  Counts counts;  // outlive the hosts, whose hooks count until the last machine is gone
  std::uint64_t fired = 0;
  SoftSevHost source_host;
  SoftSevHost target_host;
  std::optional<TestGuest> guest{std::in_place, source_host, kPages};
  TestGuest& source = *guest;
};

Counts commands_of_a_clean_migration() {
  Hosts hosts;
  TestGuest target(hosts.target_host, kPages);
  target.prepare();
  SevExporter exporter(hosts.source.vm, hosts.source.ram.lookup(), {});
  SevImporter importer(target.vm, target.ram.lookup(), {});
  hosts.watch({});
  must(migrate(exporter, importer, hosts.source.gfns()));
  must(exporter.release());
  hosts.unwatch();
  return hosts.counts;
}

// A second try with nothing failing, to the same host or to another. Then both machines go, and
// nothing is left of them.
void expect_migrates(Hosts& hosts, SevExporter& exporter, SoftSevHost& to) {
  {
    TestGuest target(to, kPages);
    target.prepare();
    SevImporter importer(target.vm, target.ram.lookup(), {});
    must(migrate(exporter, importer, hosts.source.gfns()));
    must(exporter.release());
    EXPECT_EQ(target.guest_sees(), hosts.source.plain);
    EXPECT_TRUE(to.may_run(target.vm.vm_fd));
    EXPECT_EQ(hosts.source.state(), GuestState::kSent);
  }
  hosts.guest.reset();
  EXPECT_EQ(to.leaks(), Leaks{});
  EXPECT_EQ(hosts.source_host.leaks(), Leaks{});
}

void expect_survives(const Case& failing) {
  Hosts hosts;
  SevExporter exporter(hosts.source.vm, hosts.source.ram.lookup(), {});
  const bool dead = failing.fault.kind == Fault::Kind::kTimeout;  // that host's firmware, for good
  {
    TestGuest target(hosts.target_host, kPages);
    target.prepare();
    SevImporter importer(target.vm, target.ram.lookup(), {});
    hosts.watch({failing});
    const auto done = migrate(exporter, importer, hosts.source.gfns());
    ASSERT_FALSE(done.has_value());
    EXPECT_NE(done.error().detail.find("failed: "), std::string::npos) << done.error().detail;
    EXPECT_EQ(hosts.fired, 1u);
    const auto cancelled = exporter.cancel(std::nullopt);
    (void)must(importer.abort());
    EXPECT_EQ(hosts.count(Side::kSource, MailboxCommand::kSendFinish), 0u);
    EXPECT_TRUE(hosts.source_host.may_run(hosts.source.vm.vm_fd));
    EXPECT_FALSE(hosts.target_host.may_run(target.vm.vm_fd));
    EXPECT_EQ(importer.commit().error().cls, ErrorClass::kCancelled);
    hosts.unwatch();
    if (dead && failing.what.side == Side::kSource) {
      // The guest runs on; whether its context is cancelled, nobody can say any more.
      if (!cancelled) {
        EXPECT_NE(cancelled.error().detail.find("EBUSY"), std::string::npos);
      }
      return;
    }
    must(cancelled);
    EXPECT_EQ(hosts.source.state(), GuestState::kRunning);
  }
  EXPECT_EQ(hosts.source.guest_sees(), hosts.source.plain);
  if (!dead) {
    EXPECT_EQ(hosts.target_host.leaks(), Leaks{});
  }
  SoftSevHost another;
  expect_migrates(hosts, exporter, dead ? another : hosts.target_host);
}

// KVM gives nothing back of these two but its verdict.
bool copies_out(MailboxCommand command) {
  return command != MailboxCommand::kReceiveUpdateData && command != MailboxCommand::kReceiveFinish;
}

TEST(SevFaults, WhicheverCommandFailsTheGuestRunsHereAndMigratesLater) {
  using enum MailboxCommand;
  const Counts clean = commands_of_a_clean_migration();
  const Counts expected = {{{Side::kSource, kPdhCertExport}, 1},
                           {{Side::kSource, kSendStart}, 2},  // the query of the length first
                           {{Side::kSource, kSendUpdateData}, kPages},
                           {{Side::kSource, kSendFinish}, 1},
                           {{Side::kTarget, kPdhCertExport}, 1},
                           {{Side::kTarget, kActivate}, 1},
                           {{Side::kTarget, kReceiveStart}, 1},
                           {{Side::kTarget, kReceiveUpdateData}, kPages},
                           {{Side::kTarget, kReceiveFinish}, 1}};
  EXPECT_EQ(clean, expected);
  const Fault faults[] = {kHwError, Fault(static_cast<std::uint16_t>(Status::kResourceLimit)),
                          Fault::copy_out(), Fault::timeout()};
  for (const Fault& fault : faults) {
    std::uint64_t cases = 0;
    for (const auto& [what, times] : clean) {
      if (what.command == kSendFinish) continue;  // below: the guest is gone by then
      const bool lost_answer = fault.kind == Fault::Kind::kCopyOut;
      if (lost_answer && !copies_out(what.command)) continue;
      for (std::uint64_t nth = 0; nth < times; ++nth) {
        SCOPED_TRACE(fmt::format("{} command {:#x}, {} before it, fault {} {:#x}",
                                 what.side == Side::kSource ? "source" : "target",
                                 static_cast<int>(what.command), nth, static_cast<int>(fault.kind),
                                 fault.status));
        expect_survives({what, nth, fault});
        ++cases;
      }
    }
    const std::uint64_t copying = 1 + 2 + kPages + 1 + 1 + 1;
    EXPECT_EQ(cases, fault.kind == Fault::Kind::kCopyOut ? copying : copying + kPages + 1);
  }
}

// The guest runs at the destination: whether SEND_FINISH succeeds or not, it must not run here.
TEST(SevFaults, AFailingFinishLeadsNowhereButToAnotherTry) {
  Hosts hosts;
  TestGuest target(hosts.target_host, kPages);
  target.prepare();
  SevExporter exporter(hosts.source.vm, hosts.source.ram.lookup(), {});
  SevImporter importer(target.vm, target.ram.lookup(), {});
  must(migrate(exporter, importer, hosts.source.gfns()));
  hosts.watch({{.what = {Side::kSource, MailboxCommand::kSendFinish}}});
  EXPECT_FALSE(exporter.release().has_value());
  const auto cancelled = exporter.cancel(std::nullopt);
  ASSERT_FALSE(cancelled.has_value());
  EXPECT_EQ(cancelled.error().detail,
            "The SEV guest was released to the destination and must not run here again.");
  EXPECT_EQ(hosts.count(Side::kSource, MailboxCommand::kSendCancel), 0u);
  must(exporter.release());
  must(exporter.release());
  EXPECT_EQ(hosts.source.state(), GuestState::kSent);
  EXPECT_EQ(hosts.count(Side::kSource, MailboxCommand::kSendFinish), 2u);
}

// The way back fails too, once: cancel() says so and may be tried again.
TEST(SevFaults, ACancelThatFailsIsTriedAgain) {
  using enum MailboxCommand;
  const auto source = [](MailboxCommand command) { return Issued{Side::kSource, command}; };
  struct Row {
    Case cause;
    MailboxCommand way_back;
  };
  for (const Row& row : {Row{{source(kSendUpdateData), 1}, kSendCancel},
                         Row{{{Side::kTarget, kReceiveStart}, 0}, kSendCancel},
                         Row{{{Side::kTarget, kReceiveFinish}, 0}, kSendCancel},
                         Row{{source(kSendStart), 1}, kGuestStatus}}) {
    Hosts hosts;
    SevExporter exporter(hosts.source.vm, hosts.source.ram.lookup(), {});
    {
      TestGuest target(hosts.target_host, kPages);
      target.prepare();
      SevImporter importer(target.vm, target.ram.lookup(), {});
      hosts.watch({row.cause, {source(row.way_back), 0}});
      EXPECT_FALSE(migrate(exporter, importer, hosts.source.gfns()).has_value());
      EXPECT_FALSE(exporter.cancel(std::nullopt).has_value());
      must(exporter.cancel(std::nullopt));
      EXPECT_EQ(hosts.fired, 2u);
      hosts.unwatch();
    }
    EXPECT_EQ(hosts.source.state(), GuestState::kRunning);
    expect_migrates(hosts, exporter, hosts.target_host);
  }
}

// What the firmware's MACs and keys notice by themselves: a packet changed below us, a PDH that was
// made anew between identity() and begin().
TEST(SevFaults, ChangedPacketsAndKeysEndTheMigrationCleanly) {
  using enum MailboxCommand;
  const Issued send{Side::kSource, kSendUpdateData};
  const Issued receive{Side::kTarget, kReceiveUpdateData};
  for (const Case& failing :
       {Case{send, 1, Fault::flip_body(77)}, Case{send, 1, Fault::flip_header(200)},
        Case{receive, 1, Fault::flip_body(0)}, Case{receive, 2, Fault::flip_header(3)},
        Case{{Side::kTarget, kReceiveStart}, 0, Fault::new_pdh()}}) {
    expect_survives(failing);
  }
}

}  // namespace
}  // namespace sealift::sev
