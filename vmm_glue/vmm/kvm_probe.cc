// probe_kvm(): whether a guest really runs here, tried with five instructions at CPL3.
#include <fmt/core.h>
#include <linux/kvm.h>

#include <array>
#include <cstring>

#include "vmm_glue/abi/kvm_requests.h"
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

void write_probe(const GuestMemory& memory) {
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
  put(memory, kCodeGpa, kProgram.data(), kProgram.size());
}

std::string name_back_end(const KvmVcpu& vcpu) {
  KvmOneMsr one;
  one.index = kPvmSignatureMsr;
  const auto got = vcpu.handle().call("KVM_GET_MSRS", kKvmGetMsrs, &one);
  const bool is_pvm = got && *got == 1 && one.data == kPvmSignature;
  return is_pvm ? "page-table-based (PVM) back-end" : "hardware-assisted back-end";
}

}  // namespace

Result<std::string> probe_kvm() {
  SEALIFT_TRY(const KvmSystem system, KvmSystem::open());
  SEALIFT_TRY(const int fd, SEALIFT_KVM(system.handle, KVM_CREATE_VM, 0UL));
  const KvmHandle vm(fd);
  SEALIFT_TRY(const MemoryLayout layout, layout_of_guest(kProbeBytes));
  SEALIFT_TRY(const GuestMemory memory, GuestMemory::make(layout, GuestMemory::Populate::kNow));
  write_probe(memory);
  kvm_userspace_memory_region region{};
  region.memory_size = kProbeBytes;
  region.userspace_addr = reinterpret_cast<std::uintptr_t>(memory.at(Gfn{0}));
  SEALIFT_TRY([[maybe_unused]] int set, SEALIFT_KVM(vm, KVM_SET_USER_MEMORY_REGION, &region));
  SEALIFT_TRY(const auto vcpu, KvmVcpu::make(system, vm, 0));
  KvmEntry entry;
  entry.rip = kCodeGpa;
  entry.cr3 = kTablesGpa;
  SEALIFT_CHECK(vcpu->enter_at(entry));
  int error = vcpu->run();
  for (int i = 0; error == EINTR && i < 1000; ++i)
    error = vcpu->run();  // signals of the host program
  if (error != 0) {
    return fail(ErrorClass::kLocalFault,
                "a five-instruction guest does not run: KVM_RUN failed: {}",
                strerrorname_np(error));
  }
  const KvmRun& area = vcpu->run_area();
  std::uint32_t word = 0;
  std::memcpy(&word, memory.at(page_of(Gpa{kDataGpa})), sizeof word);
  if (area.exit_reason != kKvmExitMmio || area.exit.mmio.phys_addr != guest::kDoorbellGpa ||
      word != kWord) {
    return fail(ErrorClass::kLocalFault,
                "a five-instruction guest does not run: exit reason {}, stored word {:#x}",
                area.exit_reason, word);
  }
  return fmt::format("KVM API {}, {}, {} bytes of xsave, {}", KVM_API_VERSION, name_back_end(*vcpu),
                     system.xsave_bytes, system.has_sregs2 ? "sregs2" : "sregs");
}

}  // namespace sealift
