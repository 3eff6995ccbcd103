#include "vmm_glue/vmm/kvm_vm.h"

#include <fmt/core.h>
#include <linux/kvm.h>
#include <signal.h>

#include <algorithm>
#include <array>
#include <bit>
#include <chrono>
#include <cstring>
#include <utility>

#include "engine/assert.h"
#include "vmm_glue/guest/payload/payload_image.h"

namespace sealift {
namespace {

constexpr std::chrono::microseconds kYieldTime{1000};
// Completing an exit may raise another one (a request cut into pieces); ours never do, so a few are
// plenty.
constexpr int kDrainRunsMax = 64;

// Page table entries: present, writable, user, accessed and (leaves) dirty from the start, so that
// neither the processor nor a software MMU has a reason to write to the tables.
constexpr std::uint64_t kTableBits = 0x27;
constexpr std::uint64_t kLeafBits = 0xe7;  // with bit 7: a 2 MiB page
constexpr std::uint64_t kEntriesPerTable = 512;
constexpr std::uint64_t kLargePageBytes = 2ULL << 20;

// Never delivered: the vCPU threads block it, and a run ends when it is pending
// (KvmVcpu::use_kick_signal).
int kick_signal() { return SIGRTMIN + 3; }

void discard_kick() {
  sigset_t kicks;
  sigemptyset(&kicks);
  sigaddset(&kicks, kick_signal());
  const timespec at_once{};
  while (sigtimedwait(&kicks, nullptr, &at_once) > 0) {
  }
}

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

}  // namespace

// --- Making ---

Result<std::unique_ptr<KvmVm>> KvmVm::make(const VmConfig& config, PrivateMemory* private_memory) {
  SEALIFT_TRY(KvmSystem system, KvmSystem::open());
  SEALIFT_TRY(const int fd, SEALIFT_KVM(system.handle, KVM_CREATE_VM, 0UL));
  KvmHandle handle(fd);
  SEALIFT_TRY(Parts parts, make_parts(config, private_memory, GuestMemory::Populate::kNow));
  std::unique_ptr<KvmVm> vm(new KvmVm(std::move(parts), std::move(system), std::move(handle)));
  SEALIFT_CHECK(vm->set_slots(false));
  SEALIFT_CHECK(vm->make_vcpus());
  return vm;
}

KvmVm::KvmVm(Parts parts, KvmSystem system, KvmHandle vm)
    : Vm(std::move(parts)), system_(std::move(system)), vm_(std::move(vm)) {}

Result<void> KvmVm::make_vcpus() {
  for (std::uint32_t i = 0; i < config_.vcpus; ++i) {
    SEALIFT_TRY(auto vcpu, KvmVcpu::make(system_, vm_, i));
    vcpus_.push_back(std::move(vcpu));
  }
  return {};
}

Result<void> KvmVm::set_slots(bool logged) {
  const std::lock_guard lock(log_mutex_);
  std::uint32_t slot = 0;
  for (const GfnRange& range : layout_.ranges()) {
    kvm_userspace_memory_region region{};
    region.slot = slot++;
    region.flags = logged ? KVM_MEM_LOG_DIRTY_PAGES : 0;
    region.guest_phys_addr = value(base_of(range.first));
    region.memory_size = range.pages * kPageBytes;
    region.userspace_addr = reinterpret_cast<std::uintptr_t>(memory_.at(range.first));
    SEALIFT_TRY([[maybe_unused]] int set, SEALIFT_KVM(vm_, KVM_SET_USER_MEMORY_REGION, &region));
  }
  return {};
}

// Page tables: one PML4 entry, a PDPT with one entry per GiB, page directories of 2 MiB pages; an
// identity map, user bit set.
Result<void> KvmVm::write_program() {
  const ByteView program = payload_image();
  SEALIFT_ASSERT(program.size() <= guest::kCodePages * kPageBytes);
  for (std::size_t at = 0; at < program.size(); at += kPageBytes) {
    std::array<std::byte, kPageBytes> page{};
    const std::size_t bytes = std::min<std::size_t>(kPageBytes, program.size() - at);
    std::copy_n(program.begin() + static_cast<std::ptrdiff_t>(at), bytes, page.begin());
    write_as_guest(base_of(Gfn{guest::kCodeGfn + at / kPageBytes}), page);
  }
  const Gfn pml4{guest::kPageTablesGfn};
  const auto write_table = [this](Gfn table,
                                  const std::array<std::uint64_t, kEntriesPerTable>& entries) {
    write_as_guest(base_of(table), std::as_bytes(std::span(entries)));
  };
  std::array<std::uint64_t, kEntriesPerTable> top{};
  top[0] = value(base_of(pml4 + 1)) | kTableBits;
  write_table(pml4, top);
  std::array<std::uint64_t, kEntriesPerTable> pointers{};
  for (std::uint64_t i = 0; i < plan_.page_directories; ++i) {
    pointers[i] = value(base_of(pml4 + 2 + i)) | kTableBits;
    std::array<std::uint64_t, kEntriesPerTable> leaves{};
    for (std::uint64_t j = 0; j < leaves.size(); ++j) {
      leaves[j] = (i * kEntriesPerTable + j) * kLargePageBytes | kLeafBits;
    }
    write_table(pml4 + 2 + i, leaves);
  }
  write_table(pml4 + 1, pointers);
  return {};
}

Result<void> KvmVm::set_initial_vcpus() {
  SEALIFT_CHECK(write_program());
  for (std::uint32_t i = 0; i < config_.vcpus; ++i) {
    KvmEntry entry;
    entry.rip = value(base_of(Gfn{guest::kCodeGfn}));
    entry.rsp =
        value(plan_.vcpus[i].stack_top) - 8;  // as after a call: the ABI wants rsp + 8 on 16 bytes
    entry.rdi = i;
    entry.cr3 = value(base_of(Gfn{guest::kPageTablesGfn}));
    SEALIFT_CHECK(vcpus_[i]->enter_at(entry));
  }
  return {};
}

// --- Dirty log ---

Result<void> KvmVm::harvest_dirty() {
  const std::lock_guard lock(log_mutex_);
  std::uint32_t slot = 0;
  for (const GfnRange& range : layout_.ranges()) {
    std::vector<std::uint64_t> words((range.pages + 63) / 64);
    kvm_dirty_log log{};
    log.slot = slot++;
    log.dirty_bitmap = words.data();
    // Fetches, clears and write-protects again in one: a write during the call is in this bitmap or
    // faults afterwards.
    SEALIFT_TRY([[maybe_unused]] int got, SEALIFT_KVM(vm_, KVM_GET_DIRTY_LOG, &log));
    const std::uint64_t first_word =
        value(range.first) / 64;  // both slots start on a multiple of 64 pages
    for (std::size_t i = 0; i < words.size(); ++i) {
      if (words[i] != 0) dirty_.merge_word(first_word + i, words[i]);
    }
  }
  return {};
}

// --- Running ---

Result<void> KvmVm::start_thread(std::uint32_t vcpu) {
  return vcpus_[vcpu]->use_kick_signal(kick_signal());
}

void KvmVm::run(std::uint32_t vcpu) {
  vcpus_[vcpu]->set_immediate_exit(false);
  // kick() stores immediate_exit after should_stop() has become true: if our store came later, we
  // see the stop here.
  while (!control_.should_stop()) {
    if (!run_once(vcpu)) return;
  }
  drain(vcpu);
}

// A kick is never lost: before KVM_RUN polls immediate_exit that byte ends the run, after it the
// pending signal does.
void KvmVm::kick(std::uint32_t vcpu, pthread_t thread) {
  vcpus_[vcpu]->set_immediate_exit(true);
  pthread_kill(thread, kick_signal());
}

// An MMIO read is complete in the guest only after the next KVM_RUN, and that is in no state we
// could save.
bool KvmVm::drain(std::uint32_t vcpu) {
  vcpus_[vcpu]->set_immediate_exit(true);
  for (int i = 0; i < kDrainRunsMax; ++i) {
    const int error = vcpus_[vcpu]->run();
    if (error == EINTR) {
      discard_kick();
      return true;
    }
    if (error != 0) return end(vcpu, fmt::format("KVM_RUN failed: {}", strerrorname_np(error)));
    if (!serve_exit(vcpu)) return false;
  }
  return end(vcpu, fmt::format("still had exits to complete after {} runs", kDrainRunsMax));
}

bool KvmVm::run_once(std::uint32_t vcpu) {
  const int error = vcpus_[vcpu]->run();
  if (error == 0) return serve_exit(vcpu);
  if (error == EINTR || error == EAGAIN) {
    discard_kick();
    return true;
  }
  return end(vcpu, fmt::format("KVM_RUN failed: {}", strerrorname_np(error)));
}

bool KvmVm::serve_exit(std::uint32_t vcpu) {
  const KvmRun& area = vcpus_[vcpu]->run_area();
  if (area.exit_reason == kKvmExitMmio) return serve_mmio(vcpu);
  if (area.exit_reason == kKvmExitIntr) return true;
  return end(vcpu, describe_exit(area));
}

bool KvmVm::serve_mmio(std::uint32_t vcpu) {
  KvmRun& area = vcpus_[vcpu]->run_area();
  const KvmRun::Mmio mmio = area.exit.mmio;
  if (mmio.is_write != 0 || mmio.len != 8) return end(vcpu, describe_exit(area));
  std::uint64_t answer = 0;
  if (mmio.phys_addr == guest::kHypercallGpa) {
    auto served = serve_hypercall(*vcpus_[vcpu]);
    if (!served) return end(vcpu, served.error().detail);
    answer = *served;
  } else if (mmio.phys_addr == guest::kDoorbellGpa) {
    if (!serve_doorbell(*vcpus_[vcpu])) return end(vcpu, "KVM_GET_REGS failed at a doorbell");
  } else {
    return end(vcpu, describe_exit(area));
  }
  std::memcpy(area.exit.mmio.data, &answer, sizeof answer);
  return true;
}

// The registers at the read are those of VMCALL, so the exit is made into the KVM_EXIT_HYPERCALL
// that hardware would give, and goes to the same decoder.
Result<std::uint64_t> KvmVm::serve_hypercall(KvmVcpu& vcpu) {
  kvm_regs regs{};
  SEALIFT_TRY([[maybe_unused]] int got, SEALIFT_KVM(vcpu.handle(), KVM_GET_REGS, &regs));
  KvmRun exit{};
  exit.exit_reason = kKvmExitHypercall;
  exit.exit.hypercall.nr = regs.rax;
  exit.exit.hypercall.args[0] = regs.rbx;
  exit.exit.hypercall.args[1] = regs.rcx;
  exit.exit.hypercall.args[2] = regs.rdx;
  exit.exit.hypercall.args[3] = regs.rsi;
  (void)handle_hypercall(exit, advertised_form(config_), layout_, map_, dirty_);
  hypercalls_.fetch_add(1, std::memory_order_relaxed);
  return exit.exit.hypercall.ret;
}

bool KvmVm::serve_doorbell(KvmVcpu& vcpu) {
  kvm_regs regs{};
  if (!SEALIFT_KVM(vcpu.handle(), KVM_GET_REGS, &regs)) return false;
  if (regs.rbx == static_cast<std::uint64_t>(guest::Doorbell::kYield)) {
    control_.nap(kYieldTime);
  } else {
    control_.ring();
  }
  return true;
}

bool KvmVm::end(std::uint32_t vcpu, const std::string& why) {
  kvm_regs regs{};
  const bool has_regs = SEALIFT_KVM(vcpus_[vcpu]->handle(), KVM_GET_REGS, &regs).has_value();
  control_.terminate(
      has_regs ? fmt::format("vCPU {} at rip {:#x}: {}", vcpu, std::uint64_t{regs.rip}, why)
               : fmt::format("vCPU {}: {}", vcpu, why));
  return false;
}

// --- State ---

Result<std::vector<StateBlob>> KvmVm::save_vcpus() {
  std::vector<StateBlob> state;
  for (const auto& vcpu : vcpus_) {
    SEALIFT_TRY(auto items, vcpu->save());
    std::move(items.begin(), items.end(), std::back_inserter(state));
  }
  return state;
}

Result<void> KvmVm::load_vcpus(std::vector<StateBlob> state) {
  for (const StateBlob& blob : state) {
    if (blob.kind == StateBlob::Kind::kVcpu && blob.index < config_.vcpus) continue;
    return fail(ErrorClass::kRefused, "state '{}' of instance {} belongs to no vCPU of the {} here",
                blob.name, blob.index, config_.vcpus);
  }
  for (const auto& vcpu : vcpus_) SEALIFT_CHECK(vcpu->load(state));
  return {};
}

}  // namespace sealift
