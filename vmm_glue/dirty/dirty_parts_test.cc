// The parts of dirty tracking that need no guest: names, bitmaps, a ring's bookkeeping, what is
// refused.
#include <gtest/gtest.h>
#include <linux/kvm.h>
#include <sys/mman.h>

#include <array>
#include <vector>

#include "vmm_glue/dirty/dirty_ring.h"
#include "vmm_glue/dirty/dirty_tracker.h"
#include "vmm_glue/dirty/log_tracker.h"
#include "vmm_glue/vmm/kvm_vcpu.h"

namespace sealift {
namespace {

TEST(DirtyBackendNames, RoundTrip) {
  for (const char* name : {"auto", "log", "manual", "ring", "uffd"}) {
    const auto parsed = parse_dirty_backend(name);
    ASSERT_TRUE(parsed) << name;
    EXPECT_STREQ(name_of(*parsed), name);
  }
  const auto wrong = parse_dirty_backend("rings");
  ASSERT_FALSE(wrong);
  EXPECT_EQ(wrong.error().detail,
            "dirty back-end 'rings' is none of auto, log, manual, ring, uffd");
}

// --- Bitmaps ---

// Every place of a range in its first word, against the definition bit by bit.
TEST(MergeBitmap, AtEveryShiftAndLength) {
  for (std::uint64_t first = 0; first < 130; ++first) {
    for (const std::uint64_t pages : {1ULL, 63ULL, 64ULL, 65ULL, 127ULL, 128ULL, 200ULL}) {
      const GfnRange range{Gfn{first}, pages};
      DirtySet dirty(value(end_of(range)));
      std::vector<std::uint64_t> words((pages + 63) / 64, 0xa5a5'0000'0000'000fULL);
      words.back() |= 1ULL << 63;  // beyond the range, unless it ends there
      merge_bitmap(dirty, range, words);
      for (std::uint64_t gfn = 0; gfn < dirty.span_pages(); ++gfn) {
        const bool set =
            gfn >= first && (words[(gfn - first) / 64] >> ((gfn - first) % 64) & 1) != 0;
        ASSERT_EQ(dirty.is_marked(Gfn{gfn}), set) << first << " + " << pages << ": " << gfn;
      }
    }
  }
}

// --- A ring, with the test in the kernel's place ---

class FakeRing : public testing::Test {
 protected:
  static constexpr std::uint64_t kEntries = 8;
  void push(std::uint64_t offset) {
    kvm_dirty_gfn& entry = entries_[pushed_++ % kEntries];
    ASSERT_EQ(entry.flags, 0u) << "full";
    entry = kvm_dirty_gfn{KVM_DIRTY_GFN_F_DIRTY, 3, offset};
  }
  // As KVM_RESET_DIRTY_RINGS: up to the first entry that was not handed back.
  std::uint64_t reset() {
    std::uint64_t done = 0;
    for (; entries_[reset_ % kEntries].flags == KVM_DIRTY_GFN_F_RESET; ++reset_, ++done) {
      entries_[reset_ % kEntries].flags = 0;
    }
    return done;
  }
  std::vector<std::uint64_t> take() {
    std::vector<RingPage> pages;
    ring_.take(pages);
    std::vector<std::uint64_t> offsets;
    for (const RingPage& page : pages) {
      EXPECT_EQ(page.slot, 3u);
      offsets.push_back(page.offset);
    }
    return offsets;
  }

  std::array<kvm_dirty_gfn, kEntries> entries_{};
  DirtyRing ring_{entries_};
  std::uint64_t pushed_ = 0, reset_ = 0;
};

TEST_F(FakeRing, TakesInOrderAroundTheEnd) {
  EXPECT_TRUE(take().empty());
  std::uint64_t next = 0;
  for (int round = 0; round < 10; ++round) {
    std::vector<std::uint64_t> expected;
    for (int i = 0; i < 5; ++i) {
      expected.push_back(next);
      push(next++);
    }
    EXPECT_EQ(take(), expected);
    EXPECT_TRUE(take().empty()) << "an entry is taken once";
    EXPECT_EQ(reset(), 5u);
  }
}

TEST_F(FakeRing, AFullRingEndsAfterOneTurn) {
  for (std::uint64_t i = 0; i < kEntries; ++i) push(i);
  EXPECT_EQ(take().size(), kEntries);
  EXPECT_TRUE(take().empty()) << "taken and not yet reset";
  EXPECT_EQ(reset(), kEntries);
  push(100);
  EXPECT_EQ(take(), std::vector<std::uint64_t>{100});
}

TEST_F(FakeRing, StopsAtAnEntryThatIsNotReady) {
  push(1);
  entries_[1] = kvm_dirty_gfn{0, 3, 2};
  entries_[2] = kvm_dirty_gfn{KVM_DIRTY_GFN_F_DIRTY, 3, 3};
  EXPECT_EQ(take(), std::vector<std::uint64_t>{1});
  entries_[1].flags = KVM_DIRTY_GFN_F_DIRTY;
  EXPECT_EQ(take(), (std::vector<std::uint64_t>{2, 3}));
}

// --- What is refused ---

class Refusals : public testing::Test {
 protected:
  void SetUp() override {
    auto system = KvmSystem::open();
    if (!system) GTEST_SKIP() << system.error().detail;
    auto vm = SEALIFT_KVM(system->handle, KVM_CREATE_VM, 0UL);
    if (!vm) GTEST_SKIP() << vm.error().detail;
    system_ = std::move(*system);
    vm_ = KvmHandle(*vm);
  }
  Error refusal(std::vector<KvmSlot> slots, DirtyTrackerConfig config = {DirtyBackend::kGetLog}) {
    auto made = make_dirty_tracker(vm_, std::move(slots), config, dirty_);
    EXPECT_FALSE(made);
    return made ? Error{} : made.error();
  }

  KvmSystem system_;
  KvmHandle vm_;
  DirtySet dirty_{100};
  alignas(kPageBytes) std::array<std::byte, kPageBytes> page_{};
  KvmSlot good_{1, GfnRange{Gfn{2}, 1}, page_.data()};
};

TEST_F(Refusals, SlotsThatCannotBe) {
  KvmSlot slot = good_;
  slot.range = GfnRange{Gfn{99}, 2};
  EXPECT_EQ(refusal({slot}).detail,
            "slot 1 (gfn 0x63, 2 pages) is empty or not within the guest's 100 pages");
  slot.range = GfnRange{Gfn{~0ULL}, 2};
  EXPECT_EQ(refusal({slot}).cls, ErrorClass::kUsage);
  slot.range = GfnRange{Gfn{2}, 0};
  EXPECT_EQ(refusal({slot}).cls, ErrorClass::kUsage);
  slot = good_;
  slot.host = page_.data() + 8;
  EXPECT_EQ(refusal({slot}).detail, "slot 1 (gfn 0x2, 1 pages) has no page-aligned host address");
  slot = good_;
  slot.id = 0x8000;
  EXPECT_EQ(refusal({slot}).cls, ErrorClass::kUsage);
  EXPECT_EQ(refusal({good_, good_}).detail,
            "slot 1 (gfn 0x2, 1 pages) and slot 1 (gfn 0x2, 1 pages) are one slot");
}

TEST_F(Refusals, GuestMemfdHasNoLog) {
  KvmSlot slot = good_;
  slot.guest_memfd = true;
  for (const DirtyBackend backend :
       {DirtyBackend::kGetLog, DirtyBackend::kManualProtect, DirtyBackend::kRing}) {
    EXPECT_EQ(refusal({slot}, {backend}).detail,
              "slot 1 (gfn 0x2, 1 pages): guest_memfd slots have no dirty log; uffd can watch "
              "their shared half");
  }
  const auto set = set_slot(vm_, slot, false);
  ASSERT_FALSE(set);
  EXPECT_EQ(set.error().cls, ErrorClass::kUsage);
  if (!can_use(DirtyBackend::kUffd, vm_)) return;
  EXPECT_TRUE(make_dirty_tracker(vm_, {slot}, {DirtyBackend::kUffd}, dirty_));
}

TEST_F(Refusals, RingsThatCannotBe) {
  if (const auto usable = can_use(DirtyBackend::kRing, vm_); !usable) {
    GTEST_SKIP() << usable.error().detail;
  }
  for (const std::uint32_t entries : {0u, 512u, 1025u, 3000u, 1u << 31}) {
    EXPECT_EQ(refusal({good_}, {DirtyBackend::kRing, entries}).cls, ErrorClass::kUsage) << entries;
  }
  EXPECT_TRUE(make_dirty_tracker(vm_, {good_}, {DirtyBackend::kRing, kRingEntriesMin}, dirty_));
  const Error twice = refusal({good_}, {DirtyBackend::kRing});
  EXPECT_NE(twice.detail.find("KVM_ENABLE_CAP failed: EINVAL"), std::string::npos) << twice.detail;
}

TEST_F(Refusals, RingsAfterAVcpuExists) {
  if (!can_use(DirtyBackend::kRing, vm_)) GTEST_SKIP() << "no dirty ring";
  ASSERT_TRUE(SEALIFT_KVM(vm_, KVM_CREATE_VCPU, 0UL));
  const Error late = refusal({good_}, {DirtyBackend::kRing});
  EXPECT_NE(late.detail.find("a VM that has vCPUs or rings already gives EINVAL"),
            std::string::npos)
      << late.detail;
}

TEST_F(Refusals, AFailedStartLeavesTrackingOff) {
  auto made = make_dirty_tracker(vm_, {good_, KvmSlot{2, GfnRange{Gfn{2}, 1}, page_.data()}},
                                 {DirtyBackend::kGetLog}, dirty_);
  ASSERT_TRUE(made);
  const auto started = (*made)->start();
  ASSERT_FALSE(started) << "two slots at one place";
  EXPECT_NE(started.error().detail.find("slot 2 (gfn 0x2, 1 pages): KVM_SET_USER_MEMORY_REGION"),
            std::string::npos)
      << started.error().detail;
  EXPECT_EQ((*made)->harvest().error().cls, ErrorClass::kRefused);
}

// More pages than one KVM_CLEAR_DIRTY_LOG takes: all are reported, and all are cleared, once.
using LargeSlot = Refusals;
TEST_F(LargeSlot, IsClearedInPieces) {
  constexpr std::uint64_t kPages = 150'003;
  const auto modes = manual_protect_modes(vm_);
  if (!modes) GTEST_SKIP() << modes.error().detail;
  if ((*modes & KVM_DIRTY_LOG_INITIALLY_SET) == 0) GTEST_SKIP() << "logs begin empty here";
  void* area = mmap(nullptr, kPages * kPageBytes, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  ASSERT_NE(area, MAP_FAILED);
  const KvmSlot slot{1, GfnRange{Gfn{5}, kPages}, static_cast<std::byte*>(area)};
  DirtySet dirty(5 + kPages + 1);
  auto made = make_dirty_tracker(vm_, {slot}, {DirtyBackend::kManualProtect}, dirty);
  ASSERT_TRUE(made) << made.error().detail;
  ASSERT_TRUE((*made)->start());
  for (const std::uint64_t expected : {kPages, std::uint64_t{0}}) {
    const auto harvested = (*made)->harvest();
    ASSERT_TRUE(harvested) << harvested.error().detail;
    PageBitmap got(dirty.span_pages());
    dirty.drain(got);
    EXPECT_EQ(got.count(), expected);
  }
  made->reset();
  munmap(area, kPages * kPageBytes);
}

TEST_F(Refusals, AutoIsSomethingUsable) {
  auto made = make_dirty_tracker(vm_, {good_}, {}, dirty_);
  ASSERT_TRUE(made);
  EXPECT_NE((*made)->backend(), DirtyBackend::kAuto);
  EXPECT_TRUE(can_use((*made)->backend(), vm_));
}

}  // namespace
}  // namespace sealift
