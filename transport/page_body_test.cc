#include "transport/page_body.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <random>
#include <string>
#include <vector>

namespace sealift {
namespace {

constexpr std::array kLevels = {CompressionLevel::kFastest, CompressionLevel::kFast,
                                CompressionLevel::kGood};

Bytes random_bytes(std::size_t size, std::uint64_t seed = 1) {
  std::mt19937_64 random(seed);
  Bytes bytes(size);
  for (std::byte& b : bytes) b = static_cast<std::byte>(random());
  return bytes;
}

// Words drawn from a small vocabulary.
Bytes text(std::size_t size) {
  std::mt19937_64 random(7);
  std::vector<std::string> words;
  for (int i = 0; i < 2000; ++i) {
    std::string word;
    for (std::size_t n = 2 + random() % 8; n > 0; --n) {
      word += "etaoinshrdlucmfwypvbgkjqxz"[std::min(random() % 26, random() % 26)];
    }
    words.push_back(word + ' ');
  }
  std::string all;
  while (all.size() < size) all += words[std::min(random() % 2000, random() % 2000)];
  Bytes bytes(size);
  std::memcpy(bytes.data(), all.data(), size);
  return bytes;
}

TEST(PageBody, ComesBackAtEachLevelAndTheLevelsDiffer) {
  const Bytes raw = text(128 * kPageBytes);
  PageBodyCompressor compressor;
  PageBodyExpander expander;
  std::size_t before = raw.size();
  for (CompressionLevel level : kLevels) {
    const auto small = compressor.compress(raw, level);
    ASSERT_TRUE(small) << name_of(level);
    EXPECT_LT(small->size(), before) << name_of(level);
    before = small->size();
    Bytes back(raw.size());
    ASSERT_TRUE(expander.expand(*small, back)) << name_of(level);
    EXPECT_EQ(back, raw) << name_of(level);
  }
}

TEST(PageBody, SaysThatRandomBytesDoNotBecomeSmaller) {
  PageBodyCompressor compressor;
  for (CompressionLevel level : kLevels) {
    EXPECT_FALSE(compressor.compress(random_bytes(64 * kPageBytes), level)) << name_of(level);
  }
  // And the next body is none the worse for it.
  EXPECT_TRUE(compressor.compress(text(64 * kPageBytes), CompressionLevel::kFast));
}

TEST(PageBody, IsRefusedWhenItsSizeIsNotWhatTheBatchSays) {
  const Bytes raw = text(4 * kPageBytes);
  PageBodyCompressor compressor;
  PageBodyExpander expander;
  const auto small = compressor.compress(raw, CompressionLevel::kFast);
  ASSERT_TRUE(small);
  for (const std::uint64_t pages : {3u, 5u}) {
    Bytes out(pages * kPageBytes);
    const auto expanded = expander.expand(*small, out);
    ASSERT_FALSE(expanded) << pages;
    EXPECT_EQ(expanded.error().cls, ErrorClass::kMalformed);
  }
}

TEST(PageBody, TruncatedOrWithBytesBehindItIsRefused) {
  const Bytes raw = text(2 * kPageBytes);
  PageBodyCompressor compressor;
  PageBodyExpander expander;
  const auto small = compressor.compress(raw, CompressionLevel::kFast);
  ASSERT_TRUE(small);
  Bytes out(raw.size());
  for (std::size_t size = 0; size < small->size(); ++size) {
    EXPECT_FALSE(expander.expand(small->first(size), out)) << size;
  }
  Bytes longer(small->begin(), small->end());
  longer.push_back(std::byte{0});
  EXPECT_FALSE(expander.expand(longer, out));
}

// A peer's bytes, changed at random: whatever comes out is refused or fits.
TEST(PageBody, ChangedBytesNeverWriteOutsideTheirRoom) {
  const Bytes raw = text(8 * kPageBytes);
  PageBodyCompressor compressor;
  PageBodyExpander expander;
  const auto small = compressor.compress(raw, CompressionLevel::kFastest);
  ASSERT_TRUE(small);
  constexpr std::size_t kGuard = 4096;
  std::mt19937_64 random(3);
  int refused = 0;
  for (int round = 0; round < 2000; ++round) {
    Bytes hostile(small->begin(), small->end());
    for (std::uint64_t n = 1 + random() % 4; n > 0; --n) {
      hostile[random() % hostile.size()] ^= static_cast<std::byte>(1 + random() % 255);
    }
    Bytes out(raw.size() + kGuard, std::byte{0xa5});
    refused += expander.expand(hostile, MutableBytes(out).first(raw.size())) ? 0 : 1;
    EXPECT_EQ(std::count(out.end() - kGuard, out.end(), std::byte{0xa5}),
              static_cast<std::ptrdiff_t>(kGuard));
  }
  EXPECT_GT(refused, 0);
}

// A frame that asks for a window of a gigabyte and one that names a dictionary.
TEST(PageBody, AFrameThatAsksForMemoryIsRefused) {
  PageBodyExpander expander;
  Bytes out(kPageBytes);
  const auto frame = [](std::initializer_list<int> header) {
    Bytes bytes;
    for (int b : {0x28, 0xb5, 0x2f, 0xfd}) bytes.push_back(static_cast<std::byte>(b));
    for (int b : header) bytes.push_back(static_cast<std::byte>(b));
    for (int b : {0x01, 0x00, 0x00}) bytes.push_back(static_cast<std::byte>(b));  // empty, last
    return bytes;
  };
  EXPECT_FALSE(expander.expand(frame({0x00, 0xa0}), out));        // window of 2^30
  EXPECT_FALSE(expander.expand(frame({0x01, 0x00, 0x07}), out));  // dictionary 7
}

}  // namespace
}  // namespace sealift
