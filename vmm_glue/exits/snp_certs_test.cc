#include "vmm_glue/exits/snp_certs.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/kvm.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>

#include "vmm_glue/abi/sev_abi.h"
#include "vmm_glue/exits/vmgexit_test_support.h"

namespace sealift {
namespace {

using test::FakeGuest;

void put_entry(Bytes& table, std::size_t index, std::uint32_t offset, std::uint32_t length) {
  std::byte* at = table.data() + index * kSnpCertEntryBytes;
  std::memset(at, 0x5a, 16);
  std::memcpy(at + 16, &offset, 4);
  std::memcpy(at + 20, &length, 4);
}

// Two certificates of `bytes` each behind the 72 bytes of entries.
Bytes two_certificates(std::uint32_t bytes) {
  Bytes table(72 + 2 * bytes, std::byte{0xc1});
  std::memset(table.data() + 48, 0, 24);
  put_entry(table, 0, 72, bytes);
  put_entry(table, 1, 72 + bytes, bytes);
  return table;
}

class TempFile {
 public:
  explicit TempFile(const Bytes& content) {
    char name[] = "/tmp/sealift-certs-XXXXXX";
    const int fd = mkstemp(name);
    EXPECT_GE(fd, 0);
    close(fd);
    path = name;
    put(content);
  }
  ~TempFile() { std::filesystem::remove(path); }
  void put(const Bytes& content) const {
    std::ofstream out(path, std::ios::binary | std::ios::trunc);
    out.write(reinterpret_cast<const char*>(content.data()),
              static_cast<std::streamsize>(content.size()));
  }
  // What whoever renews certificates does first.
  bool can_lock_exclusively() const {
    const int fd = open(path.c_str(), O_RDWR | O_CLOEXEC);
    const bool locked = flock(fd, LOCK_EX | LOCK_NB) == 0;
    close(fd);
    return locked;
  }
  std::string path;
};

SnpCertificateFile open_file(const TempFile& file) {
  auto opened = SnpCertificateFile::open(file.path);
  EXPECT_TRUE(opened.has_value()) << opened.error().detail;
  return *opened;
}

KvmRun request_of(std::uint64_t gpa, std::uint64_t npages) {
  KvmRun run{};
  run.exit_reason = kKvmExitSnpReqCerts;
  run.exit.snp_req_certs = {gpa, npages, 0xdead};
  return run;
}

// ---- the table ---------------------------------------------------------------------------------

TEST(CertificateTable, EveryRow) {
  struct Row {
    const char* name;
    bool good;
    void (*spoil)(Bytes&);
  };
  const Row rows[] = {
      {"as_it_is", true, [](Bytes&) {}},
      {"terminator_alone", true, [](Bytes& t) { t.assign(24, std::byte{0}); }},
      {"empty_certificate", true, [](Bytes& t) { put_entry(t, 1, 72, 0); }},
      {"certificate_up_to_the_end", true, [](Bytes& t) { put_entry(t, 0, 72, 200); }},
      {"empty_at_the_end", true, [](Bytes& t) { put_entry(t, 0, 272, 0); }},
      {"no_bytes", false, [](Bytes& t) { t.clear(); }},
      {"half_a_terminator", false, [](Bytes& t) { t.assign(23, std::byte{0}); }},
      {"no_terminator", false, [](Bytes& t) { t.assign(272, std::byte{1}); }},
      {"cut_before_the_terminator", false, [](Bytes& t) { t.resize(48); }},
      {"cut_in_the_terminator", false, [](Bytes& t) { t.resize(71); }},
      {"cut_in_a_certificate", false, [](Bytes& t) { t.resize(271); }},
      {"past_the_end", false, [](Bytes& t) { put_entry(t, 1, 172, 101); }},
      {"offset_past_the_end", false, [](Bytes& t) { put_entry(t, 1, 273, 0); }},
      {"sum_wraps", false, [](Bytes& t) { put_entry(t, 1, 172, 0xffffffff); }},
      {"offset_wraps", false, [](Bytes& t) { put_entry(t, 1, 0xffffffff, 2); }},
      {"inside_the_entries", false, [](Bytes& t) { put_entry(t, 0, 71, 1); }},
      {"at_zero", false, [](Bytes& t) { put_entry(t, 0, 0, 10); }},
  };
  for (const Row& row : rows) {
    SCOPED_TRACE(row.name);
    Bytes table = two_certificates(100);
    row.spoil(table);
    const auto checked = check_certificate_table(table);
    EXPECT_EQ(checked.has_value(), row.good);
    if (!checked) {
      EXPECT_EQ(checked.error().cls, ErrorClass::kMalformed);
      EXPECT_NE(checked.error().detail.find(std::to_string(table.size())), std::string::npos)
          << checked.error().detail;
    }
  }
}

TEST(CertificateFile, IsCheckedWhenItIsConfigured) {
  const TempFile file(two_certificates(100));
  EXPECT_TRUE(SnpCertificateFile::open(file.path).has_value());
  file.put(Bytes(272, std::byte{1}));
  auto opened = SnpCertificateFile::open(file.path);
  ASSERT_FALSE(opened.has_value());
  EXPECT_EQ(opened.error().detail, "certificates " + file.path +
                                       ": certificate table of 272 bytes: no terminator after 264");
  file.put(Bytes(kSnpCertTableBytesMax + 1));
  opened = SnpCertificateFile::open(file.path);
  ASSERT_FALSE(opened.has_value());
  EXPECT_NE(opened.error().detail.find("65537 bytes, more than 65536"), std::string::npos);
  opened = SnpCertificateFile::open(file.path + ".missing");
  ASSERT_FALSE(opened.has_value());
  EXPECT_EQ(opened.error().cls, ErrorClass::kUsage);
  EXPECT_NE(opened.error().detail.find("ENOENT"), std::string::npos) << opened.error().detail;
  EXPECT_FALSE(SnpCertificateFile::open("/tmp").has_value());
}

TEST(CertificateFile, FifoDoesNotBlock) {
  const TempFile file(Bytes(24));
  const std::string fifo = file.path + ".fifo";
  ASSERT_EQ(mkfifo(fifo.c_str(), 0600), 0);
  const auto opened = SnpCertificateFile::open(fifo);
  std::filesystem::remove(fifo);
  ASSERT_FALSE(opened.has_value());
  EXPECT_NE(opened.error().detail.find("not a regular file"), std::string::npos);
}

// ---- the exit ----------------------------------------------------------------------------------

// RAM: gfn 0..0xff; 0x10..0x2f is shared. The table has 5072 bytes: two pages.
struct Machine {
  Machine() : guest({GfnRange{Gfn{0}, 0x100}}), file(two_certificates(2500)) {
    guest.share({Gfn{0x10}, 0x20});
  }
  FakeGuest guest;
  TempFile file;
};

TEST(SnpReqCerts, EveryRow) {
  struct Row {
    const char* name;
    std::uint64_t gpa, npages, ret, npages_after;
  };
  const Row rows[] = {
      {"exact", 0x10000, 2, 0, 2},
      {"more_room", 0x10000, 8, 0, 8},
      {"npages_all_ones", 0x10000, ~0ULL, 0, ~0ULL},
      {"last_shared_pages", 0x2e000, 2, 0, 2},
      {"too_small", 0x10000, 1, 28, 2},
      {"no_pages", 0x10000, 0, 28, 2},
      {"too_small_and_not_ram", 0xf0000000, 1, 28, 2},
      {"half_private", 0x2f000, 2, 5, 2},
      {"private", 0x40000, 2, 5, 2},
      {"past_ram", 0x100000, 2, 5, 2},
      {"wraps", ~0xfffULL, 2, 5, 2},
      {"unaligned", 0x10008, 2, 5, 2},
  };
  for (const Row& row : rows) {
    SCOPED_TRACE(row.name);
    Machine m;
    const auto certificates = open_file(m.file);
    KvmRun run = request_of(row.gpa, row.npages);
    const auto out = handle_snp_req_certs(run, &certificates, m.guest);
    EXPECT_EQ(out.ret, row.ret) << out.reason;
    EXPECT_EQ(run.exit.snp_req_certs.ret, row.ret);
    EXPECT_EQ(run.exit.snp_req_certs.npages, row.npages_after);
    EXPECT_EQ(run.exit.snp_req_certs.gpa, row.gpa);
    EXPECT_EQ(out.lock.held(), row.ret == 0);
    EXPECT_EQ(m.guest.writes.size(), row.ret == 0 ? 1u : 0u);
    EXPECT_EQ(out.reason.empty(), row.ret == 0);
    if (row.ret != 0) continue;
    EXPECT_EQ(m.guest.writes[0].gpa, row.gpa);
    EXPECT_EQ(m.guest.writes[0].bytes, 5072u);
    EXPECT_EQ(m.guest.peek<std::uint64_t>(row.gpa + 48), 0u);
    EXPECT_EQ(m.guest.peek<std::uint8_t>(row.gpa + 5071), 0xc1);
  }
}

TEST(SnpReqCerts, LockIsHeldUntilTheVmmDropsIt) {
  Machine m;
  const auto certificates = open_file(m.file);
  EXPECT_TRUE(m.file.can_lock_exclusively());
  {
    KvmRun run = request_of(0x10000, 2);
    auto out = handle_snp_req_certs(run, &certificates, m.guest);
    EXPECT_FALSE(m.file.can_lock_exclusively());
    KvmRun second = request_of(0x10000, 2);  // another vCPU: shared locks do not exclude each other
    EXPECT_EQ(handle_snp_req_certs(second, &certificates, m.guest).ret, 0u);
    CertificateLock kept = std::move(out.lock);
    EXPECT_FALSE(m.file.can_lock_exclusively());
  }
  EXPECT_TRUE(m.file.can_lock_exclusively());
  KvmRun run = request_of(0x10000, 1);
  const auto refused = handle_snp_req_certs(run, &certificates, m.guest);
  EXPECT_TRUE(m.file.can_lock_exclusively()) << "a refusal keeps no lock";
}

TEST(SnpReqCerts, BusyWhileTheFileIsRenewedAndFreshAfterwards) {
  Machine m;
  const auto certificates = open_file(m.file);
  const int fd = open(m.file.path.c_str(), O_RDWR | O_CLOEXEC);
  ASSERT_EQ(flock(fd, LOCK_EX), 0);
  KvmRun run = request_of(0x10000, 2);
  EXPECT_EQ(handle_snp_req_certs(run, &certificates, m.guest).ret, 11u);
  EXPECT_EQ(run.exit.snp_req_certs.ret, 11u);
  EXPECT_TRUE(m.guest.writes.empty());
  m.file.put(two_certificates(10));
  close(fd);
  run = request_of(0x10000, 1);
  EXPECT_EQ(handle_snp_req_certs(run, &certificates, m.guest).ret, 0u);
  EXPECT_EQ(m.guest.writes.at(0).bytes, 92u);
}

TEST(SnpReqCerts, FileThatBecameBadIsAnError) {
  Machine m;
  const auto certificates = open_file(m.file);
  m.file.put(Bytes(100, std::byte{7}));
  KvmRun run = request_of(0x10000, 2);
  auto out = handle_snp_req_certs(run, &certificates, m.guest);
  EXPECT_EQ(out.ret, 5u);
  EXPECT_NE(out.reason.find("no terminator"), std::string::npos) << out.reason;
  std::filesystem::remove(m.file.path);
  run = request_of(0x10000, 2);
  out = handle_snp_req_certs(run, &certificates, m.guest);
  EXPECT_EQ(run.exit.snp_req_certs.ret, 5u);
  EXPECT_NE(out.reason.find("ENOENT"), std::string::npos) << out.reason;
  EXPECT_TRUE(m.guest.writes.empty());
}

TEST(SnpReqCerts, WithoutAFileTheTableIsEmpty) {
  Machine m;
  m.guest.poke(0x10000, Bytes(64, std::byte{0xff}));
  KvmRun run = request_of(0x10000, 1);
  EXPECT_EQ(handle_snp_req_certs(run, nullptr, m.guest).ret, 0u);
  EXPECT_EQ(m.guest.writes.at(0).bytes, 24u);
  EXPECT_EQ(m.guest.peek<std::uint64_t>(0x10010), 0u);
  EXPECT_EQ(m.guest.peek<std::uint64_t>(0x10018), ~0ULL);
  run = request_of(0xdead000, 0);  // no room asks for nothing
  EXPECT_EQ(handle_snp_req_certs(run, nullptr, m.guest).ret, 0u);
  EXPECT_EQ(m.guest.writes.size(), 1u);
  run = request_of(0x40000, 1);
  EXPECT_EQ(handle_snp_req_certs(run, nullptr, m.guest).ret, 5u);
}

// ---- enabling it -------------------------------------------------------------------------------

struct ScriptedHost final : HostIoctl {
  int ioctl(int fd, unsigned long request, void* arg) override {
    last_fd = fd;
    last_request = request;
    if (request == 0xc008aeba) std::memcpy(&command, arg, sizeof command);
    if (request == KVM_HAS_DEVICE_ATTR) std::memcpy(&attribute, arg, sizeof attribute);
    return result;
  }
  int result = 0;
  int last_fd = -1;
  unsigned long last_request = 0;
  sev::KvmSevCmd command;
  kvm_device_attr attribute{};
};

TEST(SnpReqCerts, IsEnabledByCommand103) {
  ScriptedHost host;
  EXPECT_TRUE(enable_snp_req_certs(host, 7, 9).has_value());
  EXPECT_EQ(host.last_fd, 7);
  EXPECT_EQ(host.last_request, 0xc008aebaUL);
  EXPECT_EQ(host.command.id, 103u);
  EXPECT_EQ(host.command.data, 0u);
  EXPECT_EQ(host.command.sev_fd, 9u);
  host.result = -EINVAL;
  const auto refused = enable_snp_req_certs(host, 7, 9);
  ASSERT_FALSE(refused.has_value());
  EXPECT_NE(refused.error().detail.find("EINVAL"), std::string::npos) << refused.error().detail;
}

TEST(SnpReqCerts, IsAskedForByDeviceAttribute) {
  ScriptedHost host;
  EXPECT_TRUE(has_snp_req_certs(host, 5));
  EXPECT_EQ(host.last_fd, 5);
  EXPECT_EQ(host.last_request, 0x4018aee3UL);
  EXPECT_EQ(host.attribute.group, 1u);
  EXPECT_EQ(host.attribute.attr, 2u);
  host.result = -ENXIO;
  EXPECT_FALSE(has_snp_req_certs(host, 5));
}

}  // namespace
}  // namespace sealift
