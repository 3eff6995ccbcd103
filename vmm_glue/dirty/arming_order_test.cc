// The order inside a harvest, and calls of the kernel that fail: this program's ioctl() comes
// before the C library's, so that a test sees each call before the kernel does, and may answer
// itself.
#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstdarg>
#include <functional>
#include <optional>
#include <set>

#include "vmm_glue/abi/page_scan.h"
#include "vmm_glue/dirty/dirty_test_support.h"

namespace sealift {
namespace {

// A result to give instead of the kernel's, or -errno; or none: the kernel is asked.
using Tap = std::function<std::optional<int>(unsigned long request, void* arg)>;
const Tap* current_tap = nullptr;  // set only while no other thread runs

struct Tapped {
  explicit Tapped(Tap the_tap) : tap(std::move(the_tap)) { current_tap = &tap; }
  Tapped(const Tapped&) = delete;
  Tapped& operator=(const Tapped&) = delete;
  ~Tapped() { current_tap = nullptr; }
  Tap tap;
};

}  // namespace
}  // namespace sealift

extern "C" int ioctl(int fd, unsigned long request, ...) noexcept {
  va_list arguments;
  va_start(arguments, request);
  void* arg = va_arg(arguments, void*);
  va_end(arguments);
  if (sealift::current_tap != nullptr) {
    if (const auto answer = (*sealift::current_tap)(request, arg)) {
      if (*answer >= 0) return *answer;
      errno = -*answer;
      return -1;
    }
  }
  return static_cast<int>(syscall(SYS_ioctl, fd, request, arg));
}

