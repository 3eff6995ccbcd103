// KvmRun: the parts of the kernel's struct kvm_run that we read and write, spelled out by
// ourselves.
//
// Spec:    Linux uAPI, Documentation/virt/kvm/api.rst section 5 ("The kvm_run structure").
//          abi/kvm_run.cc compares every offset with the system's <linux/kvm.h>, so a header that
//          disagrees fails the build.
// Plain values: no ownership, no threads, no failure. The real structure is shared with the kernel;
// only the vCPU's own thread touches it, save for immediate_exit, which any thread may set.
#pragma once

#include <cstddef>
#include <cstdint>

namespace sealift {

// Values of KvmRun::exit_reason that we know by name.
inline constexpr std::uint32_t kKvmExitUnknown = 0;
inline constexpr std::uint32_t kKvmExitIo = 2;
inline constexpr std::uint32_t kKvmExitHypercall = 3;
inline constexpr std::uint32_t kKvmExitHlt = 5;
inline constexpr std::uint32_t kKvmExitMmio = 6;
inline constexpr std::uint32_t kKvmExitShutdown = 8;
inline constexpr std::uint32_t kKvmExitFailEntry = 9;
inline constexpr std::uint32_t kKvmExitIntr = 10;
inline constexpr std::uint32_t kKvmExitInternalError = 17;

// The guest's hypercall of page state; KVM_HC_PAGE_ENC_STATUS and KVM_HC_MAP_GPA_RANGE share the
// number.
inline constexpr std::uint64_t kKvmHypercallPageState = 12;

// What a guest finds in its result register: negated, as KVM's hypercall ABI has it.
inline constexpr std::uint64_t kKvmHypercallDone = 0;
inline constexpr std::uint64_t kKvmHypercallInvalid = ~std::uint64_t{22} + 1;    // -EINVAL
inline constexpr std::uint64_t kKvmHypercallUnknown = ~std::uint64_t{1000} + 1;  // -KVM_ENOSYS

struct KvmRun {
  struct Mmio {
    std::uint64_t phys_addr;
    std::uint8_t data[8];
    std::uint32_t len;
    std::uint8_t is_write;
  };
  struct Hypercall {
    std::uint64_t nr;
    std::uint64_t args[6];
    std::uint64_t ret;
    std::uint64_t flags;  // stale on SNP page-state changes: never read
  };
  struct Internal {
    std::uint32_t suberror;
    std::uint32_t ndata;
    std::uint64_t data[16];
  };
  struct FailEntry {
    std::uint64_t reason;
    std::uint32_t cpu;
  };
  union Exit {
    Mmio mmio;
    Hypercall hypercall;
    Internal internal;
    FailEntry fail_entry;
    std::uint8_t bytes[256];
  };

  std::uint8_t request_interrupt_window;
  std::uint8_t immediate_exit;
  std::uint8_t padding[6];
  std::uint32_t exit_reason;
  std::uint8_t ready_for_interrupt_injection;
  std::uint8_t if_flag;
  std::uint16_t flags;
  std::uint64_t cr8;
  std::uint64_t apic_base;
  Exit exit;
};

static_assert(sizeof(KvmRun) == 288, "the synchronised registers, which we do not use, follow");
static_assert(offsetof(KvmRun, immediate_exit) == 1);
static_assert(offsetof(KvmRun, exit_reason) == 8);
static_assert(offsetof(KvmRun, cr8) == 16);
static_assert(offsetof(KvmRun, exit) == 32);
static_assert(offsetof(KvmRun, exit.mmio.data) == 40);
static_assert(offsetof(KvmRun, exit.mmio.len) == 48);
static_assert(offsetof(KvmRun, exit.mmio.is_write) == 52);
static_assert(offsetof(KvmRun, exit.hypercall.nr) == 32);
static_assert(offsetof(KvmRun, exit.hypercall.args) == 40);
static_assert(offsetof(KvmRun, exit.hypercall.ret) == 88);
static_assert(offsetof(KvmRun, exit.hypercall.flags) == 96);

}  // namespace sealift
