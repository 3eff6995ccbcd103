// The dispatcher's order and the conventions of errno and `error`, line by line.

#include <gtest/gtest.h>

#include "vmm_glue/model/sev/shim_test_support.h"

namespace sealift::sev {
namespace {

CommandResult plain(int result) { return {.result = result}; }

TEST(ShimErrno, DispatcherInOrder) {
  check_rows({
      {"SEV disabled, even without an argument",
       [](Rig& r) { return plain(r.host.ioctl(r.guest.vm.vm_fd, kKvmMemoryEncryptOp, nullptr)); },
       -ENOTTY,
       kUntouched,
       {.sev_enabled = false}},
      {"no argument",
       [](Rig& r) { return plain(r.host.ioctl(r.guest.vm.vm_fd, kKvmMemoryEncryptOp, nullptr)); },
       0},
      {"an fd that is no VM",
       [](Rig& r) { return plain(r.host.ioctl(12345, kKvmMemoryEncryptOp, nullptr)); }, -EBADF},
      {"an ioctl that KVM does not know",
       [](Rig& r) { return plain(r.host.ioctl(r.guest.vm.vm_fd, 0xae01, nullptr)); }, -ENOTTY},
      {"unknown id", [](Rig& r) { return r.run(r.guest, static_cast<KvmCommand>(99)); }, -EINVAL},
      {"not a SEV guest", [](Rig& r) { return r.run(r.guest, KvmCommand::kSendStart); }, -ENOTTY},
      {"not a SEV guest, RECEIVE_UPDATE_DATA",
       [](Rig& r) { return r.run(r.guest, KvmCommand::kReceiveUpdateData); }, -EINVAL},
      {"not a SEV-ES guest",
       [](Rig& r) {
         must(sev_init(r.guest.vm));
         return r.run(r.guest, KvmCommand::kLaunchUpdateVmsa);
       },
       -ENOTTY},
      {"ES_INIT without SEV-ES",
       [](Rig& r) { return r.run(r.guest, KvmCommand::kEsInit); },
       -ENOTTY,
       kUntouched,
       {.firmware = {.sev_asid_min = 1}}},
      {"a number nobody has given KVM yet is no /dev/sev",
       [](Rig& r) {
         must(sev_init(r.guest.vm));
         return r.run_with(r.guest, KvmCommand::kGuestStatus, KvmSevGuestStatus{});
       },
       -EBADF},
  });
}

// A mirror has four commands; everything else is refused before its parameters are looked at.
TEST(ShimErrno, MirrorHasFourCommands) {
  for (std::uint32_t id = 0; id <= static_cast<std::uint32_t>(KvmCommand::kInit2); ++id) {
    SCOPED_TRACE(id);
    Rig rig;
    rig.guest.launch_with_pattern(0);
    ASSERT_EQ(rig.enable_cap(rig.other, kCapCopyEncContextFrom, rig.guest.vm.vm_fd), 0);
    const auto command = static_cast<KvmCommand>(id);
    const int result = rig.run(rig.other, command).result;
    if (command == KvmCommand::kLaunchUpdateVmsa) {
      EXPECT_EQ(result, -ENOTTY);  // plain SEV
    } else if (command == KvmCommand::kGuestStatus || command == KvmCommand::kDbgDecrypt ||
               command == KvmCommand::kDbgEncrypt) {
      EXPECT_EQ(result, -EFAULT);
    } else {
      EXPECT_EQ(result, -EINVAL);
    }
  }
}

TEST(ShimErrno, Conventions) {
  check_rows({
      {"a status of the firmware is EIO",
       [](Rig& r) {
         r.guest.launch_with_pattern(0);
         return r.run(r.guest, KvmCommand::kSendFinish);
       },
       -EIO, code(Status::kInvalidGuestState)},
      {"refused before the firmware, `error` as it came",
       [](Rig& r) {
         r.send();
         auto p = r.update(r.guest);
         p.trans_uaddr = 0;
         return r.run_with(r.guest, KvmCommand::kSendUpdateData, p);
       },
       -EINVAL},
      {"no answer of the PSP",
       [](Rig& r) {
         r.guest.launch_with_pattern(0);
         r.fail_next(MailboxCommand::kGuestStatus, Fault::timeout());
         return r.run_with(r.guest, KvmCommand::kGuestStatus, KvmSevGuestStatus{});
       },
       -ETIMEDOUT, 0},
      {"any command after that",
       [](Rig& r) {
         r.guest.launch_with_pattern(0);
         r.fail_next(MailboxCommand::kGuestStatus, Fault::timeout());
         r.run_with(r.guest, KvmCommand::kGuestStatus, KvmSevGuestStatus{});
         return r.run(r.guest, KvmCommand::kSendCancel);
       },
       -EBUSY},
      {"another VM after that",
       [](Rig& r) {
         r.guest.launch_with_pattern(0);
         must(sev_init(r.other.vm));
         r.fail_next(MailboxCommand::kGuestStatus, Fault::timeout());
         r.run_with(r.guest, KvmCommand::kGuestStatus, KvmSevGuestStatus{});
         return r.run_with(r.other, KvmCommand::kLaunchStart, KvmSevStart{});
       },
       -EBUSY},
      {"no PSP",
       [](Rig& r) {
         r.guest.launch_with_pattern(0);
         r.host.remove_psp();
         return r.run(r.guest, KvmCommand::kSendCancel);
       },
       -ENODEV},
      {"no PSP at INIT",
       [](Rig& r) {
         r.host.remove_psp();
         return r.run(r.guest, KvmCommand::kInit);
       },
       -ENODEV},
      {"stored sev_fd is not open",
       [](Rig& r) {
         r.guest.launch_with_pattern(0);
         r.host.close_sev(r.guest.vm.sev_fd);
         return r.run(r.guest, KvmCommand::kSendCancel);
       },
       -EBADF},
      {"given sev_fd is open but not /dev/sev",
       [](Rig& r) {
         must(sev_init(r.guest.vm));
         const SevVm wrong{.host = r.host, .vm_fd = r.guest.vm.vm_fd, .sev_fd = r.guest.vm.vm_fd};
         KvmSevStart start;
         return issue(wrong, KvmCommand::kLaunchStart, &start);
       },
       -EBADF},
      {"RLIMIT_MEMLOCK, at REG_REGION",
       [](Rig& r) {
         must(sev_init(r.guest.vm));
         return plain(r.request(r.guest, kKvmMemoryEncryptRegRegion, r.all_of(r.guest)));
       },
       -ENOMEM,
       kUntouched,
       {.memlock_limit_bytes = 2 * kPageBytes - 1}},
      {"RLIMIT_MEMLOCK, one page more while SEND_UPDATE_DATA runs",
       [](Rig& r) {
         must(sev_init(r.guest.vm));
         const KvmEncRegion region = r.all_of(r.guest);
         EXPECT_EQ(r.request(r.guest, kKvmMemoryEncryptRegRegion, region), 0);
         return r.run_with(r.guest, KvmCommand::kSendUpdateData, r.update(r.guest));
       },
       -ENOMEM,
       kUntouched,
       {.memlock_limit_bytes = 2 * kPageBytes}},
      {"INIT takes lost persistent data as a reason to start afresh",
       [](Rig& r) {
         r.fail_next(MailboxCommand::kInit, static_cast<std::uint16_t>(Status::kSecureDataInvalid));
         return r.run(r.guest, KvmCommand::kInit);
       },
       0, 0},
  });
}

TEST(ShimErrno, EveryFirmwareStatusComesThrough) {
  for (std::uint16_t status = 1; status < 0x28; ++status) {
    Rig rig;
    rig.guest.launch_with_pattern(0);
    rig.fail_next(MailboxCommand::kSendStart, status);
    const CommandResult got = rig.run_with(rig.guest, KvmCommand::kSendStart, rig.send_start());
    EXPECT_EQ(got.result, -EIO);
    EXPECT_EQ(got.firmware, status);
    EXPECT_EQ(rig.guest.state(), GuestState::kRunning);
  }
}

// LAUNCH_UPDATE_DATA pins its whole range a second time, SEND_UPDATE_DATA one page.
TEST(ShimErrno, PagesArePinnedOnceMoreWhileACommandRuns) {
  Rig rig({.memlock_limit_bytes = 4 * kPageBytes});
  rig.send();
  const auto try_page = [&] {
    return rig.run_with(rig.guest, KvmCommand::kSendUpdateData, rig.update(rig.guest)).result;
  };
  const KvmEncRegion one{.addr = at(rig.guest.ram.page(0)), .size = kPageBytes};
  for (std::uint64_t locked = 2; locked < 4; ++locked) {
    EXPECT_EQ(try_page(), 0);
    EXPECT_EQ(try_page(), 0);
    EXPECT_EQ(rig.host.leaks().locked_pages, locked);
    EXPECT_EQ(rig.request(rig.guest, kKvmMemoryEncryptRegRegion, one), 0);
  }
  EXPECT_EQ(try_page(), -ENOMEM);
  EXPECT_EQ(rig.host.leaks().locked_pages, 4u);
}

TEST(ShimErrno, ATimeoutHasItsOwnWords) {
  const auto said = check({.result = -ETIMEDOUT, .firmware = 0}, "KVM_SEV_SEND_START");
  ASSERT_FALSE(said.has_value());
  EXPECT_EQ(
      said.error().detail,
      "KVM_SEV_SEND_START failed: ETIMEDOUT (Connection timed out): the secure processor gave "
      "no answer, and the kernel refuses (EBUSY) all further SEV commands until it starts "
      "again.");
}

}  // namespace
}  // namespace sealift::sev
