// /dev/sev command by command, slowness and planted faults.

#include <gtest/gtest.h>

#include <chrono>

#include "vmm_glue/model/sev/shim_test_support.h"

namespace sealift::sev {
namespace {

using enum SevDeviceCommand;

CommandResult on(SoftSevHost& host, int fd, SevDeviceCommand command, void* data = nullptr) {
  return issue(SevVm{.host = host, .vm_fd = -1, .sev_fd = fd}, command, data);
}

TEST(PspDevice, WritersOnly) {
  SoftSevHost host;
  const int reader = host.open_sev(false);
  SevPekCsr csr;
  SevPekCertImport import;
  SevPdhCertExport chain;
  EXPECT_EQ(on(host, reader, kFactoryReset).result, -EPERM);
  EXPECT_EQ(on(host, reader, kPekGen).result, -EPERM);
  EXPECT_EQ(on(host, reader, kPdhGen).result, -EPERM);
  EXPECT_EQ(on(host, reader, kPekCsr, &csr).result, -EPERM);
  EXPECT_EQ(on(host, reader, kPekCertImport, &import).result, -EPERM);
  // Needs a writer only to bring the platform up.
  EXPECT_EQ(on(host, reader, kPdhCertExport, &chain).result, -EPERM);
  SevPlatformStatus status;
  EXPECT_EQ(on(host, reader, kPlatformStatus, &status).result, 0);
  EXPECT_EQ(status.state, 0);
  EXPECT_TRUE(on(host, host.open_sev(), kPdhCertExport, &chain).answers_length_query());
  EXPECT_TRUE(on(host, reader, kPdhCertExport, &chain).answers_length_query());
  EXPECT_EQ(chain.pdh_cert_len, kCertificateBytes);
  EXPECT_EQ(chain.cert_chain_len, kChainBytes);
  EXPECT_EQ(on(host, reader, kPlatformStatus, &status).result, 0);
  EXPECT_EQ(status.state, 1);
  EXPECT_EQ(status.flags, kStatusFlagEs);
}

TEST(PspDevice, Envelope) {
  SoftSevHost host;
  const int fd = host.open_sev();
  EXPECT_EQ(host.ioctl(fd, 1, nullptr), -EINVAL);
  EXPECT_EQ(host.ioctl(fd, kSevIssueCmd, nullptr), -EFAULT);
  const CommandResult unknown = on(host, fd, static_cast<SevDeviceCommand>(9));
  EXPECT_EQ(unknown.result, -EINVAL);
  EXPECT_EQ(unknown.firmware, kUntouched);
  EXPECT_EQ(on(host, fd, kPlatformStatus).result, -EFAULT);
  host.close_sev(fd);
  EXPECT_EQ(host.ioctl(fd, kSevIssueCmd, nullptr), -EBADF);
  const int again = host.open_sev();
  host.remove_psp();
  EXPECT_EQ(host.ioctl(again, kSevIssueCmd, nullptr), -ENODEV);
}

TEST(PspDevice, NewKeysAndFactoryReset) {
  Rig rig;
  const int fd = rig.guest.vm.sev_fd;
  const auto exported = [&] { return must(export_certificates(rig.guest.vm)); };
  const PlatformCertificates first = exported();
  EXPECT_EQ(on(rig.host, fd, kPdhGen).result, 0);
  const PlatformCertificates second = exported();
  EXPECT_NE(second.pdh, first.pdh);
  EXPECT_EQ(second.chain, first.chain);
  EXPECT_EQ(on(rig.host, fd, kPekGen).result, 0);
  EXPECT_NE(exported().chain, first.chain);

  rig.guest.launch_with_pattern(0);
  EXPECT_EQ(on(rig.host, fd, kFactoryReset).result, -EBUSY);  // WORKING
  EXPECT_EQ(on(rig.host, fd, kPekGen).firmware, code(Status::kInvalidPlatformState));
}

TEST(PspDevice, FactoryResetShutsAnIdlePlatformDown) {
  Rig rig;
  const Bytes before = must(export_certificates(rig.guest.vm)).chain;
  EXPECT_EQ(on(rig.host, rig.guest.vm.sev_fd, kFactoryReset).result, 0);
  EXPECT_EQ(rig.host.commands_issued(MailboxCommand::kShutdown), 1u);
  SevPlatformStatus status;
  EXPECT_EQ(on(rig.host, rig.guest.vm.sev_fd, kPlatformStatus, &status).result, 0);
  EXPECT_EQ(status.state, 0);
  EXPECT_NE(must(export_certificates(rig.guest.vm)).chain, before);  // which INITs again
}

TEST(PspDevice, PekCsrAndImportRows) {
  Rig rig;
  const int fd = rig.guest.vm.sev_fd;
  SevPekCsr csr;
  EXPECT_EQ(on(rig.host, fd, kPekCsr).result, -EFAULT);
  EXPECT_TRUE(on(rig.host, fd, kPekCsr, &csr).answers_length_query());
  EXPECT_EQ(csr.length, kCertificateBytes);
  Bytes blob(kCertificateBytes);
  csr.address = at(blob);
  EXPECT_EQ(on(rig.host, fd, kPekCsr, &csr).result, 0);
  EXPECT_NE(blob, Bytes(kCertificateBytes));
  csr.length = kFirmwareBlobBytesMax + 1;
  EXPECT_EQ(on(rig.host, fd, kPekCsr, &csr).result, -EFAULT);

  SevPekCertImport import;
  EXPECT_EQ(on(rig.host, fd, kPekCertImport).result, -EFAULT);
  EXPECT_EQ(on(rig.host, fd, kPekCertImport, &import).result, -EINVAL);
  import = {.pek_cert_address = at(blob),
            .pek_cert_len = kCertificateBytes,
            .oca_cert_address = at(blob),
            .oca_cert_len = kFirmwareBlobBytesMax + 1};
  EXPECT_EQ(on(rig.host, fd, kPekCertImport, &import).result, -EINVAL);
  import.oca_cert_len = 100;
  EXPECT_EQ(on(rig.host, fd, kPekCertImport, &import).firmware, code(Status::kInvalidLength));
}

TEST(PspDevice, GetIdRows) {
  Rig rig;
  const int fd = rig.guest.vm.sev_fd;
  SevGetId2 id;
  EXPECT_EQ(on(rig.host, fd, kGetId2).result, -EFAULT);
  EXPECT_TRUE(on(rig.host, fd, kGetId2, &id).answers_length_query());
  ASSERT_NE(id.length, 0u);
  Bytes blob(id.length);
  id.address = at(blob);
  EXPECT_EQ(on(rig.host, fd, kGetId2, &id).result, 0);
  EXPECT_NE(blob, Bytes(id.length));
  const Bytes whole = blob;
  const std::uint32_t needed = id.length;
  id.length = 1;
  EXPECT_TRUE(on(rig.host, fd, kGetId2, &id).answers_length_query());
  EXPECT_EQ(id.length, needed);
  id.length = 0xffffffff;
  EXPECT_EQ(on(rig.host, fd, kGetId2, &id).result, -ENOMEM);
  Bytes both(128);
  EXPECT_EQ(on(rig.host, fd, kGetId, both.data()).result, 0);
  EXPECT_TRUE(std::equal(whole.begin(), whole.end(), both.begin()));
}

TEST(PspDevice, LatencyProfilesHaveNames) {
  EXPECT_EQ(LatencyProfile::parse("fast"), LatencyProfile::fast());
  EXPECT_EQ(LatencyProfile::parse("asp"), LatencyProfile::asp());
  EXPECT_FALSE(LatencyProfile::parse("slow").has_value());
  EXPECT_TRUE(LatencyProfile::fast().empty());
  EXPECT_EQ(LatencyProfile::asp().at(MailboxCommand::kSendUpdateData),
            std::chrono::microseconds(2500));
}

TEST(PspDevice, LatencyIsSpent) {
  SoftSevConfig slow;
  slow.latency = LatencyProfile::asp();
  Rig rig(slow);
  rig.send();
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < 4; ++i) {
    ASSERT_TRUE(rig.run_with(rig.guest, KvmCommand::kSendUpdateData, rig.update(rig.guest)).ok());
  }
  EXPECT_GE(std::chrono::steady_clock::now() - start, std::chrono::milliseconds(10));
}

TEST(PspFault, ANewPdhSpoilsTheSession) {
  Rig rig;
  rig.send();
  rig.other.prepare();
  rig.fail_next(MailboxCommand::kReceiveStart, Fault::new_pdh());
  EXPECT_EQ(rig.run_with(rig.other, KvmCommand::kReceiveStart, rig.receive_start()).firmware,
            code(Status::kBadMeasurement));
}

// Every part of a packet, going in and coming out: a MAC that does not match, or a flag.
TEST(PspFault, AFlippedBitIsFound) {
  for (const std::uint32_t bit : {0u, 40u, 200u, 413u}) {
    for (const Fault& fault : {Fault::flip_header(bit), Fault::flip_body(bit)}) {
      SCOPED_TRACE(bit);
      Rig in;
      in.receive();
      const Bytes header = in.header;
      in.fail_next(MailboxCommand::kReceiveUpdateData, fault);
      const auto receive = [](Rig& rig) {
        return rig.run_with(rig.other, KvmCommand::kReceiveUpdateData, rig.update(rig.other));
      };
      EXPECT_EQ(receive(in).firmware, code(Status::kBadMeasurement));
      EXPECT_EQ(in.header, header);  // the caller's bytes are its own
      EXPECT_TRUE(receive(in).ok());

      Rig out;
      out.receive();
      out.fail_next(MailboxCommand::kSendUpdateData, fault);
      ASSERT_TRUE(out.run_with(out.guest, KvmCommand::kSendUpdateData, out.update(out.guest)).ok());
      EXPECT_EQ(receive(out).firmware, code(Status::kBadMeasurement));
    }
  }
}

}  // namespace
}  // namespace sealift::sev
