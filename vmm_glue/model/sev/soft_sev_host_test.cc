// The software host's KVM side, errno for errno, and the firmware's states and checks.

#include "vmm_glue/model/sev/soft_sev_host.h"

#include <gtest/gtest.h>

#include <cerrno>

#include "vmm_glue/sev/status.h"
#include "vmm_glue/sev/test_support.h"

namespace sealift::sev {
namespace {

constexpr std::uint32_t kUntouched = kNoFirmwareCall;
constexpr auto code(Status status) { return static_cast<std::uint32_t>(status); }

class SoftSev : public testing::Test {
 protected:
  SoftSev() : guest(host, 2), target(target_host, 2) {}

  void expect(const TestGuest& where, KvmCommand command, void* data, int result,
              std::uint32_t error) {
    const CommandResult got = issue(where.vm, command, data);
    EXPECT_EQ(got.result, result) << name_of(command) << " " << errno_text(-got.result);
    EXPECT_EQ(got.firmware, error) << name_of(command);
  }

  // Parameters with which each command would succeed in its state.
  KvmSevSendStart send_start() {
    const auto at = [](Bytes& bytes) { return reinterpret_cast<std::uint64_t>(bytes.data()); };
    const PlatformCertificates certificates = must(export_certificates(target.vm));
    pdh = certificates.pdh;
    chain = certificates.chain;
    KvmSevSendStart out;
    out.pdh_cert_uaddr = at(pdh);
    out.pdh_cert_len = kCertificateBytes;
    out.plat_certs_uaddr = at(chain);
    out.plat_certs_len = kChainBytes;
    out.amd_certs_uaddr = at(amd);
    out.amd_certs_len = 1;
    out.session_uaddr = at(session);
    out.session_len = kSessionBytes;
    return out;
  }
  KvmSevUpdateData update(TestGuest& where) {
    KvmSevUpdateData out;
    out.hdr_uaddr = reinterpret_cast<std::uint64_t>(header.data());
    out.hdr_len = kPacketHeaderBytes;
    out.guest_uaddr = reinterpret_cast<std::uint64_t>(where.ram.page(0).data());
    out.guest_len = kPageBytes;
    out.trans_uaddr = reinterpret_cast<std::uint64_t>(transport.data());
    out.trans_len = kPageBytes;
    return out;
  }
  void start_sending() {
    guest.launch_with_pattern(0);
    auto params = send_start();
    expect(guest, KvmCommand::kSendStart, &params, 0, 0);
  }

