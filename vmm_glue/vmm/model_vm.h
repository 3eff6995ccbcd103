// ModelVm: the test guest on modelled vCPUs, one host thread each, or step by step without threads.
//
// Spec, Owner, Threads, Failure: as Vm (vmm/vm.h).
// Invariants:
//   I1  A vCPU stops between two turns of the workload (one page of work each), so pause() is quick
//       even in a boot or a check.
//   I2  Where the platform keeps registers (SEV-ES), they are in a ModelMachine only while its vCPU
//       runs: load_registers() as VMRUN does, store_registers() as every exit does.
//   I3  The same seed and the same run_steps() calls give the same memory.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "vmm_glue/vmm/model_machine.h"
#include "vmm_glue/vmm/vm.h"

namespace sealift {

class ModelVm final : public Vm {
 public:
  static Result<std::unique_ptr<ModelVm>> make(const VmConfig& config,
                                               PrivateMemory* private_memory);
  ~ModelVm() override { control_.shut_down(); }

  // Runs `turns` turns of one vCPU on the calling thread; refused unless paused (a booted guest is,
  // until resume()).
  Result<void> run_steps(std::uint32_t vcpu, std::uint64_t turns);

  Result<void> start_dirty_tracking() override;
  Result<void> stop_dirty_tracking() override { return {}; }  // the log is always kept
  Result<void> harvest_dirty() override;

 private:
  explicit ModelVm(Parts parts);

  Result<void> start_thread(std::uint32_t) override { return {}; }
  void run(std::uint32_t vcpu) override;
  void run_guest(std::uint32_t vcpu);
  void fill_status(VmStatus& status) const override {
    status.hypercalls = hypercalls_.load(std::memory_order_relaxed);
  }
  void kick(std::uint32_t, pthread_t) override {}  // a vCPU looks at should_stop() between turns
  Result<void> set_initial_vcpus() override {
    return {};
  }  // all registers zero: the start of the program
  Result<std::vector<StateBlob>> save_vcpus() override;
  Result<void> load_vcpus(std::vector<StateBlob> state) override;

  bool has_register_pages() const {
    return private_memory_ != nullptr && private_memory_->register_page(0) != nullptr;
  }
  void load_registers(std::uint32_t vcpu);
  void store_registers(std::uint32_t vcpu);

  WriteLog log_;
  std::atomic<std::uint64_t> hypercalls_{0};
  std::mutex harvest_mutex_;  // a harvest is whole before the next one ends
  std::vector<std::unique_ptr<ModelMachine>> vcpus_;
};

}  // namespace sealift
