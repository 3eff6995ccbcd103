#include "engine/destination_session.h"

#include <algorithm>
#include <utility>

#include "engine/assert.h"
#include "engine/limits.h"

namespace sealift {

using destination::Phase;

namespace destination {
const char* name_of(Phase phase) {
  switch (phase) {
    case Phase::kHello:
      return "waiting for the source's Hello";
    case Phase::kStart:
      return "waiting for SessionStart";
    case Phase::kIdentity:
      return "reading the platform's identity";
    case Phase::kPlatform:
      return "waiting for PlatformStart";
    case Phase::kBeginning:
      return "starting the platform";
    case Phase::kEpochs:
      return "receiving pages";
    case Phase::kLoading:
      return "checking and loading";
    case Phase::kHandoverWait:
      return "waiting for the hand-over";
    case Phase::kStarting:
      return "starting the guest";
    case Phase::kDiscarding:
      return "discarding the guest";
    case Phase::kAnswering:
      return "answering an inquiry";
    case Phase::kEnded:
      return "ended";
  }
  return "invalid phase";
}
}  // namespace destination

const char* name_of(DestinationOutcome outcome) {
  switch (outcome) {
    case DestinationOutcome::kUnfinished:
      return "unfinished";
    case DestinationOutcome::kChecked:
      return "checked";
    case DestinationOutcome::kRuns:
      return "running here";
    case DestinationOutcome::kDiscarded:
      return "discarded";
    case DestinationOutcome::kHolds:
      return "holding";
    case DestinationOutcome::kAnswered:
      return "answered";
  }
  return "invalid outcome";
}

DestinationSession::DestinationSession(Hello local, MemoryLayout layout, Bytes card)
    : local_(std::move(local)),
      layout_(std::move(layout)),
      card_(std::move(card)),
      admission_(layout_) {
  SEALIFT_ASSERT(layout_.pages() > 0);
  SEALIFT_ASSERT(card_.empty() == ((local_.features & kFeaturePlatformCard) == 0));
}

void DestinationSession::step(destination::Event event, Actions& actions) {
  // Discarded is noted in the step that ends: when that fails, its End was not performed.
  if (phase_ == Phase::kEnded && !std::holds_alternative<destination::NoteFailed>(event)) return;
  std::visit([&](auto& e) { on(e, actions); }, event);
}

void DestinationSession::on(destination::Received& event, Actions& actions) {
  if (phase_ == Phase::kDiscarding) return;
  std::visit([&](auto& record) { receive(record, actions); }, event.record);
}

void DestinationSession::receive(Hello& peer, Actions& actions) {
  if (phase_ != Phase::kHello) return unexpected(Record(std::move(peer)), actions);
  auto agreed = negotiate(local_, peer);
  peer_ = std::move(peer);
  if (!agreed) return give_up(std::move(agreed.error()), true, actions);
  agreed_ = *agreed;
  actions.push_back(destination::Send{local_});
  if ((agreed_.features & kFeaturePlatformCard) != 0) {
    actions.push_back(destination::Send{PlatformCard{card_}});
  }
  if (peer_->check_only) return end(DestinationOutcome::kChecked, actions);
  phase_ = Phase::kStart;
}

void DestinationSession::receive(Claim& claim, Actions& actions) {
  const bool due = (agreed_.features & kFeatureJournal) != 0 && !claim_;
  if (phase_ != Phase::kStart || !due) return unexpected(claim, actions);
  claim_ = claim;
}

void DestinationSession::receive(StreamJoin& join, Actions& actions) {
  const bool due = (agreed_.features & kFeatureStreams) != 0 && !join_ && join.stream == 0;
  if (phase_ != Phase::kStart || !due) return unexpected(join, actions);
  join_ = join;
}

void DestinationSession::receive(SessionStart& start, Actions& actions) {
  const bool claim_is_missing = (agreed_.features & kFeatureJournal) != 0 && !claim_;
  if (phase_ != Phase::kStart || claim_is_missing) return unexpected(start, actions);
  if (start.streams == 0 || start.streams > agreed_.streams) {
    return give_up(Error{ErrorClass::kMalformed,
                         fmt::format("SessionStart asks for {} streams, agreed were at most {}",
                                     start.streams, agreed_.streams)},
                   true, actions);
  }
  if ((start.streams > 1) != join_.has_value()) {
    return give_up(Error{ErrorClass::kMalformed,
                         fmt::format("SessionStart asks for {} streams and {} StreamJoin came",
                                     start.streams, join_ ? "a" : "no")},
                   true, actions);
  }
  start_ = std::move(start);
  admission_.begin(start_.streams, agreed_.batch_pages_max);
  if (join_) actions.push_back(destination::AwaitStreams{*join_, start_.streams});
  phase_ = Phase::kIdentity;
  actions.push_back(destination::GetIdentity{});
}

void DestinationSession::on(destination::Identity& event, Actions& actions) {
  SEALIFT_ASSERT(phase_ == Phase::kIdentity);
  phase_ = Phase::kPlatform;
  note(RightStep::kOffered, actions);
  offered_ = claim_.has_value();
  actions.push_back(destination::Send{SessionAccept{std::move(event.identity)}});
}

void DestinationSession::receive(PlatformStart& start, Actions& actions) {
  if (phase_ != Phase::kPlatform) return unexpected(start, actions);
  phase_ = Phase::kBeginning;
  actions.push_back(destination::BeginPlatform{std::move(start.start)});
}

void DestinationSession::on(destination::PlatformBegun&, Actions& actions) {
  SEALIFT_ASSERT(phase_ == Phase::kBeginning);
  phase_ = Phase::kEpochs;
  actions.push_back(destination::Send{SessionReady{}});
}

// All streams may be used from now on. What the Conversions of an epoch say is known before.
void DestinationSession::open_epoch(Actions& actions) {
  epoch_begun_ = true;
  admission_.open(epoch_);
  actions.push_back(destination::OpenEpoch{epoch_});
}

Result<void> DestinationSession::admit(std::uint32_t epoch, std::uint8_t stream,
                                       const std::vector<Gfn>& gfns, std::size_t entries,
                                       PageClass cls) {
  if (phase_ != Phase::kEpochs) {
    return fail(ErrorClass::kMalformed, "pages came while {}", name_of(phase_));
  }
  if (!state_.empty()) {
    return fail(ErrorClass::kMalformed, "pages of epoch {} came after guest state", epoch);
  }
  if (stream != 0) {
    return fail(ErrorClass::kMalformed, "pages of stream {} came on stream 0", stream);
  }
  if (start_.streams == 1 && !epoch_begun_) {
    epoch_begun_ = true;
    admission_.open(epoch_);
  }
  return admission_.admit(stream, epoch, gfns, entries, cls);
}

void DestinationSession::receive(SharedBatch& batch, Actions& actions) {
  if (batch.encodings.size() != batch.gfns.size()) {
    return give_up(
        Error{ErrorClass::kMalformed, fmt::format("a batch has {} pages and {} encodings",
                                                  batch.gfns.size(), batch.encodings.size())},
        true, actions);
  }
  if (auto ok = admit(batch.epoch, batch.stream, batch.gfns, batch.gfns.size(), PageClass::kShared);
      !ok) {
    return give_up(std::move(ok.error()), true, actions);
  }
  actions.push_back(destination::ApplyShared{std::move(batch)});
}

void DestinationSession::receive(PrivateBatch& batch, Actions& actions) {
  if (local_.platform == Platform::kNone) {
    return give_up(
        Error{ErrorClass::kMalformed, "private pages came for a guest without a platform"}, true,
        actions);
  }
  if (batch.ops.size() != batch.gfns.size()) {
    return give_up(
        Error{ErrorClass::kMalformed, fmt::format("a batch has {} entries and {} operations",
                                                  batch.gfns.size(), batch.ops.size())},
        true, actions);
  }
  std::vector<Gfn> pages;
  for (std::size_t i = 0; i < batch.gfns.size(); ++i) {
    if (is_page(batch.ops[i])) pages.push_back(batch.gfns[i]);
  }
  if (auto ok = admit(batch.epoch, batch.stream, pages, batch.gfns.size(), PageClass::kPrivate);
      !ok) {
    return give_up(std::move(ok.error()), true, actions);
  }
  // The other entries name no page that could be counted once; their number is bounded instead.
  extra_entries_ += batch.gfns.size() - pages.size();
  if (extra_entries_ > limits::kExtraEntriesPerPageMax * layout_.pages()) {
    return give_up(Error{ErrorClass::kMalformed,
                         fmt::format("{} entries that are no pages came for a guest of {} pages",
                                     extra_entries_, layout_.pages())},
                   true, actions);
  }
  actions.push_back(destination::ApplyPrivate{std::move(batch)});
}

// The class of every page is known before the page comes: the source announces an epoch's
// conversions first, and the whole map (epoch 0) before the first page.
void DestinationSession::receive(Conversions& conversions, Actions& actions) {
  const bool of_this_epoch = conversions.epoch == epoch_ || (conversions.epoch == 0 && epoch_ == 1);
  if (phase_ != Phase::kEpochs || !of_this_epoch || epoch_begun_ || !state_.empty()) {
    return unexpected(conversions, actions);
  }
  for (const auto* ranges : {&conversions.to_shared, &conversions.to_private}) {
    for (GfnRange range : *ranges) {
      if (layout_.contains(range)) continue;
      return give_up(
          Error{ErrorClass::kMalformed,
                fmt::format("conversion of gfn {:#x}, {} pages, is not in the guest's memory",
                            value(range.first), range.pages)},
          true, actions);
    }
  }
  actions.push_back(destination::ApplyConversions{std::move(conversions)});
}

void DestinationSession::receive(EpochBegin& begin, Actions& actions) {
  if (phase_ != Phase::kEpochs || start_.streams == 1 || begin.epoch != epoch_ || epoch_begun_ ||
      !state_.empty()) {
    return unexpected(begin, actions);
  }
  open_epoch(actions);
}

void DestinationSession::receive(EpochEnd& marker, Actions& actions) {
  const bool in_turn = phase_ == Phase::kEpochs && state_.empty() && marker.epoch == epoch_ &&
                       marker.stream == 0 && (epoch_begun_ || start_.streams == 1);
  if (!in_turn) {
    return give_up(Error{ErrorClass::kMalformed,
                         fmt::format("EpochEnd of epoch {} on stream {} came in epoch {} while {}",
                                     marker.epoch, marker.stream, epoch_, name_of(phase_))},
                   true, actions);
  }
  if (!epoch_begun_) {  // an epoch without a page
    epoch_begun_ = true;
    admission_.open(epoch_);
  }
  if (auto ended = admission_.end(marker); !ended) {
    return give_up(std::move(ended.error()), true, actions);
  }
  epoch_token_ = std::move(marker.token);
  stream_0_ended_ = true;
  stream_ended(marker, actions);
}

void DestinationSession::on(destination::StreamEnded& event, Actions& actions) {
  if (phase_ == Phase::kEpochs) stream_ended(event.marker, actions);
}

void DestinationSession::stream_ended(EpochEnd& marker, Actions& actions) {
  SEALIFT_ASSERT(marker.epoch == epoch_ && streams_ended_ < start_.streams);
  shared_total_ += marker.shared_pages;
  private_total_ += marker.private_pages;
  if (++streams_ended_ < start_.streams) return;
  actions.push_back(destination::EndEpoch{epoch_, std::move(epoch_token_)});
  epoch_token_.clear();
}

void DestinationSession::on(destination::EpochEnded&, Actions& actions) {
  if (phase_ != Phase::kEpochs) return;
  actions.push_back(destination::Send{EpochAck{epoch_}});
  ++epoch_;
  epoch_begun_ = false;
  streams_ended_ = 0;
  stream_0_ended_ = false;
  if (finish_) check_finish(*finish_, actions);
}

void DestinationSession::receive(StateBlob& blob, Actions& actions) {
  if (!is_over_on_stream_0()) return unexpected(Record(std::move(blob)), actions);
  if (state_.size() >= limits::kStateBlobsMax) {
    return give_up(Error{ErrorClass::kMalformed,
                         fmt::format("more than {} items of guest state", limits::kStateBlobsMax)},
                   true, actions);
  }
  state_bytes_ += blob.bytes.size();
  if (state_bytes_ > limits::kStateBytesMax) {
    return give_up(Error{ErrorClass::kMalformed, fmt::format("guest state of {} bytes exceeds {}",
                                                             state_bytes_, limits::kStateBytesMax)},
                   true, actions);
  }
  state_.push_back(std::move(blob));
}

void DestinationSession::receive(Finish& finish, Actions& actions) {
  if (!is_over_on_stream_0()) return unexpected(Record(std::move(finish)), actions);
  if (!epoch_begun_) return check_finish(finish, actions);
  finish_ = std::move(finish);
}

bool DestinationSession::is_over_on_stream_0() const {
  return phase_ == Phase::kEpochs && (!epoch_begun_ || stream_0_ended_) && !finish_;
}

void DestinationSession::check_finish(Finish& finish, Actions& actions) {
  if (finish.epochs + 1 != epoch_ || finish.shared_pages != shared_total_ ||
      finish.private_pages != private_total_ || finish.state_items != state_.size()) {
    return give_up(Error{ErrorClass::kMalformed,
                         fmt::format("Finish announces {} epochs, {} shared and {} private pages, "
                                     "{} state items; {}, {}, "
                                     "{} and {} came",
                                     finish.epochs, finish.shared_pages, finish.private_pages,
                                     finish.state_items, epoch_ - 1, shared_total_, private_total_,
                                     state_.size())},
                   true, actions);
  }
  phase_ = Phase::kLoading;
  page_map_digest_ = finish.page_map_digest;
  actions.push_back(destination::CheckAndLoad{std::move(finish), std::move(state_)});
}

void DestinationSession::on(destination::Loaded& event, Actions& actions) {
  if (phase_ != Phase::kLoading) return;
  phase_ = Phase::kHandoverWait;
  note(RightStep::kReady, actions);
  actions.push_back(destination::Send{Ready{event.load_state_ns, event.seal_ns}});
}

void DestinationSession::receive(Handover& handover, Actions& actions) {
  if (phase_ != Phase::kHandoverWait) return unexpected(handover, actions);
  phase_ = Phase::kStarting;
  note(RightStep::kTaken, actions);
  actions.push_back(destination::Run{});
}

// Instead of a migration. Whatever is wrong with it is answered with Abort.
void DestinationSession::receive(Inquiry& inquiry, Actions& actions) {
  const bool agreed = (agreed_.features & kFeatureInquiry) != 0 && !claim_;
  if (phase_ != Phase::kStart || !agreed) return unexpected(Record(std::move(inquiry)), actions);
  phase_ = Phase::kAnswering;
  actions.push_back(destination::AnswerInquiry{std::move(inquiry)});
}

void DestinationSession::on(destination::Answered& event, Actions& actions) {
  if (phase_ != Phase::kAnswering) return;
  actions.push_back(destination::Send{std::move(event.answer)});
  end(DestinationOutcome::kAnswered, actions);
}

void DestinationSession::note(RightStep step, Actions& actions) {
  if (!claim_) return;
  actions.push_back(destination::Note{step, error_ ? error_->detail : std::string()});
}

void DestinationSession::on(destination::Ran& event, Actions& actions) {
  SEALIFT_ASSERT(phase_ == Phase::kStarting);
  // The guest runs whether or not this arrives; a lost Running leaves the source in doubt, not the
  // guest.
  actions.push_back(destination::Send{Running{event.resume_ns}});
  end(DestinationOutcome::kRuns, actions);
}

}  // namespace sealift
