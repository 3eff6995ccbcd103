// KvmVcpu: one vCPU of a real KVM: its start at CPL3 in long mode, KVM_RUN, and its whole state as
// StateBlobs.
//
// Spec:    Linux Documentation/virt/kvm/api.rst.
// Owner:   KvmVm.
// Threads: the vCPU's thread while it runs; the control thread while it is stopped;
//          set_immediate_exit() from any.
// Failure: kLocalFault with the ioctl and errno; kMalformed or kRefused for state that cannot be
//          this vCPU's.
// Invariants:
//   I1  State is saved only with no exit half done: drain() was the last thing that ran.
//   I2  load() changes nothing unless every item is there once, known and of the right size.
#pragma once

#include <linux/kvm.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/guest_port.h"
#include "engine/result.h"
#include "vmm_glue/abi/kvm_run.h"
#include "vmm_glue/vmm/kvm_handle.h"
#include "vmm_glue/vmm/kvm_state_note.h"

namespace sealift {

struct KvmSystem {
  KvmHandle handle;
  std::uint64_t run_bytes = 0;    // of the mapping of struct kvm_run
  std::uint64_t xsave_bytes = 0;  // KVM_GET_XSAVE2
  bool has_sregs2 = false;
  std::vector<std::uint32_t> msrs;  // KVM_GET_MSR_INDEX_LIST
  // kLocalFault saying why /dev/kvm cannot be used.
  static Result<KvmSystem> open();
};

// struct kvm_msrs with one entry. The kernel's own declaration ends in a flexible array whose C++
// form begins 8 bytes late.
struct KvmOneMsr {
  std::uint32_t count = 1;
  std::uint32_t pad = 0;
  std::uint32_t index = 0;
  std::uint32_t reserved = 0;
  std::uint64_t data = 0;
};
static_assert(sizeof(KvmOneMsr) == 24);

// KVM_GET_SUPPORTED_CPUID, asked once for a VM: its answer depends on the CPU that asks.
Result<std::vector<kvm_cpuid_entry2>> supported_cpuid(const KvmSystem& system);

// An exit that nobody serves, in words.
std::string describe_exit(const KvmRun& run);

struct KvmEntry {
  unsigned cpl = 3;  // or 0
  std::uint64_t rip = 0;
  std::uint64_t rsp = 0;
  std::uint64_t rdi = 0;
  std::uint64_t cr3 = 0;
};

class KvmVcpu {
 public:
  // REQUIRES: `system` outlives the vCPU.
  static Result<std::unique_ptr<KvmVcpu>> make(const KvmSystem& system, const KvmHandle& vm,
                                               std::uint32_t index,
                                               std::span<const kvm_cpuid_entry2> cpuid);
  KvmVcpu(const KvmVcpu&) = delete;
  KvmVcpu& operator=(const KvmVcpu&) = delete;
  ~KvmVcpu();

  const KvmHandle& handle() const { return handle_; }
  KvmRun& run_area() { return *run_; }
  // 64-bit mode with paging.
  Result<void> enter_at(const KvmEntry& entry);
  // Real mode at segment:0 or 0:offset, as firmware leaves the processor to a boot sector.
  Result<void> enter_real_mode(std::uint16_t segment, std::uint16_t offset);
  // Blocks `signal` in the calling thread except inside KVM_RUN, where it ends the run: no handler
  // is needed.
  Result<void> use_kick_signal(int signal);

  Result<std::uint64_t> read_msr(std::uint32_t index) const;
  Result<void> write_msr(std::uint32_t index, std::uint64_t word);

  // KVM_RUN: 0 or errno. The exit, if 0, is in run_area().
  int run();
  void set_immediate_exit(bool on);  // any thread

  // What the notes say is for the operator; the state is whole without them.
  Result<std::vector<StateBlob>> save(StateNotes& notes) const;
  Result<StateNotes> load(const std::vector<StateBlob>& state);

 private:
  KvmVcpu(const KvmSystem& system, KvmHandle handle, KvmRun* run, std::uint32_t index)
      : system_(system), handle_(std::move(handle)), run_(run), index_(index) {}

  const KvmSystem& system_;
  KvmHandle handle_;
  KvmRun* run_;
  std::uint32_t const index_;
};

}  // namespace sealift
