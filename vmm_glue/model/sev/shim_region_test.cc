// Regions, ASIDs, and what is left when a VM goes.

#include <gtest/gtest.h>

#include "vmm_glue/model/sev/shim_test_support.h"

namespace sealift::sev {
namespace {

TEST(ShimRegion, Rows) {
  const auto with_region = [](unsigned long number, std::uint64_t first, std::uint64_t bytes) {
    return [=](Rig& r) {
      must(sev_init(r.guest.vm));
      EXPECT_EQ(r.request(r.guest, kKvmMemoryEncryptRegRegion, r.all_of(r.guest)), 0);
      const std::uint64_t base = at(r.guest.ram.all());
      return CommandResult{.result = r.request(r.guest, number, {base + first, bytes})};
    };
  };
  constexpr auto kReg = kKvmMemoryEncryptRegRegion;
  constexpr auto kUnreg = kKvmMemoryEncryptUnregRegion;
  const auto on_mirror = [](unsigned long number) {
    return [=](Rig& r) {
      must(sev_init(r.guest.vm));
      EXPECT_EQ(r.enable_cap(r.other, kCapCopyEncContextFrom, r.guest.vm.vm_fd), 0);
      return CommandResult{.result = r.request(r.other, number, r.all_of(r.other))};
    };
  };
  check_rows({
      {"REG, not SEV",
       [](Rig& r) { return CommandResult{.result = r.request(r.guest, kReg, r.all_of(r.guest))}; },
       -ENOTTY},
      {"UNREG, not SEV",
       [](Rig& r) {
         return CommandResult{.result = r.request(r.guest, kUnreg, r.all_of(r.guest))};
       },
       -ENOTTY},
      {"REG, null",
       [](Rig& r) {
         return CommandResult{.result = r.host.ioctl(r.guest.vm.vm_fd, kReg, nullptr)};
       },
       -EFAULT},
      {"REG, mirror", on_mirror(kReg), -EINVAL},
      {"UNREG, mirror", on_mirror(kUnreg), -EINVAL},
      {"REG, size 0", with_region(kReg, 0, 0), -EINVAL},
      {"REG, wrap", with_region(kReg, 0, ~0ULL), -EINVAL},
      {"REG again", with_region(kReg, 0, kPageBytes), 0},
      {"UNREG, other size", with_region(kUnreg, 0, kPageBytes), -EINVAL},
      {"UNREG, other address", with_region(kUnreg, kPageBytes, 2 * kPageBytes), -EINVAL},
      {"UNREG", with_region(kUnreg, 0, 2 * kPageBytes), 0},
  });
}

TEST(ShimRegion, PagesAreCountedWholeAndGivenBack) {
  Rig rig;
  must(sev_init(rig.guest.vm));
  const std::uint64_t base = at(rig.guest.ram.all());
  // Two bytes on two pages.
  const KvmEncRegion region{.addr = base + kPageBytes - 1, .size = 2};
  ASSERT_EQ(rig.request(rig.guest, kKvmMemoryEncryptRegRegion, region), 0);
  EXPECT_EQ(rig.host.leaks(), (Leaks{.handles = 0, .asids = 1, .regions = 1, .locked_pages = 2}));
  ASSERT_EQ(rig.request(rig.guest, kKvmMemoryEncryptUnregRegion, region), 0);
  EXPECT_EQ(rig.host.leaks(), (Leaks{.handles = 0, .asids = 1, .regions = 0, .locked_pages = 0}));
}

TEST(ShimRegion, NothingIsLeftOfADestroyedVm) {
  SoftSevHost host;
  for (const int stop_at : {0, 1, 2, 3}) {
    SCOPED_TRACE(stop_at);
    TestGuest guest(host, 2);
    if (stop_at == 0) must(sev_init(guest.vm));
    if (stop_at == 1) guest.prepare();
    if (stop_at >= 2) guest.launch_with_pattern(0);
    if (stop_at == 3) {
      const KvmEncRegion again{.addr = at(guest.ram.page(0)), .size = kPageBytes};
      KvmEncRegion copy = again;
      EXPECT_EQ(host.ioctl(guest.vm.vm_fd, kKvmMemoryEncryptRegRegion, &copy), 0);
    }
    EXPECT_NE(host.leaks(), Leaks{});
  }
  EXPECT_EQ(host.leaks(), Leaks{});
}

// The PSP is dead when the VM goes: what the firmware holds stays, and the count says so.
TEST(ShimRegion, ADeadPspKeepsItsGuests) {
  SoftSevHost host;
  {
    TestGuest guest(host, 1);
    guest.launch_with_pattern(0);
    host.set_fault([](MailboxCommand id, std::uint64_t) -> std::optional<Fault> {
      if (id == MailboxCommand::kGuestStatus) return Fault::timeout();
      return std::nullopt;
    });
    EXPECT_FALSE(guest_status(guest.vm).has_value());
  }
  EXPECT_EQ(host.leaks(), (Leaks{.handles = 1, .asids = 0, .regions = 0, .locked_pages = 0}));
}

// ASIDs 1 and 2 for SEV-ES, 3 and 4 for SEV.
SoftSevConfig four_asids() { return {.firmware = {.asids = 4, .sev_asid_min = 3}}; }

TEST(ShimAsid, EachKindHasItsOwnRange) {
  SoftSevHost host(four_asids());
  std::vector<int> sev;
  const int sev_fd = host.open_sev();
  const auto init = [&](KvmCommand command) {
    sev.push_back(host.create_vm());
    return issue({.host = host, .vm_fd = sev.back(), .sev_fd = sev_fd}, command, nullptr).result;
  };
  EXPECT_EQ(init(KvmCommand::kInit), 0);
  EXPECT_EQ(init(KvmCommand::kInit), 0);
  EXPECT_EQ(init(KvmCommand::kInit), -EBUSY);
  EXPECT_EQ(init(KvmCommand::kEsInit), 0);
  EXPECT_EQ(init(KvmCommand::kEsInit), 0);
  EXPECT_EQ(init(KvmCommand::kEsInit), -EBUSY);
  EXPECT_EQ(host.leaks().asids, 4u);
  for (const int fd : sev) host.destroy_vm(fd);
  EXPECT_EQ(host.leaks().asids, 0u);
}

TEST(ShimAsid, ReusedOnlyAfterAFlushWhichHappensWhenNoneIsLeft) {
  SoftSevHost host(four_asids());
  const auto flushes = [&] { return host.commands_issued(MailboxCommand::kDfFlush); };
  const auto one_life = [&] {
    TestGuest guest(host, 1);
    guest.launch_with_pattern(0);
  };
  one_life();  // the platform's first flush, and ASID 3
  EXPECT_EQ(flushes(), 1u);
  one_life();  // ASID 4
  EXPECT_EQ(flushes(), 1u);
  one_life();  // both are unflushed: flush, ASID 3
  EXPECT_EQ(flushes(), 2u);
  one_life();
  EXPECT_EQ(flushes(), 2u);
}

TEST(ShimAsid, AFailedFlushLeavesNone) {
  SoftSevHost host(four_asids());
  for (int i = 0; i < 2; ++i) {
    TestGuest guest(host, 1);
    guest.launch_with_pattern(0);
  }
  host.set_fault([](MailboxCommand id, std::uint64_t nth) -> std::optional<std::uint16_t> {
    if (id == MailboxCommand::kDfFlush && nth == 1) return 0x13;
    return std::nullopt;
  });
  TestGuest guest(host, 1);
  EXPECT_EQ(issue(guest.vm, KvmCommand::kInit, nullptr).result, -EBUSY);
  EXPECT_EQ(issue(guest.vm, KvmCommand::kInit, nullptr).result, 0);
}

}  // namespace
}  // namespace sealift::sev
