// SEV-ES guests: registers, the GHCB protocol, and the calls that no kernel has.

#include <gtest/gtest.h>

#include "vmm_glue/model/sev/shim_test_support.h"

namespace sealift::sev {
namespace {

using enum KvmCommand;
constexpr int kVcpus = 2;

struct EsRig : Rig {
  explicit EsRig(bool moves = true) : Rig({.kernel_moves_vmsa = moves}) {}

  void prepare(TestGuest& where) {
    EXPECT_TRUE(run(where, kEsInit).ok());
    for (int i = 0; i < kVcpus; ++i) host.create_vcpu(where.vm.vm_fd);
    EXPECT_EQ(request(where, kKvmMemoryEncryptRegRegion, all_of(where)), 0);
  }
  // Registers that differ in each vCPU.
  static Bytes registers(int vcpu) {
    Bytes out(kVmsaBytes);
    for (std::size_t i = 0; i < out.size(); ++i) {
      out[i] = static_cast<std::byte>(i * 7 + static_cast<std::size_t>(vcpu) * 31);
    }
    return out;
  }
  void launch() {
    prepare(guest);
    for (int i = 0; i < kVcpus; ++i) {
      const MutableBytes page = host.vmsa(guest.vm.vm_fd, static_cast<std::uint32_t>(i));
      std::ranges::copy(registers(i), page.begin());
    }
    KvmSevStart start;
    start.policy = kPolicyEs;
    EXPECT_TRUE(run_with(guest, kLaunchStart, start).ok());
    EXPECT_TRUE(run(guest, kLaunchUpdateVmsa).ok());
    KvmSevLaunchMeasure measure;
    Bytes measurement(kMeasurementBytes);
    measure.uaddr = at(measurement);
    measure.len = kMeasurementBytes;
    EXPECT_TRUE(run_with(guest, kLaunchMeasure, measure).ok());
    EXPECT_TRUE(run(guest, kLaunchFinish).ok());
  }
  Bytes registers_of(TestGuest& where, std::uint32_t vcpu) {
    Bytes out(kVmsaBytes);
    host.guest_view(where.vm.vm_fd).load(host.vmsa(where.vm.vm_fd, vcpu).data(), out);
    return out;
  }
  KvmSevUpdateVmsa vmsa(std::uint32_t vcpu) {
    KvmSevUpdateVmsa out;
    out.vcpu = vcpu;
    out.hdr_uaddr = at(header);
    out.hdr_len = kPacketHeaderBytes;
    out.trans_uaddr = at(transport);
    out.trans_len = kVmsaBytes;
    return out;
  }
  KvmSevStart es_receive_start() {
    KvmSevStart out = receive_start();
    out.policy = kPolicyEs;
    return out;
  }
};

TEST(ShimVmsa, LaunchEncryptsAllInPlace) {
  EsRig rig;
  rig.launch();
  EXPECT_TRUE(rig.host.may_run(rig.guest.vm.vm_fd));
  for (int i = 0; i < kVcpus; ++i) {
    const auto vcpu = static_cast<std::uint32_t>(i);
    const MutableBytes page = rig.host.vmsa(rig.guest.vm.vm_fd, vcpu);
    EXPECT_NE(Bytes(page.begin(), page.end()), EsRig::registers(i));
    EXPECT_EQ(rig.registers_of(rig.guest, vcpu), EsRig::registers(i));
  }
}

TEST(ShimVmsa, AnEsGuestWithPlainRegistersDoesNotRun) {
  EsRig rig;
  rig.launch();
  rig.host.create_vcpu(rig.guest.vm.vm_fd);
  EXPECT_FALSE(rig.host.may_run(rig.guest.vm.vm_fd));
}

TEST(ShimVmsa, TheFirstFailureEndsLaunchUpdate) {
  EsRig rig;
  rig.prepare(rig.guest);
  KvmSevStart start;
  start.policy = kPolicyEs;
  ASSERT_TRUE(rig.run_with(rig.guest, kLaunchStart, start).ok());
  rig.fail_next(MailboxCommand::kLaunchUpdateVmsa, 0x13);
  EXPECT_EQ(rig.run(rig.guest, kLaunchUpdateVmsa).firmware, 0x13u);
  EXPECT_EQ(rig.host.commands_issued(MailboxCommand::kLaunchUpdateVmsa), 1u);
}

TEST(ShimVmsa, RegistersMoveToAnotherVm) {
  EsRig rig;
  rig.launch();
  const int from = rig.guest.vm.vm_fd;
  const int to = rig.other.vm.vm_fd;
  rig.host.ghcb_msr(from, 1, 0x7000 | 0x012);
  rig.host.set_ap_jump_table(from, 0x9000);
  ASSERT_TRUE(rig.run_with(rig.guest, kSendStart, rig.send_start()).ok());
  rig.prepare(rig.other);
  ASSERT_TRUE(rig.run_with(rig.other, kReceiveStart, rig.es_receive_start()).ok());
  for (std::uint32_t i = 0; i < kVcpus; ++i) {
    ASSERT_TRUE(rig.run_with(rig.guest, kSendUpdateVmsa, rig.vmsa(i)).ok());
    ASSERT_TRUE(rig.run_with(rig.other, kReceiveUpdateVmsa, rig.vmsa(i)).ok());
    KvmSevEsState state{.vcpu = i};
    ASSERT_TRUE(rig.run(rig.guest, kGetEsState, &state).ok());
    EXPECT_EQ(state.ghcb_gpa, i == 1 ? 0x7000u : 0u);
    EXPECT_EQ(state.flags, i == 1 ? kEsStateGhcbRegistered : 0u);
    EXPECT_EQ(state.ap_jump_table, i == 0 ? 0x9000u : 0u);
    ASSERT_TRUE(rig.run(rig.other, kSetEsState, &state).ok());
  }
  EXPECT_FALSE(rig.host.may_run(to));
  ASSERT_TRUE(rig.run(rig.guest, kSendFinish).ok());
  ASSERT_TRUE(rig.run(rig.other, kReceiveFinish).ok());
  EXPECT_FALSE(rig.host.may_run(from));
  EXPECT_TRUE(rig.host.may_run(to));
  EXPECT_EQ(rig.host.ap_jump_table(to), 0x9000u);
  for (std::uint32_t i = 0; i < kVcpus; ++i) {
    EXPECT_EQ(rig.registers_of(rig.other, i), EsRig::registers(static_cast<int>(i)));
  }
}

TEST(ShimVmsa, NoKernelHasThem) {
  EsRig rig(false);
  rig.launch();
  for (const KvmCommand command :
       {kSendUpdateVmsa, kReceiveUpdateVmsa, kGetEsState, kSetEsState, kCertExport}) {
    EXPECT_EQ(rig.run(rig.guest, command).result, -EINVAL) << name_of(command);
  }
}

TEST(ShimVmsa, Rows) {
  EsRig rig;
  rig.launch();
  ASSERT_TRUE(rig.run_with(rig.guest, kSendStart, rig.send_start()).ok());
  for (const KvmCommand command : {kSendUpdateVmsa, kReceiveUpdateVmsa, kGetEsState, kSetEsState}) {
    EXPECT_EQ(rig.run(rig.other, command).result, -ENOTTY);
    EXPECT_EQ(rig.run(rig.guest, command).result, -EFAULT);
  }
  const auto send = [&](const std::function<void(KvmSevUpdateVmsa&)>& change) {
    auto p = rig.vmsa(0);
    change(p);
    return rig.run_with(rig.guest, kSendUpdateVmsa, p).result;
  };
  EXPECT_EQ(send([](auto& p) { p.vcpu = kVcpus; }), -EINVAL);
  EXPECT_EQ(send([](auto& p) { p.hdr_uaddr = 0; }), -EINVAL);
  EXPECT_EQ(send([](auto& p) { p.trans_uaddr = 0; }), -EINVAL);
  EXPECT_EQ(send([](auto& p) { p.trans_len = 0x80000000; }), -ENOMEM);
  KvmSevUpdateVmsa query;
  EXPECT_TRUE(rig.run(rig.guest, kSendUpdateVmsa, &query).answers_length_query());
  EXPECT_EQ(query.hdr_len, kPacketHeaderBytes);
  EXPECT_EQ(rig.run_with(rig.guest, kReceiveUpdateVmsa, rig.vmsa(0)).firmware,
            code(Status::kInvalidGuestState));
  EXPECT_EQ(rig.run_with(rig.guest, kReceiveUpdateVmsa, rig.vmsa(kVcpus)).result, -EINVAL);
  auto empty = rig.vmsa(0);
  empty.hdr_len = 0;
  EXPECT_EQ(rig.run_with(rig.guest, kReceiveUpdateVmsa, empty).result, -EINVAL);
}

TEST(ShimVmsa, EsStateRows) {
  EsRig rig;
  rig.launch();
  const auto set = [&](KvmSevEsState state) {
    return rig.run(rig.guest, kSetEsState, &state).result;
  };
  EXPECT_EQ(set({.vcpu = kVcpus}), -EINVAL);
  EXPECT_EQ(set({.flags = 2}), -EINVAL);
  EXPECT_EQ(set({.ghcb_gpa = 0x1001}), -EINVAL);
  EXPECT_EQ(set({.vcpu = 1, .ap_jump_table = 0x1000}), -EINVAL);
  KvmSevEsState state{.vcpu = kVcpus};
  EXPECT_EQ(rig.run(rig.guest, kGetEsState, &state).result, -EINVAL);
}

TEST(ShimGhcb, Requests) {
  EsRig rig;
  rig.launch();
  const int vm = rig.guest.vm.vm_fd;
  EXPECT_EQ(rig.host.ghcb_msr(vm, 0, 0x002).value, 0x0001'0001'3300'0001u);  // C-bit 51
  EXPECT_EQ(rig.host.ghcb_msr(vm, 0, 0x080).value, 0x081u);
  EXPECT_EQ(rig.host.ghcb_msr(vm, 0, 0x1234'5012).value, 0x1234'5013u);
  EXPECT_EQ(rig.host.ghcb_msr(vm, 0, 0x1234'5000).value, 0x1234'5000u);
  KvmSevEsState state;
  ASSERT_TRUE(rig.run(rig.guest, kGetEsState, &state).ok());
  EXPECT_EQ(state.ghcb_gpa, 0x1234'5000u);
  EXPECT_EQ(state.flags, kEsStateGhcbRegistered);
  rig.host.ghcb_msr(vm, 0, 0x6000);  // another page: not the registered one
  ASSERT_TRUE(rig.run(rig.guest, kGetEsState, &state).ok());
  EXPECT_EQ(state.ghcb_gpa, 0x6000u);
  EXPECT_EQ(state.flags, 0u);
  EXPECT_EQ(rig.host.ghcb_msr(vm, 0, 0xf00).value, 0xf00u);  // unknown: as it was
  EXPECT_TRUE(rig.host.may_run(vm));
}

TEST(ShimGhcb, ANewKernelKnowsVersion2AndFeatures) {
  SoftSevHost host({.kernel = KernelProfile::kLinux6_12});
  const SevVm vm{.host = host, .vm_fd = host.create_vm(VmType::kSevEs), .sev_fd = host.open_sev()};
  KvmSevInit2 params;
  ASSERT_TRUE(issue(vm, kInit2, &params).ok());
  host.create_vcpu(vm.vm_fd);
  EXPECT_EQ(host.ghcb_msr(vm.vm_fd, 0, 0x002).value, 0x0002'0001'3300'0001u);
  EXPECT_EQ(host.ghcb_msr(vm.vm_fd, 0, 0x080).value, 0x3081u);
  host.destroy_vm(vm.vm_fd);
  EXPECT_EQ(host.leaks(), Leaks{});
}

TEST(ShimGhcb, TerminationEndsTheGuest) {
  EsRig rig;
  rig.launch();
  const std::uint64_t value = 0x05 << 16 | 0x1 << 12 | 0x100;
  const GhcbReply reply = rig.host.ghcb_msr(rig.guest.vm.vm_fd, 1, value);
  ASSERT_TRUE(reply.termination.has_value());
  EXPECT_EQ(reply.termination->ghcb_msr, value);
  EXPECT_EQ(reply.termination->reason_set, 1u);
  EXPECT_EQ(reply.termination->reason_code, 5u);
  EXPECT_FALSE(rig.host.may_run(rig.guest.vm.vm_fd));
}

}  // namespace
}  // namespace sealift::sev
