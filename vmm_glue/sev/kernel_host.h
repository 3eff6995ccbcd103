// KernelSevHost: /dev/kvm and /dev/sev of a host with AMD SEV, where SoftSevHost is one in
// software.
//
// Spec:    Linux Documentation/virt/kvm/api.rst (KVM_CREATE_VM, KVM_CREATE_VCPU);
//          Documentation/virt/kvm/x86/amd-memory-encryption.rst: KVM_MEMORY_ENCRYPT_OP without data
//          is 0 where SEV is enabled. /dev/sev commonly belongs to root.
// Owner:   the VMM; owns every fd it gave, and closes those that were not given back when it goes.
// Threads: any for ioctl(); open, create and close from one.
// Failure: kLocalFault with path or call and errno; the text says what this machine lacks.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/result.h"
#include "vmm_glue/host_ioctl.h"

namespace sealift::sev {

class KernelSevHost final : public HostIoctl {
 public:
  // Fails when this kernel runs no SEV guests.
  static Result<KernelSevHost> open();
  KernelSevHost(KernelSevHost&& other) noexcept;
  KernelSevHost(const KernelSevHost&) = delete;
  KernelSevHost& operator=(const KernelSevHost&) = delete;
  ~KernelSevHost() override;

  int ioctl(int fd, unsigned long request, void* arg) override;

  // `type` is KVM_CREATE_VM's: 0 is KVM_X86_DEFAULT_VM.
  Result<int> create_vm(unsigned long type = 0);
  // KVM_CREATE_VCPU; the fd belongs to this object.
  Result<int> create_vcpu(int vm_fd, std::uint32_t index);
  Result<int> open_sev(bool writable = true);
  // REQUIRES: `fd` came from this object.
  void close(int fd);

 private:
  explicit KernelSevHost(int kvm_fd) : kvm_fd_(kvm_fd) {}
  Result<int> keep(int fd, const char* what);

  KernelIoctl kernel_;
  int kvm_fd_ = -1;
  std::vector<int> fds_;
};

}  // namespace sealift::sev
