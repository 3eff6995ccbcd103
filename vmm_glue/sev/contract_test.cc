// What the driver counts on, asked of the modelled kernels and, where this machine has it, of the
// real one: the same commands, the same errno, the same statuses.
//
// On a host with SEV, as root:  ctest -R 'Kernel/SevContract' --output-on-failure
// No row needs knowledge of one processor: a row that fails there is a fault of the model.

#include <gtest/gtest.h>

#include <cerrno>
#include <functional>
#include <memory>

#include "vmm_glue/sev/kernel_host.h"
#include "vmm_glue/sev/test_support.h"

namespace sealift::sev {
namespace {

constexpr auto code(Status status) { return static_cast<std::uint32_t>(status); }
std::uint64_t at(Bytes& bytes) { return reinterpret_cast<std::uint64_t>(bytes.data()); }

// A host of either kind.
struct Host {
  virtual ~Host() = default;
  virtual HostIoctl& line() = 0;
  virtual int create_vm() = 0;
  virtual void destroy_vm(int fd) = 0;
  virtual int open_sev() = 0;
};

struct ModelHost : Host {
  explicit ModelHost(KernelProfile kernel) : soft({.kernel = kernel}) {}
  HostIoctl& line() override { return soft; }
  int create_vm() override { return soft.create_vm(); }
  void destroy_vm(int fd) override { soft.destroy_vm(fd); }
  int open_sev() override { return soft.open_sev(); }
  SoftSevHost soft;
};

struct RealHost : Host {
  explicit RealHost(KernelSevHost host) : kernel(std::move(host)) {}
  HostIoctl& line() override { return kernel; }
  int create_vm() override { return must(kernel.create_vm()); }
  void destroy_vm(int fd) override { kernel.close(fd); }
  int open_sev() override { return must(kernel.open_sev()); }
  KernelSevHost kernel;
};

enum class Which : std::uint8_t { kModel6_1, kModel6_12, kKernel };

// A guest, its memory, and buffers for a command of each kind. The VM goes before its memory.
struct Guest {
  explicit Guest(Host& its_host)
      : host(its_host),
        ram(2),
        vm{.host = its_host.line(), .vm_fd = its_host.create_vm(), .sev_fd = its_host.open_sev()} {}
  ~Guest() { host.destroy_vm(vm.vm_fd); }
  Guest(const Guest&) = delete;
  Guest& operator=(const Guest&) = delete;

  void init() {
    must(sev_init(vm));
    const MutableBytes all = ram.all();
    must(register_memory(vm, {&all, 1}));
  }
  CommandResult run(KvmCommand command, void* data = nullptr) { return issue(vm, command, data); }
  KvmSevGuestStatus status() { return must(guest_status(vm)); }

  KvmSevSendStart send_start(PlatformCertificates& to) {
    KvmSevSendStart out;
    out.pdh_cert_uaddr = at(to.pdh);
    out.pdh_cert_len = kCertificateBytes;
    out.plat_certs_uaddr = at(to.chain);
    out.plat_certs_len = kChainBytes;
    out.amd_certs_uaddr = at(amd);
    out.amd_certs_len = static_cast<std::uint32_t>(amd.size());
    out.session_uaddr = at(session);
    out.session_len = kSessionBytes;
    return out;
  }
  KvmSevUpdateData update(std::uint64_t gfn) {
    KvmSevUpdateData out;
    out.hdr_uaddr = at(header);
    out.hdr_len = kPacketHeaderBytes;
    out.guest_uaddr = reinterpret_cast<std::uint64_t>(ram.page(gfn).data());
    out.guest_len = kPageBytes;
    out.trans_uaddr = at(transport);
    out.trans_len = kPageBytes;
    return out;
  }

  Host& host;
  TestRam ram;
  SevVm vm;
  Bytes amd = Bytes(1600);
  Bytes session = Bytes(kSessionBytes);
  Bytes header = Bytes(kPacketHeaderBytes);
  Bytes transport = Bytes(kPageBytes);
};

class SevContract : public testing::TestWithParam<Which> {
 protected:
  void SetUp() override {
    if (GetParam() == Which::kModel6_1) {
      host_ = std::make_unique<ModelHost>(KernelProfile::kLinux6_1);
    } else if (GetParam() == Which::kModel6_12) {
      host_ = std::make_unique<ModelHost>(KernelProfile::kLinux6_12);
    } else {
      auto kernel = KernelSevHost::open();
      if (!kernel) GTEST_SKIP() << kernel.error().detail;
      host_ = std::make_unique<RealHost>(std::move(*kernel));
    }
  }
  Host& host() { return *host_; }