namespace sealift {
namespace {

using namespace test;
using List = std::vector<std::uint64_t>;

constexpr std::uint32_t kVcpus = 2;
const std::vector<List> kLists = {{1, 70, 999, 1000, 1500}, {2, 71, kTargets - 1}};
const std::set<std::uint64_t> kWritten = [] {
  std::set<std::uint64_t> gfns;
  for (const List& list : kLists) {
    for (const std::uint64_t n : list) gfns.insert(value(target(n)));
  }
  return gfns;
}();

class Arming : public testing::TestWithParam<DirtyBackend> {
 protected:
  void SetUp() override { make(GetParam()); }
  void make(DirtyBackend backend) {
    auto guest = TestGuest::make(kVcpus, {backend, kRingEntriesMin}, TestMemory::Kind::kAnonymous);
    if (!guest) GTEST_SKIP() << guest.error().detail;
    guest_ = std::move(*guest);
    ASSERT_TRUE(guest_->tracker().start());
    (void)guest_->harvest();
  }
  void write() {
    guest_->run(kLists, TestGuest::How::kOnce);
    guest_->wait_done();
  }
  std::set<std::uint64_t> drain() {
    const List gfns = pages_of(guest_->drain());
    return {gfns.begin(), gfns.end()};
  }
  std::unique_ptr<TestGuest> guest_;
};

class ManualArming : public Arming {};
class RingArming : public Arming {};

TEST_P(ManualArming, ClearsBeforeItMarks) {
  write();
  std::uint64_t cleared = 0;
  {
    const Tapped tapped([&](unsigned long request, void* arg) -> std::optional<int> {
      if (request != KVM_CLEAR_DIRTY_LOG) return std::nullopt;
      const auto& clear = *static_cast<kvm_clear_dirty_log*>(arg);
      const auto* words = static_cast<const std::uint64_t*>(clear.dirty_bitmap);
      const Gfn first = (clear.slot == 0 ? kLow : kHigh).first + clear.first_page;
      for (std::uint64_t i = 0; i < clear.num_pages; ++i) {
        if ((words[i / 64] >> (i % 64) & 1) == 0) continue;
        EXPECT_FALSE(guest_->dirty().is_marked(first + i)) << "marked and not yet armed";
        ++cleared;
      }
      return std::nullopt;
    });
    ASSERT_TRUE(guest_->tracker().harvest());
  }
  EXPECT_EQ(cleared, kWritten.size());
  EXPECT_EQ(drain(), kWritten);
}

TEST_P(RingArming, ResetsBeforeItMarks) {
  write();
  int resets = 0;
  {
    const Tapped tapped([&](unsigned long request, void*) -> std::optional<int> {
      if (request != KVM_RESET_DIRTY_RINGS) return std::nullopt;
      EXPECT_EQ(guest_->dirty().count(), 0u) << "marked and not yet armed";
      ++resets;
      return std::nullopt;
    });
    ASSERT_TRUE(guest_->tracker().harvest());
    ASSERT_TRUE(guest_->tracker().harvest());
  }
  EXPECT_EQ(resets, 1) << "an empty ring needs none";
  EXPECT_EQ(drain(), kWritten);
}

TEST_P(RingArming, AFullRingResetsBeforeItMarks) {
  write();
  const Tapped tapped([&](unsigned long request, void*) -> std::optional<int> {
    if (request == KVM_RESET_DIRTY_RINGS) {
      EXPECT_EQ(guest_->dirty().count(), 0u);
    }
    return std::nullopt;
  });
  ASSERT_TRUE(guest_->tracker().on_ring_full(1));
  EXPECT_EQ(guest_->dirty().count(), kLists[1].size()) << "its own ring alone";
}

// A pending signal ends the call early: without an error, and with nothing marked until it is done.
TEST_P(RingArming, AResetThatIsCutShortGoesOn) {
  write();
  int resets = 0;
  {
    const Tapped tapped([&](unsigned long request, void*) -> std::optional<int> {
      if (request != KVM_RESET_DIRTY_RINGS) return std::nullopt;
      EXPECT_EQ(guest_->dirty().count(), 0u);
      return ++resets < 4 ? std::optional(0) : std::nullopt;
    });
    ASSERT_TRUE(guest_->tracker().harvest());
  }
  EXPECT_EQ(resets, 4);
  EXPECT_EQ(drain(), kWritten);
  write();
  ASSERT_TRUE(guest_->tracker().harvest());
  EXPECT_EQ(drain(), kWritten) << "all were armed again";
}

TEST_P(RingArming, AResetThatNeverEndsIsAnError) {
  write();
  {
    const Tapped tapped([](unsigned long request, void*) {
      return request == KVM_RESET_DIRTY_RINGS ? std::optional(0) : std::nullopt;
    });
    const auto harvested = guest_->tracker().harvest();
    ASSERT_FALSE(harvested);
    EXPECT_EQ(harvested.error().detail,
              "KVM_RESET_DIRTY_RINGS has reset 0 entries of 8 and does not go on");
  }
  EXPECT_TRUE(drain().empty());
  ASSERT_TRUE(guest_->tracker().harvest());
  EXPECT_EQ(drain(), kWritten);
}

bool is_harvest_call(unsigned long request) {
  return request == KVM_GET_DIRTY_LOG || request == KVM_CLEAR_DIRTY_LOG ||
         request == KVM_RESET_DIRTY_RINGS || request == kPagemapScan;
}

// Each call of a harvest fails once: what was written is in that harvest or in the next.
TEST_P(Arming, AFailedCallLosesNothing) {
  int failed = 0;
  for (int nth = 0; failed == nth; ++nth) {
    write();
    int calls = 0;
    {
      const Tapped tapped([&](unsigned long request, void*) -> std::optional<int> {
        if (!is_harvest_call(request) || calls++ != nth) return std::nullopt;
        return -EIO;
      });
      const auto harvested = guest_->tracker().harvest();
      if (calls <= nth) {
        EXPECT_TRUE(harvested);
      } else {
        ++failed;
        ASSERT_FALSE(harvested);
        EXPECT_NE(harvested.error().detail.find("failed: EIO"), std::string::npos)
            << harvested.error().detail;
      }
    }
    ASSERT_TRUE(guest_->tracker().harvest());
    const auto got = drain();
    EXPECT_TRUE(std::includes(got.begin(), got.end(), kWritten.begin(), kWritten.end())) << nth;
  }
  EXPECT_GE(failed, GetParam() == DirtyBackend::kRing ? 1 : 2);
}

std::string name_of_param(const testing::TestParamInfo<DirtyBackend>& info) {
  return name_of(info.param);
}
INSTANTIATE_TEST_SUITE_P(All, Arming,
                         testing::Values(DirtyBackend::kGetLog, DirtyBackend::kManualProtect,
                                         DirtyBackend::kRing, DirtyBackend::kUffd),
                         name_of_param);
INSTANTIATE_TEST_SUITE_P(One, ManualArming, testing::Values(DirtyBackend::kManualProtect),
                         name_of_param);
INSTANTIATE_TEST_SUITE_P(One, RingArming, testing::Values(DirtyBackend::kRing), name_of_param);

}  // namespace
}  // namespace sealift
