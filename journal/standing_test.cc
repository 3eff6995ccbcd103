#include "journal/standing.h"

#include <gtest/gtest.h>

#include <optional>
#include <set>

#include "journal/test_records.h"

namespace sealift::test {
namespace {

using K = JournalKind;
using S = SourceStanding;
using D = DestinationStanding;

constexpr K kKinds[] = {K::kBegun,    K::kOffered, K::kReady,     K::kCommitting, K::kTaken,
                        K::kReleased, K::kKept,    K::kDiscarded, K::kCeded};

// Written out once more, as a person would: what may follow what.
bool allowed(std::optional<K> from, K to) {
  const auto is = [&](std::set<K> kinds) { return kinds.contains(to); };
  if (!from) return is({K::kBegun, K::kOffered, K::kDiscarded});
  if (*from == K::kBegun) return is({K::kCommitting, K::kKept, K::kCeded});
  if (*from == K::kCommitting) return is({K::kReleased, K::kKept, K::kCeded});
  if (*from == K::kOffered) return is({K::kReady, K::kDiscarded});
  if (*from == K::kReady) return is({K::kTaken, K::kDiscarded});
  return false;
}

// Records that lead to `last`.
std::vector<JournalRecord> path_to(K last) {
  switch (last) {
    case K::kCommitting:
    case K::kKept:
      return {record_of(K::kBegun, 1, 2), record_of(last, 1, 2)};
    case K::kReleased:
    case K::kCeded:
      return {record_of(K::kBegun, 1, 2), record_of(K::kCommitting, 1, 2), record_of(last, 1, 2)};
    case K::kReady:
    case K::kDiscarded:
      return {record_of(K::kOffered, 1, 2), record_of(last, 1, 2)};
    case K::kTaken:
      return {record_of(K::kOffered, 1, 2), record_of(K::kReady, 1, 2), record_of(last, 1, 2)};
    case K::kBegun:
    case K::kOffered:
      break;
  }
  return {record_of(last, 1, 2)};
}

Standings after(const std::vector<JournalRecord>& records) {
  Standings standings;
  for (const JournalRecord& record : records) {
    const auto added = standings.add(record);
    EXPECT_TRUE(added.has_value()) << added.error().detail;
  }
  return standings;
}

std::string why_not(const Result<void>& result) {
  return result ? "it was taken" : result.error().detail;
}

TEST(Standings, OnlyTheTableMayFollow) {
  for (const K to : kKinds) {
    EXPECT_EQ(Standings{}.check(record_of(to, 1, 2)).has_value(), allowed(std::nullopt, to));
    for (const K from : kKinds) {
      const Standings standings = after(path_to(from));
      const auto checked = standings.check(record_of(to, 1, 2));
      EXPECT_EQ(checked.has_value(), allowed(from, to)) << name_of(from) << " " << name_of(to);
      if (checked) continue;
      EXPECT_EQ(checked.error().cls, ErrorClass::kRefused);
      EXPECT_EQ(checked.error().detail,
                fmt::format("migration 01010101010101010101010101010101: {} may not follow {}",
                            name_of(to), name_of(from)));
    }
  }
}

TEST(Standings, WhatTheLastRecordMeans) {
  const std::pair<K, S> sources[] = {{K::kBegun, S::kOwns},
                                     {K::kCommitting, S::kInDoubt},
                                     {K::kReleased, S::kReleased},
                                     {K::kKept, S::kKept},
                                     {K::kCeded, S::kCeded}};
  for (const auto& [last, standing] : sources) {
    const Standings standings = after(path_to(last));
    const JournalEntry* entry = standings.find(right_of(1, 2).migration);
    EXPECT_EQ(source_standing(entry), standing) << name_of(last);
    EXPECT_EQ(destination_standing(entry), D::kNone) << name_of(last);
    EXPECT_EQ(side_of(last), JournalSide::kSource);
    EXPECT_EQ(entry->records, path_to(last).size());
    EXPECT_EQ(standings.open() == nullptr, is_settled(last));
  }
  const std::pair<K, D> destinations[] = {{K::kOffered, D::kIncomplete},
                                          {K::kReady, D::kComplete},
                                          {K::kTaken, D::kHasRight},
                                          {K::kDiscarded, D::kDiscarded}};
  for (const auto& [last, standing] : destinations) {
    const Standings standings = after(path_to(last));
    const JournalEntry* entry = standings.find(right_of(1, 2).migration);
    EXPECT_EQ(destination_standing(entry), standing) << name_of(last);
    EXPECT_EQ(source_standing(entry), S::kNone) << name_of(last);
    EXPECT_EQ(side_of(last), JournalSide::kDestination);
    EXPECT_EQ(standings.open() == nullptr, is_settled(last));
  }
  EXPECT_EQ(source_standing(nullptr), S::kNone);
  EXPECT_EQ(destination_standing(nullptr), D::kNone);
}

TEST(Standings, OneMigrationAtATime) {
  const Standings open = after({record_of(K::kBegun, 1, 2)});
  for (const K kind : {K::kBegun, K::kOffered}) {
    EXPECT_EQ(why_not(open.check(record_of(kind, 2, 2))),
              fmt::format("migration 02020202020202020202020202020202: {} while migration "
                          "01010101010101010101010101010101 is open, whose last record is Begun",
                          name_of(kind)));
  }
  EXPECT_TRUE(open.check(record_of(K::kDiscarded, 2, 2)).has_value()) << "it opens nothing";
}

TEST(Standings, AnOlderGenerationIsRefused) {
  const auto minimum = [](K last) { return after(path_to(last)).generation_min(); };
  EXPECT_EQ(minimum(K::kTaken), 3U);
  EXPECT_EQ(minimum(K::kReleased), 3U);
  EXPECT_EQ(minimum(K::kCeded), 3U);
  EXPECT_EQ(minimum(K::kKept), 2U);
  EXPECT_EQ(minimum(K::kDiscarded), 0U) << "a peer's word raises nothing";
  const Standings taken = after(path_to(K::kTaken));
  for (const K kind : {K::kBegun, K::kOffered}) {
    EXPECT_EQ(why_not(taken.check(record_of(kind, 2, 2))),
              fmt::format("migration 02020202020202020202020202020202: {} of generation 2, but the "
                          "guest is known here in generation 3",
                          name_of(kind)));
    EXPECT_TRUE(taken.check(record_of(kind, 2, 3)).has_value());
  }
}

TEST(Standings, AMigrationStaysTheSame) {
  const Standings begun = after({record_of(K::kBegun, 1, 2)});
  const auto changed = [&](auto change) {
    JournalRecord record = record_of(K::kKept, 1, 2);
    change(record.right);
    return why_not(begun.check(record));
  };
  EXPECT_EQ(changed([](RightToRun& right) { right.generation = 3; }),
            "migration 01010101010101010101010101010101 is of guest \"web-1\" generation 2 from "
            "\"alder\" to \"birch\", and a record of it says \"web-1\" generation 3 from \"alder\" "
            "to \"birch\"");
  EXPECT_NE(changed([](RightToRun& right) { right.guest = "web-2"; }), "it was taken");
  EXPECT_NE(changed([](RightToRun& right) { right.source = "oak"; }), "it was taken");
  EXPECT_NE(changed([](RightToRun& right) { right.destination = "oak"; }), "it was taken");
  EXPECT_EQ(changed([](RightToRun& right) { right.memory_sha256.fill(std::byte{9}); }),
            "it was taken")
      << "digests become known later";
}

}  // namespace
}  // namespace sealift::test
