#include "vmm_glue/exits/gmem_converter.h"

#include <fmt/core.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "vmm_glue/exits/memory_attributes.h"

namespace sealift {
namespace {

using Log = std::vector<std::string>;

constexpr int kVm = 5;
constexpr auto kToShared = PageClass::kShared;
constexpr auto kToPrivate = PageClass::kPrivate;

// Everything that a conversion does below us, in its order, with what the map said at that moment.
// Faults: the nth call of each kind fails with an errno.
class FakeHost final : public HostIoctl, public MemoryDiscard {
 public:
  explicit FakeHost(PageMap& map) : map_(map) {}
  Log log;
  int fail_attributes = 0;  // -errno
  int fail_discard = 0;
  int discards_before_failure = 0;
  std::byte* base = nullptr;

  int ioctl(int fd, unsigned long request, void* arg) override {
    EXPECT_EQ(fd, kVm);
    EXPECT_EQ(request, kKvmSetMemoryAttributes);
    KvmMemoryAttributes attributes;
    std::memcpy(&attributes, arg, sizeof attributes);
    EXPECT_EQ(attributes.flags, 0u);
    if (fail_attributes != 0) return fail_attributes;
    add(fmt::format("attributes {:#x}+{:#x} {:#x}", attributes.address, attributes.size,
                    attributes.attributes));
    return 0;
  }
  int advise(std::byte* at, std::uint64_t bytes, int advice) override {
    return discard(fmt::format("{} {:#x}+{:#x}", advice == MADV_DONTNEED ? "dontneed" : "remove",
                               at - base, bytes));
  }
  int punch_hole(int fd, std::uint64_t offset, std::uint64_t bytes) override {
    return discard(fmt::format("punch {} {:#x}+{:#x}", fd, offset, bytes));
  }

 private:
  int discard(std::string what) {
    add(std::move(what));
    return fail_discard != 0 && discards_before_failure-- <= 0 ? fail_discard : 0;
  }
  void add(std::string what) {
    log.push_back(fmt::format("{} ({} shared)", what, map_.shared_pages()));
  }
  PageMap& map_;
};

constexpr std::uint64_t kSpan = 0x400;

// Slots: 0x000..0x0ff private anonymous, 0x100..0x1ff shared anonymous (they touch),
// 0x200..0x2ff a file, a hole, 0x380..0x3ff preallocated.
class GmemConverterTest : public testing::Test {
 protected:
  GmemConverterTest() : memory_(kSpan * kPageBytes + kPageBytes) {
    const auto at = reinterpret_cast<std::uintptr_t>(memory_.data());
    host_.base = memory_.data() + (kPageBytes - at % kPageBytes) % kPageBytes;
    slots_ = {slot(0, 0x000, 0x100, SharedBacking::kPrivateAnonymous),
              slot(1, 0x100, 0x100, SharedBacking::kSharedAnonymous),
              slot(2, 0x200, 0x100, SharedBacking::kFile),
              slot(3, 0x380, 0x80, SharedBacking::kPreallocated)};
    slots_[1].guest_memfd_offset = 0x10000;
    slots_[2].shared_fd = 90;
    slots_[2].shared_offset = 0x7000;
  }
  GmemSlot slot(std::uint32_t number, std::uint64_t first, std::uint64_t pages,
                SharedBacking backing) const {
    GmemSlot made;
    made.slot = number;
    made.range = GfnRange{Gfn{first}, pages};
    made.backing = backing;
    made.shared = host_.base + first * kPageBytes;
    made.guest_memfd = 70 + static_cast<int>(number);
    return made;
  }
  std::unique_ptr<GmemConverter> make(ConvertGate gate = {}) {
    auto made = GmemConverter::make({host_, kVm, host_, map_, dirty_, std::move(gate)}, slots_);
    EXPECT_TRUE(made.has_value()) << made.error().detail;
    return std::move(*made);
  }

