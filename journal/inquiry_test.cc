// Inquiry: what both sides do over every combination of standings, and whose word is believed.
#include "journal/inquiry.h"

#include <gtest/gtest.h>

#include "journal/test_records.h"

namespace sealift::test {
namespace {

using K = JournalKind;
using V = Verdict;

constexpr std::uint8_t kKindsEnd = 10;  // 0: nothing; 1 to 9: kinds
const bool kBoth[] = {false, true};

RightWord word(std::uint8_t record, bool has_guest) {
  RightWord word = word_of(right_of(1, 3), nullptr, has_guest);
  word.record = record;
  return word;
}
RightWord word(K kind, bool has_guest) { return word(static_cast<std::uint8_t>(kind), has_guest); }

std::vector<RightWord> every_word() {
  std::vector<RightWord> words;
  for (std::uint8_t record = 0; record < kKindsEnd; ++record) {
    for (const bool has_guest : kBoth) words.push_back(word(record, has_guest));
  }
  return words;
}
std::string text(const RightWord& a, const RightWord& b) {
  return fmt::format("{} {}, {} {}", a.record, a.has_guest, b.record, b.has_guest);
}

TEST(Inquiry, ADestinationTakesOnlyWhatTheSourceCannotRunAnyMore) {
  for (const RightWord& asker : every_word()) {
    for (const RightWord& own : every_word()) {
      for (const bool believed : kBoth) {
        const AnswerStep step = before_answer(asker, believed, own).step;
        const auto is = [](const RightWord& w, K kind) { return w == word(kind, w.has_guest); };
        if (step == AnswerStep::kTake) {
          EXPECT_TRUE(believed) << text(asker, own);
          EXPECT_TRUE(is(own, K::kReady) && own.has_guest) << text(asker, own);
          EXPECT_TRUE((is(asker, K::kCommitting) && asker.has_guest) || is(asker, K::kCeded) ||
                      is(asker, K::kReleased))
              << text(asker, own);
        }
        // A copy that could run is dropped only for a source that has the right and the guest.
        if (step == AnswerStep::kDiscard && is(own, K::kReady) && own.has_guest) {
          EXPECT_TRUE(believed) << text(asker, own);
          EXPECT_TRUE((is(asker, K::kBegun) || is(asker, K::kKept)) && asker.has_guest)
              << text(asker, own);
        }
        if (is(own, K::kTaken) || is(own, K::kDiscarded)) {
          EXPECT_EQ(step, AnswerStep::kNone) << text(asker, own);
        }
      }
    }
  }
}

TEST(Inquiry, ASourceInDoubtRunsOnlyAfterAProvenDiscarded) {
  for (const RightWord& own : every_word()) {
    for (const RightWord& answer : every_word()) {
      for (const bool believed : kBoth) {
        const InquiryStep step = after_answer(own, answer, believed).step;
        if (step == InquiryStep::kKeep) {
          const bool in_doubt = own == word(K::kCommitting, true);
          EXPECT_TRUE(in_doubt || own == word(K::kBegun, true)) << text(own, answer);
          if (!in_doubt) continue;  // it runs anyway
          EXPECT_EQ(answer, word(K::kDiscarded, answer.has_guest)) << text(own, answer);
          EXPECT_TRUE(believed);
        }
        if (step == InquiryStep::kRelease) {
          EXPECT_EQ(own, word(K::kCommitting, own.has_guest)) << text(own, answer);
          EXPECT_EQ(answer, word(K::kTaken, true)) << text(own, answer);
          EXPECT_TRUE(believed || !own.has_guest);
        }
        if (step == InquiryStep::kCede) {
          EXPECT_TRUE(own == word(K::kBegun, false) || own == word(K::kCommitting, false))
              << text(own, answer);
          EXPECT_EQ(answer, word(K::kReady, true)) << text(own, answer);
        }
      }
    }
  }
}

// Two sides that ask and answer until nothing changes.
struct Pair {
  RightWord source;
  RightWord destination;
  bool source_runs = false;
  bool destination_runs = false;

