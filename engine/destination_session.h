// DestinationSession: the destination's side of a migration as a pure state machine. step(event) ->
// actions.
//
// Spec:       docs/spec/wire.md, "Phases". The peer is hostile: everything it says is checked here
// before an action. Owner:      the destination runner, one for each migration. Threads: one.
// Failure:    none; failures arrive as events and leave as End{outcome, error}.
// Invariants:
//   I1  Run is asked for at most once, only after Handover, only after everything was checked and
//   loaded. I2  A page is applied at most once in an epoch, and nothing of epoch n+1 before all
//   streams ended n. I3  Every path ends in exactly one End; if Run was not asked for and nothing
//   is held, Discard comes before it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "engine/memory_layout.h"
#include "engine/negotiation.h"
#include "engine/page_admission.h"
#include "engine/records.h"
#include "engine/right_notes.h"

namespace sealift {

enum class DestinationOutcome : std::uint8_t {
  kUnfinished = 0,
  kChecked,    // the source only asked
  kRuns,       // the guest runs here
  kDiscarded,  // it does not and never will; the source keeps or has it
  kHolds,      // a complete copy waits here without the right to run (handover.md)
  kAnswered,   // the source only asked what became of a migration
};
const char* name_of(DestinationOutcome outcome);

namespace destination {

struct Received {
  Record record;
};  // on stream 0
// A stream other than 0 brought this, which admission() has checked, and all before it is applied.
struct StreamEnded {
  EpochEnd marker;
};
struct StreamFailed {
  Error error;
};  // of a stream other than 0: its link, what came on it, or this host
struct NoteFailed {
  RightStep step = RightStep::kOffered;
  Error error;
};  // and the actions that came after the Note were not performed
struct Identity {
  Bytes identity;
};
struct PlatformBegun {};
struct Applied {};  // the last Apply… succeeded
struct EpochEnded {};
struct Loaded {
  std::uint64_t load_state_ns = 0;
  std::uint64_t seal_ns = 0;
};
struct Ran {
  std::uint64_t resume_ns = 0;
};
struct Discarded {
  Bytes abort_token;
};
struct Failed {
  Error error;
};  // the last action failed on this host, or its input was refused
struct LinkLost {
  Error error;
};
struct Answered {
  Answer answer;
};
struct CancelRequested {};
using Event = std::variant<Received, StreamEnded, StreamFailed, NoteFailed, Identity,
                           PlatformBegun, Applied, EpochEnded, Loaded, Ran, Discarded, Failed,
                           LinkLost, Answered, CancelRequested>;

struct Send {
  Record record;
};  // [LinkLost on failure]
// Before any action after it: what does not get durable ends the step. [NoteFailed on failure]
struct Note {
  RightStep step = RightStep::kOffered;
  std::string reason;
};
// Further connections of this session that are about to come, streams 1 to streams - 1.
struct AwaitStreams {
  StreamJoin join;  // each says the same secret
  std::uint8_t streams = 1;
};
struct GetIdentity {};  // [Identity, Failed]
struct BeginPlatform {
  Bytes start;
};  // and all streams are there [PlatformBegun, Failed]
// Pages of the epoch may be applied on every stream.
struct OpenEpoch {
  std::uint32_t epoch = 0;
};
struct ApplyShared {
  SharedBatch batch;
};  // [Applied, Failed]
struct ApplyPrivate {
  PrivateBatch batch;
};  // [Applied, Failed]
struct ApplyConversions {
  Conversions conversions;
};  // [Applied, Failed]
struct EndEpoch {
  std::uint32_t epoch = 0;
  Bytes token;
};  // [EpochEnded, Failed]
struct CheckAndLoad {
  Finish finish;
  std::vector<StateBlob> state;
};  // [Loaded, Failed]
struct Run {};      // commit the platform, resume the guest [Ran, Failed]
struct Discard {};  // [Discarded]
// Settle what the inquiry settles, durably, and say what holds then. [Answered, Failed]
struct AnswerInquiry {
  Inquiry inquiry;
};
struct End {
  DestinationOutcome outcome = DestinationOutcome::kUnfinished;
  std::optional<Error> error;
};
using Action =
    std::variant<Send, Note, AwaitStreams, GetIdentity, BeginPlatform, OpenEpoch, ApplyShared,
                 ApplyPrivate, ApplyConversions, EndEpoch, CheckAndLoad, Run, Discard,
                 AnswerInquiry, End>;

enum class Phase : std::uint8_t {
  kHello,
  kStart,
  kIdentity,
  kPlatform,
  kBeginning,
  kEpochs,
  kLoading,
  kHandoverWait,
  kStarting,
  kDiscarding,
  kAnswering,
  kEnded
};
const char* name_of(Phase phase);

}  // namespace destination

class DestinationSession {
 public:
  // `layout` is this side's guest; local.memory describes the same.
  // `card` is what its platform says of itself; empty, and not offered in `local`, without one.
  DestinationSession(Hello local, MemoryLayout layout, Bytes card = {});

