// KvmVm: the test guest on a real /dev/kvm: native code, KVM's dirty log, real vCPU state.
//
// The guest runs at CPL3 with an identity map of 2 MiB pages; its exits are MMIO reads
// (guest/mailbox.h). Private pages are bookkeeping here: the guest's instructions reach memory
// directly, so all of it is plain for the host.
//
// Spec, Owner, Threads, Failure: as Vm (vmm/vm.h). A guest that does what we cannot serve
// terminates, with the exit as reason.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "vmm_glue/vmm/kvm_vcpu.h"
#include "vmm_glue/vmm/vm.h"

namespace sealift {

class KvmVm final : public Vm {
 public:
  static Result<std::unique_ptr<KvmVm>> make(const VmConfig& config, PrivateMemory* private_memory);
  ~KvmVm() override { control_.shut_down(); }

  Result<void> start_dirty_tracking() override { return set_slots(true); }
  Result<void> stop_dirty_tracking() override { return set_slots(false); }
  Result<void> harvest_dirty() override;

 private:
  KvmVm(Parts parts, KvmSystem system, KvmHandle vm);
  Result<void> make_vcpus();
  Result<void> set_slots(bool logged);
  Result<void> write_program();

  Result<void> start_thread(std::uint32_t vcpu) override;
  void run(std::uint32_t vcpu) override;
  void kick(std::uint32_t vcpu, pthread_t thread) override;
  // One KVM_RUN. False when the guest has terminated.
  bool run_once(std::uint32_t vcpu);
  bool serve_exit(std::uint32_t vcpu);
  bool serve_mmio(std::uint32_t vcpu);
  Result<std::uint64_t> serve_hypercall(KvmVcpu& vcpu);
  bool serve_doorbell(KvmVcpu& vcpu);
  bool drain(std::uint32_t vcpu);
  bool end(std::uint32_t vcpu, const std::string& why);

  Result<void> set_initial_vcpus() override;
  Result<std::vector<StateBlob>> save_vcpus() override;
  Result<void> load_vcpus(std::vector<StateBlob> state) override;

  KvmSystem const system_;
  KvmHandle const vm_;
  std::vector<std::unique_ptr<KvmVcpu>> vcpus_;
  std::mutex log_mutex_;  // slots are changed, and the log is fetched, by one thread at a time
};

// One sentence: the back-end in use. The error says in one sentence why KVM cannot be used here.
Result<std::string> probe_kvm();

}  // namespace sealift
