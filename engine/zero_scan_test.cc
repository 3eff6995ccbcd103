#include "engine/zero_scan.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <random>
#include <vector>

#include "engine/types.h"

namespace sealift {
namespace {

class ZeroScanOf : public testing::TestWithParam<ZeroScan> {
 protected:
  void SetUp() override {
    if (!runs_here(GetParam())) GTEST_SKIP() << "no " << name_of(GetParam()) << " here";
  }
  bool is_zero_here(const std::byte* at, std::size_t bytes) const {
    return is_zero_by(GetParam(), at, bytes);
  }
};

TEST_P(ZeroScanOf, OneBitAnywhereIsFound) {
  alignas(64) std::byte page[kPageBytes] = {};
  EXPECT_TRUE(is_zero_here(page, sizeof page));
  for (std::size_t at = 0; at < sizeof page; ++at) {
    for (const unsigned bit : {0u, 3u, 7u}) {
      page[at] = std::byte{1} << bit;
      ASSERT_FALSE(is_zero_here(page, sizeof page)) << "byte " << at << " bit " << bit;
    }
    page[at] = std::byte{0};
  }
  EXPECT_TRUE(is_zero_here(page, sizeof page));
}

TEST_P(ZeroScanOf, AgreesWithALoopOverBytesAtAnyAddressAndSize) {
  alignas(64) std::byte memory[16384];
  std::mt19937_64 random(7);
  for (int turn = 0; turn < 20'000; ++turn) {
    const std::size_t first = random() % 512 / 8 * 8;
    const std::size_t bytes = 256 * (random() % 48);
    std::fill(std::begin(memory), std::end(memory), std::byte{0});
    // Before, inside or behind what is asked for, or nowhere.
    if (random() % 8 != 0) memory[random() % sizeof memory] = std::byte{0x80};
    const bool expected = std::all_of(memory + first, memory + first + bytes,
                                      [](std::byte b) { return b == std::byte{0}; });
    ASSERT_EQ(is_zero_here(memory + first, bytes), expected) << first << "+" << bytes;
  }
}

// A byte behind the last one is never read: there is no memory.
TEST_P(ZeroScanOf, ReadsNothingBehindTheEnd) {
  void* two = mmap(nullptr, 2 * kPageBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(two, MAP_FAILED);
  ASSERT_EQ(mprotect(two, kPageBytes, PROT_READ | PROT_WRITE), 0);
  const auto* end = static_cast<const std::byte*>(two) + kPageBytes;
  for (std::size_t bytes = 0; bytes <= kPageBytes; bytes += 256)
    EXPECT_TRUE(is_zero_here(end - bytes, bytes));
  munmap(two, 2 * kPageBytes);
}

TEST_P(ZeroScanOf, Speed) {
  const std::vector<std::uint64_t> zeros((64u << 20) / 8, 0);
  const auto* memory = reinterpret_cast<const std::byte*>(zeros.data());
  const auto start = std::chrono::steady_clock::now();
  std::uint64_t pages = 0;
  for (std::size_t at = 0; at < zeros.size() * 8; at += kPageBytes)
    pages += is_zero_here(memory + at, kPageBytes) ? 1u : 0u;
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  EXPECT_EQ(pages, zeros.size() * 8 / kPageBytes);
  std::printf("%s: %.1f GiB/s of zeros\n", name_of(GetParam()), 0.0625 / took.count());
}

INSTANTIATE_TEST_SUITE_P(Each, ZeroScanOf, testing::ValuesIn(kZeroScans),
                         [](const auto& scan) { return name_of(scan.param); });

TEST(ZeroScan, TheWidestThatRunsHereAnswersTheSame) {
  alignas(64) std::byte page[kPageBytes] = {};
  EXPECT_TRUE(is_zero(page, sizeof page));
  page[kPageBytes - 1] = std::byte{1};
  EXPECT_FALSE(is_zero(page, sizeof page));
}

}  // namespace
}  // namespace sealift
