// How a migration ends at the destination: every path that is not the next step.
#include <utility>

#include "engine/assert.h"
#include "engine/destination_session.h"

namespace sealift {

using destination::Phase;

// As if this side had died before the step, but it is alive and says what it may.
void DestinationSession::on(destination::NoteFailed& event, Actions& actions) {
  event.error.detail =
      fmt::format("{} {}: {}",
                  event.error.cls == ErrorClass::kRefused ? "nothing was written of"
                                                          : "the journal did not take",
                  name_of(event.step), event.error.detail);
  switch (event.step) {
    case RightStep::kOffered:
      offered_ = false;
      return give_up(std::move(event.error), true, actions);
    case RightStep::kReady:
      return give_up(std::move(event.error), true, actions);
    case RightStep::kTaken:
      // Surely not written: the copy is given up, and the source may run the guest on.
      if (event.error.cls == ErrorClass::kRefused) {
        return give_up(std::move(event.error), true, actions);
      }
      // It may be on disk or not: neither run nor say that it never will.
      error_ = std::move(event.error);
      return end(DestinationOutcome::kHolds, actions);
    case RightStep::kDiscarded:  // nobody is told: the source asks again, or stays in doubt
      error_ = std::move(event.error);
      return end(DestinationOutcome::kDiscarded, actions);
    default:
      SEALIFT_ASSERT(false);
  }
}

void DestinationSession::receive(Abort& abort, Actions& actions) {
  const std::string who = peer_ ? peer_->agent_name : std::string("the source");
  ErrorClass cls = abort.cls == ErrorClass::kLocalFault ? ErrorClass::kPeerFault : abort.cls;
  peer_aborted_ = true;
  give_up(Error{cls, fmt::format("{} ended the migration: {}", who, abort.detail)}, false, actions);
}

void DestinationSession::unexpected(const Record& record, Actions& actions) {
  give_up(Error{ErrorClass::kMalformed,
                fmt::format("unexpected record {} while {}", name_of(record), name_of(phase_))},
          true, actions);
}

void DestinationSession::on(destination::Failed& event, Actions& actions) {
  // Taken is durable: no other copy may run any more. This one can be started again.
  if (phase_ == Phase::kStarting && claim_) {
    error_ = std::move(event.error);
    return end(DestinationOutcome::kHolds, actions);
  }
  give_up(std::move(event.error), true, actions);
}

// Once all pages have come the other streams have nothing more to say.
void DestinationSession::on(destination::StreamFailed& event, Actions& actions) {
  if (phase_ <= Phase::kEpochs) give_up(std::move(event.error), true, actions);
}

void DestinationSession::on(destination::LinkLost& event, Actions& actions) {
  // With journals on both sides the only complete copy may be this one.
  if (phase_ == Phase::kHandoverWait && claim_) {
    error_ = std::move(event.error);
    return end(DestinationOutcome::kHolds, actions);
  }
  // Bytes that are no record end the session, but the way to the peer is still open.
  const bool tell_peer = event.error.cls == ErrorClass::kMalformed;
  give_up(std::move(event.error), tell_peer, actions);
}

void DestinationSession::on(destination::CancelRequested&, Actions& actions) {
  if (phase_ == Phase::kStarting) return;
  // Too late here: the source, whose process may be gone, has no other copy. It can be cancelled
  // there, or settled.
  if (phase_ == Phase::kHandoverWait && claim_) return;
  give_up(Error{ErrorClass::kCancelled, "cancelled by the operator of the destination"}, true,
          actions);
}

void DestinationSession::give_up(Error error, bool tell_peer, Actions& actions) {
  if (phase_ == Phase::kDiscarding) return;  // the first reason stands
  error_ = std::move(error);
  tell_peer_ = tell_peer;
  phase_ = Phase::kDiscarding;
  actions.push_back(destination::Discard{});
}

void DestinationSession::on(destination::Discarded& event, Actions& actions) {
  SEALIFT_ASSERT(phase_ == Phase::kDiscarding);
  // The Abort follows the discarding: after Handover it declares that the guest has not run and
  // never will here.
  if (offered_) note(RightStep::kDiscarded, actions);
  const bool token_for_peer = peer_aborted_ && !event.abort_token.empty();
  if (tell_peer_ || token_for_peer) {
    actions.push_back(
        destination::Send{Abort{error_->cls, error_->detail, std::move(event.abort_token)}});
  }
  end(DestinationOutcome::kDiscarded, actions);
}

void DestinationSession::end(DestinationOutcome outcome, Actions& actions) {
  phase_ = Phase::kEnded;
  actions.push_back(destination::End{outcome, std::move(error_)});
}

}  // namespace sealift
