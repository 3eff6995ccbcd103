// SoftSevHost: a host with AMD SEV in software, behind the ioctl line of the kernel.
//
// It implements KVM_MEMORY_ENCRYPT_OP, REG_REGION and UNREG_REGION on VM fds of its own, and
// SEV_ISSUE_CMD on /dev/sev fds of its own. Everything above HostIoctl is the code that runs on
// hardware.
//
// Spec:    KVM side: Linux 6.1 arch/x86/kvm/svm/sev.c and drivers/crypto/ccp/sev-dev.c, errno for
//          errno (shim.h, psp_device.h). Firmware side: firmware.h, with its MODEL CHOICES. Memory:
//          memory_controller.h and memory_cipher.h.
// Owner:   the test or the software VMM; outlives every driver and view that uses it.
// Threads: ioctls of any threads are serialised by one mutex, as the mailbox of a host serialises
//          its commands; artificial latency is spent under it. guest_state(), may_run() and the
//          views that guest_view() gives do not take that mutex (guest_view() itself does: ask
//          once).
// Failure: -errno as the kernel gives it. A view of a destroyed VM is the caller's bug.
//
// MODEL CHOICE
//   fds        numbers from 1 << 24 up, which the kernel does not know; no fd table, so "not open"
//              and "not /dev/sev" are both EBADF.
//   pointers   user pointers are pointers of this process: null is EFAULT, another bad one crashes.
//              A guest page (guest_uaddr, LAUNCH_UPDATE_DATA) must lie in a region that this VM
//              registered, else EFAULT; the kernel would pin any mapped page.
//   may_run    RUNNING or SEND_UPDATE with an ASID bound; no source says when VMRUN works else.
//   SEV-ES     not on this host: ES_INIT is ENOTTY, the VMSA commands EINVAL.
//   MEMLOCK    not counted. DEBUG, SECRET and ATTESTATION commands: EINVAL for now.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>

#include "vmm_glue/host_ioctl.h"
#include "vmm_glue/model/sev/firmware.h"
#include "vmm_glue/model/sev/mailbox.h"
#include "vmm_glue/private_memory.h"

namespace sealift::sev {

// Called before each firmware command with its id and how often it was issued before (0, 1, …). A
// value is the command's status instead of running it. Called under the mailbox mutex: do not call
// back.
using FaultHook = std::function<std::optional<std::uint16_t>(MailboxCommand id, std::uint64_t nth)>;

struct SoftSevConfig {
  FirmwareConfig firmware =
      {};  // version, ASIDs, owner's key, and encrypts_memory: see MemoryCipher
  RandomSource* random = nullptr;  // outlives the host; null: SystemRandom
  // Time each firmware command takes. AMD measured 350 to 450 SEND_UPDATE_DATA a second on
  // hardware.
  std::map<MailboxCommand, std::chrono::nanoseconds> latency = {};
  FaultHook fault = {};
};

class SoftSevHost final : public HostIoctl {
 public:
  explicit SoftSevHost(SoftSevConfig config = {});
  ~SoftSevHost() override;
  SoftSevHost(const SoftSevHost&) = delete;
  SoftSevHost& operator=(const SoftSevHost&) = delete;

  int create_vm();
  // As the kernel does when the VM goes: regions, ASID and handle are released, keys erased.
  void destroy_vm(int vm_fd);
  int open_sev();
  void close_sev(int sev_fd);

  int ioctl(int fd, unsigned long request, void* arg) override;

  // Memory as the guest's C-bit mapping shows it. REQUIRES: the VM was INITed; it lives as long as
  // the VM.
  PrivateMemory& guest_view(int vm_fd);
  // kUninit before LAUNCH_START or RECEIVE_START. REQUIRES: vm_fd is one of this host.
  GuestState guest_state(int vm_fd) const;
  bool may_run(int vm_fd) const;

  void set_fault(FaultHook hook);
  // How often the firmware was asked to run `id`, faults included.
  std::uint64_t commands_issued(MailboxCommand id) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace sealift::sev
