#include "tests/nested/private_vm.h"

#include <fmt/core.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cstring>

#include "engine/assert.h"
#include "vmm_glue/abi/kvm_memory.h"
#include "vmm_glue/exits/hypercall_setup.h"
#include "vmm_glue/exits/memory_attributes.h"

// Position-independent; the last two instructions say that the program is done.
#define SEALIFT_GUEST_PROGRAM(name, body)                                               \
  asm(".pushsection .rodata\n" #name ":\n" body                                         \
      "\nmov $0x10, %dx\nout %al, %dx\n9: hlt\njmp 9b\n" #name "_end:\n.popsection\n"); \
  extern "C" const std::byte name[];                                                    \
  extern "C" const std::byte name##_end[]

SEALIFT_GUEST_PROGRAM(guest_fill,
                      "1: mov %rax, (%rdi)\n add $0x1000, %rdi\n inc %rax\n dec %rcx\n jnz 1b");
SEALIFT_GUEST_PROGRAM(guest_read, "mov (%rdi), %rax");
SEALIFT_GUEST_PROGRAM(guest_copy, "cld\n rep movsb");
SEALIFT_GUEST_PROGRAM(guest_hypercall,
                      "vmmcall\n mov %rax, %r8\n mov (%rdi), %r9\n mov %r10, (%rdi)");
SEALIFT_GUEST_PROGRAM(guest_count, "1: lock incq (%rdi)\n cmpq $0, (%rsi)\n je 1b");

namespace sealift::test {
namespace {

constexpr unsigned long kSwProtectedVm = 1;  // KVM_X86_SW_PROTECTED_VM
constexpr unsigned long kCapVmTypes = 235;   // KVM_CAP_VM_TYPES: a bit for each type

constexpr std::uint64_t kLowPages = 512;
constexpr Gfn kCode{1}, kPml4{0x10}, kPdpt{0x11}, kDirectory{0x12};

ByteView code_of(Program program) {
  switch (program) {
    case Program::kFill:
      return {guest_fill, guest_fill_end};
    case Program::kRead:
      return {guest_read, guest_read_end};
    case Program::kCopy:
      return {guest_copy, guest_copy_end};
    case Program::kHypercall:
      return {guest_hypercall, guest_hypercall_end};
    case Program::kCount:
      return {guest_count, guest_count_end};
  }
  SEALIFT_ASSERT(false);
  return {};
}

KvmUserMemoryRegion2 region_of(std::uint32_t slot, GfnRange range) {
  KvmUserMemoryRegion2 region{};
  region.slot = slot;
  region.guest_phys_addr = value(base_of(range.first));
  region.memory_size = range.pages * kPageBytes;
  return region;
}

std::uint64_t gpa_of(Gfn gfn) { return value(base_of(gfn)); }

}  // namespace

Mapping::Mapping(std::uint64_t pages) : bytes_(pages * kPageBytes) {
  void* at = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  SEALIFT_ASSERT(at != MAP_FAILED);
  base_ = static_cast<std::byte*>(at);
}

Mapping::~Mapping() { munmap(base_, bytes_); }

std::uint64_t Mapping::word(std::uint64_t index) const {
  std::uint64_t word = 0;
  std::memcpy(&word, page(index), sizeof word);
  return word;
}

void Mapping::unmap(std::uint64_t index) { munmap(page(index), kPageBytes); }

Result<std::unique_ptr<PrivateVm>> PrivateVm::make() {
  SEALIFT_TRY(KvmSystem system, KvmSystem::open());
  SEALIFT_TRY(const int types, SEALIFT_KVM(system.handle, KVM_CHECK_EXTENSION, kCapVmTypes));
  if ((static_cast<unsigned>(types) >> kSwProtectedVm & 1) == 0) {
    return fail(ErrorClass::kLocalFault, "KVM_CAP_VM_TYPES is {:#x}: no KVM_X86_SW_PROTECTED_VM",
                types);
  }
  SEALIFT_TRY(const int fd, SEALIFT_KVM(system.handle, KVM_CREATE_VM, kSwProtectedVm));
  KvmHandle handle(fd);
  SEALIFT_TRY(MemoryLayout layout,
              MemoryLayout::make({{Gfn{0}, kLowPages}, kRam, kPlain, kNothing}));
  std::unique_ptr<PrivateVm> vm(
      new PrivateVm(std::move(system), std::move(handle), std::move(layout)));
  SEALIFT_CHECK(vm->set_up());
  return vm;
}

PrivateVm::PrivateVm(KvmSystem system, KvmHandle vm, MemoryLayout layout)
    : system_(std::move(system)),
      vm_(std::move(vm)),
      layout_(std::move(layout)),
      map_(layout_.span_pages()),
      dirty_(layout_.span_pages()),
      low_(kLowPages),
      ram_shared_(kRam.pages),
      plain_(kPlain.pages) {}

PrivateVm::~PrivateVm() = default;

Result<void> PrivateVm::set_up() {
  SEALIFT_TRY(const int fd, create_guest_memfd(io_, vm_.fd(), kRam.pages * kPageBytes, 0));
  ram_fd_ = KvmHandle(fd);
  SEALIFT_CHECK(add_slot(0, {Gfn{0}, kLowPages}, low_.page(0), -1));
  SEALIFT_CHECK(add_slot(1, kRam, ram_shared_.page(0), ram_fd_.fd()));
  SEALIFT_CHECK(add_slot(2, kPlain, plain_.page(0), -1));
  map_.convert({Gfn{0}, kLowPages}, PageClass::kShared);
  map_.convert(kPlain, PageClass::kShared);
  map_.convert(kNothing, PageClass::kShared);
  GmemSlot ram{.slot = 1, .range = kRam, .backing = SharedBacking::kSharedAnonymous};
  ram.shared = ram_shared_.page(0);
  ram.guest_memfd = ram_fd_.fd();
  SEALIFT_TRY(converter_, GmemConverter::make({io_, vm_.fd(), discard_, map_, dirty_, {}}, {ram}));
  SEALIFT_CHECK(converter_->apply_map());
  SEALIFT_TRY(auto cpuid, supported_cpuid(system_));
  SEALIFT_TRY(const auto exits, enable_page_state_exits(io_, vm_.fd()));
  SEALIFT_CHECK(advertise_page_state(cpuid, exits, nullptr));
  SEALIFT_TRY(vcpu_, KvmVcpu::make(system_, vm_, 0, cpuid));
  write_page_tables();
  return vcpu_->enter_at({.cpl = 0, .cr3 = gpa_of(kPml4)});
}

// An identity map of the first GiB.
void PrivateVm::write_page_tables() {
  const auto put = [this](Gfn table, std::uint64_t index, std::uint64_t entry) {
    std::memcpy(low_.page(value(table)) + index * 8, &entry, sizeof entry);
  };
  constexpr std::uint64_t kPresentWritable = 3, kLarge = 0x80;
  put(kPml4, 0, gpa_of(kPdpt) | kPresentWritable);
  put(kPdpt, 0, gpa_of(kDirectory) | kPresentWritable);
  for (std::uint64_t i = 0; i < 512; ++i) put(kDirectory, i, i << 21 | kLarge | kPresentWritable);
}

void PrivateVm::load(Program program, const kvm_regs& arguments) {
  const ByteView code = code_of(program);
  std::memcpy(low_.page(value(kCode)), code.data(), code.size());
  kvm_regs regs = arguments;
  regs.rip = gpa_of(kCode);
  regs.rflags = 2;
  const auto set = SEALIFT_KVM(vcpu_->handle(), KVM_SET_REGS, &regs);
  ASSERT_TRUE(set.has_value()) << set.error().detail;
}

int PrivateVm::run() {
  exit().exit_reason = ~0u;  // so that a run which sets none is seen
  return vcpu_->run();
}

bool PrivateVm::is_done() {
  return exit().exit_reason == kKvmExitIo && exit().exit.io.port == kDonePort;
}

kvm_regs PrivateVm::registers() const {
  kvm_regs regs{};
  const auto got = SEALIFT_KVM(vcpu_->handle(), KVM_GET_REGS, &regs);
  EXPECT_TRUE(got.has_value());
  return regs;
}

void PrivateVm::fill(Gfn first, std::uint64_t pages, std::uint64_t word) {
  kvm_regs arguments{};
  arguments.rdi = gpa_of(first);
  arguments.rcx = pages;
  arguments.rax = word;
  load(Program::kFill, arguments);
  ASSERT_EQ(run(), 0);
  ASSERT_TRUE(is_done()) << "exit " << exit().exit_reason;
}

std::uint64_t PrivateVm::read(Gfn gfn) {
  kvm_regs arguments{};
  arguments.rdi = gpa_of(gfn);
  load(Program::kRead, arguments);
  EXPECT_EQ(run(), 0);
  EXPECT_TRUE(is_done()) << "exit " << exit().exit_reason;
  return registers().rax;
}

void PrivateVm::copy(Gfn to, Gfn from) {
  kvm_regs arguments{};
  arguments.rdi = gpa_of(to);
  arguments.rsi = gpa_of(from);
  arguments.rcx = kPageBytes;
  load(Program::kCopy, arguments);
  ASSERT_EQ(run(), 0);
  ASSERT_TRUE(is_done()) << "exit " << exit().exit_reason;
}

Result<void> PrivateVm::add_slot(std::uint32_t slot, GfnRange range, std::byte* host,
                                 int guest_memfd) {
  KvmUserMemoryRegion2 region = region_of(slot, range);
  region.userspace_addr = reinterpret_cast<std::uintptr_t>(host);
  if (guest_memfd >= 0) {
    region.flags = kKvmMemGuestMemfd;
    region.guest_memfd = static_cast<std::uint32_t>(guest_memfd);
  }
  return set_user_memory_region2(io_, vm_.fd(), region);
}

Result<void> PrivateVm::remove_slot(std::uint32_t slot, GfnRange range) {
  KvmUserMemoryRegion2 region = region_of(slot, range);
  region.memory_size = 0;
  return set_user_memory_region2(io_, vm_.fd(), region);
}

Result<void> PrivateVm::set_attributes(GfnRange range, PageClass cls) {
  return set_memory_attributes(io_, vm_.fd(), range, cls);
}

}  // namespace sealift::test
