// KvmPrivateHalf: what a VM of type KVM_X86_SW_PROTECTED_VM has beside the memory that its host can
// read: guest_memfd slots, the attributes that choose a side, and a helper vCPU through which
// private pages leave and arrive.
//
// Code and page tables of the guest stay shared: KVM's emulator reads instructions through the
// shared side only.
//
// Spec:    Linux api.rst (KVM_CREATE_GUEST_MEMFD, KVM_SET_USER_MEMORY_REGION2,
//          KVM_SET_MEMORY_ATTRIBUTES); vmm_glue/inguest for the helper.
// Owner:   KvmVm; what make() is given outlives it.
// Threads: converter() from any; the rest from the control thread.
// Failure: kLocalFault with the request and errno.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/memory_layout.h"
#include "engine/result.h"
#include "vmm_glue/dirty/kvm_slot.h"
#include "vmm_glue/exits/gmem_converter.h"
#include "vmm_glue/inguest/helper_memory.h"
#include "vmm_glue/inguest/kvm_helper.h"
#include "vmm_glue/vmm/kvm_vcpu.h"

namespace sealift {

inline constexpr unsigned long kKvmVmTypeSwProtected = 1;

class KvmPrivateHalf {
 public:
  // kRefused, in words, where the kernel offers no such VM.
  static Result<void> can_use(const KvmSystem& system);

  // Creates `slots` with a guest_memfd each, all private.
  static Result<std::unique_ptr<KvmPrivateHalf>> make(const KvmHandle& vm,
                                                      const std::vector<KvmSlot>& slots,
                                                      PageMap& map, DirtySet& dirty);
  KvmPrivateHalf(const KvmPrivateHalf&) = delete;
  KvmPrivateHalf& operator=(const KvmPrivateHalf&) = delete;

  Converter& converter() { return *converter_; }
  // The whole page map to KVM.
  Result<void> apply_map() { return converter_->apply_map(); }
  std::string last_error() const { return converter_->counters().last_error; }

  // The helper's vCPU is number `index`, which the guest never runs on.
  Result<void> make_helper(const KvmSystem& system, const KvmHandle& vm, const MemoryLayout& layout,
                           std::uint32_t index, std::span<const kvm_cpuid_entry2> cpuid);
  inguest::HelperVcpu& helper() { return *helper_; }

 private:
  KvmPrivateHalf() = default;

  KernelIoctl kernel_;
  KernelDiscard discard_;
  std::vector<KvmHandle> guest_memfds_;
  std::unique_ptr<GmemConverter> converter_;
  std::optional<inguest::HelperMemory> helper_memory_;
  std::unique_ptr<KvmVcpu> helper_vcpu_;
  std::optional<inguest::KvmHelper> helper_;
};

}  // namespace sealift
