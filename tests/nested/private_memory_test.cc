// Our decoders, converter and dirty tracking on a real kernel's private memory.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <thread>

#include "tests/nested/private_vm.h"
#include "vmm_glue/dirty/dirty_tracker.h"
#include "vmm_glue/exits/hypercall.h"
#include "vmm_glue/exits/memory_attributes.h"

namespace sealift::test {
namespace {

using Kind = MemoryFaultOutcome::Kind;

#define EXPECT_OK(expression)                                       \
  do {                                                              \
    const auto expect_ok = (expression);                            \
    EXPECT_TRUE(expect_ok.has_value()) << expect_ok.error().detail; \
  } while (false)

constexpr std::uint64_t kWord = 0x1111'0000'0000'0000;

std::uint64_t gpa_of(Gfn gfn) { return value(base_of(gfn)); }

class PrivateMemory : public testing::Test {
 protected:
  void SetUp() override {
    auto made = PrivateVm::make();
    if (!made) GTEST_SKIP() << made.error().detail;
    vm = std::move(*made);
  }

  // Runs into a memory fault; its decoded outcome.
  MemoryFaultOutcome fault(MemoryFaultHandler& handler) {
    const int error = vm->run();
    EXPECT_TRUE(handler.handles(error, vm->exit())) << "errno " << error;
    if (!handler.handles(error, vm->exit())) return {};
    return handler.handle(error, vm->exit());
  }
  void expect_exit(Gfn gfn, std::uint64_t flags) {
    EXPECT_EQ(vm->exit().exit_reason, kKvmExitMemoryFault);
    EXPECT_EQ(vm->exit().exit.memory_fault.flags, flags);
    EXPECT_EQ(vm->exit().exit.memory_fault.gpa, gpa_of(gfn));
    EXPECT_EQ(vm->exit().exit.memory_fault.size, kPageBytes);
  }
  // The access goes on faulting until the handler calls it a storm.
  void expect_storm(MemoryFaultHandler& handler) {
    MemoryFaultOutcome outcome;
    int faults = 0;
    for (; outcome.kind != Kind::kFatal || faults == 0; ++faults) {
      ASSERT_LT(faults, 100);
      outcome = fault(handler);
    }
    EXPECT_NE(outcome.why.find("times in a row"), std::string::npos) << outcome.why;
  }
  void load_read(Gfn gfn) {
    kvm_regs arguments{};
    arguments.rdi = gpa_of(gfn);
    vm->load(Program::kRead, arguments);
  }

