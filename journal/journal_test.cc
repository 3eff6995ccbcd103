// Journal on a disk that works: what it refuses, what it finds damaged, how it stays small.
#include "journal/journal.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "journal/test_disk.h"
#include "journal/test_records.h"

namespace sealift::test {
namespace {

constexpr const char* kDirectory = "/journal";
constexpr const char* kPath = "/journal/web-1.journal";
const Crash kProcessDeath{};

using Records = std::vector<JournalRecord>;
using K = JournalKind;

Journal opened(FaultyDisk& disk, const char* guest = "web-1") {
  auto journal = Journal::open(disk, kDirectory, guest);
  if (!journal) {
    ADD_FAILURE() << journal.error().detail;
    std::abort();
  }
  return std::move(*journal);
}

void append_all(Journal& journal, const Records& records) {
  for (const JournalRecord& record : records) {
    const auto appended = journal.append(record);
    ASSERT_TRUE(appended.has_value()) << appended.error().detail;
  }
}

Bytes file_with(const Records& records) {
  FaultyDisk disk;
  Journal journal = opened(disk);
  append_all(journal, records);
  return disk.content(kPath);
}

std::string why_not(const Result<void>& result) {
  return result ? "it was taken" : result.error().detail;
}

TEST(Journal, GivesBackWhatItWasGiven) {
  FaultyDisk disk;
  Records life = life_of_a_guest();
  {
    Journal journal = opened(disk);
    append_all(journal, life);
    EXPECT_TRUE(journal.records() == life);
  }
  const Journal journal = opened(disk);
  EXPECT_TRUE(journal.records() == life);
  EXPECT_EQ(journal.torn(), "");
  EXPECT_EQ(journal.standings().entries().size(), 6U);
  EXPECT_EQ(journal.standings().generation_min(), 6U);
}

TEST(Journal, ALongReasonIsCutBetweenCharacters) {
  FaultyDisk disk;
  JournalRecord record = record_of(K::kBegun, 1, 0);
  record.reason = std::string(kReasonBytesMax - 1, 'x') + "\xc3\xa9" + "and more";
  Journal journal = opened(disk);
  append_all(journal, {record});
  EXPECT_EQ(journal.records()[0].reason, std::string(kReasonBytesMax - 1, 'x'));
  disk.restart(kProcessDeath);
  EXPECT_TRUE(opened(disk).records() == journal.records());
}

TEST(Journal, TakesTheLongestNamesAndNoLongerOnes) {
  FaultyDisk disk;
  const std::string guest(kGuestNameBytesMax, '/');
  Journal journal = opened(disk, guest.c_str());
  JournalRecord record = record_of(K::kBegun, 1, 0);
  record.right.guest = guest;
  record.right.source.assign(kHostIdentityBytesMax, 's');
  record.right.destination.assign(kHostIdentityBytesMax, 'd');
  record.reason.assign(kReasonBytesMax, 'r');
  append_all(journal, {record});
  record.kind = K::kKept;
  record.right.destination += "d";
  EXPECT_EQ(why_not(journal.append(record)),
            "the destination's identity has 513 bytes; the journal takes 512");
  record.right.destination = "";
  EXPECT_EQ(why_not(journal.append(record)),
            "the journal needs the destination's identity, and has none");
  record.right.destination = "birch";
  record.right.generation = ~std::uint64_t{0};
  EXPECT_EQ(why_not(journal.append(record)), "generation 18446744073709551615 has no successor");
  record.right.guest = "other";
  record.right.generation = 0;
  EXPECT_EQ(why_not(journal.append(record)),
            "a record of guest \"other\" for the journal of \"" + guest + "\"");
  for (const std::size_t bytes : {std::size_t{0}, kGuestNameBytesMax + 1}) {
    const auto refused = Journal::open(disk, kDirectory, std::string(bytes, 'g'));
    ASSERT_FALSE(refused.has_value());
    EXPECT_EQ(refused.error().cls, ErrorClass::kUsage);
  }
}

TEST(Journal, IsUsedByOneAtATime) {
  FaultyDisk disk;
  {
    const Journal journal = opened(disk);
    const auto second = Journal::open(disk, kDirectory, "web-1");
    ASSERT_FALSE(second.has_value());
    EXPECT_EQ(second.error().cls, ErrorClass::kRefused);
    EXPECT_EQ(second.error().detail,
              "the journal of guest \"web-1\" is in use by process 4711 "
              "(/journal/web-1.journal.lock)");
    opened(disk, "web-2");
  }
  opened(disk);
}

TEST(Journal, NamesTheGuestsItKnows) {
  FaultyDisk disk;
  EXPECT_EQ(guests_with_journal(disk, kDirectory)->size(), 0U);
  const std::vector<std::string> guests = {"..", "a/b", "caf\xc3\xa9", "web-1", "web_1"};
  for (const std::string& guest : guests) opened(disk, guest.c_str());
  EXPECT_EQ(*guests_with_journal(disk, kDirectory), guests);
  EXPECT_EQ(journal_file_name("a.b/c_D-9%"), "a%2eb%2fc_D-9%25.journal");
}

TEST(Journal, ARecordThatMayNotFollowIsNotWritten) {
  FaultyDisk disk;
  Journal journal = opened(disk);
  append_all(journal, {record_of(K::kBegun, 1, 3)});
  const Bytes before = disk.content(kPath);
  EXPECT_EQ(why_not(journal.append(record_of(K::kReleased, 1, 3))),
            "migration 01010101010101010101010101010101: Released may not follow Begun");
  EXPECT_TRUE(disk.content(kPath) == before);
  append_all(journal, {record_of(K::kCommitting, 1, 3)});
}

// Every byte of a file that holds records and free slots: the damage is found, wherever it is.
TEST(Journal, EveryChangedByteIsFound) {
  const Records life = life_of_a_guest();
  const Records records(life.begin(), life.begin() + 5);  // Taken or Discarded has its slot
  const Bytes good = file_with(records);
  ASSERT_EQ(good.size(), 7 * kSlotBytes);
  Bytes bad = good;
  for (std::size_t at = 0; at < good.size(); ++at) {
    for (const std::byte change : {std::byte{1}, std::byte{0x80}, std::byte{0xff}}) {
      bad[at] ^= change;
      const Replay replayed = replay(bad);
      const std::size_t slot = at / kSlotBytes;
      if (slot < 5) {
        ASSERT_TRUE(replayed.damage.has_value()) << at;
        ASSERT_EQ(replayed.damage->cls, ErrorClass::kLocalFault);
        ASSERT_EQ(replayed.damage->detail.find(fmt::format(
                      "the journal is damaged at offset {} (slot {}): ", slot * kSlotBytes, slot)),
                  0U)
            << replayed.damage->detail;
        ASSERT_EQ(replayed.records.size(), slot == 0 ? 0 : slot - 1);
      } else {
        ASSERT_FALSE(replayed.damage.has_value()) << at;
        ASSERT_NE(replayed.torn, "") << at;
        ASSERT_EQ(replayed.records.size(), slot - 1);
      }
      ASSERT_TRUE(std::equal(replayed.records.begin(), replayed.records.end(), records.begin()));
      bad[at] = good[at];
    }
  }
}

TEST(Journal, EveryTruncationKeepsWholeRecordsOnly) {
  const Records life = life_of_a_guest();
  const Bytes good = file_with(Records(life.begin(), life.begin() + 3));
  for (std::size_t size = 0; size < good.size(); ++size) {
    const Replay replayed = replay(ByteView(good).first(size));
    ASSERT_EQ(replayed.damage.has_value(), size < kSlotBytes) << size;
    ASSERT_EQ(replayed.records.size(),
              size < kSlotBytes ? 0 : std::min<std::size_t>(3, size / kSlotBytes - 1));
  }
}

TEST(Journal, DamageInTheMiddleIsAPersonsCase) {
  FaultyDisk disk;
  {
    Journal journal = opened(disk);
    append_all(journal, life_of_a_guest());
  }
  disk.content(kPath)[2 * kSlotBytes + 60] ^= std::byte{4};
  const Bytes damaged = disk.content(kPath);
  const auto refused = Journal::open(disk, kDirectory, "web-1");
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().cls, ErrorClass::kLocalFault);
  EXPECT_EQ(refused.error().detail,
            "/journal/web-1.journal: the journal is damaged at offset 8192 (slot 2): the checksum "
            "is wrong, and others follow; nothing after it can be trusted, and a person has to "
            "decide");
  EXPECT_TRUE(disk.content(kPath) == damaged) << "the evidence is not touched";
}

void put_slot(Bytes& file, std::size_t index, ByteView slot) {
  file.resize(std::max(file.size(), (index + 1) * kSlotBytes));
  std::copy(slot.begin(), slot.end(),
            file.begin() + static_cast<std::ptrdiff_t>(index * kSlotBytes));
}

std::string damage_of(const Bytes& file) {
  const Replay replayed = replay(file);
  return replayed.damage ? replayed.damage->detail : "no damage; torn: " + replayed.torn;
}

TEST(Journal, AWholeRecordOfAnotherFileOrPlaceIsFoundEvenAtTheEnd) {
  const Records life = life_of_a_guest();
  const Records two(life.begin(), life.begin() + 2);
  const Bytes file = file_with(two);
  JournalRecord other = two[0];
  other.written_unix_ns += 1;
  const Bytes foreign = file_with({other, two[1]});
  const auto slot = [](const Bytes& from, std::size_t index) {
    return ByteView(from).subspan(index * kSlotBytes, kSlotBytes);
  };
  Bytes mixed = file;
  put_slot(mixed, 2, slot(foreign, 2));
  EXPECT_NE(damage_of(mixed).find("(slot 2): it does not follow the record before it"),
            std::string::npos);
  mixed = file;
  put_slot(mixed, 3, slot(file, 2));
  EXPECT_NE(damage_of(mixed).find("its sequence is 1 where 2 is due"), std::string::npos);
  mixed = file;
  put_slot(mixed, 1, slot(file, 0));
  EXPECT_NE(damage_of(mixed).find("(slot 1): kind 0 is none"), std::string::npos);
  mixed = file;
  put_slot(mixed, 0, slot(file, 1));
  EXPECT_NE(damage_of(mixed).find("(slot 0): it is not the header"), std::string::npos);
  mixed = file;
  put_slot(mixed, 1, Bytes(kSlotBytes));
  EXPECT_NE(damage_of(mixed).find("(slot 1): a record is missing"), std::string::npos);
  JournalRecord of_other_guest = two[0];
  of_other_guest.right.guest = "web-2";
  mixed = Bytes(file.begin(), file.begin() + kSlotBytes);
  put_slot(mixed, 1, encode_slot(of_other_guest, replay(mixed).next));
  EXPECT_NE(damage_of(mixed).find("it is about guest \"web-2\" in the journal of \"web-1\""),
            std::string::npos);
  EXPECT_NE(damage_of(Bytes(kJournalBytesMax + 1)).find("longer than a journal can be"),
            std::string::npos);
}

TEST(Journal, TheFileOfAnotherGuestIsRefused) {
  FaultyDisk disk;
  opened(disk, "web-2");
  opened(disk);
  disk.content(kPath) = disk.content("/journal/web-2.journal");
  const auto refused = Journal::open(disk, kDirectory, "web-1");
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().detail,
            "/journal/web-1.journal is the journal of guest \"web-2\", not of \"web-1\"");
}

