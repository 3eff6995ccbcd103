// The promise of Journal under crashes and failing calls: every record whose append() succeeded is
// there, in order, and nothing else but perhaps the one in flight; and what open() showed stays.
#include <gtest/gtest.h>

#include <cerrno>
#include <optional>

#include "journal/journal.h"
#include "journal/test_disk.h"
#include "journal/test_records.h"

namespace sealift::test {
namespace {

constexpr const char* kDirectory = "/journal";
constexpr const char* kGuest = "web-1";
const Crash kPowerFailure{true, Crash::Data::kLoseAll, 0, false};
const Crash kProcessDeath{};

using Records = std::vector<JournalRecord>;

struct Attempt {
  std::size_t durable = 0;  // append() said so
  bool crashed = false;
  std::string error;
};

// Opens the journal and appends what `life` goes on with, until something stops it.
Attempt live(FaultyDisk& disk, const Records& life) {
  Attempt attempt;
  try {
    auto journal = Journal::open(disk, kDirectory, kGuest);
    if (!journal) {
      attempt.error = journal.error().detail;
      return attempt;
    }
    attempt.durable = journal->records().size();
    while (attempt.durable < life.size()) {
      if (auto appended = journal->append(life[attempt.durable]); !appended) {
        attempt.error = appended.error().detail;
        return attempt;
      }
      ++attempt.durable;
    }
  } catch (const Crashed&) {
    attempt.crashed = true;
  }
  return attempt;
}

// What is wrong with the journal that a restarted agent finds; empty: nothing.
std::string wrong_after(FaultyDisk& disk, const Records& life, std::size_t durable) {
  auto journal = Journal::open(disk, kDirectory, kGuest);
  if (!journal) return "it cannot be opened: " + journal.error().detail;
  const std::size_t found = journal->records().size();
  if (found < durable) return fmt::format("{} records of {} durable ones", found, durable);
  if (found > durable + 1) return fmt::format("{} records, {} were written", found, durable);
  if (!std::equal(journal->records().begin(), journal->records().end(), life.begin())) {
    return "the records are not those that were written";
  }
  disk.restart(kPowerFailure);
  auto again = Journal::open(disk, kDirectory, kGuest);
  if (!again) return "it cannot be opened after a power failure: " + again.error().detail;
  if (again->records() != journal->records()) {
    return fmt::format("open() showed {} records, and a power failure left {}", found,
                       again->records().size());
  }
  if (found < life.size()) {
    if (auto appended = again->append(life[found]); !appended) return appended.error().detail;
  }
  return "";
}

struct Search {
  std::uint64_t runs = 0;
  std::string first_wrong;
};

// Kills the agent or the host before every operation.
Search crash_everywhere(const Records& life, FaultyDisk::Lie lie, std::size_t transfer_bytes_max) {
  Search search;
  for (std::uint64_t at = 0;; ++at) {
    bool crashed = false;
    for (const Crash& crash : every_crash()) {
      FaultyDisk disk;
      disk.lie(lie);
      disk.transfer_at_most(transfer_bytes_max);
      disk.crash_before(at);
      const Attempt attempt = live(disk, life);
      crashed = attempt.crashed;
      disk.restart(crash);
      const std::string wrong = wrong_after(disk, life, attempt.durable);
      ++search.runs;
      if (wrong.empty() || !search.first_wrong.empty()) continue;
      search.first_wrong = fmt::format("crash before operation {}: {}", at, wrong);
    }
    if (!crashed) return search;
  }
}

constexpr std::size_t kWholeWrites = kSlotBytes * 300;

TEST(JournalCrash, EveryDurableRecordIsFoundAgain) {
  const Search search = crash_everywhere(life_of_a_guest(), FaultyDisk::Lie::kNone, kWholeWrites);
  EXPECT_EQ(search.first_wrong, "");
  EXPECT_GT(search.runs, 500U);
}

TEST(JournalCrash, AlsoWhenWritesAreShort) {
  const Search search = crash_everywhere(life_of_a_guest(), FaultyDisk::Lie::kNone, 1500);
  EXPECT_EQ(search.first_wrong, "");
}

// Planted bugs: the search must find them.
TEST(JournalCrash, AJournalThatDoesNotSyncIsFound) {
  const Records life = life_of_a_guest();
  EXPECT_NE(crash_everywhere(life, FaultyDisk::Lie::kFileNotSynced, kWholeWrites).first_wrong, "");
  EXPECT_NE(crash_everywhere(life, FaultyDisk::Lie::kDirectoryNotSynced, kWholeWrites).first_wrong,
            "");
}

TEST(JournalCrash, ACrashDuringTheOpeningAfterACrash) {
  const Records life = life_of_a_guest();
  std::uint64_t runs = 0;
  bool first_crashed = true;
  for (std::uint64_t at = 0; first_crashed; ++at) {
    for (const Crash& crash : every_crash()) {
      bool second_crashed = true;
      for (std::uint64_t later = 0; second_crashed; ++later) {
        FaultyDisk disk;
        disk.crash_before(at);
        const Attempt attempt = live(disk, life);
        first_crashed = attempt.crashed;
        disk.restart(crash);
        disk.crash_before(disk.operations() + later);
        std::size_t shown = attempt.durable;
        try {
          auto journal = Journal::open(disk, kDirectory, kGuest);
          ASSERT_TRUE(journal.has_value()) << journal.error().detail;
          shown = journal->records().size();
          second_crashed = false;
        } catch (const Crashed&) {
        }
        disk.restart(runs % 2 == 0 ? kPowerFailure : crash);
        ASSERT_EQ(wrong_after(disk, life, shown), "") << "operations " << at << ", " << later;
        ++runs;
      }
    }
  }
  EXPECT_GT(runs, 5000U);
}

TEST(JournalCrash, CompactionLosesNothingThatItKeeps) {
  const Records life = kept_migrations(kSettledKept + 4);
  for (const Crash& crash : every_crash()) {
    bool crashed = true;
    for (std::uint64_t later = 0; crashed; ++later) {
      FaultyDisk disk;
      ASSERT_EQ(live(disk, life).error, "");
      disk.restart(kProcessDeath);
      disk.crash_before(disk.operations() + later);
      crashed = false;
      try {
        ASSERT_TRUE(Journal::open(disk, kDirectory, kGuest).has_value());
      } catch (const Crashed&) {
        crashed = true;
      }
      disk.restart(crash);
      auto journal = Journal::open(disk, kDirectory, kGuest);
      ASSERT_TRUE(journal.has_value()) << journal.error().detail;
      const Records expected(life.end() - 2 * kSettledKept, life.end());
      ASSERT_TRUE(journal->records() == expected) << journal->records().size();
      EXPECT_FALSE(disk.exists("/journal/web-1.journal.tmp"));
    }
  }
}

// Every call fails once, in every way, and then the agent or the host dies.
TEST(JournalFailure, AFailedCallIsReportedAndLosesNothing) {
  constexpr std::uint64_t kWritesPid = 4;  // the number in the lock: only for a message
  const Records life = life_of_a_guest();
  for (const int error : {EIO, ENOSPC, EROFS}) {
    for (const Crash& crash : every_crash()) {
      bool hit = true;
      for (std::uint64_t at = 0; hit; ++at) {
        FaultyDisk disk;
        disk.fail_at(at, error);
        const Attempt attempt = live(disk, life);
        hit = disk.operations() > at;
        EXPECT_EQ(attempt.error.empty(), !hit || at == kWritesPid) << at << ": " << attempt.error;
        disk.restart(crash);
        ASSERT_EQ(wrong_after(disk, life, attempt.durable), "") << "operation " << at;
      }
    }
  }
}

TEST(JournalFailure, AFailedSyncPoisonsTheJournalForEver) {
  const Records life = life_of_a_guest();
  FaultyDisk disk;
  auto journal = Journal::open(disk, kDirectory, kGuest);
  ASSERT_TRUE(journal.has_value());
  ASSERT_TRUE(journal->append(life[0]).has_value());
  disk.fail_at(disk.operations() + 1, EIO);  // write, then sync
  const auto failed = journal->append(life[1]);
  ASSERT_FALSE(failed.has_value());
  EXPECT_EQ(failed.error().detail, "syncing /journal/web-1.journal: Input/output error (errno 5)");
  disk.no_more_faults();
  const std::uint64_t before = disk.operations();
  const auto again = journal->append(life[1]);
  ASSERT_FALSE(again.has_value());
  EXPECT_EQ(again.error().detail,
            "the journal /journal/web-1.journal failed before and is closed: syncing "
            "/journal/web-1.journal: Input/output error (errno 5)");
  EXPECT_EQ(disk.operations(), before) << "a poisoned journal touches the disk no more";
  EXPECT_EQ(journal->records().size(), 1U);
}

// The page cache shows what a failed sync lost. Whatever an open() then says must be true.
TEST(JournalFailure, WhatIsReadAfterAFailedSyncIsMadeDurable) {
  const Records life = life_of_a_guest();
  for (std::size_t count = 0; count < life.size(); ++count) {
    FaultyDisk disk;
    {
      auto journal = Journal::open(disk, kDirectory, kGuest);
      ASSERT_TRUE(journal.has_value());
      for (std::size_t i = 0; i < count; ++i) ASSERT_TRUE(journal->append(life[i]).has_value());
      const bool reserves = journal->standings().find(life[count].right.migration) == nullptr;
      disk.fail_at(disk.operations() + (reserves ? 2 : 1), EIO);
      const auto failed = journal->append(life[count]);
      ASSERT_FALSE(failed.has_value());
      ASSERT_EQ(failed.error().detail.substr(0, 7), "syncing");
    }
    disk.restart(kProcessDeath);
    EXPECT_EQ(wrong_after(disk, life, count), "");
  }
}

TEST(JournalSpace, WhatBeganCanEndOnAFullDisk) {
  const Records life = life_of_a_guest();
  std::uint64_t refused = 0;
  for (std::size_t full_from = 0; full_from < life.size(); ++full_from) {
    FaultyDisk disk;
    auto journal = Journal::open(disk, kDirectory, kGuest);
    ASSERT_TRUE(journal.has_value());
    for (std::size_t i = 0; i < full_from; ++i) ASSERT_TRUE(journal->append(life[i]).has_value());
    disk.set_free_blocks(0);
    if (full_from % 2 == 1) {  // the next agent needs some space to open it, and none afterwards
      disk.restart(kPowerFailure);
      const auto refused_open = Journal::open(disk, kDirectory, kGuest);
      ASSERT_FALSE(refused_open.has_value());
      EXPECT_NE(refused_open.error().detail.find("No space left on device"), std::string::npos);
      disk.set_free_blocks(64);
      disk.restart(kPowerFailure);
      auto next = Journal::open(disk, kDirectory, kGuest);
      ASSERT_TRUE(next.has_value()) << next.error().detail;
      EXPECT_EQ(next->records().size(), full_from);
      disk.set_free_blocks(0);
      journal = std::move(next);
    }
    std::size_t at = full_from;
    while (journal->standings().open() != nullptr) {
      const bool first = journal->standings().find(life[at].right.migration) == nullptr;
      const auto appended = journal->append(life[at++]);
      ASSERT_TRUE(appended.has_value() || first) << at << ": " << appended.error().detail;
    }
    if (at == life.size()) continue;
    const auto next = journal->append(life[at]);
    if (next) continue;  // room was left by a migration that needed less
    ++refused;
    EXPECT_EQ(next.error().detail,
              "reserving space in /journal/web-1.journal: No space left on device (errno 28); no "
              "migration begins without room in the journal to end");
    disk.set_free_blocks(8);
    EXPECT_TRUE(journal->append(life[at]).has_value()) << "a full disk does not poison";
  }
  EXPECT_GT(refused, 5U);
}

TEST(JournalCrash, ATornRecordIsCutOffAndSaidSo) {
  FaultyDisk disk;
  const Records life = life_of_a_guest();
  auto journal = Journal::open(disk, kDirectory, kGuest);
  ASSERT_TRUE(journal.has_value());
  ASSERT_TRUE(journal->append(life[0]).has_value());
  disk.crash_before(disk.operations());
  EXPECT_THROW(static_cast<void>(journal->append(life[1]).has_value()), Crashed);
  disk.restart(kProcessDeath);
  {
    auto next = Journal::open(disk, kDirectory, kGuest);
    ASSERT_TRUE(next.has_value()) << next.error().detail;
    EXPECT_EQ(next->torn(),
              "the last record, 1 at offset 8192, is not whole: its writing was cut off before it "
              "counted");
    EXPECT_TRUE(next->append(life[1]).has_value());
  }
  const auto last = Journal::open(disk, kDirectory, kGuest);
  ASSERT_TRUE(last.has_value()) << last.error().detail;
  EXPECT_EQ(last->torn(), "");
  EXPECT_EQ(last->records().size(), 2U);
}

TEST(JournalFailure, InterruptedCallsAreRepeated) {
  FaultyDisk disk;
  disk.interrupt_every_other_call(true);
  const Records life = life_of_a_guest();
  const Attempt attempt = live(disk, life);
  EXPECT_EQ(attempt.error, "");
  EXPECT_EQ(attempt.durable, life.size());
}

TEST(JournalFailure, AReadOnlyDiskIsSaidSo) {
  FaultyDisk disk;
  disk.set_read_only(true);
  const auto journal = Journal::open(disk, kDirectory, kGuest);
  ASSERT_FALSE(journal.has_value());
  EXPECT_EQ(journal.error().detail,
            "making the journal directory /journal: Read-only file system (errno 30)");
}

}  // namespace
}  // namespace sealift::test
