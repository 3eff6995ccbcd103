// KVM_EXIT_SNP_REQ_CERTS: any request of the guest and any bytes in the certificate file.
//
// Input: flags u8, gpa u64, npages u64, then the file. Flags: 1 no file is configured; 2 gpa is
// raw, else it is cut to the first 256 pages.
#include <sys/mman.h>
#include <unistd.h>

#include <string>

#include "tests/fuzz/fuzz_input.h"
#include "vmm_glue/exits/snp_certs.h"
#include "vmm_glue/exits/vmgexit_test_support.h"

namespace sealift::fuzz {
namespace {

// A file without a place on disk; its path is that of the open descriptor.
int file_with(ByteView content) {
  static const int fd = memfd_create("certificates", MFD_CLOEXEC);
  FUZZ_CHECK(fd >= 0);
  FUZZ_CHECK(ftruncate(fd, 0) == 0);
  FUZZ_CHECK(pwrite(fd, content.data(), content.size(), 0) == static_cast<ssize_t>(content.size()));
  return fd;
}

// Independent of check_certificate_table(): what a guest does with the table.
bool guest_can_walk(ByteView table) {
  std::size_t entries = 0;
  for (;; ++entries) {
    if (table.size() < 24 * (entries + 1)) return false;
    const ByteView entry = table.subspan(24 * entries, 24);
    if (std::ranges::all_of(entry, [](std::byte b) { return b == std::byte{0}; })) break;
  }
  for (std::size_t i = 0; i < entries; ++i) {
    std::uint32_t place[2];
    std::memcpy(place, table.data() + 24 * i + 16, sizeof place);
    if (place[0] < 24 * (entries + 1)) return false;
    if (std::uint64_t{place[0]} + place[1] > table.size()) return false;
  }
  return true;
}

void check(const KvmRun& run, std::uint64_t npages, const CertsOutcome& out,
           const test::FakeGuest& guest, ByteView table) {
  const auto& request = run.exit.snp_req_certs;
  FUZZ_CHECK(request.ret == out.ret);
  FUZZ_CHECK(out.ret == 0 || out.ret == 5 || out.ret == 28);
  FUZZ_CHECK(guest.writes.size() <= 1);
  if (out.ret != 0) FUZZ_CHECK(guest.writes.empty() && !out.lock.held());
  if (out.ret == 28) FUZZ_CHECK(request.npages > npages && request.npages <= 16);
  if (out.ret != 28) FUZZ_CHECK(request.npages == npages);
  for (const auto& write : guest.writes) {
    FUZZ_CHECK(write.gpa == request.gpa && write.bytes == table.size());
    FUZZ_CHECK((write.bytes + kPageBytes - 1) / kPageBytes <= npages);
  }
}

}  // namespace
}  // namespace sealift::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t bytes) {
  using namespace sealift;
  fuzz::FuzzInput input(data, bytes);
  const auto flags = input.take<std::uint8_t>();
  const auto gpa = input.take<std::uint64_t>();
  const auto npages = input.take<std::uint64_t>();
  const ByteView table = input.take_bytes(kSnpCertTableBytesMax);

  test::FakeGuest guest({GfnRange{Gfn{0}, 0x100}});
  guest.share({Gfn{0x10}, 0x20});
  KvmRun run{};
  run.exit_reason = kKvmExitSnpReqCerts;
  run.exit.snp_req_certs = {(flags & 2) != 0 ? gpa : gpa & 0xff000, npages, 0x5a5a};

  const Bytes nothing(kSnpCertEntryBytes);
  if ((flags & 1) != 0) {
    fuzz::check(run, npages, handle_snp_req_certs(run, nullptr, guest), guest, nothing);
    return 0;
  }
  const std::string path = "/proc/self/fd/" + std::to_string(fuzz::file_with(table));
  const auto file = SnpCertificateFile::open(path);
  FUZZ_CHECK(file.has_value() == fuzz::guest_can_walk(table));
  if (file) fuzz::check(run, npages, handle_snp_req_certs(run, &*file, guest), guest, table);
  return 0;
}