  PageMap map_{kSpan};
  DirtySet dirty_{kSpan};
  FakeHost host_{map_};
  std::vector<std::byte> memory_;
  std::vector<GmemSlot> slots_;
};

constexpr GfnRange pages(std::uint64_t first, std::uint64_t count) {
  return GfnRange{Gfn{first}, count};
}

TEST_F(GmemConverterTest, AttributesThenDiscardThenMap) {
  auto converter = make();
  EXPECT_EQ(converter->convert(pages(0x10, 4), kToShared), Converted::kDone);
  EXPECT_EQ(host_.log, (Log{"attributes 0x10000+0x4000 0x0 (0 shared)",
                            "punch 70 0x10000+0x4000 (0 shared)"}));
  EXPECT_TRUE(all_pages_are(map_, pages(0x10, 4), kToShared));
  EXPECT_EQ(dirty_.count(), 4u);
  host_.log.clear();
  EXPECT_EQ(converter->convert(pages(0x11, 1), kToPrivate), Converted::kDone);
  EXPECT_EQ(host_.log, (Log{"attributes 0x11000+0x1000 0x8 (4 shared)",
                            "dontneed 0x11000+0x1000 (4 shared)"}));
  EXPECT_EQ(map_.shared_pages(), 3u);
  EXPECT_EQ(converter->counters().conversions, 2u);
}

TEST_F(GmemConverterTest, EachBackingIsGivenBackInItsWay) {
  auto converter = make();
  ASSERT_EQ(converter->convert(pages(0x110, 2), kToShared), Converted::kDone);
  ASSERT_EQ(converter->convert(pages(0x110, 2), kToPrivate), Converted::kDone);
  ASSERT_EQ(converter->convert(pages(0x210, 2), kToShared), Converted::kDone);
  ASSERT_EQ(converter->convert(pages(0x210, 2), kToPrivate), Converted::kDone);
  ASSERT_EQ(converter->convert(pages(0x390, 2), kToShared), Converted::kDone);
  ASSERT_EQ(converter->convert(pages(0x390, 2), kToPrivate), Converted::kDone);
  EXPECT_EQ(host_.log, (Log{
                           "attributes 0x110000+0x2000 0x0 (0 shared)",
                           "punch 71 0x20000+0x2000 (0 shared)",
                           "attributes 0x110000+0x2000 0x8 (2 shared)",
                           "remove 0x110000+0x2000 (2 shared)",
                           "attributes 0x210000+0x2000 0x0 (0 shared)",
                           "punch 72 0x10000+0x2000 (0 shared)",
                           "attributes 0x210000+0x2000 0x8 (2 shared)",
                           "punch 90 0x17000+0x2000 (2 shared)",
                           "attributes 0x390000+0x2000 0x0 (0 shared)",
                           "punch 73 0x10000+0x2000 (0 shared)",
                           "attributes 0x390000+0x2000 0x8 (2 shared)",
                       }));
}

TEST_F(GmemConverterTest, ARangeOverTwoSlotsIsCutForTheDiscard) {
  auto converter = make();
  EXPECT_EQ(converter->convert(pages(0xfe, 0x104), kToShared), Converted::kDone);
  EXPECT_EQ(host_.log,
            (Log{"attributes 0xfe000+0x104000 0x0 (0 shared)", "punch 70 0xfe000+0x2000 (0 shared)",
                 "punch 71 0x10000+0x100000 (0 shared)", "punch 72 0x0+0x2000 (0 shared)"}));
  EXPECT_EQ(map_.shared_pages(), 0x104u);
}

TEST_F(GmemConverterTest, PagesInNoSlotChangeNothing) {
  auto converter = make();
  for (const GfnRange range : {pages(0x2ff, 2), pages(0x300, 1), pages(0x37f, 2), pages(0, 0x400),
                               pages(0x3ff, 2), pages(0x400, 1), pages(1ULL << 50, 1)}) {
    EXPECT_EQ(converter->convert(range, kToShared), Converted::kFailed);
  }
  EXPECT_TRUE(host_.log.empty());
  EXPECT_EQ(map_.shared_pages() + dirty_.count(), 0u);
  EXPECT_EQ(converter->counters().last_error,
            "1 pages from gfn 0x4000000000000 are not wholly in "
            "slots");
}

TEST_F(GmemConverterTest, RefusedAttributesChangeNothing) {
  auto converter = make();
  for (const int error : {-ENOMEM, -EINVAL, -EFAULT}) {
    host_.fail_attributes = error;
    EXPECT_EQ(converter->convert(pages(0x10, 4), kToShared), Converted::kFailed);
    EXPECT_TRUE(host_.log.empty());
    EXPECT_EQ(map_.shared_pages() + dirty_.count(), 0u);
  }
  const GmemCounters counters = converter->counters();
  EXPECT_EQ(counters.refused_attributes, 3u);
  EXPECT_EQ(counters.conversions, 0u);
  EXPECT_EQ(counters.last_error,
            "KVM_SET_MEMORY_ATTRIBUTES of 0x4000 bytes at gpa 0x10000 to "
            "shared: EFAULT (Bad address)");
}

TEST_F(GmemConverterTest, AFailedDiscardIsCountedAndTheConversionStands) {
  auto converter = make();
  for (int nth = 0; nth < 3; ++nth) {
    host_.fail_discard = -EOPNOTSUPP;
    host_.discards_before_failure = nth;
    host_.log.clear();
    EXPECT_EQ(converter->convert(pages(0xfe, 0x104), nth == 1 ? kToPrivate : kToShared),
              Converted::kDone);
    EXPECT_EQ(host_.log.size(), 4u);  // the other slots are still done
    EXPECT_EQ(converter->counters().failed_discards, nth == 0 ? 3u : nth == 1 ? 5u : 6u);
  }
  EXPECT_EQ(map_.shared_pages(), 0x104u);
  EXPECT_EQ(converter->counters().last_error,
            "the private side of 2 pages from gfn 0x200 in slot 2 could not be given back: "
            "EOPNOTSUPP (Operation not supported)");
}

TEST_F(GmemConverterTest, TheGateIsAskedBeforeAnythingChanges) {
  int asked = 0;
  auto converter = make([&](GfnRange range, PageClass cls) {
    ++asked;
    EXPECT_TRUE(host_.log.empty());
    EXPECT_EQ(range, pages(0x10, 4));
    EXPECT_EQ(cls, kToShared);
    return asked == 1 ? ConvertVerdict::kLater : ConvertVerdict::kNow;
  });
  EXPECT_EQ(converter->convert(pages(0x300, 4), kToShared), Converted::kFailed);
  EXPECT_EQ(asked, 0);
  EXPECT_EQ(converter->convert(pages(0x10, 4), kToShared), Converted::kLater);
  EXPECT_TRUE(host_.log.empty());
  EXPECT_EQ(map_.shared_pages() + dirty_.count(), 0u);
  EXPECT_EQ(converter->convert(pages(0x10, 4), kToShared), Converted::kDone);
}

TEST_F(GmemConverterTest, SettlingDoesNothingWhereNothingIsToDo) {
  auto converter = make();
  EXPECT_EQ(converter->settle(pages(0x10, 4), kToPrivate), Converted::kAlready);
  EXPECT_TRUE(host_.log.empty());
  EXPECT_EQ(dirty_.count(), 0u);
  EXPECT_EQ(converter->settle(pages(0x10, 4), kToShared), Converted::kDone);
  EXPECT_EQ(converter->settle(pages(0x10, 5), kToShared), Converted::kDone);
  EXPECT_EQ(converter->settle(pages(0x10, 5), kToShared), Converted::kAlready);
  EXPECT_EQ(host_.log.size(), 4u);
}

// A vCPU that faults while another one converts the page waits, and then finds it converted.
TEST_F(GmemConverterTest, OneOfTwoRacingFaultsConverts) {
  std::mutex mutex;
  std::condition_variable changed;
  int asked = 0;
  Converted second = Converted::kFailed;
  std::thread other;
  std::unique_ptr<GmemConverter> converter;
  converter = make([&](GfnRange, PageClass) {
    std::unique_lock lock(mutex);
    ++asked;
    changed.notify_all();
    if (asked > 1) return ConvertVerdict::kNow;
    other = std::thread([&] { second = converter->settle(pages(0x10, 1), kToShared); });
    // Without mutual exclusion the other one comes here, too.
    changed.wait_for(lock, std::chrono::milliseconds(100), [&] { return asked > 1; });
    return ConvertVerdict::kNow;
  });
  EXPECT_EQ(converter->settle(pages(0x10, 1), kToShared), Converted::kDone);
  other.join();
  EXPECT_EQ(second, Converted::kAlready);
  EXPECT_EQ(asked, 1);
  EXPECT_EQ(host_.log.size(), 2u);
}

TEST_F(GmemConverterTest, ConversionsFromManyVcpusExcludeEachOther) {
  auto converter = make();
  std::atomic<int> conversions{0};
  std::vector<std::thread> vcpus;
  for (int i = 0; i < 4; ++i) {
    vcpus.emplace_back([&] {
      for (std::uint64_t gfn = 0; gfn < 0x100; ++gfn) {
        if (converter->settle(pages(gfn, 1), kToShared) == Converted::kDone) ++conversions;
      }
    });
  }
  for (auto& vcpu : vcpus) vcpu.join();
  EXPECT_EQ(conversions, 0x100);
  EXPECT_EQ(host_.log.size(), 0x200u);
}

TEST_F(GmemConverterTest, GivesKvmTheWholeMap) {
  map_.convert(pages(0xf0, 0x20), kToShared);
  map_.convert(pages(0x300, 0x100), kToShared);  // the hole, too
  auto converter = make();
  ASSERT_TRUE(converter->apply_map());
  EXPECT_EQ(host_.log, (Log{"attributes 0x0+0x100000 0x8 (288 shared)",
                            "attributes 0x100000+0x100000 0x8 (288 shared)",
                            "attributes 0x200000+0x100000 0x8 (288 shared)",
                            "attributes 0x380000+0x80000 0x8 (288 shared)",
                            "attributes 0xf0000+0x10000 0x0 (288 shared)",
                            "attributes 0x100000+0x10000 0x0 (288 shared)",
                            "attributes 0x380000+0x80000 0x0 (288 shared)"}));
  EXPECT_EQ(dirty_.count(), 0u);
  host_.fail_attributes = -EINVAL;
  EXPECT_FALSE(converter->apply_map());
}

TEST_F(GmemConverterTest, WrongSlotsAreRefused) {
  const auto refusal = [&](auto change) {
    auto slots = slots_;
    change(slots);
    const auto made = GmemConverter::make({host_, kVm, host_, map_, dirty_, {}}, slots);
    return made ? std::string("accepted") : made.error().detail;
  };
  using Slots = std::vector<GmemSlot>;
  EXPECT_EQ(refusal([](Slots& s) { s[1].range.first = Gfn{0xff}; }),
            "slots 0 and 1 overlap at gfn 0xff");
  EXPECT_EQ(refusal([](Slots& s) { s[3].range.pages = 0x81; }),
            "slot 3 of 129 pages from gfn 0x380 does not lie inside the page map");
  EXPECT_NE(refusal([](Slots& s) { s[3].range.pages = 0; }), "accepted");
  EXPECT_NE(refusal([](Slots& s) { s[3].range.pages = ~0ULL; }), "accepted");
  EXPECT_NE(refusal([](Slots& s) { s[0].shared += 8; }), "accepted");
  EXPECT_NE(refusal([](Slots& s) { s[0].shared = nullptr; }), "accepted");
  EXPECT_NE(refusal([](Slots& s) { s[0].guest_memfd = -1; }), "accepted");
  EXPECT_NE(refusal([](Slots& s) { s[2].shared_fd = -1; }), "accepted");
  EXPECT_NE(refusal([](Slots& s) { s[2].shared_offset = 1; }), "accepted");
  EXPECT_NE(refusal([](Slots& s) { s[1].guest_memfd_offset = 0x800; }), "accepted");
  EXPECT_EQ(refusal([](Slots& s) { std::swap(s[0], s[3]); }), "accepted");
}

TEST(KernelDiscard, GivesBackRealMemory) {
  const int fd = ::memfd_create("discard-test", MFD_CLOEXEC);
  ASSERT_GE(fd, 0);
  constexpr std::uint64_t kBytes = 4 * kPageBytes;
  ASSERT_EQ(::ftruncate(fd, kBytes), 0);
  void* mapped = ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  ASSERT_NE(mapped, MAP_FAILED);
  auto* bytes = static_cast<std::byte*>(mapped);
  std::memset(bytes, 0x5a, kBytes);
  KernelDiscard discard;
  EXPECT_EQ(discard.punch_hole(fd, kPageBytes, kPageBytes), 0);
  EXPECT_EQ(discard.advise(bytes + 2 * kPageBytes, kPageBytes, MADV_REMOVE), 0);
  for (std::uint64_t page = 0; page < 4; ++page) {
    const bool is_gone = page == 1 || page == 2;
    EXPECT_EQ(bytes[page * kPageBytes + 7], is_gone ? std::byte{0} : std::byte{0x5a}) << page;
  }
  EXPECT_EQ(discard.punch_hole(-1, 0, kPageBytes), -EBADF);
  EXPECT_EQ(discard.advise(bytes + 1, kPageBytes, MADV_REMOVE), -EINVAL);
  ::munmap(mapped, kBytes);
  ::close(fd);
}

// What a thin function sends, and what it says when KVM refuses.
class EchoKvm final : public HostIoctl {
 public:
  unsigned long request = 0;
  std::vector<std::uint64_t> words;
  int answer = 0;
  std::uint64_t left = 0;  // pre-fault: bytes