  void step(destination::Event event, std::vector<destination::Action>& actions);

  destination::Phase phase() const { return phase_; }
  std::uint32_t epoch() const { return epoch_; }
  const std::optional<Hello>& peer() const { return peer_; }
  const SessionStart& start() const { return start_; }
  // For the threads of the other streams, while the session is stepped.
  PageAdmission& admission() { return admission_; }
  // What the source's journal calls this attempt; empty when one of the two keeps none.
  const std::optional<Claim>& claim() const { return claim_; }
  const Digest& page_map_digest() const { return page_map_digest_; }  // zeros before Finish
  std::uint64_t shared_pages() const { return shared_total_; }
  std::uint64_t private_pages() const { return private_total_; }

 private:
  using Actions = std::vector<destination::Action>;
  void on(destination::Received&, Actions&);
  void on(destination::StreamEnded&, Actions&);
  void on(destination::StreamFailed&, Actions&);
  void on(destination::NoteFailed&, Actions&);
  void on(destination::Identity&, Actions&);
  void on(destination::PlatformBegun&, Actions&);
  void on(destination::Applied&, Actions&) {}
  void on(destination::EpochEnded&, Actions&);
  void on(destination::Loaded&, Actions&);
  void on(destination::Ran&, Actions&);
  void on(destination::Discarded&, Actions&);
  void on(destination::Failed&, Actions&);
  void on(destination::LinkLost&, Actions&);
  void on(destination::Answered&, Actions&);
  void on(destination::CancelRequested&, Actions&);

  void receive(Hello&, Actions&);
  void receive(Claim&, Actions&);
  void receive(StreamJoin&, Actions&);
  void receive(SessionStart&, Actions&);
  void receive(PlatformStart&, Actions&);
  void receive(EpochBegin&, Actions&);
  void receive(SharedBatch&, Actions&);
  void receive(PrivateBatch&, Actions&);
  void receive(Conversions&, Actions&);
  void receive(EpochEnd&, Actions&);
  void receive(StateBlob&, Actions&);
  void receive(Finish&, Actions&);
  void receive(Handover&, Actions&);
  void receive(Inquiry&, Actions&);
  void receive(Abort&, Actions&);
  void receive(KeepAlive&, Actions&) {}
  template <class Other>
  void receive(Other& record, Actions& actions) {
    unexpected(Record(std::move(record)), actions);
  }
  void unexpected(const Record& record, Actions& actions);

  // Common rules of both batch kinds on stream 0.
  // `gfns`: the entries that are guest pages; `entries`: all of the batch.
  Result<void> admit(std::uint32_t epoch, std::uint8_t stream, const std::vector<Gfn>& gfns,
                     std::size_t entries, PageClass cls);
  void stream_ended(EpochEnd& marker, Actions& actions);
  bool is_over_on_stream_0() const;  // the epoch, and no other has begun
  void check_finish(Finish& finish, Actions& actions);
  void open_epoch(Actions& actions);
  void give_up(Error error, bool tell_peer, Actions& actions);
  void note(RightStep step, Actions& actions);  // nothing without a journal on both sides
  void end(DestinationOutcome outcome, Actions& actions);

  Hello local_;
  MemoryLayout layout_;
  Bytes const card_;
  destination::Phase phase_ = destination::Phase::kHello;
  Negotiated agreed_;
  std::optional<Hello> peer_;
  SessionStart start_;
  std::optional<Claim> claim_;
  std::optional<StreamJoin> join_;
  bool offered_ = false;      // durably
  std::uint32_t epoch_ = 1;   // the epoch whose pages are being applied
  bool epoch_begun_ = false;  // its Conversions are over: a page of it or EpochBegin came
  std::uint32_t streams_ended_ = 0;
  bool stream_0_ended_ = false;   // state and Finish may follow; others may still be on their way
  std::optional<Finish> finish_;  // came, and waits for them
  Bytes epoch_token_;             // stream 0 carries it, and may end the epoch before the others
  PageAdmission admission_;
  std::uint64_t shared_total_ = 0;
  std::uint64_t private_total_ = 0;
  std::uint64_t extra_entries_ = 0;
  std::vector<StateBlob> state_;
  std::uint64_t state_bytes_ = 0;
  Digest page_map_digest_{};
  bool tell_peer_ = false;
  bool peer_aborted_ = false;
  std::optional<Error> error_;
};

}  // namespace sealift
