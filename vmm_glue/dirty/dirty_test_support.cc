#include "vmm_glue/dirty/dirty_test_support.h"

#include <linux/kvm.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <bit>
#include <chrono>
#include <cstring>

#include "vmm_glue/guest/mailbox.h"

namespace sealift::test {
namespace {

using namespace std::chrono_literals;

constexpr GfnRange kControl{Gfn{0x400}, 64};  // never tracked
constexpr std::uint64_t kCodeGpa = 0x400000, kTablesGpa = 0x401000, kListsGpa = 0x410000;
constexpr std::uint64_t kListBytes = 0x4000;
static_assert(kTargets * 8 <= kListBytes);
constexpr auto kWaitMax = 60s;

// rsi = list of addresses, rcx = its length, r8 = a counter that is stored at each, r9 = 1 to go on
// for ever, rdi = where to read when the list is done.
constexpr std::array<std::uint8_t, 34> kProgram = {
    0x48, 0x89, 0xf3,        // outer: mov rbx, rsi
    0x48, 0x89, 0xca,        //        mov rdx, rcx
    0x48, 0x8b, 0x03,        // inner: mov rax, [rbx]
    0x49, 0xff, 0xc0,        //        inc r8
    0x4c, 0x89, 0x00,        //        mov [rax], r8
    0x48, 0x83, 0xc3, 0x08,  //        add rbx, 8
    0x48, 0xff, 0xca,        //        dec rdx
    0x75, 0xee,              //        jnz inner
    0x4d, 0x85, 0xc9,        //        test r9, r9
    0x75, 0xe3,              //        jnz outer
    0x48, 0x8b, 0x07,        //        mov rax, [rdi]
    0xeb, 0xde,              //        jmp outer
};

int kick_signal() { return SIGRTMIN + 3; }

void discard_kicks() {
  sigset_t kicks;
  sigemptyset(&kicks);
  sigaddset(&kicks, kick_signal());
  const timespec at_once{};
  while (sigtimedwait(&kicks, nullptr, &at_once) > 0) {
  }
}

}  // namespace

TestMemory::TestMemory(std::uint64_t pages, Kind kind) : bytes_(pages * kPageBytes) {
  int fd = -1;
  int flags = MAP_PRIVATE | MAP_ANONYMOUS;
  if (kind == Kind::kHugetlb) flags |= MAP_HUGETLB;
  if (kind == Kind::kMemfd) {
    flags = MAP_SHARED;
    fd = memfd_create("dirty_test", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, static_cast<off_t>(bytes_)) != 0) return;
  }
  void* base = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, flags, fd, 0);
  if (fd >= 0) close(fd);
  if (base != MAP_FAILED) base_ = static_cast<std::byte*>(base);
}

TestMemory::~TestMemory() {
  if (base_ != nullptr) munmap(base_, bytes_);
}

Result<std::unique_ptr<TestGuest>> TestGuest::make(std::uint32_t vcpus,
                                                   const DirtyTrackerConfig& tracking,
                                                   TestMemory::Kind kind) {
  std::unique_ptr<TestGuest> guest(new TestGuest(kind));
  SEALIFT_CHECK(guest->set_up(vcpus, tracking));
  return guest;
}

TestGuest::TestGuest(TestMemory::Kind kind)
    : low_(kLow.pages, kind),
      high_(kHigh.pages, kind),
      control_(kControl.pages, TestMemory::Kind::kAnonymous) {}