  bool turn() {  // false: nothing is left to ask
    switch (before_answer(source, true, destination).step) {
      case AnswerStep::kTake:
        destination = word(K::kTaken, true);
        destination_runs = true;
        break;
      case AnswerStep::kDiscard:
        destination = word(K::kDiscarded, false);
        break;
      case AnswerStep::kNone:
        break;
    }
    const InquiryStep step = after_answer(source, destination, true).step;
    if (step == InquiryStep::kCede) source = word(K::kCeded, false);
    if (step == InquiryStep::kKeep) {
      source = word(K::kKept, true);
      source_runs = true;
    }
    if (step == InquiryStep::kRelease) {
      source = word(source.has_guest ? K::kReleased : K::kCeded, false);
    }
    return step == InquiryStep::kAskAgain || step == InquiryStep::kCede;
  }
};

// What an inquiry settles is what settle() says of both sides as they were.
TEST(Inquiry, EndsAsRecoverWould) {
  constexpr K kSource[] = {K::kBegun, K::kCommitting, K::kReleased, K::kKept, K::kCeded};
  const auto standing = [](const RightWord& w) {
    JournalEntry entry;
    entry.last = static_cast<K>(w.record);
    return entry;
  };
  for (const K kind : kSource) {
    for (const bool source_has : kBoth) {
      for (const RightWord& destination : every_word()) {
        if (destination.record != 0 &&
            side_of(static_cast<K>(destination.record)) == JournalSide::kSource) {
          continue;
        }
        Pair pair{word(kind, source_has), destination};
        const JournalEntry at_source = standing(pair.source);
        const JournalEntry at_destination = standing(destination);
        const Verdict verdict =
            settle(source_standing(&at_source), source_has,
                   destination_standing(destination.record == 0 ? nullptr : &at_destination),
                   destination.has_guest)
                .verdict;
        bool more = true;
        for (int i = 0; i < 5 && more; ++i) more = pair.turn();
        EXPECT_FALSE(pair.source_runs && pair.destination_runs) << text(pair.source, destination);
        if (pair.source_runs) {
          EXPECT_EQ(verdict, V::kRunSource);
        }
        if (pair.destination_runs) {
          EXPECT_EQ(verdict, V::kRunDestination);
        }
        // Where a journal has forgotten what the other one gave away there is nothing to wait for.
        const bool forgotten = verdict == V::kRunDestination && destination.record == 0;
        EXPECT_EQ(more, verdict == V::kNeedsHuman || forgotten) << text(pair.source, destination);
      }
    }
  }
}

struct Named {
  const char* what;
  RightWord source, destination;
  AnswerStep answer;
  InquiryStep step;  // for the answer that follows from it
};
TEST(Inquiry, TheCasesByName) {
  const Named cases[] = {
      {"Handover lost", word(K::kCommitting, true), word(K::kReady, true), AnswerStep::kTake,
       InquiryStep::kRelease},
      {"Running lost", word(K::kCommitting, true), word(K::kTaken, true), AnswerStep::kNone,
       InquiryStep::kRelease},
      {"destination died holding", word(K::kCommitting, true), word(K::kDiscarded, false),
       AnswerStep::kNone, InquiryStep::kKeep},
      {"destination died running", word(K::kCommitting, true), word(K::kTaken, false),
       AnswerStep::kNone, InquiryStep::kAskAgain},
      {"its journal was lost", word(K::kCommitting, true), word(0, false), AnswerStep::kNone,
       InquiryStep::kAskAgain},
      {"Ready lost", word(K::kKept, true), word(K::kReady, true), AnswerStep::kDiscard,
       InquiryStep::kDone},
      {"Kept could not be written", word(K::kBegun, true), word(K::kReady, true),
       AnswerStep::kDiscard, InquiryStep::kKeep},
      {"source died in doubt, it runs there", word(K::kCommitting, false), word(K::kTaken, true),
       AnswerStep::kNone, InquiryStep::kRelease},
      {"never offered there", word(K::kKept, true), word(0, false), AnswerStep::kDiscard,
       InquiryStep::kDone},
      {"source died", word(K::kBegun, false), word(K::kReady, true), AnswerStep::kNone,
       InquiryStep::kCede},
      {"source died in doubt", word(K::kCommitting, false), word(K::kReady, true),
       AnswerStep::kNone, InquiryStep::kCede},
      {"ceded", word(K::kCeded, false), word(K::kReady, true), AnswerStep::kTake,
       InquiryStep::kDone},
      {"source died too early", word(K::kBegun, false), word(K::kDiscarded, false),
       AnswerStep::kNone, InquiryStep::kAskAgain},
      {"source kept and died", word(K::kKept, false), word(K::kReady, true), AnswerStep::kNone,
       InquiryStep::kAskAgain},
  };
  for (const Named& c : cases) {
    const AnswerStep step = before_answer(c.source, true, c.destination).step;
    EXPECT_EQ(step, c.answer) << c.what;
    RightWord answer = c.destination;
    if (step == AnswerStep::kTake) answer = word(K::kTaken, true);
    if (step == AnswerStep::kDiscard) answer = word(K::kDiscarded, false);
    EXPECT_EQ(after_answer(c.source, answer, true).step, c.step)
        << c.what << ": " << name_of(after_answer(c.source, answer, true).step);
  }
}

TEST(Inquiry, ACopyOfAnotherGuestIsNotRun) {
  RightWord source = word(K::kCommitting, true);
  RightWord destination = word(K::kReady, true);
  source.page_map_sha256[0] = std::byte{1};
  destination.page_map_sha256[0] = std::byte{2};
  const Answering answering = before_answer(source, true, destination);
  EXPECT_EQ(answering.step, AnswerStep::kNone);
  EXPECT_EQ(answering.settlement.verdict, V::kNeedsHuman);
  destination.page_map_sha256 = {};  // not known: nothing to compare
  EXPECT_EQ(before_answer(source, true, destination).step, AnswerStep::kTake);
  // Digests are no reason to keep a source from running, nor to doubt what already runs.
  destination.page_map_sha256[0] = std::byte{2};
  source.record = static_cast<std::uint8_t>(K::kKept);
  EXPECT_EQ(before_answer(source, true, destination).step, AnswerStep::kDiscard);
}

SessionKey key_of(std::byte first) {
  SessionKey key{};
  key[0] = first;
  return key;
}

// As a side's journal has it: `proven` written with the key, `last` perhaps without.
RightWord proven_word(const SessionKey& key, K proven, K last) {
  const RightToRun right = right_of(1, 3);
  JournalEntry entry{.right = right, .last = last, .records = 2, .proven = proven};
  entry.mac = record_mac(key, proven, right);
  return word_of(right, &entry, true);
}

TEST(Proof, IsOfTheSessionsKeyAndOfARecordThatLeadsToTheLast) {
  const SessionKey key = key_of(std::byte{1});
  EXPECT_TRUE(is_proven(key, proven_word(key, K::kCommitting, K::kCommitting)));
  EXPECT_TRUE(is_proven(key, proven_word(key, K::kCommitting, K::kCeded)));  // restarted
  EXPECT_TRUE(is_proven(key, proven_word(key, K::kReady, K::kDiscarded)));
  EXPECT_FALSE(is_proven(key, proven_word(key_of(std::byte{2}), K::kReady, K::kReady)));
  EXPECT_FALSE(is_proven(key, proven_word(key, K::kReady, K::kCeded)));  // another side's
  EXPECT_FALSE(is_proven(key, proven_word(key, K::kBegun, K::kReleased)));
  RightWord without = proven_word(key, K::kCommitting, K::kCommitting);
  without.proven = 0;
  EXPECT_FALSE(is_proven(key, without));
  RightWord changed = proven_word(key, K::kCommitting, K::kCommitting);
  ++changed.claim.generation;
  EXPECT_FALSE(is_proven(key, changed));
  RightWord garbage = proven_word(key, K::kCommitting, K::kCommitting);
  garbage.record = garbage.proven = 200;
  EXPECT_FALSE(is_proven(key, garbage));
}

TEST(Proof, WithoutItACopyNeitherRunsNorGoes) {
  EXPECT_EQ(before_answer(word(K::kCeded, false), false, word(K::kReady, true)).step,
            AnswerStep::kNone);
  EXPECT_EQ(before_answer(word(K::kKept, true), false, word(K::kReady, true)).step,
            AnswerStep::kNone);
  for (const K kind : {K::kDiscarded, K::kTaken}) {
    EXPECT_EQ(after_answer(word(K::kCommitting, true), word(kind, true), false).step,
              InquiryStep::kAskAgain);
  }
}

TEST(Pace, GrowsToALimitAndIsSpread) {
  InquiryPace least, most;
  std::uint64_t turn = InquiryPace::kFirst_ns;
  for (int i = 0; i < 20; ++i) {
    EXPECT_EQ(least.next_ns(0), turn / 2);
    EXPECT_EQ(most.next_ns(turn / 2), turn);
    turn = std::min(2 * turn, InquiryPace::kMost_ns);
  }
  EXPECT_EQ(turn, InquiryPace::kMost_ns);
  InquiryPace any;
  for (std::uint64_t random = 1; random != 0; random <<= 1) {
    EXPECT_LE(any.next_ns(random), InquiryPace::kMost_ns);
  }
}

}  // namespace
}  // namespace sealift::test
