#include "vmm_glue/exits/snp_certs.h"

#include <fcntl.h>
#include <linux/kvm.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "engine/assert.h"
#include "vmm_glue/abi/sev_abi.h"

namespace sealift {
namespace {

static_assert(kSnpCertsFailed == EIO && kSnpCertsBusy == EAGAIN && kSnpCertsTooSmall == ENOSPC);

constexpr std::uint32_t kSevSnpEnableReqCerts = 103;  // KVM_SEV_SNP_ENABLE_REQ_CERTS
constexpr std::uint32_t kX86GroupSev = 1;             // KVM_X86_GRP_SEV
constexpr std::uint64_t kX86SevSnpReqCerts = 2;       // KVM_X86_SEV_SNP_REQ_CERTS

constexpr std::array<std::byte, kSnpCertEntryBytes> kTerminator{};

struct Entry {
  std::array<std::byte, 16> guid;
  std::uint32_t offset;
  std::uint32_t length;
};
static_assert(sizeof(Entry) == kSnpCertEntryBytes);

bool is_terminator(ByteView entry) { return std::ranges::equal(entry, kTerminator); }

// Regular files only: a FIFO would block a vCPU.
Result<Bytes> read_locked(int fd, const std::string& path) {
  struct stat info{};
  if (fstat(fd, &info) != 0)
    return fail(ErrorClass::kLocalFault, "fstat of {} failed: {}", path, errno_text(errno));
  if (!S_ISREG(info.st_mode))
    return fail(ErrorClass::kUsage, "certificates {}: not a regular file", path);
  if (info.st_size < 0 || static_cast<std::uint64_t>(info.st_size) > kSnpCertTableBytesMax)
    return fail(ErrorClass::kUsage, "certificates {}: {} bytes, more than {}", path, info.st_size,
                kSnpCertTableBytesMax);
  Bytes table(static_cast<std::size_t>(info.st_size));
  std::size_t done = 0;
  while (done < table.size()) {
    const ssize_t got =
        pread(fd, table.data() + done, table.size() - done, static_cast<off_t>(done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0)
      return fail(ErrorClass::kLocalFault, "read of {} failed: {}", path, errno_text(errno));
    if (got == 0) break;  // shortened meanwhile: the check below says what is missing
    done += static_cast<std::size_t>(got);
  }
  table.resize(done);
  return table;
}

CertsOutcome failed(std::string reason) {
  CertsOutcome out;
  out.reason = std::move(reason);
  return out;
}

CertsOutcome give(ByteView table, const KvmRun::SnpReqCerts& request, GuestBytes& guest) {
  CertsOutcome out;
  out.pages_needed = (table.size() + kPageBytes - 1) / kPageBytes;
  if (request.gpa % kPageBytes != 0) {
    out.reason = fmt::format("the address {:#x} is not a multiple of 4096", request.gpa);
  } else if (request.npages < out.pages_needed) {
    out.ret = kSnpCertsTooSmall;
    out.reason = fmt::format("{} pages given, {} needed", request.npages, out.pages_needed);
  } else if (!guest.write(Gpa{request.gpa}, table)) {
    out.reason = fmt::format("{} bytes at {:#x} are not shared RAM", table.size(), request.gpa);
  } else {
    out.ret = kSnpCertsDone;
  }
  return out;
}

CertsOutcome answer(const KvmRun::SnpReqCerts& request, const SnpCertificateFile* file,
                    GuestBytes& guest) {
  if (file == nullptr) {
    CertsOutcome nothing;
    nothing.ret = kSnpCertsDone;
    return request.npages == 0 ? std::move(nothing) : give(kTerminator, request, guest);
  }
  auto locked = file->lock_and_read();
  if (!locked) return failed(locked.error().detail);
  if (!locked->has_value()) {
    CertsOutcome busy = failed("the certificates are being renewed");
    busy.ret = kSnpCertsBusy;
    return busy;
  }
  CertsOutcome out = give((*locked)->table, request, guest);
  if (out.ret == kSnpCertsDone) out.lock = std::move((*locked)->lock);
  return out;
}

}  // namespace

CertificateLock::~CertificateLock() {
  if (fd_ >= 0) close(fd_);  // the last descriptor of an open file releases its flock()
}

Result<void> check_certificate_table(ByteView table) {
  std::size_t end = 0;  // of the entries, terminator included
  bool ended = false;
  while (!ended) {
    if (table.size() - end < kSnpCertEntryBytes)
      return fail(ErrorClass::kMalformed, "certificate table of {} bytes: no terminator after {}",
                  table.size(), end);
    ended = is_terminator(table.subspan(end, kSnpCertEntryBytes));
    end += kSnpCertEntryBytes;
  }
  for (std::size_t at = 0; at + kSnpCertEntryBytes < end; at += kSnpCertEntryBytes) {
    Entry entry;
    std::memcpy(&entry, table.data() + at, sizeof entry);
    if (entry.offset < end || entry.offset > table.size() ||
        entry.length > table.size() - entry.offset)
      return fail(
          ErrorClass::kMalformed,
          "certificate table of {} bytes: entry {} has offset {} and length {}, entries end "
          "at {}",
          table.size(), at / kSnpCertEntryBytes, entry.offset, entry.length, end);
  }
  return {};
}

Result<SnpCertificateFile> SnpCertificateFile::open(std::string path) {
  SnpCertificateFile file(std::move(path));
  SEALIFT_TRY(const auto locked, file.lock_and_read());
  (void)locked;  // in renewal: checked by the request that finds it renewed
  return file;
}

Result<std::optional<SnpCertificateFile::Locked>> SnpCertificateFile::lock_and_read() const {
  const int fd = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0)
    return fail(ErrorClass::kUsage, "certificates {}: open failed: {}", path_, errno_text(errno));
  Locked locked{{}, CertificateLock(fd)};
  if (flock(fd, LOCK_SH | LOCK_NB) != 0) {
    if (errno == EWOULDBLOCK) return std::optional<Locked>();
    return fail(ErrorClass::kLocalFault, "flock of {} failed: {}", path_, errno_text(errno));
  }
  SEALIFT_TRY(locked.table, read_locked(fd, path_));
  if (const auto checked = check_certificate_table(locked.table); !checked)
    return fail(checked.error().cls, "certificates {}: {}", path_, checked.error().detail);
  return std::optional<Locked>(std::move(locked));
}

CertsOutcome handle_snp_req_certs(KvmRun& run, const SnpCertificateFile* file, GuestBytes& guest) {
  SEALIFT_ASSERT(run.exit_reason == kKvmExitSnpReqCerts);
  const KvmRun::SnpReqCerts request = run.exit.snp_req_certs;
  CertsOutcome out = answer(request, file, guest);
  if (out.ret == kSnpCertsTooSmall) run.exit.snp_req_certs.npages = out.pages_needed;
  run.exit.snp_req_certs.ret = out.ret;
  return out;
}

bool has_snp_req_certs(HostIoctl& host, int kvm_fd) {
  kvm_device_attr attribute{};
  attribute.group = kX86GroupSev;
  attribute.attr = kX86SevSnpReqCerts;
  return host.ioctl(kvm_fd, KVM_HAS_DEVICE_ATTR, &attribute) == 0;
}

Result<void> enable_snp_req_certs(HostIoctl& host, int vm_fd, int sev_fd) {
  sev::KvmSevCmd command;
  command.id = kSevSnpEnableReqCerts;
  command.sev_fd = static_cast<std::uint32_t>(sev_fd);
  const int result = host.ioctl(vm_fd, sev::kKvmMemoryEncryptOp, &command);
  if (result < 0)
    return fail(ErrorClass::kLocalFault,
                "KVM_SEV_SNP_ENABLE_REQ_CERTS failed: {} (the VM must be SNP and have no vCPU yet)",
                errno_text(-result));
  return {};
}

}  // namespace sealift