TEST(Journal, RecordsThatCannotFollowEachOtherAreNotBelieved) {
  FaultyDisk disk;
  opened(disk);
  Bytes& file = disk.content(kPath);
  const Replay empty = replay(file);
  const Slot slot = encode_slot(record_of(K::kReleased, 1, 0), empty.next);
  put_slot(file, 1, slot);
  const auto refused = Journal::open(disk, kDirectory, "web-1");
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().detail,
            "/journal/web-1.journal has records that cannot follow each other: migration "
            "01010101010101010101010101010101: Released may not be the first record");
}

TEST(Journal, CompactionKeepsTheLastSettledTheLastMoveAndTheSequence) {
  FaultyDisk disk;
  Records expected = {record_of(K::kOffered, 1, 4), record_of(K::kReady, 1, 4),
                      record_of(K::kTaken, 1, 4)};
  const Records kept = kept_migrations(kSettledKept + 3);
  {
    Journal journal = opened(disk);
    append_all(journal, expected);
    append_all(journal, kept);
  }
  expected.insert(expected.end(), kept.end() - 2 * kSettledKept, kept.end());
  {
    Journal journal = opened(disk);
    EXPECT_TRUE(journal.records() == expected) << journal.records().size();
    EXPECT_EQ(why_not(journal.append(record_of(K::kBegun, 2, 4))).substr(34),
              "02020202: Begun of generation 4, but the guest is known here in generation 7");
    append_all(journal, {record_of(K::kBegun, 2, 7)});
  }
  EXPECT_EQ(replay(disk.content(kPath)).next.sequence, 3 + kept.size() + 1);
  const Journal journal = opened(disk);
  EXPECT_EQ(journal.standings().open()->right.migration, right_of(2, 7).migration);
  EXPECT_EQ(journal.records().size(), expected.size() + 1 - 2) << "one more, and one settled less";
}

