// record_mac(): a known answer, and every byte of what it covers counts.
#include "journal/mac.h"

#include <gtest/gtest.h>

#include "journal/test_records.h"

namespace sealift::test {
namespace {

SessionKey key_of(unsigned int first) {
  SessionKey key{};
  for (std::size_t i = 0; i < key.size(); ++i) key[i] = static_cast<std::byte>(first + i);
  return key;
}

// Computed by Python's hmac over the bytes that docs/spec/journal.md, "MAC", lists.
TEST(RecordMac, KnownAnswer) {
  RightToRun right;
  for (std::size_t i = 0; i < right.migration.size(); ++i) {
    right.migration[i] = static_cast<std::byte>(0x10 + i);
  }
  right.generation = 7;
  right.guest = "web-1";
  right.source = "alder";
  right.destination = "birch tcp:192.0.2.2:7000";
  right.page_map_sha256.fill(std::byte{0xaa});
  EXPECT_EQ(hex_text(record_mac(key_of(1), JournalKind::kCommitting, right)),
            "53ddb0316c5d5da533a8b4d6c3bd7695a49ba6aaf2b4fead7dd5c23bf10b2aaf");
}

TEST(RecordMac, EverythingThatItCoversCounts) {
  const SessionKey key = key_of(1);
  const RightToRun right = right_of(1, 3);
  const Digest32 mac = record_mac(key, JournalKind::kReady, right);
  EXPECT_TRUE(is_record_mac(key, JournalKind::kReady, right, mac));
  EXPECT_FALSE(is_record_mac(key_of(2), JournalKind::kReady, right, mac));
  EXPECT_FALSE(is_record_mac(key, JournalKind::kTaken, right, mac));
  RightToRun other = right;
  const auto refused = [&] { return !is_record_mac(key, JournalKind::kReady, other, mac); };
  other.migration[15] ^= std::byte{1};
  EXPECT_TRUE(refused());
  other = right;
  ++other.generation;
  EXPECT_TRUE(refused());
  other = right;
  other.page_map_sha256[31] ^= std::byte{1};
  EXPECT_TRUE(refused());
  other = right;
  other.memory_sha256[0] ^= std::byte{1};
  EXPECT_TRUE(refused());
  for (std::string RightToRun::* text :
       {&RightToRun::guest, &RightToRun::source, &RightToRun::destination}) {
    other = right;
    other.*text += "x";
    EXPECT_TRUE(refused());
  }
  Digest32 changed = mac;
  changed[31] ^= std::byte{0x80};
  EXPECT_FALSE(is_record_mac(key, JournalKind::kReady, right, changed));
}

}  // namespace
}  // namespace sealift::test
