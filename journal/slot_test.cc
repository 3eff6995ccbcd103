// The bytes of slots and files: golden ones, and whole ones that say what is not allowed.
#include "journal/slot.h"

#include <gtest/gtest.h>
#include <xxhash.h>

#include <fstream>
#include <iterator>

#include "journal/replay.h"
#include "journal/test_records.h"

namespace sealift::test {
namespace {

using K = JournalKind;

// The bytes that a MAC covers, and those of a file, are promises to other versions.
TEST(JournalBytes, WhatAMacCovers) {
  RightToRun right = right_of(0x11, 0x0807060504030201);
  right.guest = std::string("g");
  right.source = std::string("ab");
  right.destination = std::string("c");
  right.page_map_sha256.fill(std::byte{0x22});
  right.memory_sha256.fill(std::byte{0x33});
  const auto repeat = [](const char* two, int times) {
    std::string text;
    for (int i = 0; i < times; ++i) text += two;
    return text;
  };
  EXPECT_EQ(hex_text(mac_input(K::kTaken, right)), "0105" + repeat("11", 16) + "0102030405060708" +
                                                       repeat("22", 32) + repeat("33", 32) +
                                                       "010067"
                                                       "02006162"
                                                       "010063");
}

Bytes golden_bytes() {
  const JournalHeader header{"web-1", 40};
  Slot slot = encode_slot(header);
  Bytes bytes(slot.begin(), slot.end());
  SlotPlace place{checksum_of(slot), header.first_sequence};
  for (const JournalRecord& record : life_of_a_guest()) {
    slot = encode_slot(record, place);
    bytes.insert(bytes.end(), slot.begin(), slot.end());
    place = {checksum_of(slot), place.sequence + 1};
  }
  bytes.resize(bytes.size() + kSlotBytes);  // reserved
  return bytes;
}

TEST(JournalBytes, TheFileOfThisVersion) {
  std::ifstream file(SEALIFT_GOLDEN_JOURNAL, std::ios::binary);
  const std::string content{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  const Bytes bytes = golden_bytes();
  const std::string ours(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  if (content != ours) {
    const std::string path = ::testing::TempDir() + "/guest.journal";
    std::ofstream(path, std::ios::binary) << ours;
    FAIL() << SEALIFT_GOLDEN_JOURNAL << " is not what this version writes: " << path;
  }
  const Replay replayed = replay(std::as_bytes(std::span(content)));
  ASSERT_FALSE(replayed.damage.has_value()) << replayed.damage->detail;
  EXPECT_EQ(replayed.torn, "");
  EXPECT_TRUE(replayed.records == life_of_a_guest());
  EXPECT_EQ(replayed.header, (JournalHeader{"web-1", 40}));
}

// A slot in which one byte was changed by a writer, who computed the checksum anew.
Slot rewritten(Slot slot, std::size_t at, unsigned value) {
  slot[at] = static_cast<std::byte>(value);
  std::uint64_t checksum = XXH3_64bits(slot.data(), kSlotBytes - 8);
  for (std::size_t i = kSlotBytes - 8; i < kSlotBytes; ++i, checksum >>= 8) {
    slot[i] = static_cast<std::byte>(checksum & 0xff);
  }
  return slot;
}

TEST(JournalBytes, AWholeSlotThatIsNotAllowedIsRefused) {
  const SlotPlace place{0x1122334455667788, 9};
  const Slot good = encode_slot(record_of(K::kReady, 1, 2), place);
  ASSERT_TRUE(decode_record(rewritten(good, 0, 'S'), place).has_value());
  const struct {
    std::size_t at;
    unsigned value;
    const char* reason;
  } cases[] = {
      {3, 'X', "it does not begin with SLJR"},
      {4, 2, "it is of version 2, and this program knows version 1"},
      {5, 0, "kind 0 is none"},
      {5, 10, "kind 10 is none"},
      {6, 1, "bytes that must be zero are not"},
      {8, 0x89, "it does not follow the record before it: a record of another file or place"},
      {16, 8, "its sequence is 8 where 9 is due"},
      {152, 81, "text 0 has 81 bytes, more than 80"},
      {152, 0, "bytes that must be zero are not"},
      {155, 2, "text 1 has 517 bytes, more than 512"},
      {159, 255, "text 3 has 65300 bytes, more than 1024"},
      {4087, 1, "bytes that must be zero are not"},
  };
  for (const auto& bad : cases) {
    const Slot slot = rewritten(good, bad.at, bad.value);
    ASSERT_TRUE(is_whole(slot));
    const auto refused = decode_record(slot, place);
    ASSERT_FALSE(refused.has_value()) << bad.reason;
    EXPECT_EQ(refused.error().cls, ErrorClass::kLocalFault);
    EXPECT_EQ(refused.error().detail, bad.reason);
  }
  Slot last = good;
  for (std::size_t i = 48; i < 56; ++i) last = rewritten(last, i, 0xff);
  const auto refused = decode_record(last, place);
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().detail, "generation 18446744073709551615 has no successor");
}

TEST(JournalBytes, AHeaderHasOneEncoding) {
  const Slot good = encode_slot(JournalHeader{"web-1", 7});
  ASSERT_TRUE(decode_header_slot(good).has_value());
  for (const std::size_t at : {5U, 8U, 24U, 32U, 48U, 56U, 88U, 120U}) {
    const auto refused = decode_header_slot(rewritten(good, at, 1));
    ASSERT_FALSE(refused.has_value()) << at;
    EXPECT_EQ(refused.error().detail, "it is not the header of a journal");
  }
}

}  // namespace
}  // namespace sealift::test
