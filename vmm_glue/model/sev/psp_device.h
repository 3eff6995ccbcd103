// PspDevice: the kernel's driver of the modelled PSP: the mailbox for KVM, /dev/sev for user space.
//
// Spec:    Linux 6.1 drivers/crypto/ccp/sev-dev.c. A status other than 0 is EIO with `error`; no
//          answer is ETIMEDOUT with `error` 0, and then EBUSY for ever; without a PSP ENODEV. The
//          command buffer is copied back all the same. The platform is initialised by whoever needs
//          it first, through /dev/sev only with a writable fd (EPERM); lengths of queries are
//          copied back.
// Owner:   one SoftSevHost. Threads: the host's mailbox mutex is held. Failure: -errno; `error` is
//          written only where the firmware was reached, and on a time-out.
//
// MODEL CHOICE
//   time-out   answers at once: nobody waits psp_cmd_timeout (100 s).
//   GET_ID2    copies no more than the caller's buffer holds, also when the firmware asks for more.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <utility>

#include "vmm_glue/abi/sev_abi.h"
#include "vmm_glue/model/sev/firmware.h"
#include "vmm_glue/model/sev/psp_device_config.h"
#include "vmm_glue/model/sev/psp_device_user.h"

namespace sealift::sev {

class PspDevice {
 public:
  // `with_es`: the platform is initialised for SEV-ES.
  PspDevice(Firmware& firmware, UserMemory& user, LatencyProfile latency, FaultHook fault,
            bool with_es);

  void open(int fd, bool writable) { fds_.emplace(fd, writable); }
  void close(int fd) { fds_.erase(fd); }
  bool is_open(int fd) const { return fds_.contains(fd); }

  // Inside the kernel: no fd is asked for (sev_do_cmd). `error` is written like psp_ret.
  template <class T>
  int run(MailboxCommand id, T& buffer, std::uint32_t& error) {
    return run_bytes(id, std::as_writable_bytes(std::span(&buffer, 1)), error);
  }
  // A command without a buffer.
  int run(MailboxCommand id, std::uint32_t& error) { return run_bytes(id, {}, error); }
  // On behalf of a user's fd (sev_issue_cmd_external_user): EBADF unless it is an open /dev/sev.
  template <class T>
  int run_for(std::uint32_t sev_fd, MailboxCommand id, T& buffer, std::uint32_t& error) {
    if (!is_open(static_cast<int>(sev_fd))) return not_open();
    return run(id, buffer, error);
  }
  // sev_platform_init: nothing to do when the platform is up.
  int init_platform(std::uint32_t& error);
  // WBINVD on all CPUs, then DF_FLUSH: what must precede the reuse of an ASID.
  int flush(std::uint32_t& error);

  // SEV_ISSUE_CMD. REQUIRES: the fd is open.
  int ioctl(int fd, unsigned long request, void* arg);

  void set_fault(FaultHook hook) { fault_ = std::move(hook); }
  // The device goes away: ENODEV from now on.
  void remove() { health_ = Health::kGone; }
  std::uint64_t issued(MailboxCommand id) const;

 private:
  enum class Health : std::uint8_t { kGood, kDead, kGone };
  struct Request;

  static int not_open();
  int run_bytes(MailboxCommand id, MutableBytes buffer, std::uint32_t& error);
  int refusal() const;
  std::uint32_t run_with(const Fault& fault, MailboxCommand id, MutableBytes buffer);

  // psp_device_user.cc
  int dispatch(Request& request);
  int factory_reset(Request& request);
  int platform_status(Request& request);
  int generate(Request& request, MailboxCommand id);
  int pek_csr(Request& request);
  int pdh_cert_export(Request& request);
  int pek_cert_import(Request& request);
  int get_id(Request& request);
  int get_id2(Request& request);

  Firmware& firmware_;
  UserMemory& user_;
  const LatencyProfile latency_;
  const bool with_es_;
  FaultHook fault_;
  Health health_ = Health::kGood;
  bool initialised_ = false;  // the driver's own idea of the platform's state
  std::map<MailboxCommand, std::uint64_t> issued_;
  std::map<int, bool> fds_;  // fd -> opened for writing
};

}  // namespace sealift::sev
