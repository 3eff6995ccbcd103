#include "tools/agent/agent_state.h"

namespace sealift {

const char* name_of(AgentState state) {
  switch (state) {
    case AgentState::kEmpty:
      return "empty";
    case AgentState::kReceiving:
      return "receiving";
    case AgentState::kRunning:
      return "running";
    case AgentState::kMigrating:
      return "migrating";
    case AgentState::kHandedOver:
      return "handed-over";
    case AgentState::kInDoubt:
      return "in-doubt";
    case AgentState::kLost:
      return "lost";
    case AgentState::kTerminated:
      return "terminated";
    case AgentState::kHolding:
      return "holding";
    case AgentState::kUnsettled:
      return "unsettled";
    case AgentState::kFenced:
      return "fenced";
  }
  return "invalid state";
}

AgentState state_after(Outcome outcome, bool check_only) {
  switch (outcome) {
    case Outcome::kDone:
      return check_only ? AgentState::kRunning : AgentState::kHandedOver;
    case Outcome::kInDoubt:
      return AgentState::kInDoubt;
    case Outcome::kGuestLost:
      return AgentState::kLost;
    default:
      return AgentState::kRunning;
  }
}

AgentState state_after(AgentState state, const std::optional<JournalEntry>& last) {
  const bool settled = state == AgentState::kUnsettled && last && is_settled(last->last);
  return settled ? AgentState::kEmpty : state;
}

bool may_receive(AgentState state) {
  return state == AgentState::kEmpty || state == AgentState::kHandedOver;
}

bool is_busy(AgentState state) {
  return state == AgentState::kMigrating || state == AgentState::kReceiving;
}

bool can_be_run(AgentState state) {
  return state != AgentState::kHandedOver && state != AgentState::kLost;
}

// Empty: a session works on it, or it can neither run nor be given up.
std::optional<CopyHere> copy_in(AgentState state) {
  switch (state) {
    case AgentState::kInDoubt:
      return CopyHere::kPaused;
    case AgentState::kHolding:
      return CopyHere::kComplete;
    case AgentState::kRunning:
      return CopyHere::kRunning;
    case AgentState::kUnsettled:
    case AgentState::kEmpty:
    case AgentState::kHandedOver:
      return CopyHere::kNone;
    case AgentState::kReceiving:
    case AgentState::kMigrating:
    case AgentState::kLost:
    case AgentState::kTerminated:
    case AgentState::kFenced:
      break;
  }
  return std::nullopt;
}

}  // namespace sealift
