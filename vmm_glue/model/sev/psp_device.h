// PspDevice: the kernel's driver of the modelled PSP: the mailbox for KVM, /dev/sev for user space.
//
// Spec:    Linux 6.1 drivers/crypto/ccp/sev-dev.c. Status other than 0 is EIO with `.error`; the
//          command buffer is copied back all the same; PDH_CERT_EXPORT initialises the platform
//          when needed and always copies its lengths back.
// Owner:   one SoftSevHost. Threads: the host's mailbox mutex is held. Failure: -errno.
#pragma once

#include <chrono>
#include <cstdint>
#include <cstring>
#include <map>
#include <set>
#include <span>
#include <utility>

#include "vmm_glue/abi/sev_abi.h"
#include "vmm_glue/model/sev/firmware.h"
#include "vmm_glue/model/sev/soft_sev_host.h"

namespace sealift::sev {

class PspDevice {
 public:
  using Latency = std::map<MailboxCommand, std::chrono::nanoseconds>;

  PspDevice(Firmware& firmware, Latency latency, FaultHook fault);

  void open(int fd) { fds_.insert(fd); }
  void close(int fd) { fds_.erase(fd); }
  bool is_open(int fd) const { return fds_.contains(fd); }

  // Inside the kernel: no fd is asked for (sev_do_cmd). `error` is written like psp_ret.
  template <class T>
  int run(MailboxCommand id, T& buffer, std::uint32_t& error) {
    return run_bytes(id, std::as_writable_bytes(std::span(&buffer, 1)), error);
  }
  // On behalf of a user's fd (sev_issue_cmd_external_user): EBADF unless it is an open /dev/sev.
  template <class T>
  int run_for(std::uint32_t sev_fd, MailboxCommand id, T& buffer, std::uint32_t& error) {
    if (!is_open(static_cast<int>(sev_fd))) return not_open();
    return run(id, buffer, error);
  }
  // sev_platform_init: nothing to do when the platform is up.
  int init_platform(std::uint32_t& error);

  // SEV_ISSUE_CMD. REQUIRES: the fd is open.
  int ioctl(unsigned long request, void* arg);

  void set_fault(FaultHook hook) { fault_ = std::move(hook); }
  std::uint64_t issued(MailboxCommand id) const;

 private:
  static int not_open();
  int run_bytes(MailboxCommand id, MutableBytes buffer, std::uint32_t& error);
  int platform_status(SevIssueCmd& cmd);
  int pdh_cert_export(SevIssueCmd& cmd);

  Firmware& firmware_;
  const Latency latency_;
  FaultHook fault_;
  std::map<MailboxCommand, std::uint64_t> issued_;
  std::set<int> fds_;
};

// copy_from_user and copy_to_user of this model: only a null pointer faults.
template <class T>
bool copy_in(std::uint64_t user, T& out) {
  if (user == 0) return false;
  std::memcpy(&out, reinterpret_cast<const void*>(user), sizeof(T));
  return true;
}
template <class T>
bool copy_out(const T& value, std::uint64_t user) {
  if (user == 0) return false;
  std::memcpy(reinterpret_cast<void*>(user), &value, sizeof(T));
  return true;
}
bool copy_out_bytes(ByteView bytes, std::uint64_t user);
std::uint64_t kernel_address(const Bytes& bytes);

}  // namespace sealift::sev
