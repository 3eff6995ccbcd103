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
#include "vmm_glue/guest/workload.h"
#include "vmm_glue/vmm/kvm_tsc.h"

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

Result<int> enable_cap(const KvmHandle& vm, std::uint32_t capability) {
  kvm_enable_cap enable{};
  enable.cap = capability;
  enable.args[0] = 1;
  return SEALIFT_KVM(vm, KVM_ENABLE_CAP, &enable);
}

// KVM's LAPIC has the mode, but KVM_GET_SUPPORTED_CPUID never says so.
void offer_tsc_deadline(const KvmHandle& vm, std::vector<kvm_cpuid_entry2>& cpuid) {
  constexpr std::uint32_t kTscDeadlineBit = 1u << 24;  // of CPUID.1:ECX
  const auto has = SEALIFT_KVM(vm, KVM_CHECK_EXTENSION, KVM_CAP_TSC_DEADLINE_TIMER);
  if (!has || *has == 0) return;
  for (kvm_cpuid_entry2& leaf : cpuid) {
    if (leaf.function == 1) leaf.ecx |= kTscDeadlineBit;
  }
}

std::vector<KvmSlot> slots_of(const MemoryLayout& layout, const GuestMemory& memory,
                              bool guest_memfd) {
  std::vector<KvmSlot> slots;
  for (const GfnRange& range : layout.ranges()) {
    slots.push_back(KvmSlot{static_cast<std::uint32_t>(slots.size()), range, memory.at(range.first),
                            guest_memfd});
  }
  return slots;
}

}  // namespace

// --- Making ---

Result<std::unique_ptr<KvmVm>> KvmVm::make(const VmConfig& wish, PrivateMemory* private_memory) {
  SEALIFT_TRY(KvmSystem system, KvmSystem::open());
  const bool sw_protected = wish.platform == Platform::kSwProtected;
  if (sw_protected) SEALIFT_CHECK(KvmPrivateHalf::can_use(system));
  SEALIFT_TRY(const int fd, SEALIFT_KVM(system.handle, KVM_CREATE_VM,
                                        sw_protected ? kKvmVmTypeSwProtected : 0UL));
  KvmHandle handle(fd);
  VmConfig config = wish;
  if (sw_protected) {
    config.dirty = DirtyBackend::kUffd;
    config.prefault = false;  // most of the side that the host can read stays empty
  }
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
      map_converter_(map_, dirty_,
                     [this](GfnRange range, PageClass wish) { return ask_gate(range, wish); }),
      shared_bytes_(memory_, layout_, map_, dirty_) {}

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
  // Without them a pending exception, or a triple fault about to happen, has a part that is in no
  // state. Absent before Linux 5.0 and 6.0.
  (void)enable_cap(vm_, KVM_CAP_EXCEPTION_PAYLOAD);
  (void)enable_cap(vm_, KVM_CAP_X86_TRIPLE_FAULT_EVENT);
  const bool sw_protected = config_.platform == Platform::kSwProtected;
  const std::vector<KvmSlot> slots = slots_of(layout_, memory_, sw_protected);
  SEALIFT_TRY(tracker_, make_dirty_tracker(vm_, slots, {.backend = config_.dirty}, dirty_));
  if (sw_protected) {
    SEALIFT_TRY(private_half_, KvmPrivateHalf::make(vm_, slots, map_, dirty_));
  } else {
    for (const KvmSlot& slot : slots) SEALIFT_CHECK(set_slot(vm_, slot, false));
  }
  GuestExitsConfig exits;
  exits.hypercall.form = advertised_form(config_);
  exits.vcpus = config_.vcpus;
  exits.layout = &layout_;
  exits.map = &map_;
  exits.converter = private_half_ ? &private_half_->converter() : &map_converter_;
  exits.readiness = &readiness_;
  exits.memory = &shared_bytes_;
  exits_ = std::make_unique<GuestExits>(exits);
  return {};
}

Result<void> KvmVm::make_vcpus() {
  SEALIFT_TRY(auto cpuid, supported_cpuid(system_));
  if (config_.irqchip) offer_tsc_deadline(vm_, cpuid);
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
  if (private_half_) {
    return private_half_->make_helper(system_, vm_, layout_, config_.vcpus, cpuid);
  }
  return {};
}

