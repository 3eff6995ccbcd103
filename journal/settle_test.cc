// settle(): the rules that any table must keep, over every combination, and the cases by name.
#include <gtest/gtest.h>

#include <set>

#include "journal/standing.h"

namespace sealift::test {
namespace {

using S = SourceStanding;
using D = DestinationStanding;
using V = Verdict;

struct Case {
  S source;
  bool source_copy;
  D destination;
  bool destination_copy;
};

std::vector<Case> every_case() {
  std::vector<Case> cases;
  for (std::size_t s = 0; s < kSourceStandings; ++s) {
    for (std::size_t d = 0; d < kDestinationStandings; ++d) {
      for (const bool source_copy : {false, true}) {
        for (const bool destination_copy : {false, true}) {
          cases.push_back({static_cast<S>(s), source_copy, static_cast<D>(d), destination_copy});
        }
      }
    }
  }
  return cases;
}

Verdict verdict(const Case& c) {
  return settle(c.source, c.source_copy, c.destination, c.destination_copy).verdict;
}

std::string text(const Case& c) {
  return fmt::format("source {} {}, destination {} {}", name_of(c.source),
                     c.source_copy ? "with copy" : "without", name_of(c.destination),
                     c.destination_copy ? "with copy" : "without");
}

TEST(Settle, NoVerdictLetsASideRunThatMustNot) {
  for (const Case& c : every_case()) {
    if (verdict(c) == V::kRunSource) {
      EXPECT_TRUE(c.source != S::kReleased && c.source != S::kCeded && c.source != S::kNone)
          << text(c);
      EXPECT_NE(c.destination, D::kHasRight) << text(c);
      // A source in doubt runs only when the destination never will.
      if (c.source == S::kInDoubt) {
        EXPECT_TRUE(c.destination == D::kDiscarded ||
                    (c.destination == D::kComplete && !c.destination_copy))
            << text(c);
      }
    }
    if (verdict(c) == V::kRunDestination) {
      EXPECT_TRUE(c.source != S::kKept && !(c.source == S::kOwns && c.source_copy)) << text(c);
      EXPECT_TRUE(c.destination != D::kDiscarded && c.destination != D::kIncomplete) << text(c);
    }
  }
}

TEST(Settle, WhoIsAskedToRunHasTheGuest) {
  for (const Case& c : every_case()) {
    if (verdict(c) == V::kRunSource && c.source != S::kUnknown) {
      EXPECT_TRUE(c.source_copy) << text(c);
    }
    const bool known = c.destination != D::kUnknown && c.destination != D::kNone;
    if (verdict(c) == V::kRunDestination && known) {
      EXPECT_TRUE(c.destination_copy) << text(c);
    }
    if (!c.source_copy && !c.destination_copy && c.source != S::kUnknown && known) {
      EXPECT_EQ(verdict(c), V::kNeedsHuman) << "the guest is lost: " << text(c);
    }
  }
}

// A side out of reach cannot say whether it has a copy, and later cannot contradict the verdict.
TEST(Settle, AVerdictWithoutASideHoldsWhenThatSideIsBack) {
  for (const Case& c : every_case()) {
    if (c.source == S::kUnknown) {
      Case other = c;
      other.source_copy = !c.source_copy;
      EXPECT_EQ(verdict(c), verdict(other)) << text(c);
    }
    if (c.destination == D::kUnknown) {
      Case other = c;
      other.destination_copy = !c.destination_copy;
      EXPECT_EQ(verdict(c), verdict(other)) << text(c);
    }
    for (const Case& blind : {Case{S::kUnknown, false, c.destination, c.destination_copy},
                              Case{c.source, c.source_copy, D::kUnknown, false}}) {
      if (verdict(blind) == V::kNeedsHuman || verdict(c) == V::kNeedsHuman) continue;
      EXPECT_EQ(verdict(blind), verdict(c)) << text(c) << "; before: " << text(blind);
    }
  }
}

TEST(Settle, EveryReasonIsASentenceThatIsUsed) {
  std::set<std::string_view> reasons;
  for (const Case& c : every_case()) {
    reasons.insert(settle(c.source, c.source_copy, c.destination, c.destination_copy).reason);
  }
  EXPECT_EQ(reasons.size(), 22U) << "a row of the table that is never reached has no place in it";
  for (const std::string_view reason : reasons) EXPECT_GT(reason.size(), 30U);
}

TEST(Settle, TheCasesByName) {
  struct Expected {
    Case c;
    Verdict verdict;
  };
  const Expected cases[] = {
      // the destination took it
      {{S::kInDoubt, true, D::kHasRight, true}, V::kRunDestination},
      {{S::kUnknown, false, D::kHasRight, true}, V::kRunDestination},
      {{S::kNone, false, D::kHasRight, true}, V::kRunDestination},
      {{S::kInDoubt, true, D::kHasRight, false}, V::kNeedsHuman},
      {{S::kOwns, true, D::kHasRight, true}, V::kNeedsHuman},
      {{S::kKept, true, D::kHasRight, true}, V::kNeedsHuman},
      // the source gave it away
      {{S::kReleased, false, D::kUnknown, false}, V::kRunDestination},
      {{S::kReleased, false, D::kNone, false}, V::kRunDestination},
      {{S::kReleased, true, D::kDiscarded, false}, V::kNeedsHuman},
      {{S::kCeded, false, D::kComplete, true}, V::kRunDestination},
      {{S::kCeded, false, D::kUnknown, false}, V::kRunDestination},
      {{S::kCeded, false, D::kIncomplete, true}, V::kNeedsHuman},
      {{S::kCeded, false, D::kComplete, false}, V::kNeedsHuman},
      // the source never gave it away
      {{S::kOwns, true, D::kUnknown, false}, V::kRunSource},
      {{S::kOwns, true, D::kNone, false}, V::kRunSource},
      {{S::kOwns, true, D::kIncomplete, true}, V::kRunSource},
      {{S::kOwns, true, D::kComplete, true}, V::kRunSource},
      {{S::kKept, true, D::kComplete, true}, V::kRunSource},
      // the source lost its copy
      {{S::kOwns, false, D::kComplete, true}, V::kRunDestination},
      {{S::kInDoubt, false, D::kComplete, true}, V::kRunDestination},
      {{S::kOwns, false, D::kUnknown, false}, V::kNeedsHuman},
      {{S::kOwns, false, D::kDiscarded, false}, V::kNeedsHuman},
      {{S::kOwns, false, D::kNone, false}, V::kNeedsHuman},
      {{S::kKept, false, D::kComplete, true}, V::kNeedsHuman},
      // in doubt
      {{S::kInDoubt, true, D::kUnknown, false}, V::kNeedsHuman},
      {{S::kInDoubt, true, D::kComplete, true}, V::kRunDestination},
      {{S::kInDoubt, true, D::kComplete, false}, V::kRunSource},
      {{S::kInDoubt, true, D::kDiscarded, false}, V::kRunSource},
      {{S::kInDoubt, true, D::kNone, false}, V::kNeedsHuman},
      {{S::kInDoubt, true, D::kIncomplete, true}, V::kNeedsHuman},
      // the source cannot be asked, or does not know
      {{S::kUnknown, false, D::kDiscarded, false}, V::kRunSource},
      {{S::kUnknown, false, D::kIncomplete, true}, V::kRunSource},
      {{S::kUnknown, false, D::kComplete, true}, V::kNeedsHuman},
      {{S::kUnknown, false, D::kNone, false}, V::kNeedsHuman},
      {{S::kNone, true, D::kComplete, true}, V::kNeedsHuman},
  };
  for (const Expected& expected : cases) {
    EXPECT_EQ(verdict(expected.c), expected.verdict) << text(expected.c);
  }
}

// What carrying out a verdict writes ("Settling") may follow what is there.
TEST(Settle, AVerdictCanBeCarriedOut) {
  const auto source_may = [](S from, JournalKind to) {
    Standings standings;
    JournalRecord record;
    const auto add = [&](JournalKind kind) {
      record.kind = kind;
      return standings.add(record).has_value();
    };
    EXPECT_TRUE(add(JournalKind::kBegun));
    if (from == S::kInDoubt) {
      EXPECT_TRUE(add(JournalKind::kCommitting));
    }
    return add(to);
  };
  for (const Case& c : every_case()) {
    if (c.source != S::kOwns && c.source != S::kInDoubt) continue;
    if (verdict(c) == V::kRunSource) {
      EXPECT_TRUE(source_may(c.source, JournalKind::kKept)) << text(c);
    }
    if (verdict(c) == V::kRunDestination) {
      EXPECT_TRUE(
          source_may(c.source, c.source_copy ? JournalKind::kReleased : JournalKind::kCeded))
          << text(c);
    }
  }
}

}  // namespace
}  // namespace sealift::test