  SoftSevHost host;
  SoftSevHost target_host;
  TestGuest guest;
  TestGuest target;
  Bytes pdh;
  Bytes chain;
  Bytes amd = Bytes(1);
  Bytes session = Bytes(kSessionBytes);
  Bytes header = Bytes(kPacketHeaderBytes);
  Bytes transport = Bytes(kPageBytes);
};

TEST_F(SoftSev, DispatcherSpeaksAsTheKernel) {
  EXPECT_EQ(host.ioctl(guest.vm.vm_fd, kKvmMemoryEncryptOp, nullptr), 0);
  EXPECT_EQ(host.ioctl(guest.vm.vm_fd, 0xae01, nullptr), -ENOTTY);
  EXPECT_EQ(host.ioctl(12345, kKvmMemoryEncryptOp, nullptr), -EBADF);
  KvmSevGuestStatus status;
  expect(guest, KvmCommand::kGuestStatus, &status, -ENOTTY, kUntouched);
  expect(guest, KvmCommand::kSendStart, nullptr, -ENOTTY, kUntouched);
  expect(guest, KvmCommand::kReceiveUpdateData, nullptr, -EINVAL, kUntouched);
  KvmEncRegion region{.addr = 4096, .size = 4096};
  EXPECT_EQ(host.ioctl(guest.vm.vm_fd, kKvmMemoryEncryptRegRegion, &region), -ENOTTY);
  must(sev_init(guest.vm));
  expect(guest, KvmCommand::kInit, nullptr, -EBUSY, kUntouched);
  expect(guest, KvmCommand::kSendUpdateVmsa, nullptr, -EINVAL, kUntouched);
  expect(guest, KvmCommand::kReceiveUpdateVmsa, nullptr, -EINVAL, kUntouched);
  expect(guest, KvmCommand::kCertExport, nullptr, -EINVAL, kUntouched);
  expect(guest, static_cast<KvmCommand>(99), nullptr, -EINVAL, kUntouched);
  expect(guest, KvmCommand::kSendStart, nullptr, -EFAULT, kUntouched);
  // No START has given KVM the number of a /dev/sev fd yet.
  expect(guest, KvmCommand::kGuestStatus, &status, -EBADF, kUntouched);
  EXPECT_EQ(host.guest_state(guest.vm.vm_fd), GuestState::kUninit);
}

TEST_F(SoftSev, RegionsMustMatchExactly) {
  must(sev_init(guest.vm));
  const auto at = reinterpret_cast<std::uint64_t>(guest.ram.page(0).data());
  const auto call = [&](unsigned long request, KvmEncRegion region) {
    return host.ioctl(guest.vm.vm_fd, request, &region);
  };
  EXPECT_EQ(call(kKvmMemoryEncryptRegRegion, {at, 0}), -EINVAL);
  EXPECT_EQ(call(kKvmMemoryEncryptRegRegion, {~0ULL - 4095, 8192}), -EINVAL);
  EXPECT_EQ(call(kKvmMemoryEncryptRegRegion, {at, 8192}), 0);
  EXPECT_EQ(call(kKvmMemoryEncryptUnregRegion, {at, 4096}), -EINVAL);
  EXPECT_EQ(call(kKvmMemoryEncryptUnregRegion, {at, 8192}), 0);
  EXPECT_EQ(call(kKvmMemoryEncryptUnregRegion, {at, 8192}), -EINVAL);
  EXPECT_EQ(host.ioctl(guest.vm.vm_fd, kKvmMemoryEncryptRegRegion, nullptr), -EFAULT);
}

TEST_F(SoftSev, SendStartRows) {
  guest.launch_with_pattern(0);
  const auto with = [&](const std::function<void(KvmSevSendStart&)>& change, int result,
                        std::uint32_t error) {
    auto params = send_start();
    change(params);
    expect(guest, KvmCommand::kSendStart, &params, result, error);
    EXPECT_EQ(guest.state(), GuestState::kRunning);
    return params;
  };
  const auto query = with([](auto& p) { p = {}; }, -EIO, code(Status::kInvalidLength));
  EXPECT_EQ(query.session_len, kSessionBytes);
  with([](auto& p) { p.pdh_cert_uaddr = 0; }, -EINVAL, kUntouched);
  with([](auto& p) { p.pdh_cert_len = 0; }, -EINVAL, kUntouched);
  with([](auto& p) { p.session_uaddr = 0; }, -EINVAL, kUntouched);
  with([](auto& p) { p.session_len = 0x4001; }, -EINVAL, kUntouched);
  with([](auto& p) { p.plat_certs_len = 0; }, -EINVAL, kUntouched);
  with([](auto& p) { p.plat_certs_uaddr = 0; }, -EINVAL, kUntouched);
  with([](auto& p) { p.amd_certs_len = 0; }, -EINVAL, kUntouched);
  with([](auto& p) { p.amd_certs_len = 0x4001; }, -EINVAL, kUntouched);
  const auto wrong = with([](auto& p) { p.session_len = 127; }, -EIO, code(Status::kInvalidLength));
  EXPECT_EQ(wrong.session_len, kSessionBytes);
  with([](auto& p) { p.pdh_cert_len = 2083; }, -EIO, code(Status::kInvalidLength));
  with([&](auto&) { pdh[100] ^= std::byte{1}; }, -EIO, code(Status::kInvalidCertificate));
  auto params = send_start();
  expect(guest, KvmCommand::kSendStart, &params, 0, 0);
  EXPECT_EQ(params.policy, 0u);
  expect(guest, KvmCommand::kSendStart, &params, -EIO, code(Status::kInvalidGuestState));
}

TEST_F(SoftSev, SendUpdateRows) {
  start_sending();
  const auto with = [&](const std::function<void(KvmSevUpdateData&)>& change, int result,
                        std::uint32_t error) {
    auto params = update(guest);
    change(params);
    expect(guest, KvmCommand::kSendUpdateData, &params, result, error);
    return params;
  };
  const auto query = with([](auto& p) { p.hdr_len = 0; }, -EIO, code(Status::kInvalidLength));
  EXPECT_EQ(query.hdr_len, kPacketHeaderBytes);
  EXPECT_EQ(query.trans_len, 0u);  // the firmware cannot know it: KVM's query brings no guest_len
  with([](auto& p) { p.trans_len = 0; }, -EIO, code(Status::kInvalidLength));
  with([](auto& p) { p.trans_uaddr = 0; }, -EINVAL, kUntouched);
  with([](auto& p) { p.guest_uaddr = 0; }, -EINVAL, kUntouched);
  with([](auto& p) { p.guest_len = 0; }, -EINVAL, kUntouched);
  with([](auto& p) { p.hdr_uaddr = 0; }, -EINVAL, kUntouched);
  with([](auto& p) { p.guest_len = 4112; }, -EINVAL, kUntouched);
  with([](auto& p) { p.guest_uaddr += 16; }, -EINVAL, kUntouched);
  with([](auto& p) { p.guest_uaddr += 2 * kPageBytes; }, -ENOMEM, kUntouched);  // not registered
  with([](auto& p) { p.guest_uaddr = 4096; }, -ENOMEM, kUntouched);
  with([](auto& p) { p.trans_len = 0xfffff000; }, -ENOMEM, kUntouched);
  with([](auto& p) { p.hdr_len = 51; }, -EIO, code(Status::kInvalidLength));
  with([](auto& p) { p.trans_len = 4080; }, -EIO, code(Status::kInvalidLength));
  with([](auto& p) { p.guest_len = 8; }, -EIO, code(Status::kInvalidLength));
  with([](auto& p) { p.guest_uaddr += 8, p.guest_len = 16; }, -EIO, code(Status::kInvalidAddress));
  const auto params = with([](auto&) {}, 0, 0);
  EXPECT_EQ(params.trans_len, kPageBytes);
}

TEST_F(SoftSev, ReceiveRows) {
  start_sending();
  auto sent = update(guest);
  expect(guest, KvmCommand::kSendUpdateData, &sent, 0, 0);
  const Bytes sender_pdh = must(export_certificates(guest.vm)).pdh;
  target.prepare();
  KvmSevStart start;
  start.pdh_uaddr = reinterpret_cast<std::uint64_t>(sender_pdh.data());
  start.pdh_len = kCertificateBytes;
  start.session_uaddr = reinterpret_cast<std::uint64_t>(session.data());
  start.session_len = kSessionBytes;
  const auto with_start = [&](const std::function<void(KvmSevStart&)>& change, int result,
                              std::uint32_t error) {
    auto params = start;
    change(params);
    expect(target, KvmCommand::kReceiveStart, &params, result, error);
    EXPECT_EQ(target.state(), GuestState::kUninit);
  };
  with_start([](auto& p) { p.pdh_uaddr = 0; }, -EINVAL, kUntouched);
  with_start([](auto& p) { p.session_len = 0; }, -EINVAL, kUntouched);
  with_start([](auto& p) { p.session_len = 0x4001; }, -EINVAL, kUntouched);
  with_start([](auto& p) { p.pdh_len = 100; }, -EIO, code(Status::kInvalidLength));
  with_start([](auto& p) { p.policy = 1; }, -EIO, code(Status::kBadMeasurement));
  with_start([](auto& p) { p.handle = 77; }, -EIO, code(Status::kInvalidGuest));
  auto params = start;
  expect(target, KvmCommand::kReceiveStart, &params, 0, 0);
  EXPECT_NE(params.handle, 0u);
  // A second one: the ASID is bound to the first guest.
  auto again = start;
  expect(target, KvmCommand::kReceiveStart, &again, -EIO, code(Status::kAsidOwned));

  const auto with = [&](const std::function<void(KvmSevUpdateData&)>& change, int result,
                        std::uint32_t error) {
    auto packet = update(target);
    change(packet);
    expect(target, KvmCommand::kReceiveUpdateData, &packet, result, error);
  };
  with([](auto& p) { p.hdr_len = 0; }, -EINVAL, kUntouched);
  with([](auto& p) { p.trans_len = 0; }, -EINVAL, kUntouched);
  with([](auto& p) { p.guest_len = 4112; }, -EINVAL, kUntouched);
  with([](auto& p) { p.trans_len = 0x4001; }, -EINVAL, kUntouched);
  with([](auto& p) { p.guest_uaddr += 2 * kPageBytes; }, -ENOMEM, kUntouched);
  with([](auto& p) { p.guest_len = 4080; }, -EIO, code(Status::kInvalidLength));
  with([](auto& p) { p.guest_len = p.trans_len = 4080; }, -EIO, code(Status::kBadMeasurement));
  with([](auto&) {}, 0, 0);
}

TEST_F(SoftSev, WrongStatesGiveInvalidGuestState) {
  struct Row {
    KvmCommand command;
    GuestState needs;
  };
  const auto try_all = [&](TestGuest& where) {
    auto start = send_start();
    auto page = update(where);
    KvmSevLaunchUpdateData launch_update{.uaddr = page.guest_uaddr, .len = 4096};
    KvmSevLaunchMeasure measure{.uaddr = page.trans_uaddr, .len = 48};
    for (const Row& row : {Row{KvmCommand::kLaunchUpdateData, GuestState::kLaunchUpdate},
                           Row{KvmCommand::kLaunchMeasure, GuestState::kLaunchUpdate},
                           Row{KvmCommand::kLaunchFinish, GuestState::kLaunchSecret},
                           Row{KvmCommand::kSendStart, GuestState::kRunning},
                           Row{KvmCommand::kSendUpdateData, GuestState::kSendUpdate},
                           Row{KvmCommand::kSendFinish, GuestState::kSendUpdate},
                           Row{KvmCommand::kSendCancel, GuestState::kSendUpdate},
                           Row{KvmCommand::kReceiveUpdateData, GuestState::kReceiveUpdate},
                           Row{KvmCommand::kReceiveFinish, GuestState::kReceiveUpdate}}) {
      if (where.state() == row.needs) continue;
      void* data = &start;
      if (row.command == KvmCommand::kLaunchUpdateData) data = &launch_update;
      if (row.command == KvmCommand::kLaunchMeasure) data = &measure;
      if (row.command == KvmCommand::kSendUpdateData) data = &page;
      if (row.command == KvmCommand::kReceiveUpdateData) data = &page;
      const GuestState before = where.state();
      expect(where, row.command, data, -EIO, code(Status::kInvalidGuestState));
      EXPECT_EQ(where.state(), before);
    }
  };
  guest.launch_with_pattern(0);
  try_all(guest);  // RUNNING
  auto params = send_start();
  expect(guest, KvmCommand::kSendStart, &params, 0, 0);
  try_all(guest);  // SEND_UPDATE
  target.prepare();
  receive_start(target.vm,
                {.policy = 0, .pdh = must(export_certificates(guest.vm)).pdh, .session = session});
  try_all(target);  // RECEIVE_UPDATE
  expect(guest, KvmCommand::kSendFinish, nullptr, 0, 0);
  try_all(guest);  // SENT
  EXPECT_FALSE(host.may_run(guest.vm.vm_fd));
  KvmSevGuestStatus status;
  expect(guest, KvmCommand::kGuestStatus, &status, 0, 0);
  EXPECT_EQ(status.state, static_cast<std::uint32_t>(GuestState::kSent));
}

TEST_F(SoftSev, CompressedFlagIsUnsupportedOnlyUnderAGoodMac) {
  // The sender of a session knows TIK: make one here and sign a packet with the flag set.
  target.prepare();
  SystemRandom random;
  const EcKey sender = EcKey::generate(random);
  const auto peer = must(SevCertificate::parse(must(export_certificates(target.vm)).pdh));
  const EcNumber secret = sender.shared_secret(*EcPublicKey::from_point(peer.key));
  const TransportKeys keys{.tek = counting(1), .tik = counting(2)};
  const SessionBytes bytes = make_session(secret, {}, keys, 0);
  const CertificateBytes own =
      unsigned_certificate(KeyUsage::kPdh, sender.public_key(), 1, 55).encode();
  receive_start(
      target.vm,
      {.policy = 0, .pdh = {own.begin(), own.end()}, .session = {bytes.begin(), bytes.end()}});
  PacketCipher cipher(keys);
  PacketHeader packet{.flags = 1, .iv = counting(9), .mac = {}};
  packet.mac = cipher.mac(PacketContext::kData, packet.flags, packet.iv, transport);
  write_packet_header(packet, std::span(header).first<kPacketHeaderBytes>());
  auto params = update(target);
  expect(target, KvmCommand::kReceiveUpdateData, &params, -EIO, code(Status::kUnsupported));
  header[40] ^= std::byte{1};
  expect(target, KvmCommand::kReceiveUpdateData, &params, -EIO, code(Status::kBadMeasurement));
}

TEST_F(SoftSev, DeviceRows) {
  SevPdhCertExport query;
  const CommandResult asked = issue(guest.vm, SevDeviceCommand::kPdhCertExport, &query);
  EXPECT_TRUE(asked.answers_length_query());
  EXPECT_EQ(query.pdh_cert_len, kCertificateBytes);
  EXPECT_EQ(query.cert_chain_len, kChainBytes);
  query.pdh_cert_address = query.cert_chain_address = 1;
  query.pdh_cert_len = 0x4001;
  EXPECT_EQ(issue(guest.vm, SevDeviceCommand::kPdhCertExport, &query).result, -EFAULT);
  EXPECT_EQ(issue(guest.vm, static_cast<SevDeviceCommand>(77), nullptr).result, -EINVAL);
  EXPECT_EQ(host.ioctl(guest.vm.sev_fd, 1, nullptr), -EINVAL);
  EXPECT_EQ(host.ioctl(guest.vm.sev_fd, kSevIssueCmd, nullptr), -EFAULT);
  const SevPlatform platform = must(platform_status(guest.vm));
  EXPECT_EQ(platform.api_major, 1);
  EXPECT_EQ(platform.api_minor, 55);
}

TEST_F(SoftSev, ClosedSevFdIsEbadf) {
  guest.launch_with_pattern(0);
  host.close_sev(guest.vm.sev_fd);
  expect(guest, KvmCommand::kSendCancel, nullptr, -EBADF, kUntouched);
}

TEST_F(SoftSev, LaunchMeasuresWhatWasEncrypted) {
  guest.launch_with_pattern(0);
  TestGuest other(host, 2);
  other.launch_with_pattern(0);
  EXPECT_NE(guest.launched.handle, other.launched.handle);
  EXPECT_NE(guest.launched.measurement, other.launched.measurement);
  EXPECT_TRUE(host.may_run(guest.vm.vm_fd));
}

TEST_F(SoftSev, PolicyAboveThePlatformIsRefused) {
  const MutableBytes all = guest.ram.all();
  const auto launched = launch(guest.vm, 0x38010000, {&all, 1}, {});  // API 1.56, platform 1.55
  ASSERT_FALSE(launched.has_value());
  EXPECT_EQ(launched.error().cls, ErrorClass::kPolicy);
  EXPECT_EQ(launched.error().detail,
            "KVM_SEV_LAUNCH_START failed: EIO (Input/output error), firmware status 0x0007 "
            "POLICY_FAILURE (the guest's policy forbids it).");
}

TEST_F(SoftSev, FaultHookOverridesTheNthCommand) {
  start_sending();
  host.set_fault([](MailboxCommand id, std::uint64_t nth) -> std::optional<std::uint16_t> {
    if (id == MailboxCommand::kSendUpdateData && nth == 1) return 0x13;
    return std::nullopt;
  });
  auto params = update(guest);
  expect(guest, KvmCommand::kSendUpdateData, &params, 0, 0);
  expect(guest, KvmCommand::kSendUpdateData, &params, -EIO, 0x13);
  expect(guest, KvmCommand::kSendUpdateData, &params, 0, 0);
}

TEST_F(SoftSev, AsidsAreGivenBack) {
  SoftSevHost small({.firmware = {.asids = 1, .sev_asid_min = 1}});
  for (int round = 0; round < 3; ++round) {
    TestGuest only(small, 1);
    only.launch_with_pattern(0);
    TestGuest second(small, 1);
    const auto init = sev_init(second.vm);
    ASSERT_FALSE(init.has_value());
    EXPECT_EQ(init.error().detail,
              "KVM_SEV_INIT failed: EBUSY (Device or resource busy), without an answer of the "
              "firmware.");
  }
}

}  // namespace
}  // namespace sealift::sev
