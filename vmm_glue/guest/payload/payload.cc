// The KVM guest's program: a flat binary that runs in long mode, at CPL3 or, with real hypercalls, at
// CPL0, without exceptions, interrupts or a kernel.
//
// The VMM enters at start() with rdi = vCPU number and rsp = the top of the vCPU's stack; all vCPUs
// share the code. Compiled with -mgeneral-regs-only, -ffixed-r14 and -ffixed-r15: the compiler
// touches none of the registers in which the workload keeps its position, so a migration that loses
// one of them, XMM included, is found by the next check.
#include "vmm_glue/guest/workload.h"

namespace {

using namespace sealift::guest;  // the one consumer of this file is the linker

// One exit: an MMIO read whose arguments are in registers. `nr` goes in and the value read comes
// out by rax.
inline u64 exit_to_vmm(u64 address, u64 nr, u64 rbx, u64 rcx, u64 rdx) {
  asm volatile("mov (%%rdi), %%rax"
               : "+a"(nr)
               : "D"(address), "b"(rbx), "c"(rcx), "d"(rdx)
               : "memory");
  return nr;
}

// Register by register, because an asm statement needs the name as text.
#define SEALIFT_GUEST_REGISTER(number, move, name) \
  if (which == static_cast<Reg>(number)) asm volatile(move " %%" name ", %0" : "=r"(word))
#define SEALIFT_SET_GUEST_REGISTER(number, move, name) \
  if (which == static_cast<Reg>(number)) asm volatile(move " %0, %%" name : : "r"(word))

struct KvmMachine {
  u64 load(u64 gpa, bool) { return *word_at(gpa); }
  void store(u64 gpa, u64 word, bool) { *word_at(gpa) = word; }

  template <class Make>
  void store_page(u64 gpa, bool, Make make) {
    for (u64 i = 0; i < kWordsPerPage; ++i) word_at(gpa)[i] = make(i);
  }
  template <class Visit>
  void visit_page(u64 gpa, bool, Visit visit) {
    for (u64 i = 0; i < kWordsPerPage; ++i) visit(i, word_at(gpa)[i]);
  }

  i64 map_gpa_range(u64 gpa, u64 npages, bool encrypted) {
    const u64 word = page_state_argument(global(offsetof(Mailbox, hypercall_form)), encrypted);
    u64 result = kPageStateHypercall;
    switch (global(offsetof(Mailbox, hypercall_by))) {
      case kByVmcall:
        asm volatile("vmcall" : "+a"(result) : "b"(gpa), "c"(npages), "d"(word), "S"(0) : "memory");
        break;
      case kByVmmcall:
        asm volatile("vmmcall" : "+a"(result) : "b"(gpa), "c"(npages), "d"(word), "S"(0) : "memory");
        break;
      default:
        result = exit_to_vmm(kHypercallGpa, kPageStateHypercall, gpa, npages, word);
        break;
    }
    return static_cast<i64>(result);
  }
  static constexpr bool kHasMsrs = true;
  u64 read_msr(std::uint32_t index) {
    if (global(offsetof(Mailbox, hypercall_by)) == kByMmio) {
      return exit_to_vmm(kReadMsrGpa, 0, index, 0, 0);
    }
    u64 low = 0;
    u64 high = 0;
    asm volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(index));
    return high << 32 | low;
  }
  void write_msr(std::uint32_t index, u64 value) {
    if (global(offsetof(Mailbox, hypercall_by)) == kByMmio) {
      exit_to_vmm(kWriteMsrGpa, 0, index, value, 0);
    } else {
      asm volatile("wrmsr" : : "c"(index), "a"(value), "d"(value >> 32) : "memory");
    }
  }
  void doorbell(Doorbell bell) { exit_to_vmm(kDoorbellGpa, 0, static_cast<u64>(bell), 0, 0); }

  [[gnu::always_inline]] inline u64 reg(Reg which) {
    u64 word = 0;
    SEALIFT_GUEST_REGISTER(0, "mov", "r14");
    SEALIFT_GUEST_REGISTER(1, "mov", "r15");
    SEALIFT_GUEST_REGISTER(2, "movq", "xmm0");
    SEALIFT_GUEST_REGISTER(3, "movq", "xmm3");
    SEALIFT_GUEST_REGISTER(4, "movq", "xmm6");
    SEALIFT_GUEST_REGISTER(5, "movq", "xmm9");
    SEALIFT_GUEST_REGISTER(6, "movq", "xmm12");
    SEALIFT_GUEST_REGISTER(7, "movq", "xmm15");
    return word;
  }
  [[gnu::always_inline]] inline void set_reg(Reg which, u64 word) {
    SEALIFT_SET_GUEST_REGISTER(0, "mov", "r14");
    SEALIFT_SET_GUEST_REGISTER(1, "mov", "r15");
    SEALIFT_SET_GUEST_REGISTER(2, "movq", "xmm0");
    SEALIFT_SET_GUEST_REGISTER(3, "movq", "xmm3");
    SEALIFT_SET_GUEST_REGISTER(4, "movq", "xmm6");
    SEALIFT_SET_GUEST_REGISTER(5, "movq", "xmm9");
    SEALIFT_SET_GUEST_REGISTER(6, "movq", "xmm12");
    SEALIFT_SET_GUEST_REGISTER(7, "movq", "xmm15");
  }

 private:
  u64 global(u64 offset) { return load(kMailboxGfn * kPageSize + offset, false); }
  static volatile u64* word_at(u64 gpa) { return reinterpret_cast<volatile u64*>(gpa); }
};

}  // namespace

extern "C" [[noreturn, gnu::section(".text.start")]] void start(u64 vcpu) {
  KvmMachine machine;
  WorkloadVcpu<KvmMachine> program(machine, vcpu);
  for (;;) program.advance();
}
