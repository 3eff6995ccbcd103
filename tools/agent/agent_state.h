// What an agent is doing, and the rules that hang on it alone.
//
// Spec:    docs/spec/handover.md; docs/operations.md shows the names.
// Threads: plain values and functions. Failure: none.
#pragma once

#include <cstdint>
#include <optional>

#include "engine/stats.h"
#include "journal/recovery.h"

namespace sealift {

enum class AgentState : std::uint8_t {
  kEmpty,  // waits for a guest
  kReceiving,
  kRunning,
  kMigrating,
  kHandedOver,  // the guest runs elsewhere; its last memory is kept for digests until the agent
                // ends
  kInDoubt,     // the guest is paused here and may run elsewhere
  kLost,        // paused here and cannot be resumed
  kTerminated,  // the guest ended by itself
  kHolding,     // a complete copy without the right to run it (docs/spec/handover.md)
  kUnsettled,   // restarted: the journal says that the guest may run elsewhere; nothing is launched
  kFenced,      // its vCPUs stand until the lock manager says that it may run here
};
const char* name_of(AgentState state);

// The state of an agent whose migration, or whose question about one, ended so.
AgentState state_after(Outcome outcome, bool check_only);
// The state of one that is `state` and then reads its journal: what was open may be settled, by a
// record whose writing had seemed to fail.
AgentState state_after(AgentState state, const std::optional<JournalEntry>& last);
bool may_receive(AgentState state);
bool is_busy(AgentState state);  // a session is at work
// Whether the copy that an agent in this state has, if it has one, could be made to run.
bool can_be_run(AgentState state);
// What there is to settle with. Empty: a session works on it, or it can neither run nor be given
// up.
std::optional<CopyHere> copy_in(AgentState state);

}  // namespace sealift
