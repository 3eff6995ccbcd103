#include "vmm_glue/vmm/kvm_vm.h"

#include <fmt/core.h>
#include <linux/kvm.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "engine/assert.h"
#include "vmm_glue/exits/hypercall_setup.h"
#include "vmm_glue/guest/payload/payload_image.h"

namespace sealift {
namespace {

// Page table entries: present, writable, user, accessed and (leaves) dirty from the start, so that
// neither the processor nor a software MMU has a reason to write to the tables.
constexpr std::uint64_t kTableBits = 0x27;
constexpr std::uint64_t kLeafBits = 0xe7;  // with bit 7: a 2 MiB page
constexpr std::uint64_t kEntriesPerTable = 512;
constexpr std::uint64_t kLargePageBytes = 2ULL << 20;

// Pages that KVM needs for itself on Intel, in the gap below 4 GiB where no RAM is.
constexpr std::uint64_t kIdentityMapGpa = 0xfffbc000;
constexpr std::uint64_t kTssGpa = kIdentityMapGpa + 0x1000;

std::vector<KvmSlot> slots_of(const MemoryLayout& layout, const GuestMemory& memory) {
  std::vector<KvmSlot> slots;
  for (const GfnRange& range : layout.ranges()) {
    slots.push_back(
        KvmSlot{static_cast<std::uint32_t>(slots.size()), range, memory.at(range.first), false});
  }
  return slots;
}

}  // namespace

// --- Making ---

Result<std::unique_ptr<KvmVm>> KvmVm::make(const VmConfig& wish, PrivateMemory* private_memory) {
  SEALIFT_TRY(KvmSystem system, KvmSystem::open());
  SEALIFT_TRY(const int fd, SEALIFT_KVM(system.handle, KVM_CREATE_VM, 0UL));
  KvmHandle handle(fd);
  VmConfig config = wish;
  if (config.hypercall_by == HypercallBy::kAuto) {
    config.hypercall_by = HypercallBy::kMmio;
    if (advertised_form(config) == HypercallForm::kMapGpaRange) {
      SEALIFT_TRY(config.hypercall_by, probe_hypercall(system));
    }
  }
  SEALIFT_TRY(Parts parts, make_parts(config, private_memory,
                                      config.prefault ? GuestMemory::Populate::kNow
                                                      : GuestMemory::Populate::kOnTouch));
  std::unique_ptr<KvmVm> vm(new KvmVm(std::move(parts), std::move(system), std::move(handle)));
  SEALIFT_TRY(vm->serial_, SerialPort::open(config.serial_path));
  SEALIFT_CHECK(vm->make_board());
  SEALIFT_CHECK(vm->make_vcpus());
  return vm;
}

KvmVm::KvmVm(Parts parts, KvmSystem system, KvmHandle vm)
    : Vm(std::move(parts)),
      system_(std::move(system)),
      vm_(std::move(vm)),
      converter_(map_, dirty_),
      shared_bytes_(memory_, layout_, map_, dirty_),
      exits_({.hypercall = {.form = advertised_form(config_)},
              .vcpus = config_.vcpus,
              .layout = &layout_,
              .map = &map_,
              .converter = &converter_,
              .readiness = &readiness_,
              .memory = &shared_bytes_}) {}

// Everything that must be there before the first vCPU.
Result<void> KvmVm::make_board() {
  // Refused by KVMs that do not need it.
  (void)SEALIFT_KVM(vm_, KVM_SET_TSS_ADDR, static_cast<unsigned long>(kTssGpa));
  std::uint64_t identity_map = kIdentityMapGpa;
  (void)SEALIFT_KVM(vm_, KVM_SET_IDENTITY_MAP_ADDR, &identity_map);
  if (config_.irqchip) {
    SEALIFT_TRY([[maybe_unused]] int made, SEALIFT_KVM(vm_, KVM_CREATE_IRQCHIP, 0UL));
    kvm_pit_config pit{};
    SEALIFT_TRY([[maybe_unused]] int made_pit, SEALIFT_KVM(vm_, KVM_CREATE_PIT2, &pit));
  }
  const std::vector<KvmSlot> slots = slots_of(layout_, memory_);
  SEALIFT_TRY(tracker_, make_dirty_tracker(vm_, slots, {.backend = config_.dirty}, dirty_));
  for (const KvmSlot& slot : slots) SEALIFT_CHECK(set_slot(vm_, slot, false));
  return {};
}

Result<void> KvmVm::make_vcpus() {
  SEALIFT_TRY(auto cpuid, supported_cpuid(system_));
  if (advertised_form(config_) != HypercallForm::kNone) {
    KernelIoctl kernel;
    const auto exits = enable_page_state_exits(kernel, vm_.fd());
    const auto trap = trap_migration_control(kernel, vm_.fd());
    // A guest that asks by MMIO needs neither of KVM.
    if (config_.hypercall_by != HypercallBy::kMmio) {
      if (!exits) return tl::unexpected(exits.error());
      if (!trap) return tl::unexpected(trap.error());
      SEALIFT_CHECK(advertise_page_state(cpuid, *exits, &*trap));
    }
  }
  for (std::uint32_t i = 0; i < config_.vcpus; ++i) {
    SEALIFT_TRY(auto vcpu, KvmVcpu::make(system_, vm_, i, cpuid));
    SEALIFT_CHECK(tracker_->attach_vcpu(i, vcpu->handle()));
    vcpus_.push_back(std::move(vcpu));
  }
  return {};
}

// Page tables: one PML4 entry, a PDPT with one entry per GiB, page directories of 2 MiB pages; an
// identity map, user bit set.
void KvmVm::write_checker() {
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
}

Result<void> KvmVm::set_initial_vcpus() {
  switch (config_.program) {
    case Program::kBootSector:
      return vcpus_.front()->enter_real_mode(0, kBootSectorGpa);
    case Program::kFlatBinary:
      return vcpus_.front()->enter_real_mode(kFlatBinaryGpa >> 4, 0);
    case Program::kChecker:
      break;
  }
  write_checker();
  for (std::uint32_t i = 0; i < config_.vcpus; ++i) {
    KvmEntry entry;
    entry.cpl = config_.hypercall_by == HypercallBy::kMmio ? 3 : 0;
    entry.rip = value(base_of(Gfn{guest::kCodeGfn}));
    entry.rsp =
        value(plan_.vcpus[i].stack_top) - 8;  // as after a call: the ABI wants rsp + 8 on 16 bytes
    entry.rdi = i;
    entry.cr3 = value(base_of(Gfn{guest::kPageTablesGfn}));
    SEALIFT_CHECK(vcpus_[i]->enter_at(entry));
  }
  return {};
}

// --- State ---

Result<std::vector<StateBlob>> KvmVm::save_vcpus() {
  std::vector<StateBlob> state;
  for (const auto& vcpu : vcpus_) {
    SEALIFT_TRY(auto items, vcpu->save());
    std::move(items.begin(), items.end(), std::back_inserter(state));
  }
  state.push_back(serial_->save());
  return state;
}

Result<void> KvmVm::load_device(const StateBlob& blob) {
  if (blob.name == SerialPort::kStateName) return serial_->load(blob);
  return fail(ErrorClass::kRefused, "state '{}' belongs to no device here", blob.name);
}

Result<void> KvmVm::load_vcpus(std::vector<StateBlob> state) {
  std::vector<StateBlob> devices;
  std::vector<StateBlob> of_vcpus;
  for (StateBlob& blob : state) {
    const bool of_vcpu = blob.kind == StateBlob::Kind::kVcpu;
    if (of_vcpu && blob.index >= config_.vcpus) {
      return fail(ErrorClass::kRefused,
                  "state '{}' of instance {} belongs to no vCPU of the {} here", blob.name,
                  blob.index, config_.vcpus);
    }
    (of_vcpu ? of_vcpus : devices).push_back(std::move(blob));
  }
  for (const auto& vcpu : vcpus_) SEALIFT_CHECK(vcpu->load(of_vcpus));
  for (const StateBlob& blob : devices) SEALIFT_CHECK(load_device(blob));
  return {};
}

void KvmVm::fill_status(VmStatus& status) const {
  status.hypercalls = exits_.page_state_requests();
  status.dirty_backend = name_of(tracker_->backend());
  status.serial_bytes = serial_->bytes_out();
}

}  // namespace sealift
