// From two answers to what each side does: the order, what is refused, and that every pair of
// standings with a verdict can be carried out.
#include "journal/recovery.h"

#include <gtest/gtest.h>

#include "journal/test_records.h"

namespace sealift::test {
namespace {

using K = JournalKind;
using Act = SettleStep::Act;

JournalEntry entry(K last, std::uint8_t number = 1) {
  return JournalEntry{right_of(number, 7), last, 1};
}
std::optional<SideAnswer> says(K last, bool has_copy, std::uint8_t number = 1) {
  return SideAnswer{entry(last, number), has_copy};
}
std::string text(const std::vector<Telling>& plan) {
  std::string out;
  for (const Telling& telling : plan) {
    out += std::string(out.empty() ? "" : "; ") + name_of(telling.side) + " " +
           name_of(telling.wish) + " " + name_of(telling.said);
  }
  return out;
}

TEST(Recovery, TheFirstThatKnowsAMigrationSaysWhichAndWhoIsWho) {
  auto found = recovery_of(says(K::kReady, true), says(K::kCommitting, true));
  ASSERT_TRUE(found);
  EXPECT_FALSE(found->first_is_source);
  EXPECT_EQ(found->source_standing, SourceStanding::kInDoubt);
  EXPECT_EQ(found->destination_standing, DestinationStanding::kComplete);
  EXPECT_EQ(found->settlement.verdict, Verdict::kRunDestination);

  found = recovery_of(SideAnswer{}, says(K::kBegun, true));
  ASSERT_TRUE(found);
  EXPECT_FALSE(found->first_is_source);
  EXPECT_EQ(found->destination_standing, DestinationStanding::kNone);

  found = recovery_of(says(K::kCommitting, true), std::nullopt);
  ASSERT_TRUE(found);
  EXPECT_EQ(found->destination_standing, DestinationStanding::kUnknown);

  found = recovery_of(says(K::kCommitting, true, 2), says(K::kDiscarded, false, 1));
  ASSERT_TRUE(found);
  EXPECT_EQ(found->destination_standing, DestinationStanding::kNone);  // another migration's

  EXPECT_FALSE(recovery_of(SideAnswer{}, std::nullopt));
}

TEST(Recovery, NothingIsConcludedWhileASessionIsAtWork) {
  auto busy = says(K::kBegun, true);
  busy->is_busy = true;
  for (const auto& found :
       {recovery_of(busy, says(K::kReady, true)), recovery_of(says(K::kReady, true), busy)}) {
    ASSERT_TRUE(found);
    EXPECT_EQ(found->settlement.verdict, Verdict::kNeedsHuman);
  }
}

// A source that was cut off finds its destination busy with the next migration, or done with it.
TEST(Recovery, AnOpenMigrationIsSettledThoughTheOtherSideHasGoneOn) {
  const auto gone_on = says(K::kKept, true, 2);
  const auto open = says(K::kCommitting, false, 1);
  for (const bool first : {false, true}) {
    const auto asked = recovery_of(first ? open : gone_on, first ? gone_on : open);
    ASSERT_TRUE(asked);
    EXPECT_EQ(asked->right.migration, open->last->right.migration);
    EXPECT_EQ(asked->first_is_source, first);
  }
  auto about_it = says(K::kTaken, true, 1);
  about_it->is_latest = false;
  const auto found = recovery_of(about_it, open);
  ASSERT_TRUE(found);
  EXPECT_EQ(found->settlement.verdict, Verdict::kRunDestination);
  EXPECT_EQ(text(tellings(*found, Settle::kRunDestination)), "source run destination Committing");
}

TEST(Recovery, WhoGivesTheRightUpIsToldFirst) {
  const auto plan = [](std::optional<SideAnswer> source, std::optional<SideAnswer> destination,
                       Settle wish) {
    auto found = recovery_of(source, destination);
    return found ? text(tellings(*found, wish)) : std::string("refused");
  };
  EXPECT_EQ(plan(says(K::kCommitting, true), says(K::kReady, true), Settle::kRunDestination),
            "destination run destination Ready; source run destination Committing");
  EXPECT_EQ(plan(says(K::kCommitting, false), says(K::kReady, true), Settle::kRunDestination),
            "source run destination Committing; destination run destination Ready");
  EXPECT_EQ(plan(says(K::kCommitting, true), says(K::kReady, false), Settle::kRunSource),
            "destination run source Ready; source run source Committing");
  EXPECT_EQ(plan(says(K::kCommitting, true), says(K::kDiscarded, false), Settle::kRunSource),
            "source run source Committing");
  EXPECT_EQ(plan(says(K::kBegun, false), says(K::kReady, false), Settle::kForget),
            "destination run source Ready; source forget Begun");
  // A destination that could not start after Taken is told again.
  EXPECT_EQ(plan(says(K::kCommitting, true), says(K::kTaken, true), Settle::kRunDestination),
            "destination run destination Taken; source run destination Committing");
  EXPECT_EQ(plan(says(K::kReleased, false), says(K::kTaken, false), Settle::kRunDestination), "");
}

TEST(Recovery, AVerdictCountsForTheRecordItWasMadeFrom) {
  EXPECT_TRUE(settle_step(entry(K::kBegun), CopyHere::kPaused, Settle::kRunSource, K::kBegun));
  auto step = settle_step(entry(K::kCommitting), CopyHere::kPaused, Settle::kRunSource, K::kBegun);
  ASSERT_FALSE(step);
  EXPECT_EQ(step.error().detail,
            "it was decided when Begun was the last record, and now that is Committing: ask again");
}

struct StepCase {
  K last;
  CopyHere copy;
  Settle wish;
  std::optional<K> record;
  Act act;
};

TEST(Recovery, WhatASideWritesAndDoes) {
  const StepCase cases[] = {
      {K::kCommitting, CopyHere::kPaused, Settle::kRunSource, K::kKept, Act::kResume},
      {K::kBegun, CopyHere::kPaused, Settle::kRunSource, K::kKept, Act::kResume},
      {K::kBegun, CopyHere::kRunning, Settle::kRunSource, K::kKept, Act::kNothing},
      {K::kCommitting, CopyHere::kPaused, Settle::kRunDestination, K::kReleased, Act::kRelease},
      {K::kBegun, CopyHere::kPaused, Settle::kRunDestination, K::kCeded, Act::kRelease},
      {K::kCommitting, CopyHere::kNone, Settle::kRunDestination, K::kCeded, Act::kNothing},
      {K::kBegun, CopyHere::kNone, Settle::kForget, K::kKept, Act::kNothing},
      {K::kReady, CopyHere::kComplete, Settle::kRunDestination, K::kTaken, Act::kStart},
      {K::kTaken, CopyHere::kComplete, Settle::kRunDestination, std::nullopt, Act::kStart},
      {K::kTaken, CopyHere::kRunning, Settle::kRunDestination, std::nullopt, Act::kNothing},
      // The record is there, what it says was not done.
      {K::kReleased, CopyHere::kPaused, Settle::kRunDestination, std::nullopt, Act::kRelease},
      {K::kKept, CopyHere::kPaused, Settle::kRunSource, std::nullopt, Act::kResume},
      {K::kDiscarded, CopyHere::kComplete, Settle::kRunSource, std::nullopt, Act::kDropCopy},
      {K::kReady, CopyHere::kComplete, Settle::kRunSource, K::kDiscarded, Act::kDropCopy},
      {K::kReady, CopyHere::kNone, Settle::kRunSource, K::kDiscarded, Act::kNothing},
  };
  for (const StepCase& c : cases) {
    const auto step = settle_step(entry(c.last), c.copy, c.wish, c.last);
    ASSERT_TRUE(step) << name_of(c.last) << " " << name_of(c.wish);
    EXPECT_EQ(step->record, c.record) << name_of(c.last) << " " << name_of(c.wish);
    EXPECT_EQ(step->act, c.act) << name_of(c.last) << " " << name_of(c.wish);
  }
}

TEST(Recovery, WhatCannotBeDoneIsRefused) {
  const std::tuple<K, CopyHere, Settle> cases[] = {
      {K::kCommitting, CopyHere::kNone, Settle::kRunSource},
      {K::kCommitting, CopyHere::kPaused, Settle::kForget},
      {K::kBegun, CopyHere::kRunning, Settle::kRunDestination},
      {K::kReady, CopyHere::kNone, Settle::kRunDestination},
      {K::kReady, CopyHere::kRunning, Settle::kRunDestination},
      {K::kTaken, CopyHere::kComplete, Settle::kRunSource},
      {K::kTaken, CopyHere::kNone, Settle::kRunDestination},
      {K::kKept, CopyHere::kPaused, Settle::kRunDestination},
      {K::kReleased, CopyHere::kPaused, Settle::kRunSource},
      {K::kDiscarded, CopyHere::kComplete, Settle::kRunDestination},
  };
  for (const auto& [last, copy, wish] : cases) {
    EXPECT_FALSE(settle_step(entry(last), copy, wish, last)) << name_of(last) << name_of(wish);
  }
}

// No plan has a step that its side refuses, whatever two sides that are not at work have said.
TEST(Recovery, EveryVerdictCanBeCarriedOut) {
  const K sources[] = {K::kBegun, K::kCommitting, K::kReleased, K::kKept, K::kCeded};
  const K destinations[] = {K::kOffered, K::kReady, K::kTaken, K::kDiscarded};
  for (const K source : sources) {
    for (const K destination : destinations) {
      for (const bool source_copy : {false, true}) {
        for (const bool destination_copy : {false, true}) {
          const auto found =
              recovery_of(says(source, source_copy), says(destination, destination_copy));
          ASSERT_TRUE(found);
          if (found->settlement.verdict == Verdict::kNeedsHuman) continue;
          const bool runs_source = found->settlement.verdict == Verdict::kRunSource;
          const Settle wish = runs_source ? Settle::kRunSource : Settle::kRunDestination;
          for (const Telling& telling : tellings(*found, wish)) {
            const bool at_source = telling.side == JournalSide::kSource;
            const CopyHere copy = at_source ? (source_copy ? CopyHere::kPaused : CopyHere::kNone)
                                  : destination_copy ? CopyHere::kComplete
                                                     : CopyHere::kNone;
            const auto step = settle_step(entry(at_source ? source : destination), copy,
                                          telling.wish, telling.said);
            EXPECT_TRUE(step) << name_of(source) << source_copy << " " << name_of(destination)
                              << destination_copy << ": " << step.error().detail;
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace sealift::test