Result<void> TestGuest::set_up(std::uint32_t vcpus, const DirtyTrackerConfig& tracking) {
  // The vCPU threads inherit it: a kick may come before they have run.
  sigset_t kicks;
  sigemptyset(&kicks);
  sigaddset(&kicks, kick_signal());
  pthread_sigmask(SIG_BLOCK, &kicks, nullptr);
  SEALIFT_TRY(system_, KvmSystem::open());
  SEALIFT_TRY(const int fd, SEALIFT_KVM(system_.handle, KVM_CREATE_VM, 0UL));
  vm_ = KvmHandle(fd);
  SEALIFT_CHECK(can_use(tracking.backend, vm_));
  slots_ = {KvmSlot{0, kLow, low_.base()}, KvmSlot{5, kHigh, high_.base()}};
  for (const KvmSlot& slot : slots_) SEALIFT_CHECK(set_slot(vm_, slot, false));
  SEALIFT_CHECK(set_slot(vm_, KvmSlot{2, kControl, control_.base()}, false));
  SEALIFT_TRY(tracker_, make_dirty_tracker(vm_, slots_, tracking, dirty_));
  write_program();
  SEALIFT_TRY(const auto cpuid, supported_cpuid(system_));
  for (std::uint32_t i = 0; i < vcpus; ++i) {
    SEALIFT_TRY(auto vcpu, KvmVcpu::make(system_, vm_, i, cpuid));
    SEALIFT_CHECK(tracker_->attach_vcpu(i, vcpu->handle()));
    KvmEntry entry;
    entry.rip = kCodeGpa;
    entry.rdi = guest::kDoorbellGpa;
    entry.cr3 = kTablesGpa;
    SEALIFT_CHECK(vcpu->enter_at(entry));
    vcpus_.push_back(std::move(vcpu));
  }
  return {};
}

// An identity map of 2 MiB pages: GiB 0 and 4 for the slots, 3 for the doorbell. Accessed and dirty
// bits are set, so nobody writes to the tables.
void TestGuest::write_program() {
  const auto entry = [this](std::uint64_t table, std::uint64_t index, std::uint64_t bits) {
    std::memcpy(control_.base() + (kTablesGpa - kCodeGpa) + table * kPageBytes + index * 8, &bits,
                8);
  };
  const auto table_at = [](std::uint64_t table) {
    return (kTablesGpa + table * kPageBytes) | 0x27;
  };
  entry(0, 0, table_at(1));
  std::uint64_t directory = 2;
  for (const std::uint64_t gib : {0ULL, 3ULL, 4ULL}) {
    entry(1, gib, table_at(directory));
    for (std::uint64_t i = 0; i < 512; ++i) entry(directory, i, gib << 30 | i << 21 | 0xe7);
    ++directory;
  }
  std::memcpy(control_.base(), kProgram.data(), kProgram.size());
}

std::byte* TestGuest::page(Gfn gfn) const {
  return value(gfn) < kLow.pages ? low_.at(value(gfn)) : high_.at(value(gfn) - value(kHigh.first));
}

void TestGuest::log_control_slot() {
  ASSERT_TRUE(set_slot(vm_, KvmSlot{2, kControl, control_.base()}, true));
}

void TestGuest::run(const std::vector<std::vector<std::uint64_t>>& lists, How how) {
  ASSERT_TRUE(threads_.empty());
  ASSERT_EQ(lists.size(), vcpus_.size());
  lists_ = lists;
  how_ = how;
  stop_ = false;
  for (std::uint32_t i = 0; i < vcpus_.size(); ++i) {
    const std::uint64_t list_gpa = kListsGpa + i * kListBytes;
    std::vector<std::uint64_t> addresses;
    for (const std::uint64_t n : lists[i]) {
      const Gfn gfn = n == kControlTarget ? kControl.first + (kControl.pages - 1) : target(n);
      addresses.push_back(value(base_of(gfn)) + i * 8);
    }
    std::memcpy(control_.base() + (list_gpa - kCodeGpa), addresses.data(), addresses.size() * 8);
    kvm_regs regs{};
    ASSERT_TRUE(SEALIFT_KVM(vcpus_[i]->handle(), KVM_GET_REGS, &regs));
    regs.rip = kCodeGpa;
    regs.rsi = list_gpa;
    regs.rcx = addresses.size();
    regs.r9 = how == How::kForever ? 1 : 0;
    ASSERT_TRUE(SEALIFT_KVM(vcpus_[i]->handle(), KVM_SET_REGS, &regs));
  }
  for (std::uint32_t i = 0; i < vcpus_.size(); ++i)
    threads_.emplace_back([this, i] { run_vcpu(i); });
}

