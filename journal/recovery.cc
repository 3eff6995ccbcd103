#include "journal/recovery.h"

namespace sealift {
namespace {

bool is_about(const SideAnswer& answer, const RightToRun& right) {
  return answer.last && answer.last->right.migration == right.migration;
}

std::optional<SideAnswer> about(const std::optional<SideAnswer>& answer, const RightToRun& right) {
  if (!answer || is_about(*answer, right)) return answer;
  return SideAnswer{std::nullopt, answer->has_copy};
}

template <class Standing>
Standing standing_of(const std::optional<SideAnswer>& answer, Standing unknown,
                     Standing (*of)(const JournalEntry*)) {
  if (!answer) return unknown;
  return of(answer->last ? &*answer->last : nullptr);
}

using Act = SettleStep::Act;

// Taken is written before the guest runs: whoever wrote it may still have to start its copy.
bool may_have_to_start(JournalKind last, Settle wish) {
  return last == JournalKind::kTaken && wish == Settle::kRunDestination;
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

Result<SettleStep> destination_step(JournalKind last, CopyHere copy, Settle wish) {
  if (may_have_to_start(last, wish) && copy == CopyHere::kRunning) return SettleStep{};
  if (copy == CopyHere::kPaused || copy == CopyHere::kRunning) {
    return fail(ErrorClass::kRefused, "another copy of the guest is here");
  }
  const bool has_copy = copy == CopyHere::kComplete;
  if (wish != Settle::kRunDestination) {
    return SettleStep{JournalKind::kDiscarded, has_copy ? Act::kDropCopy : Act::kNothing};
  }
  if (!has_copy) return fail(ErrorClass::kRefused, "the destination has no copy to run");
  if (last == JournalKind::kTaken) return SettleStep{std::nullopt, Act::kStart};
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
  const bool first_tells = first && first->last;
  const std::optional<SideAnswer>& teller = first_tells ? first : second;
  if (!teller || !teller->last) {
    return fail(ErrorClass::kRefused, "no migration is in the journals");
  }
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
  return found;
}

std::vector<Telling> tellings(const Recovery& recovery, Settle wish) {
  std::vector<Telling> plan;
  const auto tell = [&](JournalSide side, Settle what) {
    const auto& answer = side == JournalSide::kSource ? recovery.source : recovery.destination;
    if (!answer || !answer->last) return;
    const JournalKind last = answer->last->last;
    if (is_settled(last) && !(answer->has_copy && may_have_to_start(last, what))) return;
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
  const bool has_copy = copy == CopyHere::kComplete || copy == CopyHere::kRunning;
  if (is_settled(last.last) && !(has_copy && may_have_to_start(last.last, wish))) {
    return fail(ErrorClass::kRefused, "it is settled here: {}", name_of(last.last));
  }
  return side_of(last.last) == JournalSide::kSource ? source_step(last.last, copy, wish)
                                                    : destination_step(last.last, copy, wish);
}

}  // namespace sealift
