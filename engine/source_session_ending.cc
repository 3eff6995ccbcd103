// How a migration ends at the source: every path that is not the next step.
#include <utility>

#include "engine/assert.h"
#include "engine/source_session.h"

namespace sealift {

using source::Phase;

namespace source {
Outcome outcome_of(const Error& error) {
  switch (error.cls) {
    case ErrorClass::kRefused:
      return Outcome::kRefused;
    case ErrorClass::kPolicy:
      return Outcome::kPolicy;
    case ErrorClass::kCancelled:
      return Outcome::kCancelled;
    case ErrorClass::kTimedOut:
      return Outcome::kTimedOut;
    default:
      return Outcome::kSourceRuns;
  }
}
}  // namespace source

using source::outcome_of;

// As if this side had died before the step, but it is alive and still knows what it knew.
void SourceSession::on(source::NoteFailed& event, Actions& actions) {
  event.error.detail =
      fmt::format("{} {}: {}",
                  event.error.cls == ErrorClass::kRefused ? "nothing was written of"
                                                          : "the journal did not take",
                  name_of(event.step), event.error.detail);
  switch (event.step) {
    case RightStep::kBegun:
      begun_ = false;
      return give_up(Outcome::kRefused, std::move(event.error), true, actions);
    case RightStep::kCommitting:  // no byte of Handover has left
      committing_ = false;
      phase_ = Phase::kFinishWait;
      return give_up(Outcome::kSourceRuns, std::move(event.error), true, actions);
    case RightStep::kReleased:  // the guest runs at the destination all the same
      error_ = std::move(event.error);
      actions.push_back(source::Release{});
      return;
    case RightStep::kKept:
      if (committing_) return end(Outcome::kInDoubt, std::move(event.error), actions);
      return recover_now(actions);
    default:
      SEALIFT_ASSERT(false);
  }
}

void SourceSession::receive(Abort& abort, Actions& actions) {
  peer_aborted_ = true;
  const std::string who = peer_ ? peer_->agent_name : std::string("the destination");
  Error error{abort.cls, fmt::format("{} ended the migration: {}", who, abort.detail)};
  const Outcome outcome = outcome_of(error);
  if (outcome == Outcome::kSourceRuns) error.cls = ErrorClass::kPeerFault;
  switch (phase_) {
    case Phase::kTokenWait:
      return recover(std::move(abort.abort_token), actions);
    case Phase::kHandedOver:  // its declaration that the guest has not run there and never will
      ending_ = Outcome::kSourceRuns;
      error_ = std::move(error);
      return recover(std::move(abort.abort_token), actions);
    case Phase::kReleasing:
    case Phase::kStopping:
    case Phase::kRecovering:
      return;
    default:
      break;
  }
  if (config_.seal_is_commitment && sealed_) {
    ending_ = outcome;
    error_ = std::move(error);
    return recover(std::move(abort.abort_token), actions);
  }
  give_up(outcome, std::move(error), false, actions);
}

void SourceSession::unexpected(const Record& record, Actions& actions) {
  // While giving up, records the peer sent before it heard of it are still on their way.
  if (phase_ >= Phase::kReleasing) return;
  Error error{ErrorClass::kMalformed,
              fmt::format("unexpected record {} while {}", name_of(record), name_of(phase_))};
  if (phase_ == Phase::kHandedOver) return end(Outcome::kInDoubt, std::move(error), actions);
  give_up(Outcome::kSourceRuns, std::move(error), true, actions);
}

void SourceSession::on(source::RoundStopped&, Actions& actions) {
  SEALIFT_ASSERT(round_running_);
  round_running_ = false;
  SEALIFT_ASSERT(phase_ == Phase::kStopping);
  leave(actions);
}

void SourceSession::on(source::Failed& event, Actions& actions) {
  if (round_running_) {  // only a round runs beside the control thread, so the failure is the
                         // round's
    round_running_ = false;
    if (phase_ == Phase::kStopping) return leave(actions);
  }
  SEALIFT_ASSERT(phase_ != Phase::kHandedOver);
  give_up(outcome_of(event.error), std::move(event.error), true, actions);
}

void SourceSession::on(source::LinkLost& event, Actions& actions) {
  switch (phase_) {
    case Phase::kHandedOver:
      event.error.detail =
          "the link was lost after the hand-over was sent, so the guest may run at the "
          "destination: " +
          event.error.detail;
      return end(Outcome::kInDoubt, std::move(event.error), actions);
    case Phase::kTokenWait:
      event.error.detail =
          "the link was lost before the destination's abort token arrived, and the platform "
          "does not let the guest run here without it: " +
          event.error.detail;
      return end(Outcome::kInDoubt, std::move(event.error), actions);
    case Phase::kReleasing:
    case Phase::kStopping:
    case Phase::kRecovering:
      return;
    case Phase::kHello:
      event.error.detail += " before it said Hello; its log says why, if it is a migrate-agent";
      [[fallthrough]];
    default: {
      // Bytes that are no record end the session, but the way to the peer is still open.
      const bool tell_peer = event.error.cls == ErrorClass::kMalformed;
      return give_up(outcome_of(event.error), std::move(event.error), tell_peer, actions);
    }
  }
}

void SourceSession::on(source::CancelRequested&, Actions& actions) {
  if (phase_ >= Phase::kHandedOver) return;  // too late, or over already
  give_up(Outcome::kCancelled, Error{ErrorClass::kCancelled, "cancelled by the operator"}, true,
          actions);
}

void SourceSession::on(source::GuestEnded& event, Actions& actions) {
  if (phase_ >= Phase::kHandedOver) return;  // its vCPUs do not run here any more, or it is over
  give_up(Outcome::kGuestEnded,
          Error{ErrorClass::kLocalFault, fmt::format("the guest terminated: {}", event.why)}, true,
          actions);
}

void SourceSession::on(source::Tick& tick, Actions& actions) {
  if (config_.deadline_ns == 0 || tick.now_ns < config_.deadline_ns) return;
  if (phase_ >= Phase::kHandedOver) return;
  // Before the first round there is nothing to pause for; after the pause it is under way.
  if (config_.goals.on_timeout == OnTimeout::kForce && phase_ >= Phase::kRound) {
    time_is_up_ = true;
    return;
  }
  give_up(
      Outcome::kTimedOut,
      Error{ErrorClass::kTimedOut, fmt::format("the time limit passed while {}", name_of(phase_))},
      true, actions);
}

void SourceSession::give_up(Outcome outcome, Error error, bool tell_peer, Actions& actions) {
  SEALIFT_ASSERT(phase_ != Phase::kHandedOver);
  if (phase_ >= Phase::kStopping) return;  // the first reason stands
  tell_peer_ = tell_peer && phase_ != Phase::kConnecting;
  ending_ = outcome;
  error_ = std::move(error);
  if (!round_running_) return leave(actions);
  phase_ = Phase::kStopping;
  actions.push_back(source::StopRound{});
}

// No round runs any more: back to the guest first, the peer hears of it afterwards, unless the
// platform needs the destination's token before the guest may run.
void SourceSession::leave(Actions& actions) {
  if (!config_.seal_is_commitment || !sealed_) return recover({}, actions);
  phase_ = Phase::kTokenWait;
  if (!tell_peer_) return end(Outcome::kInDoubt, std::move(error_), actions);
  actions.push_back(source::Send{Abort{error_->cls, error_->detail, {}}});
  tell_peer_ = false;
}

void SourceSession::recover(Bytes abort_token, Actions& actions) {
  phase_ = Phase::kRecovering;
  abort_token_ = std::move(abort_token);
  if (begun_) note(RightStep::kKept, actions);
  recover_now(actions);
}

void SourceSession::recover_now(Actions& actions) {
  const bool resume = pausing_ && ending_ != Outcome::kGuestEnded;
  actions.push_back(source::Recover{platform_started_, resume, std::move(abort_token_)});
}

void SourceSession::on(source::Recovered& event, Actions& actions) {
  SEALIFT_ASSERT(phase_ == Phase::kRecovering);
  if (tell_peer_) actions.push_back(source::Send{Abort{error_->cls, error_->detail, {}}});
  if (event.resume_error) {
    Error lost = std::move(*event.resume_error);
    if (error_) lost.detail += "; it was being resumed because " + error_->detail;
    return end(Outcome::kGuestLost, std::move(lost), actions);
  }
  end(ending_, std::move(error_), actions);
}

void SourceSession::end(Outcome outcome, std::optional<Error> error, Actions& actions) {
  SEALIFT_ASSERT(phase_ != Phase::kEnded);
  phase_ = Phase::kEnded;
  actions.push_back(source::End{outcome, std::move(error)});
}

}  // namespace sealift
