// Moving and sharing an encryption context between two VMs of a host. EBUSY (a MOVE under way, a
// vCPU half created) and EINTR cannot occur in the model: one mutex (soft_sev_host.h).

#include <gtest/gtest.h>

#include "vmm_glue/model/sev/shim_test_support.h"

namespace sealift::sev {
namespace {

constexpr std::uint32_t kMove = kCapMoveEncContextFrom;
constexpr std::uint32_t kCopy = kCapCopyEncContextFrom;

TEST(ShimShare, RowsOfBoth) {
  for (const std::uint32_t cap : {kMove, kCopy}) {
    SCOPED_TRACE(cap);
    const auto from = [cap](int (*fd)(Rig&), bool launched = true) {
      return [=](Rig& r) {
        if (launched) r.guest.launch_with_pattern(0);
        return CommandResult{.result = r.enable_cap(r.other, cap, fd(r))};
      };
    };
    check_rows({
        {"not open", from([](Rig&) { return 3; }), -EBADF},
        {"not a VM", from([](Rig& r) { return r.guest.vm.sev_fd; }), -EBADF},
        {"the same VM", from([](Rig& r) { return r.other.vm.vm_fd; }), -EINVAL},
        {"source not SEV", from([](Rig& r) { return r.guest.vm.vm_fd; }, false), -EINVAL},
        {"destination is SEV already",
         [cap](Rig& r) {
           r.guest.launch_with_pattern(0);
           must(sev_init(r.other.vm));
           return CommandResult{.result = r.enable_cap(r.other, cap, r.guest.vm.vm_fd)};
         },
         -EINVAL},
        {"no parameters",
         [](Rig& r) {
           return CommandResult{.result = r.host.ioctl(r.other.vm.vm_fd, kKvmEnableCap, nullptr)};
         },
         -EFAULT},
        {"flags",
         [cap](Rig& r) {
           KvmEnableCap request;
           request.cap = cap;
           request.flags = 1;
           return CommandResult{.result = r.host.ioctl(r.other.vm.vm_fd, kKvmEnableCap, &request)};
         },
         -EINVAL},
    });
  }
  check_rows({
      {"another capability",
       [](Rig& r) { return CommandResult{.result = r.enable_cap(r.other, 1, r.guest.vm.vm_fd)}; },
       -EINVAL},
      {"COPY, the source is a mirror",
       [](Rig& r) {
         r.guest.launch_with_pattern(0);
         TestGuest third(r.host, 1);
         EXPECT_EQ(r.enable_cap(r.other, kCopy, r.guest.vm.vm_fd), 0);
         return CommandResult{.result = r.enable_cap(third, kCopy, r.other.vm.vm_fd)};
       },
       -EINVAL},
      {"COPY, the destination has vCPUs",
       [](Rig& r) {
         r.guest.launch_with_pattern(0);
         r.host.create_vcpu(r.other.vm.vm_fd);
         return CommandResult{.result = r.enable_cap(r.other, kCopy, r.guest.vm.vm_fd)};
       },
       -EINVAL},
      {"MOVE of a plain SEV guest, other numbers of vCPUs",
       [](Rig& r) {
         r.guest.launch_with_pattern(0);
         r.host.create_vcpu(r.other.vm.vm_fd);
         return CommandResult{.result = r.enable_cap(r.other, kMove, r.guest.vm.vm_fd)};
       },
       0},
  });
}

TEST(ShimShare, MoveTakesTheContextAndKillsTheSource) {
  Rig rig;
  rig.guest.launch_with_pattern(0);
  const Leaks before = rig.host.leaks();
  ASSERT_EQ(rig.enable_cap(rig.other, kMove, rig.guest.vm.vm_fd), 0);
  EXPECT_EQ(rig.host.leaks(), before);
  EXPECT_FALSE(rig.host.may_run(rig.guest.vm.vm_fd));
  EXPECT_TRUE(rig.host.may_run(rig.other.vm.vm_fd));
  EXPECT_EQ(rig.host.guest_state(rig.other.vm.vm_fd), GuestState::kRunning);
  // Everything to the dead VM is EIO.
  EXPECT_EQ(rig.host.ioctl(rig.guest.vm.vm_fd, kKvmMemoryEncryptOp, nullptr), -EIO);
  EXPECT_EQ(rig.request(rig.guest, kKvmMemoryEncryptRegRegion, rig.all_of(rig.guest)), -EIO);
  EXPECT_EQ(rig.enable_cap(rig.guest, kMove, rig.other.vm.vm_fd), -EIO);
  // The number of the /dev/sev fd did not come along.
  EXPECT_EQ(rig.run_with(rig.other, KvmCommand::kGuestStatus, KvmSevGuestStatus{}).result, -EBADF);
  // The memory is the guest's as before.
  Bytes seen(rig.guest.ram.all().size());
  rig.host.guest_view(rig.other.vm.vm_fd).load(rig.guest.ram.all().data(), seen);
  EXPECT_EQ(seen, rig.guest.plain);
}

TEST(ShimShare, MoveTakesMirrorsAlong) {
  Rig rig;
  rig.guest.launch_with_pattern(0);
  TestGuest mirror(rig.host, 1);
  ASSERT_EQ(rig.enable_cap(mirror, kCopy, rig.guest.vm.vm_fd), 0);
  ASSERT_EQ(rig.enable_cap(rig.other, kMove, rig.guest.vm.vm_fd), 0);
  EXPECT_TRUE(rig.run_with(mirror, KvmCommand::kGuestStatus, KvmSevGuestStatus{}).ok());
  // A mirror moves too.
  TestGuest second(rig.host, 1);
  ASSERT_EQ(rig.enable_cap(second, kMove, mirror.vm.vm_fd), 0);
  EXPECT_EQ(rig.run(second, KvmCommand::kSendCancel).result, -EINVAL);
}

TEST(ShimShare, AMirrorKeepsTheVmAliveThatItsOwnerMovedTo) {
  SoftSevHost host;
  TestRam ram(1);
  const auto share = [&](const SevVm& to, std::uint32_t cap, const SevVm& from) {
    KvmEnableCap request;
    request.cap = cap;
    request.args[0] = static_cast<std::uint64_t>(from.vm_fd);
    return host.ioctl(to.vm_fd, kKvmEnableCap, &request);
  };
  const int sev_fd = host.open_sev();
  const SevVm first{.host = host, .vm_fd = host.create_vm(), .sev_fd = sev_fd};
  const SevVm second{.host = host, .vm_fd = host.create_vm(), .sev_fd = sev_fd};
  const SevVm mirror{.host = host, .vm_fd = host.create_vm(), .sev_fd = sev_fd};
  const MutableBytes all = ram.all();
  must(launch(first, 0, {&all, 1}, {&all, 1}));
  ASSERT_EQ(share(mirror, kCopy, first), 0);
  ASSERT_EQ(share(second, kMove, first), 0);
  host.destroy_vm(first.vm_fd);
  host.destroy_vm(second.vm_fd);
  EXPECT_EQ(host.leaks().handles, 1u);
  EXPECT_TRUE(guest_status(mirror).has_value());
  host.destroy_vm(mirror.vm_fd);
  EXPECT_EQ(host.leaks(), Leaks{});
}

TEST(ShimShare, AMirrorKeepsTheContextAlive) {
  SoftSevHost host;
  {
    TestGuest mirror(host, 1);
    TestRam* ram = nullptr;
    {
      TestGuest owner(host, 1);
      owner.launch_with_pattern(0);
      KvmEnableCap request;
      request.cap = kCopy;
      request.args[0] = static_cast<std::uint64_t>(owner.vm.vm_fd);
      ASSERT_EQ(host.ioctl(mirror.vm.vm_fd, kKvmEnableCap, &request), 0);
      ram = &owner.ram;
      Bytes seen(ram->all().size());
      host.guest_view(mirror.vm.vm_fd).load(ram->all().data(), seen);
      EXPECT_EQ(seen, owner.plain);
      EXPECT_TRUE(host.may_run(mirror.vm.vm_fd));
      KvmSevDbg debug{.src_uaddr = at(ram->all()), .dst_uaddr = at(seen), .len = 16, .pad = 0};
      EXPECT_FALSE(issue(mirror.vm, KvmCommand::kDbgDecrypt, nullptr).ok());
      EXPECT_TRUE(issue(mirror.vm, KvmCommand::kDbgDecrypt, &debug).ok());
    }
    EXPECT_EQ(host.leaks().handles, 1u);
    EXPECT_EQ(host.leaks().asids, 1u);
  }
  EXPECT_EQ(host.leaks(), Leaks{});
}

class ShimShareEs : public testing::Test {
 protected:
  ShimShareEs() {
    EXPECT_EQ(rig.run(rig.guest, KvmCommand::kEsInit).result, 0);
    rig.host.create_vcpu(rig.guest.vm.vm_fd);
  }
  void encrypt() {
    EXPECT_TRUE(rig.run_with(rig.guest, KvmCommand::kLaunchStart, start()).ok());
    EXPECT_TRUE(rig.run(rig.guest, KvmCommand::kLaunchUpdateVmsa).ok());
  }
  static KvmSevStart start() {
    KvmSevStart out;
    out.policy = kPolicyEs;
    return out;
  }
  Rig rig;
};

TEST_F(ShimShareEs, WantsAsManyVcpusAndAllEncrypted) {
  EXPECT_EQ(rig.enable_cap(rig.other, kMove, rig.guest.vm.vm_fd), -EINVAL);  // 0 and 1
  rig.host.create_vcpu(rig.other.vm.vm_fd);
  EXPECT_EQ(rig.enable_cap(rig.other, kMove, rig.guest.vm.vm_fd), -EINVAL);  // not encrypted
  encrypt();
  rig.host.ghcb_msr(rig.guest.vm.vm_fd, 0, 0x5012);
  const std::byte* page = rig.host.vmsa(rig.guest.vm.vm_fd, 0).data();
  EXPECT_EQ(rig.enable_cap(rig.other, kMove, rig.guest.vm.vm_fd), 0);
  EXPECT_EQ(rig.host.vmsa(rig.other.vm.vm_fd, 0).data(), page);
}

}  // namespace
}  // namespace sealift::sev
