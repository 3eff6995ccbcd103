// The contract between the VMM and its test guest: where things are in guest memory and what the
// mailbox page holds.
//
// Spec:    this header; freestanding, because the payload of a KVM guest includes it.
// Owner:   guest memory.
// Threads: each word has one writer, named below; words are read and written whole.
// Failure: none here. The mailbox is shared memory that a guest or a peer may have filled: whoever
//          reads it takes every word for hostile.
// Invariants:
//   I1  All words are little-endian u64 and 8-byte aligned.
//   I2  A report (steps, errors, …) is complete before verify_done or boot_done says so.
#pragma once

#include <cstdint>

namespace sealift::guest {

using u64 = std::uint64_t;

inline constexpr u64 kPageSize = 4096;
inline constexpr u64 kWordsPerPage = kPageSize / 8;
inline constexpr u64 kVcpusMax = 8;

// Guest physical memory, in pages. Page 0 stays unused, so that a null pointer is never data.
//   1           mailbox, shared once the guest is created
//   2..33       code of the KVM payload
//   34..        page tables of the KVM payload: PML4, PDPT, one PD for each GiB
//   then        per vCPU: one control page, two stack pages
//   then        per vCPU: table of its arena pages, kTableEntryBytes each
//   then        the arenas, one slice for each vCPU, to the end of RAM
// RAM above 3 GiB continues at 4 GiB: the gap holds the exits' addresses. "Linear" page numbers
// skip the gap.
inline constexpr u64 kMailboxGfn = 1;
inline constexpr u64 kCodeGfn = 2;
inline constexpr u64 kCodePages = 32;
inline constexpr u64 kPageTablesGfn = kCodeGfn + kCodePages;
inline constexpr u64 kGapFirstGfn = 3ULL << 18;
inline constexpr u64 kGapEndGfn = 4ULL << 18;

constexpr u64 gfn_of_linear(u64 linear) {
  return linear < kGapFirstGfn ? linear : linear + (kGapEndGfn - kGapFirstGfn);
}

// Exits of the KVM payload: an 8-byte MMIO read with its arguments in registers, which works at
// every privilege level on every KVM. kHypercallGpa: rax = number, rbx, rcx, rdx = arguments, the
// value read = result, exactly the registers of VMCALL. kDoorbellGpa: rbx = Doorbell, the value
// read is 0.
inline constexpr u64 kExitsGpa = 0xd0000000;
inline constexpr u64 kHypercallGpa = kExitsGpa;
inline constexpr u64 kDoorbellGpa = kExitsGpa + 0x1000;
// Write of a model-specific register at CPL3: rbx = index, rcx = value; the value read is 0 or, where
// WRMSR would raise #GP, 1.
inline constexpr u64 kWriteMsrGpa = kExitsGpa + 0x2000;

// Read of a model-specific register at CPL3: rbx = index.
inline constexpr u64 kReadMsrGpa = kExitsGpa + 0x3000;

// A register that nothing here uses: the VMM puts a value of vCPU and seed there at boot, and the
// guest looks for it at every check.
inline constexpr std::uint32_t kCheckedMsr = 0xc0000102;  // KERNEL_GS_BASE

enum class Doorbell : u64 { kYield = 0, kBooted = 1, kVerified = 2 };

enum class Workload : u64 {
  kIdle = 1,       // counts in registers; memory stays as it is unless conversions are asked for
  kSweep = 2,      // writes page after page
  kHotset = 3,     // 95 % of the writes go to 5 % of the pages
  kRandom = 4,     // writes pages at random
  kFlipstorm = 5,  // converts ranges of 1 to 16 pages all the time, and writes
};

// Which form of the page-state hypercall the guest may use; the values of HypercallForm
// (vmm_glue/exits/hypercall.h).
inline constexpr u64 kFormNone = 0;  // never converts, all memory is shared
inline constexpr u64 kFormPageEncStatus = 1;
inline constexpr u64 kFormMapGpaRange = 2;

// How the guest asks (HypercallBy, vmm_glue/vmm/vm_config.h). kByMmio runs at CPL3, the others at CPL0.
inline constexpr u64 kByMmio = 1;
inline constexpr u64 kByVmcall = 2;
inline constexpr u64 kByVmmcall = 3;

// What vCPU 0 tells MSR_KVM_MIGRATION_CONTROL at the end of its boot (ReadyWhen).
inline constexpr u64 kReadyWhenBooted = 0;
inline constexpr u64 kReadyNever = 1;
inline constexpr u64 kReadyWithdrawn = 2;
inline constexpr std::uint32_t kMigrationControlMsr = 0x4b564d08;

// The hypercall's number and third argument in each form.
inline constexpr u64 kPageStateHypercall = 12;
constexpr u64 page_state_argument(u64 form, bool encrypted) {
  return form == kFormMapGpaRange ? (encrypted ? 0x10 : 0) : (encrypted ? 1 : 0);
}

struct VcpuMailbox {
  // Written by the VMM.
  u64 arena_first;  // linear page
  u64 arena_pages;  // the last image_pages of them hold a part of the image and are only read
  u64 image_pages;
  u64 table_gpa;
  u64 control_gpa;
  u64 verify_request;  // a new value asks for one full check
  u64 to_guest_spare[10];
  // Written by the guest.
  u64 boot_done;    // 1 when every arena page is filled
  u64 steps;        // now and then; exact after a check
  u64 verify_done;  // the request whose report is below
  u64 errors;
  u64 first_bad_gfn;  // kNoGfn: none
  u64 pages_checked;
  u64 conversions;
  u64 refused;        // conversions that the VMM refused: the class of the pages stayed as it was
  u64 disagreements;  // steps that found registers and control page apart: memory of another moment
  u64 to_vmm_spare[7];
};
static_assert(sizeof(VcpuMailbox) == 256);

struct Mailbox {
  u64 magic;
  u64 vcpus;
  u64 workload;
  u64 seed;
  u64 shared_percent;
  u64 flips_per_1000;
  u64 hypercall_form;
  u64 spin_per_step;  // register-only work between two steps: sets the rate of writes
  u64 hypercall_by;
  u64 ready_when;
  u64 spare[22];
  VcpuMailbox vcpu[kVcpusMax];
};
static_assert(sizeof(Mailbox) <= kPageSize);

inline constexpr u64 kMailboxMagic = 0x314c5453'464c4145;  // "EALFSTL1"
inline constexpr u64 kNoGfn = ~u64{0};
inline constexpr u64 kSpinMax = 1u << 16;  // an upper bound that keeps a step short

// The arena table, in guest-private memory: one entry for each arena page of the vCPU.
struct TableEntry {
  std::uint32_t version;  // of the last write
  std::uint32_t fill;     // version at which the whole page was written last
  u64 extra;  // bit 0: the page is shared (the guest's own C-bit, inverted); image pages: hash of
              // the page
};
inline constexpr u64 kTableEntryBytes = sizeof(TableEntry);
static_assert(kTableEntryBytes == 16);
inline constexpr u64 kEntryShared = 1;

// The control page, in guest-private memory: what the registers must agree with.
inline constexpr u64 kControlStep = 0;
inline constexpr u64 kControlRng = 8;

}  // namespace sealift::guest
