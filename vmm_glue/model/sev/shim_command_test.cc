// Each command's own checks, in order, and what is copied back when.

#include <gtest/gtest.h>

#include "vmm_glue/model/sev/shim_test_support.h"

namespace sealift::sev {
namespace {

using enum KvmCommand;
SoftSevConfig linux_6_12() { return {.kernel = KernelProfile::kLinux6_12}; }

TEST(ShimCommand, InitRows) {
  const auto init2 = [](VmType type, KvmSevInit2 params) {
    return [=](Rig& r) {
      const SevVm vm{.host = r.host, .vm_fd = r.host.create_vm(type), .sev_fd = r.guest.vm.sev_fd};
      KvmSevInit2 copy = params;
      const CommandResult got = issue(vm, kInit2, &copy);
      r.host.destroy_vm(vm.vm_fd);
      return got;
    };
  };
  const auto twice = [](Rig& r) {
    r.run(r.guest, kInit);
    return r.run(r.guest, kInit);
  };
  const auto late = [](Rig& r) {
    r.host.create_vcpu(r.guest.vm.vm_fd);
    return r.run(r.guest, kInit);
  };
  check_rows({
      {"INIT", [](Rig& r) { return r.run(r.guest, kInit); }, 0, 0},
      {"ES_INIT", [](Rig& r) { return r.run(r.guest, kEsInit); }, 0, 0},
      {"vCPUs are there already", late, -EINVAL},
      {"vCPUs are there already, 6.12", late, -EINVAL, kUntouched, linux_6_12()},
      {"INIT twice", twice, -EBUSY},
      {"INIT twice, 6.12", twice, -EINVAL, kUntouched, linux_6_12()},
      {"INIT2 before 6.10", [](Rig& r) { return r.run_with(r.guest, kInit2, KvmSevInit2{}); },
       -EINVAL},
      {"INIT2 of a VM of the default type",
       [](Rig& r) { return r.run_with(r.guest, kInit2, KvmSevInit2{}); }, -EINVAL, kUntouched,
       linux_6_12()},
      {"INIT2, SEV", init2(VmType::kSev, {}), 0, 0, linux_6_12()},
      {"INIT2, SEV-ES", init2(VmType::kSevEs, {.ghcb_version = 1}), 0, 0, linux_6_12()},
      {"INIT2, flags", init2(VmType::kSev, {.flags = 1}), -EINVAL, kUntouched, linux_6_12()},
      {"INIT2, features", init2(VmType::kSevEs, {.vmsa_features = 1}), -EINVAL, kUntouched,
       linux_6_12()},
      {"INIT2, a GHCB without SEV-ES", init2(VmType::kSev, {.ghcb_version = 1}), -EINVAL,
       kUntouched, linux_6_12()},
      {"INIT2, a GHCB of the future", init2(VmType::kSevEs, {.ghcb_version = 3}), -EINVAL,
       kUntouched, linux_6_12()},
      {"INIT of another type than the default",
       [](Rig& r) {
         const SevVm vm{
             .host = r.host, .vm_fd = r.host.create_vm(VmType::kSev), .sev_fd = r.guest.vm.sev_fd};
         return issue(vm, kInit, nullptr);
       },
       -EINVAL, kUntouched, linux_6_12()},
      {"no ASID",
       [](Rig& r) { return r.run(r.guest, kInit); },
       -EBUSY,
       kUntouched,
       {.firmware = {.asids = 99}}},
      {"no ASID can be, 6.12",
       [](Rig& r) { return r.run(r.guest, kInit); },
       -ENOTTY,
       kUntouched,
       {.firmware = {.asids = 99}, .kernel = KernelProfile::kLinux6_12}},
  });
}

TEST(ShimCommand, VmTypesOfTheHost) {
  const auto create = [](SoftSevConfig config, VmType type) {
    return SoftSevHost(std::move(config)).create_vm(type);
  };
  SoftSevConfig without_es = linux_6_12();
  without_es.firmware.es_capable = false;
  EXPECT_EQ(create({}, VmType::kSev), -EINVAL);
  EXPECT_EQ(create({}, VmType::kSevEs), -EINVAL);
  EXPECT_GT(create(linux_6_12(), VmType::kSev), 0);
  EXPECT_GT(create(linux_6_12(), VmType::kSevEs), 0);
  EXPECT_GT(create(without_es, VmType::kSev), 0);
  EXPECT_EQ(create(without_es, VmType::kSevEs), -EINVAL);
}

TEST(ShimCommand, StartRows) {
  const auto launch = [](const std::function<void(Rig&, KvmSevStart&)>& change) {
    return [=](Rig& r) {
      must(sev_init(r.guest.vm));
      KvmSevStart params;
      change(r, params);
      return r.run_with(r.guest, kLaunchStart, params);
    };
  };
  check_rows({
      {"no parameters",
       [](Rig& r) {
         must(sev_init(r.guest.vm));
         return r.run(r.guest, kLaunchStart);
       },
       -EFAULT},
      {"no session", launch([](Rig&, KvmSevStart&) {}), 0, 0},
      {"an empty PDH", launch([](Rig& r, KvmSevStart& p) { p.pdh_uaddr = at(r.amd); }), -EINVAL},
      {"a PDH over 16 KiB", launch([](Rig& r, KvmSevStart& p) {
         p.pdh_uaddr = at(r.amd);
         p.pdh_len = kFirmwareBlobBytesMax + 1;
       }),
       -EINVAL},
      {"an empty session", launch([](Rig& r, KvmSevStart& p) { p.session_uaddr = at(r.amd); }),
       -EINVAL},
      {"the copy of the handle faults: the guest is gone again",
       [](Rig& r) {
         must(sev_init(r.guest.vm));
         r.fail_next(MailboxCommand::kLaunchStart, Fault::copy_out());
         const CommandResult got = r.run_with(r.guest, kLaunchStart, KvmSevStart{});
         EXPECT_EQ(r.host.leaks().handles, 0u);
         EXPECT_EQ(r.guest.state(), GuestState::kUninit);
         return got;
       },
       -EFAULT, 0},
      {"ACTIVATE fails: DECOMMISSION",
       [](Rig& r) {
         must(sev_init(r.guest.vm));
         r.fail_next(MailboxCommand::kActivate, static_cast<std::uint16_t>(Status::kAsidOwned));
         const CommandResult got = r.run_with(r.guest, kLaunchStart, KvmSevStart{});
         EXPECT_EQ(r.host.leaks().handles, 0u);
         return got;
       },
       -EIO, code(Status::kAsidOwned)},
      {"a second RECEIVE_START: the ASID belongs to the first guest",
       [](Rig& r) {
         r.receive();
         return r.run_with(r.other, kReceiveStart, r.receive_start());
       },
       -EIO, code(Status::kAsidOwned)},
      {"RECEIVE_START through a closed fd",
       [](Rig& r) {
         r.send();
         r.other.prepare();
         r.host.close_sev(r.other.vm.sev_fd);
         return r.run_with(r.other, kReceiveStart, r.receive_start());
       },
       -EBADF},
      {"RECEIVE_START, the copy of the handle faults",
       [](Rig& r) {
         r.send();
         r.other.prepare();
         r.fail_next(MailboxCommand::kReceiveStart, Fault::copy_out());
         const CommandResult got = r.run_with(r.other, kReceiveStart, r.receive_start());
         EXPECT_EQ(r.host.leaks().handles, 1u);
         return got;
       },
       -EFAULT, 0},
  });
}

TEST(ShimCommand, SendRows) {
  check_rows({
      {"SEND_START, the copy of the session faults: the guest is sending all the same",
       [](Rig& r) {
         r.guest.launch_with_pattern(0);
         r.fail_next(MailboxCommand::kSendStart, Fault::copy_out());
         const CommandResult got = r.run_with(r.guest, kSendStart, r.send_start());
         EXPECT_EQ(r.guest.state(), GuestState::kSendUpdate);
         EXPECT_EQ(r.run(r.guest, kSendCancel).result, 0);
         EXPECT_EQ(r.guest.state(), GuestState::kRunning);
         return got;
       },
       -EFAULT, 0},
      {"SEND_UPDATE_DATA, the copy of the packet faults",
       [](Rig& r) {
         r.send();
         r.fail_next(MailboxCommand::kSendUpdateData, Fault::copy_out());
         return r.run_with(r.guest, kSendUpdateData, r.update(r.guest));
       },
       -EFAULT, 0},
      {"GUEST_STATUS, the copy faults",
       [](Rig& r) {
         r.guest.launch_with_pattern(0);
         r.fail_next(MailboxCommand::kGuestStatus, Fault::copy_out());
         return r.run_with(r.guest, kGuestStatus, KvmSevGuestStatus{});
       },
       -EFAULT, 0},
      {"a page that no region of the VM has",
       [](Rig& r) {
         r.send();
         auto p = r.update(r.other);
         return r.run_with(r.guest, kSendUpdateData, p);
       },
       -ENOMEM},
      {"buffers beyond kmalloc",
       [](Rig& r) {
         r.send();
         auto p = r.update(r.guest);
         p.trans_len = 0x80000000;
         return r.run_with(r.guest, kSendUpdateData, p);
       },
       -ENOMEM},
      {"RECEIVE_UPDATE_DATA, a header over 16 KiB",
       [](Rig& r) {
         r.receive();
         auto p = r.update(r.other);
         p.hdr_len = kFirmwareBlobBytesMax + 1;
         return r.run_with(r.other, kReceiveUpdateData, p);
       },
       -EINVAL},
      {"RECEIVE_UPDATE_DATA across two pages",
       [](Rig& r) {
         r.receive();
         auto p = r.update(r.other);
         p.guest_uaddr += 16;
         return r.run_with(r.other, kReceiveUpdateData, p);
       },
       -EINVAL},
  });
}

TEST(ShimCommand, BuffersLargerThanThePacketEndInZeros) {
  Rig rig;
  rig.send();
  rig.transport.assign(kPageBytes + 64, std::byte{0xee});
  rig.header.assign(kPacketHeaderBytes + 12, std::byte{0xee});
  auto params = rig.update(rig.guest);
  params.trans_len = kPageBytes + 64;
  params.hdr_len = kPacketHeaderBytes + 12;
  ASSERT_EQ(rig.run(rig.guest, kSendUpdateData, &params).result, 0);
  for (std::size_t i = kPageBytes; i < rig.transport.size(); ++i) {
    EXPECT_EQ(rig.transport[i], std::byte{0});
  }
  EXPECT_EQ(rig.header.back(), std::byte{0});
  EXPECT_EQ(params.hdr_len, kPacketHeaderBytes + 12);  // not written back
}

TEST(ShimCommand, SecretRows) {
  const auto secret = [](const std::function<void(KvmSevLaunchSecret&)>& change) {
    return [=](Rig& r) {
      r.guest.prepare();
      r.run_with(r.guest, kLaunchStart, KvmSevStart{});
      KvmSevLaunchSecret p;
      p.hdr_uaddr = at(r.header);
      p.hdr_len = kPacketHeaderBytes;
      p.guest_uaddr = at(r.guest.ram.page(0));
      p.guest_len = 64;
      p.trans_uaddr = at(r.transport);
      p.trans_len = 64;
      change(p);
      return r.run_with(r.guest, kLaunchSecret, p);
    };
  };
  check_rows({
      {"no guest page", secret([](auto& p) { p.guest_len = 0; }), -EINVAL},
      {"not registered", secret([](auto& p) { p.guest_uaddr += 2 * kPageBytes; }), -ENOMEM},
      {"no body", secret([](auto& p) { p.trans_uaddr = 0; }), -EINVAL},
      {"no header", secret([](auto& p) { p.hdr_len = 0; }), -EINVAL},
      {"a header over 16 KiB", secret([](auto& p) { p.hdr_len = kFirmwareBlobBytesMax + 1; }),
       -EINVAL},
      {"before LAUNCH_MEASURE the firmware says no", secret([](auto&) {}), -EIO,
       code(Status::kInvalidGuestState)},
  });
}

TEST(ShimCommand, LaunchMeasureWritesTheLengthBackFromAQueryOnly) {
  Rig rig;
  rig.guest.prepare();
  ASSERT_TRUE(rig.run_with(rig.guest, kLaunchStart, KvmSevStart{}).ok());
  KvmSevLaunchMeasure params;
  EXPECT_TRUE(rig.run(rig.guest, kLaunchMeasure, &params).answers_length_query());
  EXPECT_EQ(params.len, kMeasurementBytes);
  Bytes measurement(kMeasurementBytes);
  params = {.uaddr = at(measurement), .len = 10, .pad = 0};
  EXPECT_TRUE(rig.run(rig.guest, kLaunchMeasure, &params).answers_length_query());
  EXPECT_EQ(params.len, 10u);
  params.len = kFirmwareBlobBytesMax + 1;
  EXPECT_EQ(rig.run(rig.guest, kLaunchMeasure, &params).result, -EINVAL);
}

TEST(ShimCommand, AttestationReportHasALengthQuery) {
  Rig rig;
  rig.guest.launch_with_pattern(0);
  KvmSevAttestationReport params;
  CommandResult got = rig.run(rig.guest, kGetAttestationReport, &params);
  EXPECT_TRUE(got.answers_length_query());
  EXPECT_EQ(params.len, kAttestationBytes);
  Bytes report(kAttestationBytes);
  params.uaddr = at(report);
  params.mnonce[3] = 0x5a;
  ASSERT_EQ(rig.run(rig.guest, kGetAttestationReport, &params).result, 0);
  EXPECT_EQ(report[3], std::byte{0x5a});
  params.len = kFirmwareBlobBytesMax + 1;
  EXPECT_EQ(rig.run(rig.guest, kGetAttestationReport, &params).result, -EINVAL);
  params.len = 10;
  got = rig.run(rig.guest, kGetAttestationReport, &params);
  EXPECT_EQ(got.firmware, code(Status::kInvalidLength));
  EXPECT_EQ(params.len, 10u);  // written back by a query only
}

class ShimDebug : public testing::Test {
 protected:
  ShimDebug() { rig.guest.launch_with_pattern(0); }
  KvmSevDbg params(std::uint64_t source, std::uint64_t destination, std::size_t bytes) {
    return {.src_uaddr = source,
            .dst_uaddr = destination,
            .len = static_cast<std::uint32_t>(bytes),
            .pad = 0};
  }
  Rig rig;
};

TEST_F(ShimDebug, ReadsAnyRangeOfTheGuest) {
  struct Range {
    std::size_t first, bytes;
  };
  for (const auto [first, bytes] : {Range{0, 8192}, Range{1, 1}, Range{15, 2}, Range{4090, 20},
                                    Range{16, 32}, Range{7, 4096}}) {
    SCOPED_TRACE(first);
    Bytes seen(bytes + 1, std::byte{0xaa});
    const auto p = params(at(rig.guest.ram.all()) + first, at(seen), bytes);
    ASSERT_EQ(rig.run_with(rig.guest, kDbgDecrypt, p).result, 0);
    const ByteView expected = ByteView(rig.guest.plain).subspan(first, bytes);
    EXPECT_TRUE(std::equal(expected.begin(), expected.end(), seen.begin()));
    EXPECT_EQ(seen.back(), std::byte{0xaa});
  }
  EXPECT_EQ(rig.host.leaks().locked_pages, 2u);
}

TEST_F(ShimDebug, WritesAnyRangeOfTheGuest) {
  Bytes expected = rig.guest.plain;
  const Bytes text(100, std::byte{0x42});
  for (const std::size_t first : {std::size_t{0}, std::size_t{33}, std::size_t{4000}}) {
    Bytes source = text;
    const auto p = params(at(source), at(rig.guest.ram.all()) + first, 90);
    ASSERT_EQ(rig.run_with(rig.guest, kDbgEncrypt, p).result, 0);
    std::copy_n(text.begin(), 90, expected.begin() + static_cast<std::ptrdiff_t>(first));
  }
  EXPECT_EQ(rig.guest.guest_sees(), expected);
}

TEST_F(ShimDebug, Rows) {
  Bytes seen(16);
  const std::uint64_t guest = at(rig.guest.ram.all());
  EXPECT_EQ(rig.run(rig.guest, kDbgDecrypt).result, -EFAULT);
  EXPECT_EQ(rig.run_with(rig.guest, kDbgDecrypt, params(guest, at(seen), 0)).result, -EINVAL);
  EXPECT_EQ(rig.run_with(rig.guest, kDbgDecrypt, params(guest, 0, 16)).result, -EINVAL);
  EXPECT_EQ(rig.run_with(rig.guest, kDbgDecrypt, params(~0ULL, at(seen), 16)).result, -EINVAL);
  EXPECT_EQ(rig.run_with(rig.guest, kDbgDecrypt, params(at(seen), guest, 16)).result, -ENOMEM);
  EXPECT_EQ(rig.run_with(rig.guest, kDbgEncrypt, params(guest, at(seen), 16)).result, -ENOMEM);
  Rig closed;
  closed.guest.launch_with_pattern(kPolicyNoDebug);
  const CommandResult got =
      closed.run_with(closed.guest, kDbgDecrypt, params(at(closed.guest.ram.all()), at(seen), 16));
  EXPECT_EQ(got.firmware, code(Status::kPolicyFailure));
}

}  // namespace
}  // namespace sealift::sev
