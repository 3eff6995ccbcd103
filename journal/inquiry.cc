#include "journal/inquiry.h"

#include <algorithm>
#include <optional>

namespace sealift {
namespace {

using S = SourceStanding;
using D = DestinationStanding;

std::optional<JournalKind> kind_of(std::uint8_t record) {
  if (record < static_cast<std::uint8_t>(JournalKind::kBegun) ||
      record > static_cast<std::uint8_t>(JournalKind::kCeded)) {
    return std::nullopt;
  }
  return static_cast<JournalKind>(record);
}

// A kind of the other side's is a standing that nobody has: kNone.
template <class Standing>
Standing standing_of(const RightWord& word, Standing (*of)(const JournalEntry*)) {
  const auto kind = kind_of(word.record);
  if (!kind) return of(nullptr);
  JournalEntry entry;
  entry.last = *kind;
  return of(&entry);
}

// A source without its copy that has not given the right away: "the side that gives up writes
// first".
bool has_to_cede(S source, bool has_guest) {
  return !has_guest && (source == S::kOwns || source == S::kInDoubt);
}

}  // namespace

const char* name_of(InquiryStep step) {
  switch (step) {
    case InquiryStep::kAskAgain:
      return "ask again";
    case InquiryStep::kCede:
      return "cede";
    case InquiryStep::kKeep:
      return "keep";
    case InquiryStep::kRelease:
      return "release";
    case InquiryStep::kDone:
      return "done";
  }
  return "invalid step";
}

RightWord word_of(const RightToRun& right, const JournalEntry* entry, bool has_guest) {
  const RightToRun& said = entry != nullptr ? entry->right : right;
  RightWord word;
  word.claim = {said.migration, said.generation};
  word.guest = said.guest;
  word.source = said.source;
  word.destination = said.destination;
  word.page_map_sha256 = said.page_map_sha256;
  word.memory_sha256 = said.memory_sha256;
  word.has_guest = has_guest;
  if (entry == nullptr) return word;
  word.record = static_cast<std::uint8_t>(entry->last);
  if (entry->proven) {
    word.proven = static_cast<std::uint8_t>(*entry->proven);
    word.mac = entry->mac;
  }
  return word;
}

RightToRun right_of(const RightWord& word) {
  return RightToRun{.migration = word.claim.migration,
                    .generation = word.claim.generation,
                    .guest = word.guest,
                    .source = word.source,
                    .destination = word.destination,
                    .page_map_sha256 = word.page_map_sha256,
                    .memory_sha256 = word.memory_sha256};
}

bool is_proven(const SessionKey& key, const RightWord& word) {
  const auto last = kind_of(word.record);
  const auto proven = kind_of(word.proven);
  if (!last || !proven) return false;
  // A side that was restarted has lost the key: its last word has no MAC, the one before has.
  if (*last != *proven && !may_follow(*proven, *last)) return false;
  return is_record_mac(key, *proven, right_of(word), word.mac);
}

Answering before_answer(const RightWord& asker, bool believed, const RightWord& own) {
  const S source = believed ? standing_of(asker, &source_standing) : S::kUnknown;
  const D destination = standing_of(own, &destination_standing);
  Answering answering;
  answering.settlement = settle(source, asker.has_guest, destination, own.has_guest,
                                digests_agree(right_of(asker), right_of(own)));
  switch (answering.settlement.verdict) {
    case Verdict::kRunSource:
      if (destination != D::kDiscarded) answering.step = AnswerStep::kDiscard;
      break;
    case Verdict::kRunDestination:
      if (destination == D::kComplete && !has_to_cede(source, asker.has_guest)) {
        answering.step = AnswerStep::kTake;
      }
      break;
    case Verdict::kNeedsHuman:
      break;
  }
  return answering;
}

Inquired after_answer(const RightWord& own, const RightWord& answer, bool believed) {
  const S source = standing_of(own, &source_standing);
  // Only a source in doubt lets a copy run, or closes one, for what it hears.
  const bool known = believed || source != S::kInDoubt || !own.has_guest;
  const D destination = known ? standing_of(answer, &destination_standing) : D::kUnknown;
  Inquired inquired;
  inquired.settlement = settle(source, own.has_guest, destination, answer.has_guest,
                               digests_agree(right_of(own), right_of(answer)));
  const bool is_over = destination == D::kDiscarded || destination == D::kNone;
  switch (inquired.settlement.verdict) {
    case Verdict::kRunSource:
      if (is_over) {
        inquired.step = source == S::kKept ? InquiryStep::kDone : InquiryStep::kKeep;
      }
      break;
    case Verdict::kRunDestination:
      if (destination == D::kHasRight) {
        inquired.step = source == S::kInDoubt ? InquiryStep::kRelease : InquiryStep::kDone;
      } else if (destination == D::kComplete && has_to_cede(source, own.has_guest)) {
        inquired.step = InquiryStep::kCede;
      }
      break;
    case Verdict::kNeedsHuman:
      break;
  }
  return inquired;
}

std::uint64_t InquiryPace::next_ns(std::uint64_t random) {
  const std::uint64_t turn = turn_ns_;
  turn_ns_ = std::min(2 * turn, kMost_ns);
  return turn / 2 + random % (turn / 2 + 1);
}

}  // namespace sealift