Result<void> KvmVm::apply_conversion(GfnRange range, PageClass cls) {
  SEALIFT_CHECK(Vm::apply_conversion(range, cls));
  if (!private_half_ || private_half_->converter().convert(range, cls) == Converted::kDone)
    return {};
  return fail(ErrorClass::kLocalFault, "{} pages from gfn {:#x} cannot be made {}: {}", range.pages,
              value(range.first), name_of(cls), private_half_->last_error());
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
  if (private_half_) SEALIFT_CHECK(private_half_->apply_map());
  for (std::uint32_t i = 0; i < config_.vcpus; ++i) {
    KvmEntry entry;
    entry.cpl = config_.hypercall_by == HypercallBy::kMmio ? 3 : 0;
    entry.rip = value(base_of(Gfn{guest::kCodeGfn}));
    entry.rsp =
        value(plan_.vcpus[i].stack_top) - 8;  // as after a call: the ABI wants rsp + 8 on 16 bytes
    entry.rdi = i;
    entry.cr3 = value(base_of(Gfn{guest::kPageTablesGfn}));
    SEALIFT_CHECK(vcpus_[i]->enter_at(entry));
    SEALIFT_CHECK(vcpus_[i]->write_msr(guest::kCheckedMsr, guest::checked_msr_of(config_.seed, i)));
  }
  return {};
}

// --- State ---

VmParts KvmVm::parts_with_state() const {
  VmParts parts;
  parts.irqchip = config_.irqchip;
  parts.pit = config_.irqchip;
  return parts;
}

std::vector<int> KvmVm::vcpu_fds() const {
  std::vector<int> fds;
  for (const auto& vcpu : vcpus_) fds.push_back(vcpu->handle().fd());
  return fds;
}

void KvmVm::keep_notes(const StateNotes& notes) {
  const std::lock_guard lock(notes_mutex_);
  for (const StateNote& note : notes) notes_.push_back(note.item + ": " + note.why);
}

Result<std::vector<StateBlob>> KvmVm::save_vcpus() {
  StateNotes notes;
  std::vector<StateBlob> state;
  for (const auto& vcpu : vcpus_) {
    SEALIFT_TRY(auto items, vcpu->save(notes));
    std::move(items.begin(), items.end(), std::back_inserter(state));
  }
  KernelIoctl kernel;
  SEALIFT_TRY(auto devices, save_vm_state(kernel, vm_.fd(), parts_with_state()));
  std::move(devices.begin(), devices.end(), std::back_inserter(state));
  state.push_back(serial_->save());
  keep_notes(notes);
  return state;
}

Result<void> KvmVm::load_serial(std::vector<StateBlob>& devices) {
  const auto is_serial = [](const StateBlob& b) { return b.name == SerialPort::kStateName; };
  const auto copies = std::count_if(devices.begin(), devices.end(), is_serial);
  if (copies != 1) {
    return fail(ErrorClass::kRefused, "state '{}' comes {} times instead of once",
                SerialPort::kStateName, copies);
  }
  const auto found = std::find_if(devices.begin(), devices.end(), is_serial);
  SEALIFT_CHECK(serial_->load(*found));
  devices.erase(found);
  return {};
}

// The vCPUs first: loading the IOAPIC may raise interrupts in their LAPICs.
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
  SEALIFT_CHECK(load_serial(devices));
  KernelIoctl kernel;
  for (const auto& vcpu : vcpus_) {
    SEALIFT_TRY(const StateNotes notes, vcpu->load(of_vcpus));
    keep_notes(notes);
  }
  SEALIFT_TRY(const StateNotes of_tscs, align_tscs(kernel, vcpu_fds(), of_vcpus));
  keep_notes(of_tscs);
  SEALIFT_TRY(const StateNotes of_vm, load_vm_state(kernel, vm_.fd(), parts_with_state(), devices));
  keep_notes(of_vm);
  return {};
}

void KvmVm::fill_status(VmStatus& status) const {
  status.hypercalls = exits_->page_state_requests();
  status.dirty_backend = name_of(tracker_->backend());
  status.serial_bytes = serial_->bytes_out();
  const std::lock_guard lock(notes_mutex_);
  status.notes = notes_;
}

}  // namespace sealift
