// How an unsettled migration is settled: from two answers to a plan, and from a plan to what one
// side does. Pure: `migrate recover` and agents ask and perform, this decides.
//
// Spec:       docs/spec/journal.md, "Settling".
// Threads:    plain values and functions.
// Failure:    kRefused with the reason; nothing may be done then.
// Invariants: a verdict counts only for the records it was made from: each Telling carries the
//             record that its side had said, and a side that has written on since then refuses.
#pragma once

#include <optional>
#include <vector>

#include "engine/result.h"
#include "journal/standing.h"

namespace sealift {

// What a side is told to do about a migration that is unsettled there.
enum class Settle : std::uint8_t {
  kRunSource,
  kRunDestination,
  kForget,  // no copy is left: the source's guest is given up for lost
};
const char* name_of(Settle wish);  // "run source"

// What one side said: of the guest's last migration there, the open one if there is one; or of the
// one it was asked about, if it knows that.
struct SideAnswer {
  std::optional<JournalEntry> last;
  bool has_copy = false;  // in its process's memory, and able to run
  bool is_latest = true;  // no later migration of the guest is in its journal
  bool is_busy = false;   // a session is at work on it: nothing it says lasts
};

// What two answers mean. A side without an answer could not be asked.
struct Recovery {
  RightToRun right;
  bool first_is_source = true;
  std::optional<SideAnswer> source;       // `last` is empty if it is about another migration
  std::optional<SideAnswer> destination;  // the same
  SourceStanding source_standing = SourceStanding::kUnknown;
  DestinationStanding destination_standing = DestinationStanding::kUnknown;
  Settlement settlement;
};
// About one that is open, if there is one, or else the last of the first side that has one. A side
// that spoke of another is then to be asked about this one. kRefused: neither has one.
Result<Recovery> recovery_of(const std::optional<SideAnswer>& first,
                             const std::optional<SideAnswer>& second);

// One thing to tell one side; the next is told only after it succeeded.
struct Telling {
  JournalSide side = JournalSide::kSource;
  Settle wish = Settle::kRunSource;
  JournalKind said = JournalKind::kBegun;  // the record the verdict was made from
};
// In the order that is safe at every interruption. A side that cannot be asked, has gone on to
// another migration, or has nothing to write and nothing to start, is told nothing.
std::vector<Telling> tellings(const Recovery& recovery, Settle wish);

// What a side has of the guest when no session works on it.
enum class CopyHere : std::uint8_t {
  kNone,      // gone with a process, or closed
  kPaused,    // the source's, paused since before Handover
  kComplete,  // the destination's, which has not run
  kRunning,
};

// What a side does: the record first, if there is one to write, then the act. A record that is
// there although its act was not done (a sync failed, a guest did not start) owes the act.
struct SettleStep {
  enum class Act : std::uint8_t {
    kNothing,   // there is nothing here any more
    kResume,    // the source: cancel the platform's side, run on
    kRelease,   // the source: close the platform's side for good
    kStart,     // the destination: commit, run
    kDropCopy,  // the destination
  };
  std::optional<JournalKind> record;  // empty: it is written already
  Act act = Act::kNothing;
};
// `said` as in Telling; empty: a person who has seen both sides insists.
Result<SettleStep> settle_step(const JournalEntry& last, CopyHere copy, Settle wish,
                               std::optional<JournalKind> said);

}  // namespace sealift
