// What only uffd has: writes of this process and of system calls, and every kind of memory.
#include "vmm_glue/dirty/written_pages.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstring>

#include "vmm_glue/dirty/dirty_test_support.h"

namespace sealift {
namespace {

using namespace test;
using Kind = TestMemory::Kind;
using Pages = std::vector<std::uint64_t>;

constexpr std::uint64_t kPages = 2048;
constexpr std::uint64_t kHugePages = 512;  // 4 KiB pages in one of 2 MiB

class Written : public testing::TestWithParam<Kind> {
 protected:
  void SetUp() override {
    if (const auto usable = WrittenPages::probe(); !usable) {
      GTEST_SKIP() << usable.error().detail;
    }
    if (memory_.null()) GTEST_SKIP() << "no memory of this kind: " << strerrorname_np(errno);
    auto opened = WrittenPages::open();
    ASSERT_TRUE(opened) << opened.error().detail;
    written_.emplace(std::move(*opened));
  }
  std::span<std::byte> memory() { return {memory_.base(), kPages * kPageBytes}; }
  void watch() {
    const auto watched = written_->watch(memory());
    ASSERT_TRUE(watched) << watched.error().detail;
  }
  void write(std::uint64_t page) {
    *reinterpret_cast<volatile std::byte*>(memory_.at(page)) = std::byte{1};
  }
  Pages take() {
    Pages pages;
    const auto taken = written_->take(memory(), [&pages](const PageRun& run) {
      for (std::uint64_t i = 0; i < run.pages; ++i) pages.push_back(run.first + i);
    });
    EXPECT_TRUE(taken) << taken.error().detail;
    return pages;
  }
  // The pages that a write to `page` makes dirty.
  Pages unit_of(std::uint64_t page) const {
    if (GetParam() != Kind::kHugetlb) return {page};
    Pages pages;
    for (std::uint64_t i = 0; i < kHugePages; ++i) {
      pages.push_back(page / kHugePages * kHugePages + i);
    }
    return pages;
  }

  TestMemory memory_{kPages, GetParam()};
  std::optional<WrittenPages> written_;
};

TEST_P(Written, PagesThatWereThere) {
  std::memset(memory_.base(), 1, memory().size());
  watch();
  EXPECT_EQ(take(), Pages{}) << "written before";
  write(700);
  EXPECT_EQ(take(), unit_of(700));
  EXPECT_EQ(take(), Pages{});
  write(700);
  EXPECT_EQ(take(), unit_of(700));
}

TEST_P(Written, PagesThatWereNotThere) {
  watch();
  EXPECT_EQ(take(), Pages{});
  write(0);
  EXPECT_EQ(take(), unit_of(0));
  // Read first: the zero page, or an empty one.
  const std::byte read = *reinterpret_cast<volatile std::byte*>(memory_.at(1500));
  EXPECT_EQ(read, std::byte{0});
  EXPECT_EQ(take(), Pages{}) << "reading is no writing";
  write(1500);
  EXPECT_EQ(take(), unit_of(1500));
}

TEST_P(Written, BySystemCalls) {
  watch();
  (void)take();
  int pipes[2];
  ASSERT_EQ(pipe(pipes), 0);
  ASSERT_EQ(::write(pipes[1], "written", 7), 7);
  EXPECT_EQ(::read(pipes[0], memory_.at(1100) + 5, 7), 7);
  close(pipes[0]);
  close(pipes[1]);
  EXPECT_EQ(take(), unit_of(1100));
}

// More runs than one scan can give.
TEST_P(Written, EveryOtherPage) {
  watch();
  Pages expected;
  for (std::uint64_t page = 1; page < kPages; page += 2) {
    write(page);
    expected.push_back(page);
  }
  const Pages got = take();
  if (GetParam() == Kind::kHugetlb) {
    EXPECT_EQ(got.size(), kPages);
  } else {
    EXPECT_EQ(got, expected);
  }
  EXPECT_EQ(take(), Pages{});
}

TEST_P(Written, ThatIsNoLongerInThePageTable) {
  if (GetParam() == Kind::kHugetlb) GTEST_SKIP() << "huge pages stay";
  watch();
  (void)take();
  write(9);
  madvise(memory_.base(), memory().size(), MADV_PAGEOUT);  // where there is no swap: no effect
  EXPECT_EQ(take(), Pages{9});
}

TEST_P(Written, MemoryThatIsNotWatched) {
  std::uint64_t pages = 0;
  const auto taken = written_->take(memory(), [&pages](const PageRun& run) { pages += run.pages; });
  EXPECT_EQ(pages, kPages) << "what is not known counts as written";
  ASSERT_FALSE(taken);
  EXPECT_NE(taken.error().detail.find("PAGEMAP_SCAN failed: EPERM"), std::string::npos)
      << taken.error().detail;
}

TEST_P(Written, MemoryThatAnotherWatches) {
  watch();
  auto other = WrittenPages::open();
  ASSERT_TRUE(other);
  const auto watched = other->watch(memory());
  ASSERT_FALSE(watched);
  EXPECT_NE(watched.error().detail.find("UFFDIO_REGISTER failed: EBUSY"), std::string::npos)
      << watched.error().detail;
}

TEST_P(Written, WatchingEndsWithTheObject) {
  watch();
  written_.reset();
  auto again = WrittenPages::open();
  ASSERT_TRUE(again);
  written_.emplace(std::move(*again));
  watch();
  write(3);
  EXPECT_EQ(take(), unit_of(3));
}

std::string name_of_kind(const testing::TestParamInfo<Kind>& info) {
  if (info.param == Kind::kHugetlb) return "hugetlb";
  return info.param == Kind::kMemfd ? "memfd" : "anonymous";
}
INSTANTIATE_TEST_SUITE_P(Kinds, Written,
                         testing::Values(Kind::kAnonymous, Kind::kMemfd, Kind::kHugetlb),
                         name_of_kind);

// The guest and the host write the same slot; KVM's own log has the guest's writes only.
TEST(HostWrites, AreSeenByUffdAlone) {
  for (const DirtyBackend backend :
       {DirtyBackend::kGetLog, DirtyBackend::kRing, DirtyBackend::kUffd}) {
    auto made = TestGuest::make(1, {backend}, Kind::kAnonymous);
    if (!made) GTEST_SKIP() << made.error().detail;
    TestGuest& guest = **made;
    ASSERT_TRUE(guest.tracker().start());
    (void)guest.harvest();
    *guest.page(target(17)) = std::byte{1};
    *guest.page(target(kTargets - 2)) = std::byte{1};
    guest.run({{40}}, TestGuest::How::kOnce);
    guest.wait_done();
    Pages expected = {value(target(40))};
    if (backend == DirtyBackend::kUffd) {
      expected = {value(target(17)), value(target(40)), value(target(kTargets - 2))};
    }
    EXPECT_EQ(pages_of(guest.harvest()), expected) << name_of(backend);
  }
}

}  // namespace
}  // namespace sealift