  int ioctl(int, unsigned long number, void* arg) override {
    request = number;
    const std::size_t bytes = number >> 16 & 0x3fff;  // the size inside the request
    words.resize(bytes / 8);
    std::memcpy(words.data(), arg, bytes);
    if (number == kKvmPreFaultMemory) static_cast<KvmPreFaultMemory*>(arg)->size = left;
    return answer;
  }
};

TEST(MemoryAttributes, RequestsAreSpelledAsTheKernelHasThem) {
  EchoKvm kvm;
  kvm.answer = 12;
  EXPECT_EQ(*create_guest_memfd(kvm, kVm, 0x200000, 1), 12);
  EXPECT_EQ(kvm.words, (std::vector<std::uint64_t>{0x200000, 1, 0, 0, 0, 0, 0, 0}));
  kvm.answer = 0;
  KvmUserMemoryRegion2 region{};
  region.slot = 3;
  region.flags = kKvmMemGuestMemfd;
  region.guest_phys_addr = 0x1000;
  region.memory_size = 0x2000;
  region.userspace_addr = 0x3000;
  region.guest_memfd_offset = 0x4000;
  region.guest_memfd = 12;
  ASSERT_TRUE(set_user_memory_region2(kvm, kVm, region));
  ASSERT_EQ(kvm.words.size(), 20u);
  kvm.words.resize(6);
  EXPECT_EQ(kvm.words,
            (std::vector<std::uint64_t>{4ULL << 32 | 3, 0x1000, 0x2000, 0x3000, 0x4000, 12}));
  kvm.left = 0x1000;
  EXPECT_EQ(*pre_fault(kvm, kVm, pages(2, 4)), 3u);
  EXPECT_EQ(kvm.words, (std::vector<std::uint64_t>{0x2000, 0x4000, 0, 0, 0, 0, 0, 0}));
  kvm.left = ~0ULL;  // nonsense is no progress
  EXPECT_EQ(*pre_fault(kvm, kVm, pages(2, 4)), 0u);
}

TEST(MemoryAttributes, EveryRefusalNamesItsRequest) {
  EchoKvm kvm;
  kvm.answer = -ENOTTY;
  EXPECT_EQ(create_guest_memfd(kvm, kVm, 0x1000, 2).error().detail,
            "KVM_CREATE_GUEST_MEMFD of 0x1000 bytes, flags 0x2: ENOTTY (Inappropriate ioctl for "
            "device)");
  EXPECT_NE(set_user_memory_region2(kvm, kVm, {}).error().detail.find("REGION2 of slot 0"),
            std::string::npos);
  EXPECT_NE(set_memory_attributes(kvm, kVm, pages(1, 1), kToPrivate).error().detail.find("private"),
            std::string::npos);
  EXPECT_NE(pre_fault(kvm, kVm, pages(1, 2)).error().detail.find("2 pages from gfn 0x1"),
            std::string::npos);
  kvm.answer = -EINTR;
  kvm.left = 0x1000;
  EXPECT_EQ(*pre_fault(kvm, kVm, pages(1, 2)), 1u);
}

}  // namespace
}  // namespace sealift
