// SoftSevHost: a host with AMD SEV and SEV-ES in software, behind the ioctl line of the kernel.
//
// It implements KVM_MEMORY_ENCRYPT_OP, REG_REGION, UNREG_REGION and KVM_ENABLE_CAP (COPY and MOVE
// of an encryption context) on VM fds of its own, and SEV_ISSUE_CMD on /dev/sev fds of its own.
// Everything above HostIoctl is the code that runs on hardware.
//
// Spec:    KVM side: arch/x86/kvm/svm/sev.c and drivers/crypto/ccp/sev-dev.c of the configured
//          kernel, errno for errno (shim.h, psp_device.h). Firmware side: firmware.h, with its
//          MODEL CHOICES. Memory: memory_controller.h and memory_cipher.h. GHCB: shim_ghcb.h.
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
//   pointers   psp_device_user.h. A page that the firmware touches for a guest must lie in a region
//              that this VM or the owner of its context registered, else ENOMEM, which is what the
//              kernel says of a page that it cannot pin; the kernel would pin any mapped page.
//   may_run    RUNNING or SEND_UPDATE with an ASID bound, every VMSA of a SEV-ES guest encrypted,
//   no
//              termination by the guest, VM not dead. KVM would let the VMM try; no source says
//              what VMRUN does then.
//   one mutex  two VMs are never in a MOVE at once and no vCPU is half created, so that EBUSY and
//              EINTR of KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM cannot occur.
//   VMSA       kernel_moves_vmsa makes SEND_UPDATE_VMSA, RECEIVE_UPDATE_VMSA, GET_ES_STATE and
//              SET_ES_STATE work as no kernel does (sev_abi.h has their structs).
#pragma once

#include <cstdint>
#include <limits>
#include <memory>

#include "vmm_glue/host_ioctl.h"
#include "vmm_glue/model/sev/firmware.h"
#include "vmm_glue/model/sev/mailbox.h"
#include "vmm_glue/model/sev/psp_device_config.h"
#include "vmm_glue/model/sev/shim_ghcb.h"
#include "vmm_glue/private_memory.h"

namespace sealift::sev {

// Whose errno and commands the host has.
enum class KernelProfile : std::uint8_t { kLinux6_1, kLinux6_12 };

// The argument of KVM_CREATE_VM (KVM_X86_DEFAULT_VM, _SEV_VM, _SEV_ES_VM).
enum class VmType : std::uint8_t { kDefault = 0, kSev = 2, kSevEs = 3 };

inline constexpr std::uint64_t kNoMemlockLimit = std::numeric_limits<std::uint64_t>::max();

struct SoftSevConfig {
  FirmwareConfig firmware =
      {};  // version, ASIDs, owner's key, and encrypts_memory: see MemoryCipher
  RandomSource* random = nullptr;  // outlives the host; null: SystemRandom
  LatencyProfile latency = {};
  FaultHook fault = {};
  KernelProfile kernel = KernelProfile::kLinux6_1;
  bool kernel_moves_vmsa = false;
  bool sev_enabled = true;  // false: kvm_amd.sev=0
  // RLIMIT_MEMLOCK of a process without CAP_IPC_LOCK; each VM is counted by itself.
  std::uint64_t memlock_limit_bytes = kNoMemlockLimit;
};

// What is still held: all zero after the last VM.
struct Leaks {
  std::uint64_t handles = 0;       // guests that the firmware knows
  std::uint64_t asids = 0;         // in use by VMs
  std::uint64_t regions = 0;       // registered and not unregistered
  std::uint64_t locked_pages = 0;  // of all VMs
  friend bool operator==(const Leaks&, const Leaks&) = default;
};

class SoftSevHost final : public HostIoctl {
 public:
  explicit SoftSevHost(SoftSevConfig config = {});
  ~SoftSevHost() override;
  SoftSevHost(const SoftSevHost&) = delete;
  SoftSevHost& operator=(const SoftSevHost&) = delete;

  // The fd, or -EINVAL for a type that the kernel does not know.
  int create_vm(VmType type = VmType::kDefault);
  // As the kernel does when the VM goes: regions, ASID and handle are released, keys erased. While
  // a mirror lives they are not.
  void destroy_vm(int vm_fd);
  int open_sev(bool writable = true);
  void close_sev(int sev_fd);

  int ioctl(int fd, unsigned long request, void* arg) override;

  // KVM_CREATE_VCPU; the result counts 0, 1, … In a SEV-ES guest it has a page of the kernel, the
  // VMSA, where hardware keeps its registers: a modelled vCPU reads and writes them through
  // guest_view(), once the page is encrypted.
  std::uint32_t create_vcpu(int vm_fd);
  // REQUIRES: a SEV-ES guest with that vCPU. The page lives as long as the VM that has it.
  MutableBytes vmsa(int vm_fd, std::uint32_t vcpu);
  // VMGEXIT with `value` in the GHCB MSR. REQUIRES: as vmsa().
  GhcbReply ghcb_msr(int vm_fd, std::uint32_t vcpu, std::uint64_t value);
  // GHCB exit 0x80000005, set and get. REQUIRES: a SEV-ES guest.
  void set_ap_jump_table(int vm_fd, std::uint64_t gpa);
  std::uint64_t ap_jump_table(int vm_fd) const;

  // Memory as the guest's C-bit mapping shows it. REQUIRES: the VM was INITed; it lives as long as
  // the VM.
  PrivateMemory& guest_view(int vm_fd);
  // kUninit before LAUNCH_START or RECEIVE_START. REQUIRES: vm_fd is one of this host.
  GuestState guest_state(int vm_fd) const;
  bool may_run(int vm_fd) const;

  void set_fault(FaultHook hook);
  // The PSP goes away: ENODEV.
  void remove_psp();
  // How often the firmware was asked to run `id`, faults included.
  std::uint64_t commands_issued(MailboxCommand id) const;
  Leaks leaks() const;
  // For a test that looks for secrets where none may be. The caller erases it.
  EcNumber pdh_private_key() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace sealift::sev