  void expect(const CommandResult& got, int result, std::uint32_t error) {
    EXPECT_EQ(got.result, result) << errno_text(-got.result);
    EXPECT_EQ(got.firmware, error);
  }
  void expect_state(Guest& guest, GuestState state) {
    EXPECT_EQ(guest.status().state, static_cast<std::uint32_t>(state));
  }
  // A guest in RUNNING whose two pages hold the pattern.
  void launch(Guest& guest) {
    guest.init();
    guest.ram.fill_pattern();
    KvmSevStart start;
    ASSERT_TRUE(guest.run(KvmCommand::kLaunchStart, &start).ok());
    EXPECT_NE(start.handle, 0u);
    expect_state(guest, GuestState::kLaunchUpdate);
    KvmSevLaunchUpdateData update;
    update.uaddr = reinterpret_cast<std::uint64_t>(guest.ram.all().data());
    update.len = static_cast<std::uint32_t>(guest.ram.all().size());
    ASSERT_TRUE(guest.run(KvmCommand::kLaunchUpdateData, &update).ok());
    KvmSevLaunchMeasure measure;
    expect(guest.run(KvmCommand::kLaunchMeasure, &measure), -EIO, code(Status::kInvalidLength));
    EXPECT_EQ(measure.len, kMeasurementBytes);
    Bytes measurement(kMeasurementBytes);
    measure.uaddr = at(measurement);
    ASSERT_TRUE(guest.run(KvmCommand::kLaunchMeasure, &measure).ok());
    expect_state(guest, GuestState::kLaunchSecret);
    ASSERT_TRUE(guest.run(KvmCommand::kLaunchFinish).ok());
    expect_state(guest, GuestState::kRunning);
  }
  void start_sending(Guest& guest, PlatformCertificates& to) {
    launch(guest);
    KvmSevSendStart start = guest.send_start(to);
    ASSERT_TRUE(guest.run(KvmCommand::kSendStart, &start).ok());
    expect_state(guest, GuestState::kSendUpdate);
  }

