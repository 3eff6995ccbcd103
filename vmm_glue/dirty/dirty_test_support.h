// A small guest for the tests of dirty tracking: vCPUs that write lists of pages, on a real KVM.
//
// Fault model: none; what the guest writes is known exactly.
// Owner:   the test. Threads: the test's own calls all but the vCPUs' loops.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "vmm_glue/dirty/dirty_tracker.h"
#include "vmm_glue/vmm/kvm_vcpu.h"

namespace sealift::test {

// Anonymous memory, or that of a memfd, or 2 MiB pages; null() when there is none.
class TestMemory {
 public:
  enum class Kind { kAnonymous, kMemfd, kHugetlb };
  TestMemory(std::uint64_t pages, Kind kind);
  TestMemory(const TestMemory&) = delete;
  TestMemory& operator=(const TestMemory&) = delete;
  ~TestMemory();
  std::byte* at(std::uint64_t page) const { return base_ + page * kPageBytes; }
  std::byte* base() const { return base_; }
  bool null() const { return base_ == nullptr; }

 private:
  std::byte* base_ = nullptr;
  std::uint64_t bytes_;
};

// Two tracked slots: no multiple of 64 pages, one beyond 4 GiB and on no multiple of 64. A third
// one with the program, page tables and lists is never tracked.
inline constexpr GfnRange kLow{Gfn{0}, 1000};
inline constexpr GfnRange kHigh{Gfn{0x100003}, 777};
inline constexpr std::uint64_t kSpanPages = value(end_of(kHigh));
inline constexpr std::uint64_t kTargets = kLow.pages + kHigh.pages;
// The n-th page of the two.
constexpr Gfn target(std::uint64_t n) {
  return n < kLow.pages ? kLow.first + n : kHigh.first + (n - kLow.pages);
}

class TestGuest {
 public:
  // In a list: the last page of the slot that is not tracked.
  static constexpr std::uint64_t kControlTarget = ~0ULL;

  // Null, and a reason, where it cannot be made; `tracking` may be impossible here.
  static Result<std::unique_ptr<TestGuest>> make(std::uint32_t vcpus,
                                                 const DirtyTrackerConfig& tracking,
                                                 TestMemory::Kind kind);
  ~TestGuest() { pause(); }

  DirtyTracker& tracker() { return *tracker_; }
  DirtySet& dirty() { return dirty_; }
  std::span<const KvmSlot> slots() const { return slots_; }
  std::byte* page(Gfn gfn) const;
  void log_control_slot();
  std::uint64_t ring_full_exits() const { return ring_full_exits_; }

  // REQUIRES: paused. Each list is numbers of target(); vCPU v gets lists[v].
  enum class How { kOnce, kForever };
  void run(const std::vector<std::vector<std::uint64_t>>& lists, How how);
  void wait_done();  // of kOnce; paused afterwards
  void pause();
  // Until each vCPU has written its whole list since the call.
  void wait_for_a_pass();

  // Harvests, and what the DirtySet then had.
  PageBitmap harvest();
  PageBitmap drain();

 private:
  explicit TestGuest(TestMemory::Kind kind);
  Result<void> set_up(std::uint32_t vcpus, const DirtyTrackerConfig& tracking);
  void write_program();
  void run_vcpu(std::uint32_t index);
  bool serve_exit(std::uint32_t index);
  void drain_exit(std::uint32_t index);
  std::uint64_t written(std::uint32_t index) const;

  KvmSystem system_;
  KvmHandle vm_;
  TestMemory low_, high_, control_;
  DirtySet dirty_{kSpanPages};
  std::vector<KvmSlot> slots_;
  std::unique_ptr<DirtyTracker> tracker_;
  std::vector<std::unique_ptr<KvmVcpu>> vcpus_;
  std::vector<std::thread> threads_;
  std::vector<std::vector<std::uint64_t>> lists_;
  How how_ = How::kOnce;
  std::atomic<bool> stop_{false};
  std::atomic<std::uint64_t> ring_full_exits_{0};
};

std::vector<std::uint64_t> pages_of(const PageBitmap& bitmap);

}  // namespace sealift::test
