// PrivateVm: a VM of type KVM_X86_SW_PROTECTED_VM on a real kernel: guest_memfd, memory attributes
// and memory-fault exits are the kernel's own, and the host cannot read the guest's private pages.
//
// One vCPU in long mode runs short programs. Guest physical memory:
//   0         2 MiB, plain: programs, page tables, a bounce page
//   kRam      8 MiB with a guest_memfd, private at first
//   kPlain    1 MiB without one
//   kNothing  RAM for the decoders, but without a slot: a test may add one
//
// Spec:    Linux Documentation/virt/kvm/api.rst (KVM_CAP_VM_TYPES). KVM reads instructions that it
//          decodes through the slot's userspace address, so programs lie in plain memory.
// Owner:   the test. Threads: one, but for converter(), which any may use.
// Failure: make() says what this kernel lacks; later failures fail the test.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "engine/dirty_set.h"
#include "engine/memory_layout.h"
#include "engine/page_map.h"
#include "vmm_glue/exits/gmem_converter.h"
#include "vmm_glue/exits/memory_fault.h"
#include "vmm_glue/vmm/kvm_vcpu.h"

namespace sealift::test {

inline constexpr Gfn kBounce{0x100};
inline constexpr GfnRange kRam{Gfn{16 << 8}, 8 << 8};
inline constexpr GfnRange kPlain{Gfn{32 << 8}, 1 << 8};
inline constexpr GfnRange kNothing{Gfn{48 << 8}, 2 << 8};

// Anonymous memory that its holder shares with nobody; unmapped at the end.
class Mapping {
 public:
  explicit Mapping(std::uint64_t pages);
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  ~Mapping();
  std::byte* page(std::uint64_t index) const { return base_ + index * kPageBytes; }
  std::uint64_t word(std::uint64_t index) const;  // the first of a page
  void unmap(std::uint64_t index);                // one page

 private:
  std::byte* base_;
  std::uint64_t bytes_;
};

// The guest's programs. Each ends with a write to port kDonePort; arguments are registers.
enum class Program : std::uint8_t {
  kFill,       // writes rax, rax + 1, … to the first word of each of rcx pages from rdi on
  kRead,       // rax = the word at rdi
  kCopy,       // rcx bytes from rsi to rdi
  kHypercall,  // VMMCALL with rax, rbx, rcx, rdx; r8 = its answer, then r9 = word at rdi,
               // which becomes r10
  kCount,      // adds to the word at rdi until the word at rsi is not 0
};
inline constexpr std::uint16_t kDonePort = 0x10;

class PrivateVm {
 public:
  static Result<std::unique_ptr<PrivateVm>> make();
  ~PrivateVm();

  // Loads a program and its arguments; run() then runs it.
  void load(Program program, const kvm_regs& arguments);
  int run();       // KVM_RUN: 0 or errno
  bool is_done();  // the last exit was the end of the program
  kvm_regs registers() const;

  // Whole programs, that must end without another exit.
  void fill(Gfn first, std::uint64_t pages, std::uint64_t word);
  std::uint64_t read(Gfn gfn);
  void copy(Gfn to, Gfn from);

  Result<void> add_slot(std::uint32_t slot, GfnRange range, std::byte* host, int guest_memfd);
  Result<void> remove_slot(std::uint32_t slot, GfnRange range);
  Result<void> set_attributes(GfnRange range, PageClass cls);  // behind the converter's back

  const KvmHandle& handle() const { return vm_; }
  KvmVcpu& vcpu() { return *vcpu_; }
  KvmRun& exit() { return vcpu_->run_area(); }
  HostIoctl& io() { return io_; }
  const MemoryLayout& layout() const { return layout_; }
  PageMap& map() { return map_; }
  DirtySet& dirty() { return dirty_; }
  GmemConverter& converter() { return *converter_; }
  MemoryFaultHandler fault_handler() {
    return MemoryFaultHandler({}, {}, layout_, map_, *converter_);
  }
  int ram_fd() const { return ram_fd_.fd(); }
  Mapping& low() { return low_; }
  Mapping& ram_shared() { return ram_shared_; }  // the shared side of kRam
  Mapping& plain() { return plain_; }

 private:
  PrivateVm(KvmSystem system, KvmHandle vm, MemoryLayout layout);
  Result<void> set_up();
  void write_page_tables();

  KernelIoctl io_;
  KernelDiscard discard_;
  KvmSystem system_;
  KvmHandle vm_;
  KvmHandle ram_fd_;
  MemoryLayout layout_;
  PageMap map_;
  DirtySet dirty_;
  Mapping low_, ram_shared_, plain_;
  std::unique_ptr<GmemConverter> converter_;
  std::unique_ptr<KvmVcpu> vcpu_;
};

}  // namespace sealift::test
