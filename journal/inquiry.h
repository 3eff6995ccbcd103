// How two agents settle a migration by themselves: the source asks, the destination answers. Pure;
// the agent does the asking (tools/agent/inquirer.h), and every verdict is settle()'s, so that an
// inquiry and `migrate recover` cannot disagree.
//
// Spec:       docs/spec/handover.md, "In doubt", "Inquiry"; docs/spec/journal.md, "MAC".
// Threads:    plain values and functions.
// Failure:    none. What cannot be decided is kNone and kAskAgain.
// Invariants: no step here lets a side run that settle() does not; a word that is not believed is a
//             side that cannot be asked.
#pragma once

#include <cstdint>
#include <string_view>

#include "engine/records.h"
#include "journal/mac.h"
#include "journal/standing.h"

namespace sealift {

// What `entry` says (nullptr: nothing is known of `right`), to be sent to the other side.
RightWord word_of(const RightToRun& right, const JournalEntry* entry, bool has_guest);
RightToRun right_of(const RightWord& word);

// Whether a word is from the session whose key this is: its last record with a MAC has the right
// one, and what it says of itself may follow that record.
bool is_proven(const SessionKey& key, const RightWord& word);

// What a destination does before it answers; durable before the answer leaves.
enum class AnswerStep : std::uint8_t { kNone, kTake, kDiscard };
struct Answering {
  AnswerStep step = AnswerStep::kNone;
  Settlement settlement;  // what both words together mean
};
// `believed`: false when this side has the session's key and the asker did not prove itself.
Answering before_answer(const RightWord& asker, bool believed, const RightWord& own);

// What a source does with an answer.
enum class InquiryStep : std::uint8_t {
  kAskAgain,  // nothing is settled yet
  kCede,      // write Ceded, and ask again at once
  kKeep,      // write Kept, and resume unless it runs
  kRelease,   // write that the destination runs it, and close the copy if there is one
  kDone,      // both sides know
};
const char* name_of(InquiryStep step);
struct Inquired {
  InquiryStep step = InquiryStep::kAskAgain;
  Settlement settlement;
};
Inquired after_answer(const RightWord& own, const RightWord& answer, bool believed);

// When the next question is due: twice the time at each turn up to a limit, and between half and
// all of that, so that many sources do not ask at once.
class InquiryPace {
 public:
  static constexpr std::uint64_t kFirst_ns = 250'000'000;
  static constexpr std::uint64_t kMost_ns = 15'000'000'000;

  std::uint64_t next_ns(std::uint64_t random);

 private:
  std::uint64_t turn_ns_ = kFirst_ns;
};

}  // namespace sealift
