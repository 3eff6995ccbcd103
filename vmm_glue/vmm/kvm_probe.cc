// Whether guests really run here, and which hypercall instruction reaches us: tried with a guest of
// a few instructions.
#include <fmt/core.h>
#include <linux/kvm.h>
#include <signal.h>

#include <array>
#include <chrono>
#include <cstring>
#include <future>
#include <span>
#include <thread>

#include "vmm_glue/abi/kvm_requests.h"
#include "vmm_glue/exits/hypercall_setup.h"
#include "vmm_glue/vmm/kvm_vm.h"

namespace sealift {
namespace {

// The page-table-based back-end answers this MSR with ASCII "PVM"; mainline KVMs do not know it or
// read 0.
constexpr std::uint32_t kPvmSignatureMsr = 0x4b564d11;
constexpr std::uint64_t kPvmSignature = 0x4d5650;

constexpr std::uint64_t kProbeBytes = 2ULL << 20;
constexpr std::uint64_t kCodeGpa = 0x1000, kTablesGpa = 0x2000, kDataGpa = 0x5000;
constexpr std::uint32_t kWord = 0x5ea11f7;

// mov eax, kWord; mov [kDataGpa], eax; mov rdi, kDoorbellGpa; mov rax, [rdi]; jmp $
constexpr std::array<std::uint8_t, 24> kProgram = {
    0xb8, 0xf7, 0x11, 0xea, 0x05,              // mov eax, 0x5ea11f7
    0x89, 0x04, 0x25, 0x00, 0x50, 0x00, 0x00,  // mov [0x5000], eax
    0xbf, 0x00, 0x10, 0x00, 0xd0,              // mov edi, 0xd0001000
    0x48, 0x8b, 0x07,                          // mov rax, [rdi]
    0xeb, 0xfe, 0x90, 0x90,                    // jmp $
};

void put(const GuestMemory& memory, std::uint64_t gpa, const void* bytes, std::size_t size) {
  std::memcpy(memory.at(page_of(Gpa{gpa})) + gpa % kPageBytes, bytes, size);
}

void write_probe(const GuestMemory& memory, std::span<const std::uint8_t> program) {
  const std::uint64_t pml4 = (kTablesGpa + 0x1000) | 0x27;
  put(memory, kTablesGpa, &pml4, 8);
  for (std::uint64_t gib = 0; gib < 4; ++gib) {
    const std::uint64_t large =
        gib << 30 | 0xe7;  // both page directories are one: only GiB 0 and GiB 3 are used
    const std::uint64_t table = (kTablesGpa + 0x2000) | 0x27;
    put(memory, kTablesGpa + 0x1000 + gib * 8, &table, 8);
    if (gib == 0) put(memory, kTablesGpa + 0x2000, &large, 8);
  }
  const std::uint64_t exits = guest::kExitsGpa | 0xe7;  // 0xd0000000 is entry 128 of its directory
  put(memory, kTablesGpa + 0x2000 + ((guest::kExitsGpa >> 21) & 511) * 8, &exits, 8);
  put(memory, kCodeGpa, program.data(), program.size());
}

bool is_pvm(const KvmVcpu& vcpu) {
  KvmOneMsr one;
  one.index = kPvmSignatureMsr;
  const auto got = vcpu.handle().call("KVM_GET_MSRS", kKvmGetMsrs, &one);
  return got && *got == 1 && one.data == kPvmSignature;
}

// A VM of one vCPU that is about to run `program`.
struct ProbeGuest {
  KvmHandle vm;
  GuestMemory memory;
  std::unique_ptr<KvmVcpu> vcpu;