 private:
  std::unique_ptr<Host> host_;
};

TEST_P(SevContract, NothingButInitBeforeInit) {
  Guest guest(host());
  EXPECT_EQ(host().line().ioctl(guest.vm.vm_fd, kKvmMemoryEncryptOp, nullptr), 0);
  KvmSevGuestStatus status;
  expect(guest.run(KvmCommand::kGuestStatus, &status), -ENOTTY, kNoFirmwareCall);
  expect(guest.run(KvmCommand::kSendStart), -ENOTTY, kNoFirmwareCall);
  expect(guest.run(KvmCommand::kReceiveUpdateData), -EINVAL, kNoFirmwareCall);
  expect(guest.run(KvmCommand::kSendFinish), -ENOTTY, kNoFirmwareCall);
  expect(guest.run(static_cast<KvmCommand>(99)), -EINVAL, kNoFirmwareCall);
  KvmEncRegion region{.addr = reinterpret_cast<std::uint64_t>(guest.ram.all().data()),
                      .size = kPageBytes};
  EXPECT_EQ(host().line().ioctl(guest.vm.vm_fd, kKvmMemoryEncryptRegRegion, &region), -ENOTTY);
}

TEST_P(SevContract, NoKernelMovesAVmsa) {
  Guest guest(host());
  guest.init();
  expect(guest.run(KvmCommand::kSendUpdateVmsa), -EINVAL, kNoFirmwareCall);
  expect(guest.run(KvmCommand::kReceiveUpdateVmsa), -EINVAL, kNoFirmwareCall);
  expect(guest.run(KvmCommand::kGetEsState), -EINVAL, kNoFirmwareCall);
  expect(guest.run(KvmCommand::kCertExport), -EINVAL, kNoFirmwareCall);
}

TEST_P(SevContract, RegionsMustMatchExactly) {
  Guest guest(host());
  guest.init();
  const auto base = reinterpret_cast<std::uint64_t>(guest.ram.all().data());
  const auto call = [&](unsigned long request, KvmEncRegion region) {
    return host().line().ioctl(guest.vm.vm_fd, request, &region);
  };
  EXPECT_EQ(call(kKvmMemoryEncryptRegRegion, {.addr = base, .size = 0}), -EINVAL);
  EXPECT_EQ(call(kKvmMemoryEncryptUnregRegion, {.addr = base, .size = kPageBytes}), -EINVAL);
  EXPECT_EQ(call(kKvmMemoryEncryptUnregRegion, {.addr = base, .size = 2 * kPageBytes}), 0);
  EXPECT_EQ(call(kKvmMemoryEncryptUnregRegion, {.addr = base, .size = 2 * kPageBytes}), -EINVAL);
}

TEST_P(SevContract, LaunchedMemoryIsCiphertext) {
  Guest guest(host());
  launch(guest);
  TestRam pattern(2);
  pattern.fill_pattern();
  EXPECT_NE(std::memcmp(guest.ram.all().data(), pattern.all().data(), 2 * kPageBytes), 0);
}

TEST_P(SevContract, SendStartRefusesBeforeTheFirmware) {
  Guest guest(host());
  PlatformCertificates own = must(export_certificates(guest.vm));
  launch(guest);
  using Change = std::function<void(KvmSevSendStart&)>;
  const std::vector<Change> rows = {[](auto& p) { p.pdh_cert_uaddr = 0; },
                                    [](auto& p) { p.pdh_cert_len = 0; },
                                    [](auto& p) { p.pdh_cert_len = kFirmwareBlobBytesMax + 1; },
                                    [](auto& p) { p.session_uaddr = 0; },
                                    [](auto& p) { p.session_len = kFirmwareBlobBytesMax + 1; },
                                    [](auto& p) { p.plat_certs_uaddr = 0; },
                                    [](auto& p) { p.plat_certs_len = 0; },
                                    [](auto& p) { p.amd_certs_uaddr = 0; },
                                    [](auto& p) { p.amd_certs_len = 0; },
                                    [](auto& p) { p.amd_certs_len = kFirmwareBlobBytesMax + 1; }};
  for (std::size_t i = 0; i < rows.size(); ++i) {
    SCOPED_TRACE(i);
    KvmSevSendStart params = guest.send_start(own);
    rows[i](params);
    expect(guest.run(KvmCommand::kSendStart, &params), -EINVAL, kNoFirmwareCall);
  }
  expect(guest.run(KvmCommand::kSendStart), -EFAULT, kNoFirmwareCall);
  KvmSevSendStart query;
  expect(guest.run(KvmCommand::kSendStart, &query), -EIO, code(Status::kInvalidLength));
  EXPECT_EQ(query.session_len, kSessionBytes);
  expect_state(guest, GuestState::kRunning);
}

TEST_P(SevContract, SendUpdateRefusesBeforeTheFirmware) {
  Guest guest(host());
  PlatformCertificates own = must(export_certificates(guest.vm));
  start_sending(guest, own);
  using Change = std::function<void(KvmSevUpdateData&)>;
  const std::vector<Change> rows = {[](auto& p) { p.trans_uaddr = 0; },
                                    [](auto& p) { p.guest_uaddr = 0; },
                                    [](auto& p) { p.guest_len = 0; },
                                    [](auto& p) { p.hdr_uaddr = 0; },
                                    [](auto& p) { p.guest_len = kPageBytes + 16; },
                                    [](auto& p) { p.guest_uaddr += 16; }};
  for (std::size_t i = 0; i < rows.size(); ++i) {
    SCOPED_TRACE(i);
    KvmSevUpdateData params = guest.update(0);
    rows[i](params);
    expect(guest.run(KvmCommand::kSendUpdateData, &params), -EINVAL, kNoFirmwareCall);
  }
  KvmSevUpdateData query;
  expect(guest.run(KvmCommand::kSendUpdateData, &query), -EIO, code(Status::kInvalidLength));
  EXPECT_EQ(query.hdr_len, kPacketHeaderBytes);
}

TEST_P(SevContract, CommandsInTheWrongStateAreTheFirmwares) {
  Guest guest(host());
  launch(guest);
  KvmSevUpdateData page = guest.update(0);
  constexpr auto kWrong = code(Status::kInvalidGuestState);
  expect(guest.run(KvmCommand::kSendUpdateData, &page), -EIO, kWrong);
  expect(guest.run(KvmCommand::kSendFinish), -EIO, kWrong);
  expect(guest.run(KvmCommand::kSendCancel), -EIO, kWrong);
  expect(guest.run(KvmCommand::kReceiveUpdateData, &page), -EIO, kWrong);
  expect(guest.run(KvmCommand::kReceiveFinish), -EIO, kWrong);
  expect(guest.run(KvmCommand::kLaunchFinish), -EIO, kWrong);
  expect_state(guest, GuestState::kRunning);
}

TEST_P(SevContract, CancelLeadsBackAndASecondSessionHasNewKeys) {
  Guest guest(host());
  PlatformCertificates own = must(export_certificates(guest.vm));
  start_sending(guest, own);
  const Bytes first = guest.session;
  ASSERT_TRUE(guest.run(KvmCommand::kSendCancel).ok());
  expect_state(guest, GuestState::kRunning);
  KvmSevSendStart again = guest.send_start(own);
  ASSERT_TRUE(guest.run(KvmCommand::kSendStart, &again).ok());
  EXPECT_NE(guest.session, first);
  ASSERT_TRUE(guest.run(KvmCommand::kSendCancel).ok());
}

TEST_P(SevContract, AGuestMovesToAnotherVmOfTheSameHost) {
  Guest source(host());
  PlatformCertificates own = must(export_certificates(source.vm));
  start_sending(source, own);

  Guest target(host());
  target.init();
  KvmSevStart start;
  start.policy = source.status().policy;
  start.pdh_uaddr = at(own.pdh);
  start.pdh_len = kCertificateBytes;
  start.session_uaddr = at(source.session);
  start.session_len = kSessionBytes;
  ASSERT_TRUE(target.run(KvmCommand::kReceiveStart, &start).ok());
  expect_state(target, GuestState::kReceiveUpdate);

  for (std::uint64_t gfn = 0; gfn < source.ram.pages(); ++gfn) {
    KvmSevUpdateData sent = source.update(gfn);
    ASSERT_TRUE(source.run(KvmCommand::kSendUpdateData, &sent).ok());
    EXPECT_EQ(sent.trans_len, kPageBytes);  // not written back
    KvmSevUpdateData received = target.update(gfn);
    received.hdr_uaddr = at(source.header);
    received.trans_uaddr = at(source.transport);
    ASSERT_TRUE(target.run(KvmCommand::kReceiveUpdateData, &received).ok());
    source.transport[0] ^= std::byte{1};
    expect(target.run(KvmCommand::kReceiveUpdateData, &received), -EIO,
           code(Status::kBadMeasurement));
    received.trans_len = kFirmwareBlobBytesMax + 1;
    expect(target.run(KvmCommand::kReceiveUpdateData, &received), -EINVAL, kNoFirmwareCall);
    received.trans_len = 0;
    expect(target.run(KvmCommand::kReceiveUpdateData, &received), -EINVAL, kNoFirmwareCall);
  }
  ASSERT_TRUE(source.run(KvmCommand::kSendFinish).ok());
  expect_state(source, GuestState::kSent);
  ASSERT_TRUE(target.run(KvmCommand::kReceiveFinish).ok());
  expect_state(target, GuestState::kRunning);
}

std::string name_of_host(const testing::TestParamInfo<Which>& info) {
  return info.param == Which::kModel6_1 ? "Linux6_1" : "Linux6_12";
}
INSTANTIATE_TEST_SUITE_P(Model, SevContract, testing::Values(Which::kModel6_1, Which::kModel6_12),
                         name_of_host);
INSTANTIATE_TEST_SUITE_P(Kernel, SevContract, testing::Values(Which::kKernel),
                         [](const auto&) { return std::string("Host"); });

}  // namespace
}  // namespace sealift::sev
