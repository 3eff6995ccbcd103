#include "vmm_glue/vmm/kvm_vcpu.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>

#include "vmm_glue/abi/kvm_requests.h"

namespace sealift {
namespace {

constexpr std::uint32_t kCpuidEntriesMax = 256;
constexpr std::uint32_t kMsrsMax = 1024;

Result<std::vector<std::uint32_t>> list_msrs(const KvmHandle& kvm) {
  std::vector<std::uint32_t> words(1 + kMsrsMax);
  words[0] = kMsrsMax;  // struct kvm_msr_list: the count, then the indices
  SEALIFT_TRY([[maybe_unused]] int done,
              kvm.call("KVM_GET_MSR_INDEX_LIST", kKvmGetMsrIndexList, words.data()));
  return std::vector<std::uint32_t>(words.begin() + 1, words.begin() + 1 + words[0]);
}

// Each vCPU is the APIC of its number; everything else is as the host says.
Result<void> set_cpuid(const KvmHandle& vcpu, std::span<const kvm_cpuid_entry2> entries,
                       std::uint32_t index) {
  constexpr std::uint32_t kTopologyLeaf = 0xb, kExtendedTopologyLeaf = 0x1f;
  std::vector<std::byte> bytes(kKvmCpuidHeadBytes + entries.size() * sizeof(kvm_cpuid_entry2));
  auto* cpuid = reinterpret_cast<kvm_cpuid2*>(bytes.data());
  cpuid->nent = static_cast<std::uint32_t>(entries.size());
  auto* out = reinterpret_cast<kvm_cpuid_entry2*>(bytes.data() + kKvmCpuidHeadBytes);
  std::copy(entries.begin(), entries.end(), out);
  for (std::size_t i = 0; i < entries.size(); ++i) {
    if (out[i].function == 1) out[i].ebx = (out[i].ebx & 0x00ffffff) | index << 24;
    if (out[i].function == kTopologyLeaf || out[i].function == kExtendedTopologyLeaf) {
      out[i].edx = index;
    }
  }
  SEALIFT_TRY([[maybe_unused]] int set, vcpu.call("KVM_SET_CPUID2", kKvmSetCpuid2, cpuid));
  return {};
}

kvm_segment long_mode_segment(unsigned cpl, bool code) {
  kvm_segment seg{};
  seg.limit = 0xffffffff;
  seg.selector = static_cast<std::uint16_t>((code ? 0x30u : 0x28u) | cpl);
  seg.type = code ? 11 : 3;
  seg.present = 1;
  seg.dpl = static_cast<std::uint8_t>(cpl);
  seg.db = code ? 0 : 1;
  seg.s = 1;
  seg.l = code ? 1 : 0;
  seg.g = 1;
  return seg;
}

kvm_segment real_mode_segment(std::uint16_t selector, bool code) {
  kvm_segment seg{};
  seg.base = std::uint64_t{selector} << 4;
  seg.limit = 0xffff;
  seg.selector = selector;
  seg.type = code ? 11 : 3;
  seg.present = 1;
  seg.s = 1;
  return seg;
}

}  // namespace

std::string describe_exit(const KvmRun& run) {
  switch (run.exit_reason) {
    case kKvmExitShutdown:
      return "triple fault (KVM_EXIT_SHUTDOWN)";
    case kKvmExitHlt:
      return "HLT (KVM_EXIT_HLT)";
    case kKvmExitIo:
      return "port I/O (KVM_EXIT_IO)";
    case kKvmExitMmio:
      return fmt::format("MMIO {} of {} bytes at gpa {:#x}",
                         run.exit.mmio.is_write != 0 ? "write" : "read", run.exit.mmio.len,
                         run.exit.mmio.phys_addr);
    case kKvmExitFailEntry:
      return fmt::format("failed entry, hardware reason {:#x}", run.exit.fail_entry.reason);
    case kKvmExitInternalError:
      return fmt::format("KVM internal error, suberror {}", run.exit.internal.suberror);
    default:
      return fmt::format("exit reason {}", run.exit_reason);
  }
}

Result<KvmSystem> KvmSystem::open() {
  KvmSystem system;
  const int fd = ::open("/dev/kvm", O_RDWR | O_CLOEXEC);
  if (fd < 0) {
    return fail(ErrorClass::kLocalFault, "/dev/kvm cannot be opened: {}", strerrorname_np(errno));
  }
  system.handle = KvmHandle(fd);
  SEALIFT_TRY(const int version, system.handle.call("KVM_GET_API_VERSION", KVM_GET_API_VERSION));
  if (version != KVM_API_VERSION) {
    return fail(ErrorClass::kLocalFault, "/dev/kvm has API version {} instead of {}", version,
                KVM_API_VERSION);
  }
  SEALIFT_TRY(const int run_bytes,
              system.handle.call("KVM_GET_VCPU_MMAP_SIZE", KVM_GET_VCPU_MMAP_SIZE));
  system.run_bytes = static_cast<std::uint64_t>(run_bytes);
  SEALIFT_TRY(const int immediate,
              SEALIFT_KVM(system.handle, KVM_CHECK_EXTENSION, KVM_CAP_IMMEDIATE_EXIT));
  if (immediate == 0) return fail(ErrorClass::kLocalFault, "KVM has no KVM_CAP_IMMEDIATE_EXIT");
  SEALIFT_TRY(const int xsave, SEALIFT_KVM(system.handle, KVM_CHECK_EXTENSION, KVM_CAP_XSAVE2));
  if (xsave < kKvmXsaveBytesMin) {
    return fail(ErrorClass::kLocalFault, "KVM_CAP_XSAVE2 is {}, less than {}", xsave,
                kKvmXsaveBytesMin);
  }
  system.xsave_bytes = static_cast<std::uint64_t>(xsave);
  SEALIFT_TRY(const int sregs2, SEALIFT_KVM(system.handle, KVM_CHECK_EXTENSION, KVM_CAP_SREGS2));
  system.has_sregs2 = sregs2 != 0;
  SEALIFT_TRY(system.msrs, list_msrs(system.handle));
  return system;
}

Result<std::vector<kvm_cpuid_entry2>> supported_cpuid(const KvmSystem& system) {
  std::vector<std::byte> bytes(kKvmCpuidHeadBytes + kCpuidEntriesMax * sizeof(kvm_cpuid_entry2));
  auto* cpuid = reinterpret_cast<kvm_cpuid2*>(bytes.data());
  cpuid->nent = kCpuidEntriesMax;
  SEALIFT_TRY([[maybe_unused]] int got,
              system.handle.call("KVM_GET_SUPPORTED_CPUID", kKvmGetSupportedCpuid, cpuid));
  const auto* entries =
      reinterpret_cast<const kvm_cpuid_entry2*>(bytes.data() + kKvmCpuidHeadBytes);
  return std::vector<kvm_cpuid_entry2>(entries, entries + cpuid->nent);
}

Result<std::unique_ptr<KvmVcpu>> KvmVcpu::make(const KvmSystem& system, const KvmHandle& vm,
                                               std::uint32_t index,
                                               std::span<const kvm_cpuid_entry2> cpuid) {
  SEALIFT_TRY(const int fd, SEALIFT_KVM(vm, KVM_CREATE_VCPU, static_cast<unsigned long>(index)));
  KvmHandle handle(fd);
  SEALIFT_CHECK(set_cpuid(handle, cpuid, index));
  void* area = mmap(nullptr, system.run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (area == MAP_FAILED) {
    return fail(ErrorClass::kLocalFault, "mmap of struct kvm_run of vCPU {} failed: {}", index,
                strerrorname_np(errno));
  }
  return std::unique_ptr<KvmVcpu>(
      new KvmVcpu(system, std::move(handle), static_cast<KvmRun*>(area), index));
}

KvmVcpu::~KvmVcpu() { munmap(run_, system_.run_bytes); }

Result<void> KvmVcpu::enter_at(const KvmEntry& entry) {
  kvm_sregs sregs{};
  SEALIFT_TRY([[maybe_unused]] int got, SEALIFT_KVM(handle_, KVM_GET_SREGS, &sregs));
  sregs.cs = long_mode_segment(entry.cpl, true);
  sregs.ss = sregs.ds = sregs.es = long_mode_segment(entry.cpl, false);
  sregs.fs = sregs.gs = sregs.ss;
  sregs.tr.present = 1;  // VM entry in long mode wants a busy TSS
  sregs.tr.type = 11;
  sregs.tr.s = 0;
  sregs.tr.limit = 0x67;
  sregs.tr.selector = 0x40;
  sregs.idt.limit = 0;  // any exception ends in a triple fault, which is an exit
  sregs.gdt.limit = 0;
  sregs.cr0 = 0x80050033;  // PG AM WP NE ET MP PE
  sregs.cr4 = 0x620;       // PAE OSFXSR OSXMMEXCPT
  sregs.efer = 0xd01;      // NXE LMA LME SCE
  sregs.cr3 = entry.cr3;
  SEALIFT_TRY([[maybe_unused]] int set, SEALIFT_KVM(handle_, KVM_SET_SREGS, &sregs));
  kvm_regs regs{};
  regs.rip = entry.rip;
  regs.rsp = entry.rsp;
  regs.rdi = entry.rdi;
  regs.rflags = 2;
  SEALIFT_TRY([[maybe_unused]] int set_regs, SEALIFT_KVM(handle_, KVM_SET_REGS, &regs));
  return {};
}

Result<void> KvmVcpu::enter_real_mode(std::uint16_t segment, std::uint16_t offset) {
  constexpr std::uint64_t kFirstDisk = 0x80;  // in DL, from the BIOS
  kvm_sregs sregs{};
  SEALIFT_TRY([[maybe_unused]] int got, SEALIFT_KVM(handle_, KVM_GET_SREGS, &sregs));
  sregs.cs = real_mode_segment(segment, true);
  sregs.ss = sregs.ds = sregs.es = real_mode_segment(segment, false);
  sregs.fs = sregs.gs = sregs.ss;
  sregs.idt.base = 0;
  sregs.idt.limit = 0x3ff;
  SEALIFT_TRY([[maybe_unused]] int set, SEALIFT_KVM(handle_, KVM_SET_SREGS, &sregs));
  kvm_regs regs{};
  regs.rip = offset;
  regs.rsp = 0x7c00;
  regs.rdx = kFirstDisk;
  regs.rflags = 2;
  SEALIFT_TRY([[maybe_unused]] int set_regs, SEALIFT_KVM(handle_, KVM_SET_REGS, &regs));
  return {};
}

Result<void> KvmVcpu::use_kick_signal(int signal) {
  sigset_t blocked;
  sigemptyset(&blocked);
  sigaddset(&blocked, signal);
  sigset_t previous;
  const int error = pthread_sigmask(SIG_BLOCK, &blocked, &previous);
  if (error != 0) {
    return fail(ErrorClass::kLocalFault, "pthread_sigmask failed: {}", strerrorname_np(error));
  }
  sigdelset(&previous, signal);
  // The kernel's signal set is 8 bytes; glibc's sigset_t starts with them.
  constexpr std::uint32_t kKernelSetBytes = 8;
  std::array<std::byte, kKvmSignalMaskHeadBytes + kKernelSetBytes> mask{};
  std::memcpy(mask.data(), &kKernelSetBytes, sizeof kKernelSetBytes);
  std::memcpy(mask.data() + kKvmSignalMaskHeadBytes, &previous, kKernelSetBytes);
  SEALIFT_TRY([[maybe_unused]] int set,
              handle_.call("KVM_SET_SIGNAL_MASK", kKvmSetSignalMask, mask.data()));
  return {};
}

Result<std::uint64_t> KvmVcpu::read_msr(std::uint32_t index) const {
  KvmOneMsr one;
  one.index = index;
  SEALIFT_TRY(const int got, handle_.call("KVM_GET_MSRS", kKvmGetMsrs, &one));
  if (got == 1) return one.data;
  return fail(ErrorClass::kLocalFault, "KVM refuses to read MSR {:#x}", index);
}

Result<void> KvmVcpu::write_msr(std::uint32_t index, std::uint64_t word) {
  KvmOneMsr one;
  one.index = index;
  one.data = word;
  SEALIFT_TRY(const int set, handle_.call("KVM_SET_MSRS", kKvmSetMsrs, &one));
  if (set == 1) return {};
  return fail(ErrorClass::kLocalFault, "KVM refuses to set MSR {:#x} to {:#x}", index, word);
}

int KvmVcpu::run() { return ioctl(handle_.fd(), KVM_RUN, 0UL) == 0 ? 0 : errno; }

void KvmVcpu::set_immediate_exit(bool on) {
  std::atomic_ref(run_->immediate_exit).store(on ? 1 : 0, std::memory_order_seq_cst);
}

}  // namespace sealift
