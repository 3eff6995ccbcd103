// VmConfig: what a test guest shall be. Plain values; make_vm() refuses with kUsage what cannot be.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "engine/result.h"
#include "engine/types.h"
#include "vmm_glue/dirty/dirty_backend.h"
#include "vmm_glue/exits/hypercall.h"
#include "vmm_glue/guest/mailbox.h"

namespace sealift {

enum class Backend : std::uint8_t { kModel = 1, kKvm = 2 };
const char* name_of(Backend backend);
Result<Backend> parse_backend(std::string_view name);

using guest::Workload;
const char* name_of(Workload workload);
Result<Workload> parse_workload(std::string_view name);

// What the guest runs.
enum class Program : std::uint8_t {
  kChecker = 1,     // ours (guest/): it writes, converts and checks its own memory
  kBootSector = 2,  // 512 bytes at 0:0x7c00 in real mode, as a BIOS starts a disk
  kFlatBinary = 3,  // a file at 0x1000:0 in real mode
};
const char* name_of(Program program);

// How the checker's vCPUs ask for page-state changes, and so at which privilege level they run.
enum class HypercallBy : std::uint8_t {
  kAuto = 0,     // by what a probe finds to work here
  kMmio = 1,     // CPL3: an MMIO read with VMCALL's registers; works on every KVM
  kVmcall = 2,   // CPL0, Intel
  kVmmcall = 3,  // CPL0, AMD
};
const char* name_of(HypercallBy by);
Result<HypercallBy> parse_hypercall_by(std::string_view name);

// What the checker writes to MSR_KVM_MIGRATION_CONTROL.
enum class ReadyWhen : std::uint8_t {
  kBooted = 0,     // 1 when it has booted, as Linux does
  kNever = 1,      // nothing
  kWithdrawn = 2,  // 1, then 0, as Linux does when a CPU goes offline
};
const char* name_of(ReadyWhen when);
Result<ReadyWhen> parse_ready_when(std::string_view name);

enum class MemoryBacking : std::uint8_t {
  kMemfd = 1,
  kHugePages = 2,  // memfd of 2 MiB pages from the host's reserve
};
const char* name_of(MemoryBacking backing);
Result<MemoryBacking> parse_memory_backing(std::string_view name);

struct VmConfig {
  Backend backend = Backend::kModel;
  Platform platform =
      Platform::kNone;  // kNone: all memory is shared and no hypercall is advertised
  std::uint64_t memory_bytes = 64ULL << 20;
  std::uint32_t vcpus = 1;
  Workload workload = Workload::kSweep;
  std::uint64_t seed = 1;
  std::uint32_t shared_percent = 5;       // of the arena, converted at boot
  std::uint32_t populated_percent = 100;  // of RAM the guest uses; the rest it never touches
  std::optional<std::uint32_t> flips_per_1000 = {};  // unset: default_flips_per_1000()
  std::uint32_t spin_per_step =
      0;                   // register-only work between two steps, to hold the rate of writes down
  std::string image_path;  // empty: none; a file whose bytes the guest keeps and never writes
  HypercallForm hypercall_form = HypercallForm::kMapGpaRange;  // ignored with Platform::kNone
  HypercallBy hypercall_by = HypercallBy::kAuto;
  ReadyWhen ready = ReadyWhen::kBooted;  // ignored with Platform::kNone
  Program program = Program::kChecker;
  std::string program_path = {};  // of a boot sector or flat binary
  MemoryBacking memory_backing = MemoryBacking::kMemfd;
  bool prefault = true;  // KVM guests: populate memory before the guest runs
  DirtyBackend dirty = DirtyBackend::kAuto;
  bool irqchip = false;          // in-kernel PIC, IOAPIC, LAPICs and PIT
  std::string serial_path = {};  // COM1's output: a file, "-" for stderr, empty: dropped
};

inline constexpr std::uint64_t kBootSectorGpa = 0x7c00;
inline constexpr std::uint64_t kFlatBinaryGpa = 0x10000;
inline constexpr std::uint64_t kHugePageBytes = 2ULL << 20;

std::uint64_t program_bytes_max(Program program);  // of its file; not of the checker
std::uint32_t default_flips_per_1000(Workload workload);
// The form that the guest really gets.
HypercallForm advertised_form(const VmConfig& config);
Result<void> check_config(const VmConfig& config);

}  // namespace sealift
