// SourceSession: the source's side of a migration as a pure state machine. step(event) -> actions.
//
// Spec:       docs/spec/wire.md, "Phases".
// Owner:      the source runner, one for each migration. Threads: one.
// Failure:    none; the world's failures arrive as events and leave as End{outcome, error}.
// Invariants:
//   I1  Resume (inside Recover) is never asked for after Handover was sent, unless the destination
//   declared by Abort
//       that the guest did not run there.
//   I2  Every path ends in exactly one End, and no action follows it.
//   I3  No firmware call is asked for while a round runs.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "engine/negotiation.h"
#include "engine/platform_check.h"
#include "engine/policy.h"
#include "engine/records.h"
#include "engine/right_notes.h"
#include "engine/stats.h"

namespace sealift {

struct SourceConfig {
  Hello hello = {};
  std::string guest_name = {};
  Goals goals = {};
  bool check_only = false;
  std::optional<Claim> claim = {};  // this side keeps a journal, under this id; empty: it does not
  bool needs_peer_journal = false;  // refuse a destination that keeps none
  bool verify = false;
  // Wished for beside stream 0, and what their first frames say. `hello` offers at least as many.
  std::uint8_t data_streams = 0;
  StreamSecret stream_secret{};
  std::uint64_t harvest_every_ns =
      0;                            // the dirty log, also while a round is sent; 0: between rounds
  std::uint64_t slice_ns = 0;       // of private pages in a live round; 0: RoundSender's own
  bool ignore_readiness = false;    // migrate although the guest says that it is not ready
  bool seal_is_commitment = false;  // of the platform; SourceRunner fills it in
  std::uint64_t deadline_ns = 0;    // on the clock of Tick; 0 = none
};

namespace source {

// Events: what happened.
struct LinkUp {};
struct Received {
  Record record;
};
struct NoteFailed {
  RightStep step = RightStep::kBegun;
  Error error;
};  // and the actions that came after the Note were not performed
struct PlatformChecked {
  PlatformFindings findings;
};
struct PlatformStarted {
  Bytes start;
};
struct RoundDone {
  RoundStats stats;
};  // every page and the EpochEnd are on their way
struct RoundStopped {};  // answer to StopRound, unless the round was over before
struct Surveyed {
  DirtyCounts dirty;
  std::uint64_t round_ns = 0;
  HeatEstimate heat = {};
};  // round_ns: until the acknowledgement
struct Paused {};
struct StateSaved {
  std::vector<StateBlob> state;
};
struct Sealed {
  Bytes token;
  Digest page_map_digest{};
};
struct Released {
  std::optional<Error> error;
};
struct Recovered {
  std::optional<Error> resume_error;
};
struct Failed {
  Error error;
};  // the last action failed on this host
struct LinkLost {  // nothing more can be received; kMalformed: the peer can still be told
  Error error;
};
struct CancelRequested {};
struct GuestEnded {
  std::string why;
};
struct Tick {
  std::uint64_t now_ns = 0;
};
using Event = std::variant<LinkUp, Received, NoteFailed, PlatformChecked, PlatformStarted,
                           RoundDone, RoundStopped, Surveyed, Paused, StateSaved, Sealed, Released,
                           Recovered, Failed, LinkLost, CancelRequested, GuestEnded, Tick>;

// Actions: what the runner is to do, in order. The event that answers is in brackets.
struct Send {
  Record record;
};  // [LinkLost on failure]
// Before any action after it: what does not get durable ends the step. [NoteFailed on failure]
struct Note {
  RightStep step = RightStep::kBegun;
  std::string reason;
};
struct CheckPlatform {
  Bytes card;
};  // judge what the destination's platform says of itself [PlatformChecked, Failed]
struct StartPlatform {
  Bytes identity;
};  // begin exporting, start dirty tracking [PlatformStarted, Failed]
struct RunRound {
  std::uint32_t epoch = 0;
  bool paused = false;
  std::uint64_t leave_hottest_pages = 0;
  std::uint32_t throttle_percent = 0;
};  // beside this machine [RoundDone, Failed, RoundStopped]
struct StopRound {};
struct Throttle {
  std::uint32_t percent = 0;
};  // the guest, until Recover or Release [Failed]
struct Survey {};     // harvest and count [Surveyed, Failed]
struct Pause {};      // [Paused, Failed]
struct SaveState {};  // [StateSaved, Failed]
struct Seal {};       // [Sealed, Failed]
struct Release {};    // the guest left: close the platform's side [Released]
struct Recover {
  bool cancel_platform = false;
  bool resume = false;
  Bytes abort_token;
};  // [Recovered]
struct End {
  Outcome outcome = Outcome::kUnfinished;
  std::optional<Error> error;
};
using Action = std::variant<Send, Note, CheckPlatform, StartPlatform, RunRound, StopRound, Throttle,
                            Survey, Pause, SaveState, Seal, Release, Recover, End>;

// In the order of a migration: code compares phases.
enum class Phase : std::uint8_t {
  kConnecting,
  kHello,
  kCard,
  kPlatformCheck,
  kAccept,
  kPlatform,
  kReadyWait,
  kRound,
  kAckWait,
  kSurvey,
  kPausing,
  kFinalRound,
  kSaving,
  kSealing,
  kFinishWait,
  kHandedOver,
  kReleasing,
  kStopping,
  kTokenWait,
  kRecovering,
  kEnded
};
const char* name_of(Phase phase);
// What a failure before the hand-over means for the migration.
Outcome outcome_of(const Error& error);

}  // namespace source

class SourceSession {
 public:
  explicit SourceSession(SourceConfig config);

