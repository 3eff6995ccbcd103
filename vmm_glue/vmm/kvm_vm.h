// KvmVm: a guest on a real /dev/kvm: native code, KVM's dirty tracking, real vCPU and device state.
//
// The checker runs with an identity map of 2 MiB pages: at CPL3, where its exits are MMIO reads
// (guest/mailbox.h), or at CPL0 with real VMCALL, VMMCALL and WRMSR where a probe finds that they
// work. Boot sectors and flat binaries start in real mode. Private pages are bookkeeping here: the
// guest's instructions reach memory directly, so all of it is plain for the host. With
// Platform::kSwProtected they are a guest_memfd's, which the host cannot read.
//
// kvm_vm.cc makes the machine and moves its state; kvm_vm_exits.cc runs it.
// Spec, Owner, Threads, Failure: as Vm (vmm/vm.h). A guest that does what we cannot serve
// terminates, with the exit as reason.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "vmm_glue/dirty/dirty_tracker.h"
#include "vmm_glue/exits/converter.h"
#include "vmm_glue/exits/guest_exits.h"
#include "vmm_glue/vmm/kvm_private_half.h"
#include "vmm_glue/vmm/kvm_vcpu.h"
#include "vmm_glue/vmm/kvm_vm_state.h"
#include "vmm_glue/vmm/serial.h"
#include "vmm_glue/vmm/shared_bytes.h"
#include "vmm_glue/vmm/vm.h"

namespace sealift {

class KvmVm final : public Vm {
 public:
  static Result<std::unique_ptr<KvmVm>> make(const VmConfig& config, PrivateMemory* private_memory);
  ~KvmVm() override { control_.shut_down(); }

  Result<void> start_dirty_tracking() override { return tracker_->start(); }
  Result<void> stop_dirty_tracking() override { return tracker_->stop(); }
  Result<void> harvest_dirty() override { return tracker_->harvest(); }
  Result<void> apply_conversion(GfnRange range, PageClass cls) override;
  inguest::HelperVcpu* private_helper() override {
    return private_half_ ? &private_half_->helper() : nullptr;
  }

 private:
  KvmVm(Parts parts, KvmSystem system, KvmHandle vm);
  Result<void> make_board();
  Result<void> make_vcpus();
  void write_checker();

  Result<void> start_thread(std::uint32_t vcpu) override;
  void run(std::uint32_t vcpu) override;
  void kick(std::uint32_t vcpu, pthread_t thread) override;
  class Draining;
  // What one KVM_RUN left. False when the guest has terminated.
  bool serve(std::uint32_t vcpu, int run_errno);
  bool serve_own(std::uint32_t vcpu);
  bool serve_io(std::uint32_t vcpu);
  bool serve_mmio(std::uint32_t vcpu);
  bool serve_checker(std::uint32_t vcpu, std::uint64_t gpa, std::uint64_t& answer);
  bool serve_doorbell(std::uint64_t bell);
  bool drain(std::uint32_t vcpu);
  bool end(std::uint32_t vcpu, const std::string& why);

  Result<void> set_initial_vcpus() override;
  Result<std::vector<StateBlob>> save_vcpus() override;
  Result<void> load_vcpus(std::vector<StateBlob> state) override;
  Result<void> load_serial(std::vector<StateBlob>& devices);  // takes it out
  VmParts parts_with_state() const;
  std::vector<int> vcpu_fds() const;
  void keep_notes(const StateNotes& notes);
  void fill_status(VmStatus& status) const override;

  KvmSystem const system_;
  KvmHandle const vm_;
  MapConverter map_converter_;
  SharedBytes shared_bytes_;
  std::unique_ptr<KvmPrivateHalf> private_half_;  // only with Platform::kSwProtected
  std::unique_ptr<GuestExits> exits_;
  std::unique_ptr<SerialPort> serial_;
  std::unique_ptr<DirtyTracker> tracker_;
  std::vector<std::unique_ptr<KvmVcpu>> vcpus_;
  mutable std::mutex notes_mutex_;
  std::vector<std::string> notes_;  // guarded by notes_mutex_
};

// One sentence: the back-end in use. The error says in one sentence why KVM cannot be used here.
Result<std::string> probe_kvm();
// The way in which a CPL0 guest's page-state hypercall becomes KVM_EXIT_HYPERCALL here, tried with
// a guest of a few instructions; kMmio where none does. Never kAuto.
Result<HypercallBy> probe_hypercall(const KvmSystem& system);

}  // namespace sealift
