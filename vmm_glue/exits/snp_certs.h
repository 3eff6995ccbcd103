// Certificates for an SNP guest's extended attestation request: the configured file, and the
// decoder of KVM_EXIT_SNP_REQ_CERTS.
//
// Spec:    Linux 7.x api.rst (KVM_EXIT_SNP_REQ_CERTS), amd-memory-encryption.rst
//          (KVM_SEV_SNP_ENABLE_REQ_CERTS); AMD 56421 for the table: entries of 24 bytes (GUID 16,
//          offset u32, length u32), ended by 24 zero bytes, certificates after it.
// Owner:   SnpCertificateFile belongs to the VMM and outlives the vCPUs; a lock is a value.
// Threads: any; each request opens the file anew.
// Failure: open() with the path and the reason. handle_snp_req_certs() never fails.
//
// The lock: certificates must fit the firmware that signs the report. Whoever renews both holds an
// exclusive flock() on the file meanwhile; we hold a shared one from before the file is read until
// the firmware has made the report. So the VMM keeps CertsOutcome::lock, sets immediate_exit, calls
// KVM_RUN until it returns EINTR (the request has then reached the firmware), and drops the lock.
// The file is replaced in place, or the lock is taken on the file that is renamed over it, too.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>

#include "engine/result.h"
#include "engine/types.h"
#include "vmm_glue/abi/kvm_run.h"
#include "vmm_glue/exits/guest_bytes.h"
#include "vmm_glue/host_ioctl.h"

namespace sealift {

inline constexpr std::size_t kSnpCertEntryBytes = 24;
inline constexpr std::size_t kSnpCertTableBytesMax = 64u << 10;

// kMalformed with the entry and its values: no terminator, or an entry that is not wholly between
// the terminator and the end.
Result<void> check_certificate_table(ByteView table);

// A shared flock(), held until this object ends.
class CertificateLock {
 public:
  CertificateLock() = default;
  explicit CertificateLock(int locked_fd) : fd_(locked_fd) {}
  CertificateLock(CertificateLock&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  CertificateLock& operator=(CertificateLock&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~CertificateLock();
  bool held() const { return fd_ >= 0; }

 private:
  int fd_ = -1;
};

class SnpCertificateFile {
 public:
  struct Locked {
    Bytes table;
    CertificateLock lock;
  };

  // Reads and checks the file once, so that a wrong configuration is known before the guest runs.
  static Result<SnpCertificateFile> open(std::string path);
  // The present table, under its lock; nothing while somebody renews it.
  Result<std::optional<Locked>> lock_and_read() const;

 private:
  explicit SnpCertificateFile(std::string path) : path_(std::move(path)) {}
  std::string path_;
};

// What handle_snp_req_certs() stores in `ret`: errno values, positive.
inline constexpr std::uint64_t kSnpCertsDone = 0;
inline constexpr std::uint64_t kSnpCertsFailed = 5;     // EIO
inline constexpr std::uint64_t kSnpCertsBusy = 11;      // EAGAIN
inline constexpr std::uint64_t kSnpCertsTooSmall = 28;  // ENOSPC; npages says what is needed

struct CertsOutcome {
  std::uint64_t ret = kSnpCertsFailed;
  std::uint64_t pages_needed = 0;
  std::string reason;    // of a failure, for a log
  CertificateLock lock;  // held only when certificates were given
};

// `file` null: the guest gets the empty table, as KVM itself answers.
// REQUIRES: run.exit_reason == kKvmExitSnpReqCerts; the vCPU does not run before this returns.
CertsOutcome handle_snp_req_certs(KvmRun& run, const SnpCertificateFile* file, GuestBytes& guest);

// Whether the kernel of `kvm_fd` (/dev/kvm) can raise the exit.
bool has_snp_req_certs(HostIoctl& host, int kvm_fd);
// REQUIRES: an SNP VM without vCPUs; the kernel refuses anything else.
Result<void> enable_snp_req_certs(HostIoctl& host, int vm_fd, int sev_fd);

}  // namespace sealift