void TestGuest::run_vcpu(std::uint32_t index) {
  KvmVcpu& vcpu = *vcpus_[index];
  ASSERT_TRUE(vcpu.use_kick_signal(kick_signal()));
  vcpu.set_immediate_exit(false);
  bool running = true;
  while (running && !stop_) {
    const int error = vcpu.run();
    if (error == EINTR || error == EAGAIN) {
      discard_kicks();
      continue;
    }
    ASSERT_EQ(error, 0) << strerrorname_np(error);
    running = serve_exit(index);
  }
  drain_exit(index);
}

bool TestGuest::serve_exit(std::uint32_t index) {
  KvmRun& area = vcpus_[index]->run_area();
  if (area.exit_reason == kKvmExitIntr) return true;
  if (area.exit_reason == kKvmExitDirtyRingFull) {
    ++ring_full_exits_;
    const auto served = tracker_->on_ring_full(index);
    EXPECT_TRUE(served) << served.error().detail;
    return served.has_value();
  }
  EXPECT_EQ(area.exit_reason, kKvmExitMmio);
  EXPECT_EQ(area.exit.mmio.phys_addr, guest::kDoorbellGpa);
  return false;
}

// Completes a read that is half done. A full ring may come first.
void TestGuest::drain_exit(std::uint32_t index) {
  vcpus_[index]->set_immediate_exit(true);
  for (int i = 0; i < 16; ++i) {
    const int error = vcpus_[index]->run();
    if (error == EINTR) return discard_kicks();
    ASSERT_EQ(error, 0) << strerrorname_np(error);
    (void)serve_exit(index);
  }
  ADD_FAILURE() << "vCPU " << index << " does not come to rest";
}

void TestGuest::wait_done() {
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
}

void TestGuest::pause() {
  stop_ = true;
  for (std::size_t i = 0; i < threads_.size(); ++i) {
    vcpus_[i]->set_immediate_exit(true);
    pthread_kill(threads_[i].native_handle(), kick_signal());
  }
  wait_done();
}

std::uint64_t TestGuest::written(std::uint32_t index) const {
  std::byte* at = page(target(lists_[index].back())) + index * 8;
  return std::atomic_ref(*reinterpret_cast<std::uint64_t*>(at)).load();
}

void TestGuest::wait_for_a_pass() {
  const auto end = std::chrono::steady_clock::now() + kWaitMax;
  for (std::uint32_t i = 0; i < vcpus_.size(); ++i) {
    // The first change may be of a pass that was under way.
    const std::uint64_t enough = written(i) + lists_[i].size() + 1;
    while (written(i) < enough) {
      ASSERT_LT(std::chrono::steady_clock::now(), end) << "vCPU " << i << " does not go on";
      std::this_thread::yield();
    }
  }
}

PageBitmap TestGuest::drain() {
  PageBitmap got(kSpanPages);
  dirty_.drain(got);
  return got;
}

PageBitmap TestGuest::harvest() {
  const auto harvested = tracker_->harvest();
  EXPECT_TRUE(harvested) << harvested.error().detail;
  return drain();
}

std::vector<std::uint64_t> pages_of(const PageBitmap& bitmap) {
  std::vector<std::uint64_t> pages;
  for (std::size_t word = 0; word < bitmap.words().size(); ++word) {
    for (std::uint64_t bits = bitmap.words()[word]; bits != 0; bits &= bits - 1) {
      pages.push_back(word * 64 + static_cast<std::uint64_t>(std::countr_zero(bits)));
    }
  }
  return pages;
}

}  // namespace sealift::test
