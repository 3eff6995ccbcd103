// HelperMemory: the helper's own memory in the guest's VM, beside the guest's RAM: a plain slot and
// a secret one, where plan.h says.
//
// Owner:   the VM; outlives the KvmHelper. The slots stay until the VM's end.
// Threads: make() while no other thread changes slots of the VM; bytes as vmm_glue/host_copy.h.
// Failure: kLocalFault with the request and errno; kUsage for a guest too large.
// Invariants:
//   I1  Neither range is in the guest's RAM layout, so neither migrates.
//   I2  With SecretMemory::kGuestMemfd the host cannot read stack or data of the program. A plain
//       stand-in is for VMs that have no private memory, where the host reads the guest anyway.
#pragma once

#include "engine/memory_layout.h"
#include "engine/result.h"
#include "vmm_glue/inguest/plan.h"
#include "vmm_glue/vmm/kvm_handle.h"

namespace sealift::inguest {

enum class SecretMemory : std::uint8_t { kPlain, kGuestMemfd };

class HelperMemory {
 public:
  // Takes slots `first_slot` and `first_slot` + 1.
  static Result<HelperMemory> make(const KvmHandle& vm, const MemoryLayout& ram,
                                   std::uint32_t first_slot, SecretMemory secret);
  HelperMemory(HelperMemory&& other) noexcept;
  HelperMemory& operator=(HelperMemory&&) = delete;
  ~HelperMemory();

  const HelperPlan& plan() const { return plan_; }
  MutableBytes plain() const { return {base_, plan_.plain.pages * kPageBytes}; }
  // Code and tables as they were made.
  void write_program() const { inguest::write_program(plan_, ram_, plain()); }

 private:
  HelperMemory(const HelperPlan& plan, MemoryLayout ram) : plan_(plan), ram_(std::move(ram)) {}
  std::size_t mapped_bytes() const { return (plan_.plain.pages + plan_.secret.pages) * kPageBytes; }
  Result<void> map();
  Result<void> add_slots(const KvmHandle& vm, std::uint32_t first_slot, SecretMemory secret);

  const HelperPlan plan_;
  const MemoryLayout ram_;
  std::byte* base_ = nullptr;  // plain, then what stands for (or beside) secret
  KvmHandle guest_memfd_;
};

}  // namespace sealift::inguest
