#include "engine/source_session.h"

#include <algorithm>
#include <utility>

#include "engine/assert.h"

namespace sealift {

using source::outcome_of;
using source::Phase;

namespace source {
const char* name_of(Phase phase) {
  switch (phase) {
    case Phase::kConnecting:
      return "connecting";
    case Phase::kHello:
      return "negotiating";
    case Phase::kCard:
      return "waiting for the destination's platform card";
    case Phase::kPlatformCheck:
      return "judging the destination's platform";
    case Phase::kAccept:
      return "starting the session";
    case Phase::kPlatform:
      return "starting the platform";
    case Phase::kReadyWait:
      return "waiting for the destination's platform";
    case Phase::kRound:
      return "sending a round";
    case Phase::kAckWait:
      return "waiting for the round to be applied";
    case Phase::kSurvey:
      return "counting dirty pages";
    case Phase::kPausing:
      return "pausing the guest";
    case Phase::kFinalRound:
      return "sending the last pages";
    case Phase::kSaving:
      return "saving vCPU and device state";
    case Phase::kSealing:
      return "sealing";
    case Phase::kFinishWait:
      return "waiting for the destination to be ready";
    case Phase::kHandedOver:
      return "handed over";
    case Phase::kReleasing:
      return "closing the source";
    case Phase::kStopping:
      return "stopping the round";
    case Phase::kTokenWait:
      return "waiting for the abort token";
    case Phase::kRecovering:
      return "returning to the guest";
    case Phase::kEnded:
      return "ended";
  }
  return "invalid phase";
}
}  // namespace source

SourceSession::SourceSession(SourceConfig config) : config_(std::move(config)) {
  config_.hello.check_only = config_.check_only;
  SEALIFT_ASSERT(config_.goals.rounds_max > 0);
  SEALIFT_ASSERT(config_.data_streams < config_.hello.streams_max);
  SEALIFT_ASSERT(config_.claim.has_value() == ((config_.hello.features & kFeatureJournal) != 0));
  for (GfnRange range : config_.hello.memory) config_.goals.guest_pages += range.pages;
}

void SourceSession::step(source::Event event, Actions& actions) {
  if (phase_ == Phase::kEnded) return;
  std::visit([&](auto& e) { on(e, actions); }, event);
}

void SourceSession::on(source::LinkUp&, Actions& actions) {
  SEALIFT_ASSERT(phase_ == Phase::kConnecting);
  phase_ = Phase::kHello;
  actions.push_back(source::Send{config_.hello});
}

void SourceSession::on(source::Received& event, Actions& actions) {
  std::visit([&](auto& record) { receive(record, actions); }, event.record);
}

void SourceSession::receive(Hello& peer, Actions& actions) {
  if (phase_ != Phase::kHello) return unexpected(Record(std::move(peer)), actions);
  auto agreed = negotiate(config_.hello, peer);
  peer_ = std::move(peer);
  if (!agreed) return give_up(outcome_of(agreed.error()), agreed.error(), true, actions);
  agreed_ = *agreed;
  if (config_.needs_peer_journal && (peer_->features & kFeatureJournal) == 0) {
    Error error{ErrorClass::kRefused,
                fmt::format("{} keeps no journal: disks and addresses of the guest move with the "
                            "right to run, which both sides have to write down",
                            peer_->agent_name)};
    return give_up(Outcome::kRefused, std::move(error), true, actions);
  }
  if ((agreed_.features & kFeaturePlatformCard) == 0) {
    if (config_.hello.platform == Platform::kSev || config_.hello.platform == Platform::kSevEs) {
      findings_ = {{PlatformFinding::Level::kWarning, "card",
                    "the destination says nothing of its platform beforehand: what does not fit is "
                    "found when the migration starts"}};
    }
    return begin_session(actions);
  }
  phase_ = Phase::kCard;
}

void SourceSession::receive(PlatformCard& card, Actions& actions) {
  if (phase_ != Phase::kCard) return unexpected(Record(std::move(card)), actions);
  phase_ = Phase::kPlatformCheck;
  actions.push_back(source::CheckPlatform{std::move(card.card)});
}

void SourceSession::on(source::PlatformChecked& event, Actions& actions) {
  if (phase_ != Phase::kPlatformCheck) return;  // given up meanwhile
  findings_ = std::move(event.findings);
  if (!refuses(findings_)) return begin_session(actions);
  // A destination that was only asked is no longer there to be told.
  give_up(Outcome::kRefused, Error{ErrorClass::kRefused, refusal_text(findings_)},
          !config_.check_only, actions);
}

// Both sides fit: a check is over, a migration begins.
void SourceSession::begin_session(Actions& actions) {
  if (config_.check_only) return end(Outcome::kDone, std::nullopt, actions);
  phase_ = Phase::kAccept;
  const bool verify = config_.verify && (agreed_.features & kFeatureVerifyDigest) != 0;
  note(RightStep::kBegun, actions);
  begun_ = config_.claim.has_value();
  if ((agreed_.features & kFeatureJournal) != 0) actions.push_back(source::Send{*config_.claim});
  if ((agreed_.features & kFeatureStreams) != 0) {
    data_streams_ = std::min<std::uint8_t>(config_.data_streams, agreed_.streams - 1);
  }
  if (data_streams_ > 0) actions.push_back(source::Send{StreamJoin{0, config_.stream_secret}});
  const auto streams = static_cast<std::uint8_t>(1 + data_streams_);
  actions.push_back(source::Send{SessionStart{config_.guest_name, streams, verify}});
}

void SourceSession::note(RightStep step, Actions& actions) {
  if (!config_.claim) return;
  actions.push_back(source::Note{step, error_ ? error_->detail : std::string()});
}

void SourceSession::receive(SessionAccept& accept, Actions& actions) {
  if (phase_ != Phase::kAccept) return unexpected(Record(std::move(accept)), actions);
  phase_ = Phase::kPlatform;
  platform_started_ =
      true;  // from here on a failure has to be cancelled, however far the start got
  actions.push_back(source::StartPlatform{std::move(accept.identity)});
}

void SourceSession::on(source::PlatformStarted& event, Actions& actions) {
  if (phase_ != Phase::kPlatform) return;  // given up meanwhile
  phase_ = Phase::kReadyWait;
  actions.push_back(source::Send{PlatformStart{std::move(event.start)}});
}

void SourceSession::receive(SessionReady& ready, Actions& actions) {
  if (phase_ != Phase::kReadyWait) return unexpected(ready, actions);
  run_round(false, actions);
}

void SourceSession::run_round(bool paused, Actions& actions) {
  SEALIFT_ASSERT(!round_running_);
  ++epoch_;
  phase_ = paused ? Phase::kFinalRound : Phase::kRound;
  round_running_ = true;
  round_acknowledged_ = false;
  const std::uint64_t leave_hottest_pages = decision_ ? decision_->leave_hottest_pages : 0;
  actions.push_back(source::RunRound{epoch_, paused, leave_hottest_pages, throttle_percent_});
}

void SourceSession::on(source::RoundDone& event, Actions& actions) {
  SEALIFT_ASSERT(round_running_);
  round_running_ = false;
  append_round(rounds_, event.stats);
  rounds_.back().throttle_percent = throttle_percent_;
  if (phase_ == Phase::kStopping) return leave(actions);
  if (phase_ == Phase::kFinalRound) {
    phase_ = Phase::kSaving;
    actions.push_back(source::SaveState{});
    return;
  }
  SEALIFT_ASSERT(phase_ == Phase::kRound);
  phase_ = Phase::kAckWait;
  if (round_acknowledged_) survey(actions);
}

void SourceSession::receive(EpochAck& ack, Actions& actions) {
  // The last epoch's acknowledgement may come while state is being saved or sealed: Ready implies
  // it.
  if (paused_ && ack.epoch == epoch_) return;
  const bool in_round = phase_ == Phase::kRound || phase_ == Phase::kAckWait;
  if (!in_round || ack.epoch != epoch_ || round_acknowledged_) return unexpected(ack, actions);
  round_acknowledged_ = true;
  if (phase_ == Phase::kAckWait) survey(actions);
}

void SourceSession::survey(Actions& actions) {
  phase_ = Phase::kSurvey;
  actions.push_back(source::Survey{});
}

void SourceSession::on(source::Surveyed& event, Actions& actions) {
  if (phase_ != Phase::kSurvey) return;
  SEALIFT_ASSERT(!rounds_.empty());
  rounds_.back().dirty_after = event.dirty;
  RoundStats& round = rounds_.back();
  round.ack_ns = event.round_ns - std::min(event.round_ns, round.total_ns);
  round.total_ns = event.round_ns;
  decision_ = decide(rounds_, config_.goals, event.heat, time_is_up_);
  switch (decision_->step) {
    case Step::kAnotherRound:
      if (decision_->throttle_percent != throttle_percent_) {
        throttle_percent_ = decision_->throttle_percent;
        actions.push_back(source::Throttle{throttle_percent_});
      }
      return run_round(false, actions);
    case Step::kSwitchover:
      phase_ = Phase::kPausing;
      pausing_ = true;
      actions.push_back(source::Pause{});
      return;
    case Step::kGiveUp:
      return give_up(Outcome::kSourceRuns, Error{ErrorClass::kLocalFault, decision_->reason}, true,
                     actions);
  }
}

void SourceSession::on(source::Paused&, Actions& actions) {
  if (phase_ != Phase::kPausing) return;
  paused_ = true;
  run_round(true, actions);
}

void SourceSession::on(source::StateSaved& event, Actions& actions) {
  if (phase_ != Phase::kSaving) return;
  state_items_ = static_cast<std::uint32_t>(event.state.size());
  for (StateBlob& blob : event.state) actions.push_back(source::Send{std::move(blob)});
  phase_ = Phase::kSealing;
  actions.push_back(source::Seal{});
}

void SourceSession::on(source::Sealed& event, Actions& actions) {
  if (phase_ != Phase::kSealing) return;
  sealed_ = true;
  Finish finish;
  finish.epochs = epoch_;
  for (const RoundStats& round : rounds_) {
    finish.shared_pages += round.shared_pages + round.zero_pages;
    finish.private_pages += round.private_pages;
  }
  finish.state_items = state_items_;
  finish.page_map_digest = page_map_digest_ = event.page_map_digest;
  finish.token = std::move(event.token);
  phase_ = Phase::kFinishWait;
  actions.push_back(source::Send{std::move(finish)});
}

void SourceSession::receive(Ready& ready, Actions& actions) {
  if (phase_ != Phase::kFinishWait) return unexpected(ready, actions);
  ready_ = ready;
  phase_ = Phase::kHandedOver;  // before the send: a send that fails half way must not bring the
                                // guest back
  note(RightStep::kCommitting, actions);
  committing_ = config_.claim.has_value();
  actions.push_back(source::Send{Handover{}});
}

void SourceSession::receive(Running& running, Actions& actions) {
  if (phase_ != Phase::kHandedOver) return unexpected(running, actions);
  running_ = running;
  phase_ = Phase::kReleasing;
  note(RightStep::kReleased, actions);
  actions.push_back(source::Release{});
}

void SourceSession::on(source::Released& event, Actions& actions) {
  SEALIFT_ASSERT(phase_ == Phase::kReleasing);
  end(Outcome::kDone, event.error ? std::move(event.error) : std::move(error_), actions);
}

}  // namespace sealift