  std::unique_ptr<PrivateVm> vm;
};

// --- Two sides ---

TEST_F(PrivateMemory, TheGuestUsesItAndTheSharedSideStaysAsItWas) {
  vm->fill(kRam.first, 512, kWord);
  EXPECT_EQ(vm->read(kRam.first + 5), kWord + 5);
  for (std::uint64_t i = 0; i < kRam.pages; ++i) ASSERT_EQ(vm->ram_shared().word(i), 0u) << i;
  const auto mapped = pre_fault(vm->io(), vm->vcpu().handle().fd(), {kRam.first + 1024, 64});
  ASSERT_TRUE(mapped.has_value()) << mapped.error().detail;
  EXPECT_EQ(*mapped, 64u);
}

TEST_F(PrivateMemory, TheHostCannotReadIt) {
  vm->fill(kRam.first, 1, kWord);
  std::byte page[kPageBytes];
  EXPECT_EQ(pread(vm->ram_fd(), page, sizeof page, 0), -1);
  EXPECT_EQ(errno, ESPIPE);
  EXPECT_EQ(mmap(nullptr, kPageBytes, PROT_READ, MAP_SHARED, vm->ram_fd(), 0), MAP_FAILED);
  EXPECT_EQ(errno, ENODEV);
  vm->copy(kBounce, kRam.first);  // the guest can, and may show it
  EXPECT_EQ(vm->low().word(value(kBounce)), kWord);
}

TEST_F(PrivateMemory, TheGuestsHypercallConvertsBothWaysAndDropsTheOtherSide) {
  const Gfn page = kRam.first + 3;
  const std::uint64_t at = value(page) - value(kRam.first);
  vm->fill(page, 1, kWord);
  const auto ask = [&](PageClass cls, std::uint64_t word) {
    kvm_regs arguments{};
    arguments.rax = kKvmHypercallPageState;
    arguments.rbx = arguments.rdi = gpa_of(page);
    arguments.rcx = 1;
    arguments.rdx = cls == PageClass::kPrivate ? 0x10 : 0;
    arguments.r10 = word;
    vm->load(Program::kHypercall, arguments);
    ASSERT_EQ(vm->run(), 0);
    ASSERT_EQ(vm->exit().exit_reason, kKvmExitHypercall);
    const HypercallRules rules{.form = HypercallForm::kMapGpaRange};
    const auto outcome = handle_hypercall(vm->exit(), rules, vm->layout(), vm->converter());
    EXPECT_TRUE(outcome.converted()) << describe(outcome);
    EXPECT_EQ(vm->map().class_of(page), cls);
    ASSERT_EQ(vm->run(), 0);
    ASSERT_TRUE(vm->is_done());
    EXPECT_EQ(vm->registers().r8, kKvmHypercallDone);
    EXPECT_EQ(vm->registers().r9, 0u) << "the guest found an old side";
    EXPECT_EQ(vm->read(page), word);
  };
  ask(PageClass::kShared, 0xaaaa);
  EXPECT_EQ(vm->ram_shared().word(at), 0xaaaau);
  ask(PageClass::kPrivate, 0xbbbb);
  EXPECT_EQ(vm->ram_shared().word(at), 0u);
  ask(PageClass::kShared, 0xcccc);
  EXPECT_EQ(vm->converter().counters().failed_discards, 0u);
}

// Without the hole that the converter punches, KVM keeps the private side.
TEST_F(PrivateMemory, AttributesAloneKeepBothSides) {
  vm->fill(kRam.first, 1, kWord);
  EXPECT_OK(vm->set_attributes({kRam.first, 1}, PageClass::kShared));
  EXPECT_EQ(vm->read(kRam.first), 0u);
  EXPECT_OK(vm->set_attributes({kRam.first, 1}, PageClass::kPrivate));
  EXPECT_EQ(vm->read(kRam.first), kWord);
}

// --- KVM_EXIT_MEMORY_FAULT ---

TEST_F(PrivateMemory, FaultsInASlotWithoutGuestMemfd) {
  EXPECT_OK(vm->set_attributes({kPlain.first, 1}, PageClass::kPrivate));
  vm->map().convert({kPlain.first, 1}, PageClass::kPrivate);
  kvm_regs arguments{};
  arguments.rdi = gpa_of(kPlain.first);
  arguments.rcx = 1;
  arguments.rax = kWord;
  vm->load(Program::kFill, arguments);
  MemoryFaultHandler handler = vm->fault_handler();
  EXPECT_EQ(fault(handler).kind, Kind::kRetry);  // the map agrees with the access
  expect_exit(kPlain.first, kKvmFaultPrivate);
  expect_storm(handler);
  EXPECT_OK(vm->set_attributes({kPlain.first, 1}, PageClass::kShared));
  EXPECT_EQ(vm->run(), 0);  // the same instruction again
  EXPECT_TRUE(vm->is_done());
  EXPECT_EQ(vm->plain().word(0), kWord);
}

TEST_F(PrivateMemory, FaultsWhereNoSlotIsUntilOneIsAdded) {
  EXPECT_OK(vm->set_attributes(kNothing, PageClass::kPrivate));
  vm->map().convert(kNothing, PageClass::kPrivate);
  load_read(kNothing.first);
  MemoryFaultHandler handler = vm->fault_handler();
  EXPECT_EQ(fault(handler).kind, Kind::kRetry);
  expect_exit(kNothing.first, kKvmFaultPrivate);

  const Mapping shared(kNothing.pages);
  const auto fd = create_guest_memfd(vm->io(), vm->handle().fd(), kNothing.pages * kPageBytes, 0);
  ASSERT_TRUE(fd.has_value()) << fd.error().detail;
  EXPECT_OK(vm->add_slot(3, kNothing, shared.page(0), *fd));
  EXPECT_EQ(vm->run(), 0);
  EXPECT_TRUE(vm->is_done());

  // The last close takes the memory from under the slot, and nothing brings it back.
  close(*fd);
  load_read(kNothing.first + 1);
  EXPECT_EQ(fault(handler).kind, Kind::kRetry);
  expect_exit(kNothing.first + 1, kKvmFaultPrivate);
  expect_storm(handler);
  EXPECT_OK(vm->remove_slot(3, kNothing));
}

TEST_F(PrivateMemory, AFaultAgainstTheMapIsAnImplicitConversion) {
  EXPECT_OK(vm->set_attributes({kRam.first, 1}, PageClass::kPrivate));
  vm->map().convert({kRam.first, 1}, PageClass::kShared);  // as if KVM had been told alone
  const auto own = vm->remove_slot(1, kRam);
  ASSERT_TRUE(own.has_value());
  load_read(kRam.first);
  MemoryFaultHandler handler = vm->fault_handler();
  const MemoryFaultOutcome outcome = fault(handler);
  EXPECT_EQ(outcome.kind, Kind::kConverted) << outcome.why;
  EXPECT_EQ(vm->map().class_of(kRam.first), PageClass::kPrivate);
  EXPECT_TRUE(vm->dirty().is_marked(kRam.first));
  EXPECT_OK(vm->add_slot(1, kRam, vm->ram_shared().page(0), vm->ram_fd()));
  EXPECT_EQ(vm->run(), 0);
  EXPECT_TRUE(vm->is_done());
}

TEST_F(PrivateMemory, GoneHostMemoryIsFatalAndNoMemoryFault) {
  vm->plain().unmap(2);
  load_read(kPlain.first + 2);
  MemoryFaultHandler handler = vm->fault_handler();
  const MemoryFaultOutcome outcome = fault(handler);
  EXPECT_NE(vm->exit().exit_reason, kKvmExitMemoryFault);
  EXPECT_EQ(outcome.kind, Kind::kFatal);
  EXPECT_NE(outcome.why.find("EFAULT"), std::string::npos) << outcome.why;
}

// Another thread converts the page that the guest counts in. KVM notices an attribute that changed
// under a fault and leaves it to the VMM, with either flag; the handler settles every one of them.
TEST_F(PrivateMemory, ConversionsRaceTheGuestsAccesses) {
  constexpr auto kLimit = std::chrono::seconds(60);
  const GfnRange page{kRam.first, 1};
  const Gfn stop_word{0x200 - 1};
  kvm_regs arguments{};
  arguments.rdi = gpa_of(page.first);
  arguments.rsi = gpa_of(stop_word);
  vm->load(Program::kCount, arguments);

  std::uint64_t faults[2] = {0, 0};  // shared, private
  std::atomic<bool> enough{false};
  std::atomic<std::uint64_t> conversions{0};
  const auto end = std::chrono::steady_clock::now() + kLimit;
  std::thread other([&] {
    while (!enough && std::chrono::steady_clock::now() < end) {
      EXPECT_EQ(vm->converter().convert(page, PageClass::kShared), Converted::kDone);
      EXPECT_EQ(vm->converter().convert(page, PageClass::kPrivate), Converted::kDone);
      conversions += 2;
    }
    const std::uint64_t one = 1;  // ends the guest's program
    std::memcpy(vm->low().page(value(stop_word)), &one, sizeof one);
  });
  MemoryFaultHandler handler = vm->fault_handler();
  int error = vm->run();
  for (; error != 0; error = vm->run()) {
    if (error == EINTR) continue;
    if (!handler.handles(error, vm->exit())) break;
    ++faults[(vm->exit().exit.memory_fault.flags & kKvmFaultPrivate) != 0 ? 1 : 0];
    const MemoryFaultOutcome outcome = handler.handle(error, vm->exit());
    if (outcome.kind == Kind::kFatal) ADD_FAILURE() << outcome.why;
    if (faults[0] > 0 && faults[1] > 0) enough = true;
  }
  enough = true;
  other.join();
  EXPECT_EQ(error, 0);
  EXPECT_TRUE(vm->is_done());
  std::printf("%llu conversions, %llu faults as shared, %llu as private\n",
              static_cast<unsigned long long>(conversions.load()),
              static_cast<unsigned long long>(faults[0]),
              static_cast<unsigned long long>(faults[1]));
  EXPECT_GT(faults[0] + faults[1], 0u);
  vm->fill(page.first, 1, kWord);  // KVM and the map still agree
  EXPECT_EQ(vm->ram_shared().word(0),
            vm->map().class_of(page.first) == PageClass::kShared ? kWord : 0);
}

// --- Dirty tracking ---

TEST_F(PrivateMemory, KvmLogsNoPageOfASlotWithGuestMemfd) {
  KvmUserMemoryRegion2 region{};
  region.slot = 1;
  region.flags = kKvmMemGuestMemfd | 1;  // KVM_MEM_LOG_DIRTY_PAGES
  region.guest_phys_addr = gpa_of(kRam.first);
  region.memory_size = kRam.pages * kPageBytes;
  region.userspace_addr = reinterpret_cast<std::uintptr_t>(vm->ram_shared().page(0));
  region.guest_memfd = static_cast<std::uint32_t>(vm->ram_fd());
  EXPECT_FALSE(set_user_memory_region2(vm->io(), vm->handle().fd(), region).has_value());
  std::vector<std::uint64_t> bitmap(kRam.pages / 64);
  kvm_dirty_log log{};
  log.slot = 1;
  log.dirty_bitmap = bitmap.data();
  EXPECT_EQ(ioctl(vm->handle().fd(), KVM_GET_DIRTY_LOG, &log), -1);
  EXPECT_EQ(errno, ENOENT);
}

TEST_F(PrivateMemory, UffdSeesEveryWriteToTheSharedHalf) {
  ASSERT_EQ(vm->converter().convert({kRam.first, 64}, PageClass::kShared), Converted::kDone);
  const KvmSlot slot{.id = 1, .range = kRam, .host = vm->ram_shared().page(0), .guest_memfd = true};
  DirtySet dirty(vm->layout().span_pages());
  auto tracker = make_dirty_tracker(vm->handle(), {slot}, {.backend = DirtyBackend::kUffd}, dirty);
  ASSERT_TRUE(tracker.has_value()) << tracker.error().detail;
  EXPECT_OK((*tracker)->start());
  const auto harvest = [&] {
    EXPECT_OK((*tracker)->harvest());
    PageBitmap taken(vm->layout().span_pages());
    dirty.drain(taken);
    std::vector<std::uint64_t> pages;
    for (std::uint64_t i = 0; i < kRam.pages; ++i) {
      const std::uint64_t gfn = value(kRam.first) + i;
      if ((taken.words()[gfn / 64] >> (gfn % 64) & 1) != 0) pages.push_back(i);
    }
    return pages;
  };
  using Pages = std::vector<std::uint64_t>;
  EXPECT_EQ(harvest(), Pages{});
  vm->fill(kRam.first + 10, 4, kWord);
  EXPECT_EQ(harvest(), (Pages{10, 11, 12, 13}));
  vm->fill(kRam.first + 12, 1, kWord);
  vm->ram_shared().page(20)[0] = std::byte{1};  // the VMM's own write
  vm->fill(kRam.first + 100, 4, kWord);         // private: no means sees it
  EXPECT_EQ(harvest(), (Pages{12, 20}));
  EXPECT_EQ(harvest(), Pages{});
  EXPECT_OK((*tracker)->stop());
}

}  // namespace
}  // namespace sealift::test
