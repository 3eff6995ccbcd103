#include "journal/recovery.h"

namespace sealift {
namespace {

bool is_about(const SideAnswer& answer, const RightToRun& right) {
  return answer.last && answer.last->right.migration == right.migration;
}

// The one whose word counts for which migration it is about; null: neither has one.
const SideAnswer* teller_of(const std::optional<SideAnswer>& first,
                            const std::optional<SideAnswer>& second) {
  for (const bool must_be_open : {true, false}) {
    for (const auto* side : {&first, &second}) {
      if (!*side || !(*side)->last) continue;
      if (!must_be_open || !is_settled((*side)->last->last)) return &**side;
    }
  }
  return nullptr;
}

std::optional<SideAnswer> about(const std::optional<SideAnswer>& answer, const RightToRun& right) {
  if (!answer || is_about(*answer, right)) return answer;
  return SideAnswer{std::nullopt, answer->has_copy, false, answer->is_busy};
}

template <class Standing>
Standing standing_of(const std::optional<SideAnswer>& answer, Standing unknown,
                     Standing (*of)(const JournalEntry*)) {
  if (!answer) return unknown;
  return of(answer->last ? &*answer->last : nullptr);
}

using Act = SettleStep::Act;

// What a record that settles says is to be done, and may not have been: the act comes after it.
bool asks_for(JournalKind last, Settle wish) {
  switch (last) {
    case JournalKind::kKept:
    case JournalKind::kDiscarded:
      return wish == Settle::kRunSource;
    case JournalKind::kReleased:
    case JournalKind::kCeded:
    case JournalKind::kTaken:
      return wish == Settle::kRunDestination;
    default:
      return false;
  }
}

Act owed(JournalKind last, CopyHere copy) {
  if (copy == CopyHere::kPaused) {
    if (last == JournalKind::kKept) return Act::kResume;
    if (last == JournalKind::kReleased || last == JournalKind::kCeded) return Act::kRelease;
  }
  if (copy == CopyHere::kComplete) {
    if (last == JournalKind::kTaken) return Act::kStart;
    if (last == JournalKind::kDiscarded) return Act::kDropCopy;
  }
  return Act::kNothing;
}

Result<SettleStep> source_step(JournalKind last, CopyHere copy, Settle wish) {
  if (copy == CopyHere::kComplete || (copy == CopyHere::kRunning && wish != Settle::kRunSource)) {
    return fail(ErrorClass::kRefused, "a guest {} here",
                copy == CopyHere::kRunning ? "runs" : "waits");
  }
  const bool has_copy = copy == CopyHere::kPaused;
  switch (wish) {
    case Settle::kRunSource:
      if (copy == CopyHere::kRunning) return SettleStep{JournalKind::kKept, Act::kNothing};
      if (!has_copy) return fail(ErrorClass::kRefused, "the source has no copy to run");
      return SettleStep{JournalKind::kKept, Act::kResume};
    case Settle::kForget:
      if (has_copy) return fail(ErrorClass::kRefused, "the source still has its copy");
      return SettleStep{JournalKind::kKept, Act::kNothing};
    case Settle::kRunDestination: {
      // Released says that the destination has taken the guest over by Handover.
      const bool committed = last == JournalKind::kCommitting && has_copy;
      return SettleStep{committed ? JournalKind::kReleased : JournalKind::kCeded,
                        has_copy ? Act::kRelease : Act::kNothing};
    }
  }
  return fail(ErrorClass::kUsage, "no such wish: {}", static_cast<int>(wish));
}

Result<SettleStep> destination_step(CopyHere copy, Settle wish) {
  if (copy == CopyHere::kPaused || copy == CopyHere::kRunning) {
    return fail(ErrorClass::kRefused, "another copy of the guest is here");
  }
  const bool has_copy = copy == CopyHere::kComplete;
  if (wish != Settle::kRunDestination) {
    return SettleStep{JournalKind::kDiscarded, has_copy ? Act::kDropCopy : Act::kNothing};
  }
  if (!has_copy) return fail(ErrorClass::kRefused, "the destination has no copy to run");
  return SettleStep{JournalKind::kTaken, Act::kStart};
}

}  // namespace

const char* name_of(Settle wish) {
  switch (wish) {
    case Settle::kRunSource:
      return "run source";
    case Settle::kRunDestination:
      return "run destination";
    case Settle::kForget:
      return "forget";
  }
  return "invalid wish";
}

Result<Recovery> recovery_of(const std::optional<SideAnswer>& first,
                             const std::optional<SideAnswer>& second) {
  const SideAnswer* teller = teller_of(first, second);
  if (teller == nullptr) return fail(ErrorClass::kRefused, "no migration is in the journals");
  const bool first_tells = first && teller == &*first;
  Recovery found;
  found.right = teller->last->right;
  const bool teller_is_source = side_of(teller->last->last) == JournalSide::kSource;
  found.first_is_source = teller_is_source == first_tells;
  found.source = about(found.first_is_source ? first : second, found.right);
  found.destination = about(found.first_is_source ? second : first, found.right);
  found.source_standing =
      standing_of(found.source, SourceStanding::kUnknown, &sealift::source_standing);
  found.destination_standing =
      standing_of(found.destination, DestinationStanding::kUnknown, &sealift::destination_standing);
  const bool both_say =
      found.source && found.source->last && found.destination && found.destination->last;
  found.settlement =
      settle(found.source_standing, found.source && found.source->has_copy,
             found.destination_standing, found.destination && found.destination->has_copy,
             !both_say || digests_agree(found.source->last->right, found.destination->last->right));
  // What is concluded from it could meet the other side when this one has lost its copy.
  if ((found.source && found.source->is_busy) ||
      (found.destination && found.destination->is_busy)) {
    found.settlement = {Verdict::kNeedsHuman,
                        "a session is still at work on it: ask again when it has ended"};
  }
  return found;
}

std::vector<Telling> tellings(const Recovery& recovery, Settle wish) {
  std::vector<Telling> plan;
  const auto tell = [&](JournalSide side, Settle what) {
    const auto& answer = side == JournalSide::kSource ? recovery.source : recovery.destination;
    if (!answer || !answer->last || !answer->is_latest) return;
    const JournalKind last = answer->last->last;
    if (is_settled(last) && !(answer->has_copy && asks_for(last, what))) return;
    plan.push_back(Telling{side, what, last});
  };
  // The side that gives the right up writes it down first; then the one that takes it; then
  // whoever only closes its copy.
  if (wish != Settle::kRunDestination) {
    tell(JournalSide::kDestination, Settle::kRunSource);
    tell(JournalSide::kSource, wish);
    return plan;
  }
  const bool cedes = !recovery.source || !recovery.source->has_copy;
  if (cedes) tell(JournalSide::kSource, wish);
  tell(JournalSide::kDestination, wish);
  if (!cedes) tell(JournalSide::kSource, wish);
  return plan;
}

Result<SettleStep> settle_step(const JournalEntry& last, CopyHere copy, Settle wish,
                               std::optional<JournalKind> said) {
  if (said && *said != last.last) {
    return fail(ErrorClass::kRefused,
                "it was decided when {} was the last record, and now that is {}: ask again",
                name_of(*said), name_of(last.last));
  }
  if (is_settled(last.last)) {
    const bool is_so = asks_for(last.last, wish) && copy != CopyHere::kNone;
    if (is_so) return SettleStep{std::nullopt, owed(last.last, copy)};
    return fail(ErrorClass::kRefused, "it is settled here: {}", name_of(last.last));
  }
  return side_of(last.last) == JournalSide::kSource ? source_step(last.last, copy, wish)
                                                    : destination_step(copy, wish);
}

}  // namespace sealift
