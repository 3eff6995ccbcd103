// Hostile metas: every single-bit flip, every truncation, and random bytes. decode() may accept or
// refuse them; it may not crash, throw, or allocate more than a limit, and what it accepts is a
// record that encode() accepts too.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <new>
#include <random>

#include "engine/limits.h"
#include "schemas/codec.h"
#include "schemas/record_type.h"
#include "schemas/test_records.h"

namespace {
std::size_t largest_allocation = 0;

void* allocate(std::size_t bytes) {
  largest_allocation = std::max(largest_allocation, bytes);
  if (void* memory = std::malloc(bytes == 0 ? 1 : bytes)) return memory;
  std::abort();
}
}  // namespace

void* operator new(std::size_t bytes) { return allocate(bytes); }
void* operator new[](std::size_t bytes) { return allocate(bytes); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }

namespace sealift {
namespace {

// The largest thing a record may hold beside its payload, which is moved: a platform blob, or the
// ranges of Conversions.
constexpr std::size_t kAllocationMax = std::max<std::size_t>(
    limits::kPlatformBlobBytesMax, limits::kConversionRangesMax * sizeof(GfnRange));

struct Tally {
  int accepted = 0;
  int refused = 0;
};

void feed(std::uint16_t type, std::uint8_t stream, ByteView meta, const Bytes& payload,
          Tally& tally) {
  Bytes own = payload;
  largest_allocation = 0;
  auto decoded = decode(type, stream, meta, std::move(own));
  ASSERT_LE(largest_allocation, kAllocationMax);
  if (!decoded.has_value()) {
    ++tally.refused;
    ASSERT_EQ(decoded.error().cls, ErrorClass::kMalformed);
    ASSERT_FALSE(decoded.error().detail.empty());
    return;
  }
  ++tally.accepted;
  if (!decoded->has_value()) return;
  const EncodedRecord again = encode(**decoded);
  auto twice = decode(again.type, again.stream, again.meta, again.payload);
  ASSERT_TRUE(twice.has_value() && twice->has_value());
  ASSERT_TRUE(**twice == **decoded);
}

std::vector<EncodedRecord> encoded_records() {
  std::vector<EncodedRecord> all;
  for (const Record& record : test_records::typical()) all.push_back(encode(record));
  for (const Record& record : test_records::smallest()) all.push_back(encode(record));
  return all;
}

TEST(CodecHostile, EverySingleBitFlip) {
  Tally tally;
  for (EncodedRecord& record : encoded_records()) {
    SCOPED_TRACE(record_type_name(record.type));
    for (std::size_t bit = 0; bit < record.meta.size() * 8; ++bit) {
      record.meta[bit / 8] ^= std::byte{1} << (bit % 8);
      feed(record.type, record.stream, record.meta, record.payload, tally);
      record.meta[bit / 8] ^= std::byte{1} << (bit % 8);
      if (HasFatalFailure()) FAIL() << "bit " << bit;
    }
  }
  EXPECT_GT(tally.accepted, 1000);  // flips of data that any value fits
  EXPECT_GT(tally.refused, 1000);
}

TEST(CodecHostile, EveryTruncation) {
  for (const EncodedRecord& record : encoded_records()) {
    Tally tally;
    for (std::size_t size = 0; size < record.meta.size(); ++size) {
      const Bytes cut(record.meta.begin(), record.meta.begin() + static_cast<std::ptrdiff_t>(size));
      feed(record.type, record.stream, cut, record.payload, tally);
      if (HasFatalFailure()) FAIL() << "size " << size;
    }
    EXPECT_EQ(tally.accepted, 0) << record_type_name(record.type);
  }
}

// The segment table says what the cut meta holds, so that the message itself is what is cut.
TEST(CodecHostile, EveryTruncationOfTheMessage) {
  Tally tally;
  for (const EncodedRecord& record : encoded_records()) {
    SCOPED_TRACE(record_type_name(record.type));
    for (std::size_t words = 1; words < record.meta.size() / 8 - 1; ++words) {
      Bytes cut(record.meta.begin(),
                record.meta.begin() + static_cast<std::ptrdiff_t>(8 + 8 * words));
      cut[4] = static_cast<std::byte>(words);
      cut[5] = static_cast<std::byte>(words >> 8);
      feed(record.type, record.stream, cut, record.payload, tally);
      ASSERT_FALSE(HasFatalFailure());
    }
  }
  EXPECT_GT(tally.refused, 100);
}

TEST(CodecHostile, RandomDamageToPointersAndData) {
  Tally tally;
  std::mt19937_64 random(20240611);
  const std::vector<EncodedRecord> records = encoded_records();
  for (int i = 0; i < 100'000; ++i) {
    const EncodedRecord& record = records[random() % records.size()];
    Bytes meta = record.meta;
    const std::size_t damaged = 1 + random() % 4;
    for (std::size_t n = 0; n < damaged; ++n) {
      // Half of it in the first words, where the root's pointers are.
      const std::size_t span =
          random() % 2 == 0 ? std::min<std::size_t>(meta.size(), 96) : meta.size();
      meta[8 + random() % (span - 8)] = static_cast<std::byte>(random());
    }
    feed(record.type, record.stream, meta, record.payload, tally);
    ASSERT_FALSE(HasFatalFailure()) << record_type_name(record.type) << " round " << i;
  }
  EXPECT_GT(tally.accepted, 1000);
  EXPECT_GT(tally.refused, 1000);
}

TEST(CodecHostile, RandomBytesAsAnyType) {
  Tally tally;
  std::mt19937_64 random(20240612);
  for (int i = 0; i < 50'000; ++i) {
    const std::size_t words = 1 + random() % 64;
    Bytes meta(8 + 8 * words);
    for (std::byte& b : meta)
      b = random() % 3 == 0 ? static_cast<std::byte>(random()) : std::byte{0};
    std::fill(meta.begin(), meta.begin() + 8, std::byte{0});
    meta[4] = static_cast<std::byte>(words);
    const auto type = static_cast<std::uint16_t>(1 + random() % value(RecordType::kPlatformState));
    feed(type, static_cast<std::uint8_t>(random() % 4), meta, Bytes(random() % 2 * kPageBytes),
         tally);
    ASSERT_FALSE(HasFatalFailure()) << record_type_name(type) << " round " << i;
  }
  EXPECT_GT(tally.refused, 1000);
}

// A list of 2^29 - 1 structs without fields takes no bytes on the wire.
TEST(CodecHostile, AListThatIsLargeInNumberOnly) {
  const EncodedRecord small = encode(Conversions{1, {{Gfn{1}, 1}}, {}});
  Bytes meta = small.meta;
  // Words: table, root pointer, epoch, two list pointers, tag, range. The tag's count is in its
  // bits 2 to 31.
  const std::size_t tag = 8 * 5;
  meta[tag] = std::byte{0xfc};
  meta[tag + 1] = meta[tag + 2] = std::byte{0xff};
  meta[tag + 3] = std::byte{0x7f};
  std::fill(meta.begin() + tag + 4, meta.begin() + tag + 8, std::byte{0});
  Tally tally;
  feed(small.type, 0, meta, {}, tally);
  EXPECT_EQ(tally.refused, 1);
}

}  // namespace
}  // namespace sealift
