// KvmShim: KVM's SEV code of the modelled host, from the ioctl to the mailbox.
//
// Spec:    Linux 6.1 arch/x86/kvm/svm/sev.c: order of the checks, errno, what is copied back when.
//          The kvm_sev_cmd is copied back after the handler in all cases, the commands' own structs
//          only where the kernel does it.
// Owner:   one SoftSevHost. Threads: the host's mailbox mutex is held, save for the atomics of a
//          Vm.
// Failure: -errno.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "vmm_glue/abi/sev_abi.h"
#include "vmm_glue/model/sev/firmware.h"
#include "vmm_glue/model/sev/memory_controller.h"
#include "vmm_glue/model/sev/psp_device.h"

namespace sealift::sev {

// What KVM keeps for a VM (struct kvm_sev_info).
struct SoftVm {
  bool active = false;
  std::uint32_t asid = 0;
  std::uint32_t handle = 0;
  std::uint32_t sev_fd =
      0;  // the number, looked up again for each command; 0 until a START sets it
  std::vector<KvmEncRegion> regions;
  std::unique_ptr<GuestView> view;
  // Published after each ioctl for those who do not take the mailbox mutex.
  std::atomic<GuestState> state{GuestState::kUninit};
  std::atomic<bool> bound{false};
};

class KvmShim {
 public:
  KvmShim(Firmware& firmware, MemoryController& memory, PspDevice& psp, std::uint32_t asids);

  int ioctl(SoftVm& vm, unsigned long request, void* arg);
  void destroy(SoftVm& vm);

 private:
  // One KVM_MEMORY_ENCRYPT_OP under way.
  struct Op {
    SoftVm& vm;
    std::uint64_t data = 0;  // user pointer
    std::uint32_t sev_fd = 0;
    std::uint32_t error = 0;
  };

  int memory_encrypt_op(SoftVm& vm, void* arg);
  int dispatch(KvmCommand command, Op& op);
  int register_region(SoftVm& vm, void* arg);
  int unregister_region(SoftVm& vm, void* arg);
  void publish(SoftVm& vm) const;

  // shim.cc
  int init(Op& op);
  int launch_start(Op& op);
  int launch_update_data(Op& op);
  int launch_measure(Op& op);
  int guest_status(Op& op);
  int handle_only(Op& op, MailboxCommand id);
  // shim_transport.cc
  int send_start(Op& op);
  int send_start_query(Op& op, KvmSevSendStart& params);
  int send_update_data(Op& op);
  int send_update_query(Op& op, KvmSevUpdateData& params);
  int receive_start(Op& op);
  int receive_update_data(Op& op);

  // Reads a blob as the kernel's psp_copy_user_blob does: EINVAL for null, empty or over 16 KiB.
  static int copy_blob(std::uint64_t user, std::uint32_t bytes, Bytes& out);
  int bind_asid(Op& op, std::uint32_t handle);
  void unbind(std::uint32_t handle);
  bool owns(const SoftVm& vm, std::uint64_t address, std::uint64_t bytes) const;
  std::uint64_t guest_physical(std::uint64_t user) const;

  Firmware& firmware_;
  MemoryController& memory_;
  PspDevice& psp_;
  std::vector<bool> asid_used_;  // [0] is never given out
  Bytes header_;                 // kernel buffers of SEND/RECEIVE_UPDATE_DATA, kept for speed
  Bytes transport_;
};

}  // namespace sealift::sev