  static Result<ProbeGuest> make(const KvmSystem& system, std::span<const kvm_cpuid_entry2> cpuid,
                                 std::span<const std::uint8_t> program, unsigned cpl) {
    SEALIFT_TRY(const int fd, SEALIFT_KVM(system.handle, KVM_CREATE_VM, 0UL));
    KvmHandle vm(fd);
    SEALIFT_TRY(const MemoryLayout layout, layout_of_guest(kProbeBytes));
    SEALIFT_TRY(GuestMemory memory, GuestMemory::make(layout, GuestMemory::Populate::kNow));
    write_probe(memory, program);
    kvm_userspace_memory_region region{};
    region.memory_size = kProbeBytes;
    region.userspace_addr = reinterpret_cast<std::uintptr_t>(memory.at(Gfn{0}));
    SEALIFT_TRY([[maybe_unused]] int set, SEALIFT_KVM(vm, KVM_SET_USER_MEMORY_REGION, &region));
    SEALIFT_TRY(auto vcpu, KvmVcpu::make(system, vm, 0, cpuid));
    KvmEntry entry;
    entry.cpl = cpl;
    entry.rip = kCodeGpa;
    entry.cr3 = kTablesGpa;
    SEALIFT_CHECK(vcpu->enter_at(entry));
    return ProbeGuest{std::move(vm), std::move(memory), std::move(vcpu)};
  }
};

// mov eax, 12; xor ebx, ebx; mov ecx, 1; mov edx, 0x10; xor esi, esi; vmcall or vmmcall; then as
// kProgram's end.
std::array<std::uint8_t, 32> hypercall_program(HypercallBy by) {
  const std::uint8_t last = by == HypercallBy::kVmmcall ? 0xd9 : 0xc1;
  return {0xb8, 0x0c, 0,    0, 0,    0x31, 0xdb, 0xb9, 0x01, 0,    0,
          0,    0xba, 0x10, 0, 0,    0,    0x31, 0xf6, 0x0f, 0x01, last,
          0xbf, 0,    0x10, 0, 0xd0, 0x48, 0x8b, 0x07, 0xeb, 0xfe};
}

HypercallBy instruction_of(std::span<const kvm_cpuid_entry2> cpuid) {
  constexpr std::uint32_t kAuth = 0x68747541, kHygo = 0x6f677948;  // AuthenticAMD, HygonGenuine
  for (const kvm_cpuid_entry2& leaf : cpuid) {
    if (leaf.function == 0 && (leaf.ebx == kAuth || leaf.ebx == kHygo))
      return HypercallBy::kVmmcall;
  }
  return HypercallBy::kVmcall;
}

// Runs in a thread of its own, which a kick can get out of a KVM that executes for ever.
Result<bool> gives_hypercall_exit(KvmVcpu& vcpu) {
  constexpr std::chrono::seconds kRunMax{5};
  std::promise<Result<bool>> promise;
  auto exits = promise.get_future();
  const int signal = SIGRTMIN + 3;
  std::jthread runner([&] {
    if (auto used = vcpu.use_kick_signal(signal); !used) {
      return promise.set_value(tl::unexpected(used.error()));
    }
    const int error = vcpu.run();
    promise.set_value(error == 0 && vcpu.run_area().exit_reason == kKvmExitHypercall);
  });
  if (exits.wait_for(kRunMax) == std::future_status::timeout) {
    vcpu.set_immediate_exit(true);
    pthread_kill(runner.native_handle(), signal);
  }
  return exits.get();
}

}  // namespace

Result<HypercallBy> probe_hypercall(const KvmSystem& system) {
  SEALIFT_TRY(const auto cpuid, supported_cpuid(system));
  const HypercallBy by = instruction_of(cpuid);
  const auto program = hypercall_program(by);
  SEALIFT_TRY(const ProbeGuest guest, ProbeGuest::make(system, cpuid, program, 0));
  // That back-end patches a VMCALL and executes it for ever; a kick would end the trial, but why
  // wait.
  if (is_pvm(*guest.vcpu)) return HypercallBy::kMmio;
  KernelIoctl kernel;
  if (!enable_page_state_exits(kernel, guest.vm.fd())) return HypercallBy::kMmio;
  SEALIFT_TRY(const bool works, gives_hypercall_exit(*guest.vcpu));
  return works ? by : HypercallBy::kMmio;
}

Result<std::string> probe_kvm() {
  SEALIFT_TRY(const KvmSystem system, KvmSystem::open());
  SEALIFT_TRY(const auto cpuid, supported_cpuid(system));
  SEALIFT_TRY(const ProbeGuest guest, ProbeGuest::make(system, cpuid, kProgram, 3));
  int error = guest.vcpu->run();
  for (int i = 0; error == EINTR && i < 1000; ++i)
    error = guest.vcpu->run();  // signals of the host program
  if (error != 0) {
    return fail(ErrorClass::kLocalFault,
                "a five-instruction guest does not run: KVM_RUN failed: {}",
                strerrorname_np(error));
  }
  const KvmRun& area = guest.vcpu->run_area();
  std::uint32_t word = 0;
  std::memcpy(&word, guest.memory.at(page_of(Gpa{kDataGpa})), sizeof word);
  if (area.exit_reason != kKvmExitMmio || area.exit.mmio.phys_addr != guest::kDoorbellGpa ||
      word != kWord) {
    return fail(ErrorClass::kLocalFault,
                "a five-instruction guest does not run: exit reason {}, stored word {:#x}",
                area.exit_reason, word);
  }
  return fmt::format(
      "KVM API {}, {}, {} bytes of xsave, {}", KVM_API_VERSION,
      is_pvm(*guest.vcpu) ? "page-table-based (PVM) back-end" : "hardware-assisted back-end",
      system.xsave_bytes, system.has_sregs2 ? "sregs2" : "sregs");
}

}  // namespace sealift
