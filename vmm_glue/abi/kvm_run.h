// KvmRun: the parts of the kernel's struct kvm_run that we read and write, spelled out by
// ourselves.
//
// Spec:    Linux uAPI, Documentation/virt/kvm/api.rst section 5 ("The kvm_run structure").
//          abi/kvm_run.cc compares every offset with the system's <linux/kvm.h>, so a header that
//          disagrees fails the build. Members that an older header lacks are checked against the
//          offsets measured on Linux 7.3's header, written below.
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
inline constexpr std::uint32_t kKvmExitSystemEvent = 24;
inline constexpr std::uint32_t kKvmExitRdmsr = 29;
inline constexpr std::uint32_t kKvmExitWrmsr = 30;
inline constexpr std::uint32_t kKvmExitDirtyRingFull = 31;
inline constexpr std::uint32_t kKvmExitApResetHold = 32;
inline constexpr std::uint32_t kKvmExitMemoryFault = 39;
inline constexpr std::uint32_t kKvmExitTdx = 40;
inline constexpr std::uint32_t kKvmExitSnpReqCerts = 43;

// Numbers that patches used before the kernel took others. A VMM that runs on such a kernel says so
// (exits/exit_abi.h); they are never recognised by value, because 38 and 50 may mean anything else.
inline constexpr std::uint32_t kPostedExitMemoryFault = 38;  // RFC v11, July 2023
inline constexpr std::uint32_t kPostedExitVmgexit = 50;      // v10, October 2023; never upstream

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
  struct Io {
    std::uint8_t direction;  // 0: in, 1: out
    std::uint8_t size;
    std::uint16_t port;
    std::uint32_t count;
    std::uint64_t data_offset;  // from the start of this structure
  };
  struct Msr {
    std::uint8_t error;
    std::uint8_t pad[7];
    std::uint32_t reason;
    std::uint32_t index;
    std::uint64_t data;
  };
  struct SystemEvent {
    std::uint32_t type;
    std::uint32_t ndata;
    std::uint64_t data[16];  // data[0] was called flags
  };
  struct MemoryFault {
    std::uint64_t flags;
    std::uint64_t gpa;
    std::uint64_t size;
  };
  struct Tdx {
    std::uint64_t flags;
    std::uint64_t nr;
    union {
      struct {
        std::uint64_t ret;
        std::uint64_t data[5];
      } unknown;
      struct {
        std::uint64_t ret;
        std::uint64_t gpa;
        std::uint64_t size;
      } get_quote;
      struct {
        std::uint64_t ret;
        std::uint64_t leaf;
        std::uint64_t r11, r12, r13, r14;
      } get_tdvmcall_info;
      struct {
        std::uint64_t ret;
        std::uint64_t vector;
      } setup_event_notify;
    };
  };
  struct SnpReqCerts {
    std::uint64_t gpa;
    std::uint64_t npages;
    std::uint64_t ret;
  };
  struct PostedVmgexit {  // kPostedExitVmgexit
    std::uint64_t ghcb_msr;
    std::uint64_t ret;
  };
  union Exit {
    Mmio mmio;
    Hypercall hypercall;
    Io io;
    Msr msr;
    SystemEvent system_event;
    MemoryFault memory_fault;
    Tdx tdx;
    SnpReqCerts snp_req_certs;
    PostedVmgexit posted_vmgexit;
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
static_assert(offsetof(KvmRun, exit.io.port) == 34 && offsetof(KvmRun, exit.io.count) == 36);
static_assert(offsetof(KvmRun, exit.io.data_offset) == 40);
static_assert(offsetof(KvmRun, exit.msr.reason) == 40 && offsetof(KvmRun, exit.msr.index) == 44);
static_assert(offsetof(KvmRun, exit.msr.data) == 48);
static_assert(offsetof(KvmRun, exit.system_event.ndata) == 36);
static_assert(offsetof(KvmRun, exit.system_event.data) == 40);
static_assert(offsetof(KvmRun, exit.memory_fault.flags) == 32);
static_assert(offsetof(KvmRun, exit.memory_fault.gpa) == 40);
static_assert(offsetof(KvmRun, exit.memory_fault.size) == 48);
static_assert(offsetof(KvmRun, exit.tdx.nr) == 40);
static_assert(offsetof(KvmRun, exit.tdx.unknown.ret) == 48);
static_assert(offsetof(KvmRun, exit.tdx.get_quote.size) == 64);
static_assert(offsetof(KvmRun, exit.tdx.get_tdvmcall_info.r14) == 88);
static_assert(offsetof(KvmRun, exit.tdx.setup_event_notify.vector) == 56);
static_assert(offsetof(KvmRun, exit.snp_req_certs.ret) == 48);
static_assert(offsetof(KvmRun, exit.posted_vmgexit.ret) == 40);

}  // namespace sealift
