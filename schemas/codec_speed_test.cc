// How long a full batch takes to encode and decode, bodies moved and not copied. Prints; fails only
// far from the goal.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdio>

#include "engine/limits.h"
#include "schemas/codec.h"
#include "schemas/record_type.h"
#include "schemas/test_records.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SEALIFT_CODEC_SPEED_COUNTS 0
#else
#define SEALIFT_CODEC_SPEED_COUNTS 1
#endif

namespace sealift {
namespace {

using Clock = std::chrono::steady_clock;

double microseconds(Clock::duration took) {
  return std::chrono::duration<double, std::micro>(took).count();
}

void measure(Record record) {
  double encode_us = 1e9;
  double decode_us = 1e9;
  const char* name = name_of(record);
  for (int i = 0; i < 300; ++i) {
    const auto start = Clock::now();
    EncodedRecord encoded = encode(std::move(record));
    const auto middle = Clock::now();
    auto decoded = decode(encoded.type, encoded.stream, encoded.meta, std::move(encoded.payload));
    const auto end = Clock::now();
    ASSERT_TRUE(decoded.has_value() && decoded->has_value());
    record = std::move(**decoded);
    encode_us = std::min(encode_us, microseconds(middle - start));
    decode_us = std::min(decode_us, microseconds(end - middle));
  }
  std::printf("%s of %u pages: encode %.1f us, decode %.1f us\n", name, limits::kBatchPagesMax,
              encode_us, decode_us);
  if (SEALIFT_CODEC_SPEED_COUNTS) {
    EXPECT_LT(encode_us, 100.0);
    EXPECT_LT(decode_us, 100.0);
  }
}

TEST(CodecSpeed, SharedPages) { measure(test_records::shared_batch(limits::kBatchPagesMax)); }
TEST(CodecSpeed, PrivatePages) { measure(test_records::private_batch(limits::kBatchPagesMax)); }

}  // namespace
}  // namespace sealift
