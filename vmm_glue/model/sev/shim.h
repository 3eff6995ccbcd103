// KvmShim: KVM's SEV code of the modelled host, from the ioctl to the mailbox.
//
// Spec:    arch/x86/kvm/svm/sev.c of Linux 6.1 and 6.12: order of the checks, errno, what is copied
//          back when. The kvm_sev_cmd is copied back after the handler in all cases, the commands'
//          own structs only where the kernel does it. Every page that a command touches is pinned
//          and counted against RLIMIT_MEMLOCK (pages_locked) while it does.
// Owner:   one SoftSevHost. Threads: the host's mailbox mutex is held, save for the atomics of a
//          Vm.
// Failure: -errno.
#pragma once

#include <cerrno>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <utility>

#include "vmm_glue/abi/sev_abi.h"
#include "vmm_glue/model/sev/firmware.h"
#include "vmm_glue/model/sev/memory_controller.h"
#include "vmm_glue/model/sev/psp_device.h"
#include "vmm_glue/model/sev/shim_asid.h"
#include "vmm_glue/model/sev/shim_vm.h"

namespace sealift::sev {

struct KvmShimConfig {
  KernelProfile kernel = KernelProfile::kLinux6_1;
  bool moves_vmsa = false;
  bool sev_enabled = true;
  bool es_enabled = true;
  std::uint32_t asids = 0;
  std::uint32_t sev_asid_min = 0;
  std::uint64_t memlock_limit_bytes = kNoMemlockLimit;
};

// The modelled parts that the shim drives; all outlive it.
struct KvmShimParts {
  Firmware& firmware;
  MemoryController& memory;
  PspDevice& psp;
  UserMemory& user;
};

class KvmShim {
 public:
  // The VM behind an fd, or null.
  using FindVm = std::function<std::shared_ptr<SoftVm>(int fd)>;

  KvmShim(const KvmShimConfig& config, const KvmShimParts& parts, FindVm find_vm);

  int ioctl(const std::shared_ptr<SoftVm>& vm, unsigned long request, void* arg);
  std::uint32_t create_vcpu(SoftVm& vm);
  GhcbReply ghcb_msr(SoftVm& vm, std::uint32_t vcpu, std::uint64_t value);
  // The fd is closed: everything goes, unless a mirror still needs it.
  void release(std::shared_ptr<SoftVm> vm);
  std::uint64_t asids_in_use() const { return asids_.in_use(); }

 private:
  // One KVM_MEMORY_ENCRYPT_OP under way.
  struct Op {
    SoftVm& vm;
    KvmCommand command = KvmCommand::kInit;
    std::uint64_t data = 0;  // user pointer
    std::uint32_t sev_fd = 0;
    std::uint32_t error = 0;
  };
  // A row of the dispatcher.
  struct Handler {
    enum class Needs : std::uint8_t { kNothing, kSev, kSevEs };
    KvmCommand command;
    int (KvmShim::*run)(Op& op);
    Needs needs = Needs::kSev;
    int otherwise = -ENOTTY;
  };
  // Pages that are pinned while this lives.
  class Pin {
   public:
    Pin() = default;
    Pin(SoftVm& vm, std::uint64_t pages) : vm_(&vm), pages_(pages) { vm.pages_locked += pages; }
    Pin(const Pin&) = delete;
    Pin& operator=(const Pin&) = delete;
    Pin& operator=(Pin&& other) noexcept {
      std::swap(vm_, other.vm_);
      std::swap(pages_, other.pages_);
      return *this;
    }
    ~Pin() {
      if (vm_ != nullptr) vm_->pages_locked -= pages_;
    }

   private:
    SoftVm* vm_ = nullptr;
    std::uint64_t pages_ = 0;
  };

  // shim.cc
  static std::span<const Handler> handlers(bool moves_vmsa);
  int memory_encrypt_op(SoftVm& vm, void* arg);
  int dispatch(Op& op);
  int init(Op& op);
  int init2(Op& op);
  int start_guest(Op& op, bool es, std::uint16_t ghcb_version);
  int register_region(SoftVm& vm, void* arg);
  int unregister_region(SoftVm& vm, void* arg);
  void tear_down(SoftVm& vm);
  void publish(SoftVm& vm) const;
  // shim_share.cc
  int enable_cap(const std::shared_ptr<SoftVm>& vm, void* arg);
  int move_from(const std::shared_ptr<SoftVm>& destination, SoftVm& source);
  int copy_from(SoftVm& mirror, const std::shared_ptr<SoftVm>& source);
  // shim_launch.cc
  int launch_start(Op& op);
  int launch_update_data(Op& op);
  int launch_secret(Op& op);
  int launch_measure(Op& op);
  int attestation_report(Op& op);
  int guest_status(Op& op);
  int finish(Op& op);
  // shim_debug.cc
  int debug_crypt(Op& op);
  int debug_decrypt(Op& op, std::uint64_t source, std::uint64_t destination, std::uint32_t bytes);
  int debug_encrypt(Op& op, std::uint64_t source, std::uint64_t destination, std::uint32_t bytes);
  int run_debug(Op& op, MailboxCommand id, std::uint64_t source, std::uint64_t destination,
                std::uint32_t bytes);
  // shim_transport.cc
  int send_start(Op& op);
  int send_start_query(Op& op, KvmSevSendStart& params);
  int send_update_data(Op& op);
  int send_update_query(Op& op, KvmSevUpdateData& params);
  int receive_start(Op& op);
  int receive_update_data(Op& op);
  // shim_vmsa.cc
  int launch_update_vmsa(Op& op);
  int send_update_vmsa(Op& op);
  int receive_update_vmsa(Op& op);
  int get_es_state(Op& op);
  int set_es_state(Op& op);
  std::uint64_t vmsa_physical(const SoftVcpu& vcpu) const;

  // sev_pin_memory: EINVAL for nothing or a wrap, ENOMEM over the limit. `pages` is what it took.
  int count_pages(const SoftVm& vm, std::uint64_t address, std::uint64_t bytes,
                  std::uint64_t& pages) const;
  // The same for guest memory, which must be registered; pinned until `pin` goes.
  int pin_guest(SoftVm& vm, std::uint64_t address, std::uint64_t bytes, Pin& pin) const;
  int bind_asid(Op& op, std::uint32_t handle);
  void unbind(std::uint32_t handle);
  // The end of LAUNCH_START and RECEIVE_START: ASID, copy-out, and what KVM remembers.
  int adopt_guest(Op& op, KvmSevStart& params, std::uint32_t handle);
  static bool owns(const SoftVm& vm, std::uint64_t address, std::uint64_t bytes);
  std::uint64_t guest_physical(std::uint64_t user) const;
  // Sends a packet's two halves to user space.
  int copy_out_packet(std::uint64_t trans_uaddr, std::uint64_t hdr_uaddr);
  // Kernel buffers of a SEND command's packet, zeroed; ENOMEM beyond kmalloc's limit.
  int make_packet(std::uint32_t hdr_len, std::uint32_t trans_len);

  const KvmShimConfig config_;
  Firmware& firmware_;
  MemoryController& memory_;
  PspDevice& psp_;
  UserMemory& user_;
  FindVm find_vm_;
  AsidPool asids_;
  Bytes header_;  // kernel buffers of a packet, kept for speed
  Bytes transport_;
};

}  // namespace sealift::sev