TEST(Journal, StaysSmallWithoutBeingReopened) {
  FaultyDisk disk;
  Journal journal = opened(disk);
  for (int round = 0; round < 20; ++round) {
    for (JournalRecord record : kept_migrations(20)) {
      record.right.migration[15] = static_cast<std::byte>(round);
      const auto appended = journal.append(record);
      ASSERT_TRUE(appended.has_value()) << appended.error().detail;
      ASSERT_LE(disk.content(kPath).size(), kJournalBytesMax);
    }
  }
  const Records written = journal.records();
  disk.restart(kProcessDeath);
  const Journal again = opened(disk);
  EXPECT_EQ(again.records().back(), written.back());
}

// A peer may ask about any number of migrations that were never offered.
TEST(Journal, QuestionsDoNotFillItWhileAMigrationIsOpen) {
  FaultyDisk disk;
  Journal journal = opened(disk);
  append_all(journal, {record_of(K::kOffered, 1, 0), record_of(K::kReady, 1, 0)});
  for (std::size_t i = 0; i < 2 * kJournalSlotsMax; ++i) {
    JournalRecord discarded = record_of(K::kDiscarded, 2, ~std::uint64_t{0} - 1);
    discarded.right.migration[0] = static_cast<std::byte>(i);
    discarded.right.migration[1] = static_cast<std::byte>(i / 256);
    append_all(journal, {discarded});
    ASSERT_LE(disk.content(kPath).size(), kJournalBytesMax);
  }
  disk.set_free_blocks(0);
  append_all(journal, {record_of(K::kTaken, 1, 0)});
  disk.set_free_blocks(kJournalSlotsMax);
  EXPECT_EQ(journal.standings().generation_min(), 1U);
  append_all(journal, {record_of(K::kBegun, 3, 1)});
}

}  // namespace
}  // namespace sealift::test