  // Appends the actions that follow from `event`. Events that no longer matter (a late Tick) add
  // none.
  void step(source::Event event, std::vector<source::Action>& actions);

  source::Phase phase() const { return phase_; }
  const std::vector<RoundStats>& rounds() const { return rounds_; }
  const std::optional<Decision>& last_decision() const { return decision_; }
  const std::optional<Hello>& peer() const { return peer_; }
  const PlatformFindings& findings() const {
    return findings_;
  }  // about the destination's platform
  const std::optional<Ready>& ready() const { return ready_; }
  const std::optional<Running>& running() const { return running_; }
  bool keeps_journal() const { return config_.claim.has_value(); }
  std::uint32_t batch_pages_max() const { return agreed_.batch_pages_max; }
  std::uint8_t data_streams() const { return data_streams_; }  // that both sides agreed on
  const StreamSecret& stream_secret() const { return config_.stream_secret; }
  bool guest_paused() const { return paused_; }
  const Digest& page_map_digest() const { return page_map_digest_; }  // zeros before Finish
  // A complete copy may wait at the destination: Finish has left, and the destination has not said
  // that it discarded what came.
  bool destination_may_hold() const { return sealed_ && !peer_aborted_; }

 private:
  using Actions = std::vector<source::Action>;
  void on(source::LinkUp&, Actions&);
  void on(source::Received&, Actions&);
  void on(source::NoteFailed&, Actions&);
  void on(source::PlatformChecked&, Actions&);
  void on(source::PlatformStarted&, Actions&);
  void on(source::RoundDone&, Actions&);
  void on(source::RoundStopped&, Actions&);
  void on(source::Surveyed&, Actions&);
  void on(source::Paused&, Actions&);
  void on(source::StateSaved&, Actions&);
  void on(source::Sealed&, Actions&);
  void on(source::Released&, Actions&);
  void on(source::Recovered&, Actions&);
  void on(source::Failed&, Actions&);
  void on(source::LinkLost&, Actions&);
  void on(source::CancelRequested&, Actions&);
  void on(source::GuestEnded&, Actions&);
  void on(source::Tick&, Actions&);

  void receive(Hello&, Actions&);
  void receive(PlatformCard&, Actions&);
  void receive(SessionAccept&, Actions&);
  void receive(SessionReady&, Actions&);
  void receive(EpochAck&, Actions&);
  void receive(Ready&, Actions&);
  void receive(Running&, Actions&);
  void receive(Abort&, Actions&);
  void receive(KeepAlive&, Actions&) {}
  template <class Other>
  void receive(Other& record, Actions& actions) {
    unexpected(Record(std::move(record)), actions);
  }
  void unexpected(const Record& record, Actions& actions);

  void begin_session(Actions& actions);
  void note(RightStep step, Actions& actions);  // nothing without a journal
  void run_round(bool paused, Actions& actions);
  void survey(Actions& actions);
  // Ends the migration before the hand-over: waits for a running round, recovers, tells the peer
  // when `tell_peer`.
  void give_up(Outcome outcome, Error error, bool tell_peer, Actions& actions);
  void leave(Actions& actions);
  void recover(Bytes abort_token, Actions& actions);
  void recover_now(Actions& actions);
  void end(Outcome outcome, std::optional<Error> error, Actions& actions);

  SourceConfig config_;
  source::Phase phase_ = source::Phase::kConnecting;
  Negotiated agreed_;
  std::optional<Hello> peer_;
  PlatformFindings findings_;
  std::optional<Ready> ready_;
  std::optional<Running> running_;
  std::vector<RoundStats> rounds_;
  std::optional<Decision> decision_;
  std::uint8_t data_streams_ = 0;
  std::uint32_t epoch_ = 0;
  std::uint32_t throttle_percent_ = 0;
  std::uint32_t state_items_ = 0;
  bool time_is_up_ = false;  // and the guest is to be paused after the round
  bool round_running_ = false;
  bool round_acknowledged_ = false;  // an acknowledgement may overtake RoundDone
  bool platform_started_ = false;
  bool pausing_ = false;  // Pause was asked for: Recover must resume
  bool paused_ = false;
  bool sealed_ = false;
  bool peer_aborted_ = false;
  Digest page_map_digest_{};
  bool begun_ = false;       // durably
  bool committing_ = false;  // durably, as far as we know
  Bytes abort_token_;        // of a recovery that waits for its note
  bool tell_peer_ = false;
  Outcome ending_ = Outcome::kUnfinished;
  std::optional<Error> error_;
};

}  // namespace sealift
