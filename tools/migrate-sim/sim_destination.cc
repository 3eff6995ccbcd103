// The destination's side of SimAgent: DestinationRunner and the arriving side of Agent by steps.
#include <cstring>
#include <utility>

#include "engine/assert.h"
#include "tools/migrate-sim/world.h"

namespace sealift::sim {
namespace {

bool is_note(const destination::Action& action, RightStep step) {
  const auto* note = std::get_if<destination::Note>(&action);
  return note != nullptr && note->step == step;
}

}  // namespace

void SimAgent::step(DestinationDriver& driver) {
  while (driver.pending.empty() && !driver.ended) {
    auto next = next_event(driver.replies, driver.inbox);
    if (!next) return;
    destination::Event event = std::move(*next);
    if (std::holds_alternative<destination::LinkLost>(event) &&
        driver.session.phase() == destination::Phase::kHandoverWait) {
      if (world_.planted(Plant::kTakeByWaiting)) event = destination::Received{Handover{}};
      if (world_.planted(Plant::kDropWhenLinkIsLost)) event = destination::CancelRequested{};
    }
    std::vector<destination::Action> actions;
    driver.session.step(std::move(event), actions);
    if (actions.size() > 1 && world_.planted(Plant::kRunBeforeTaken) &&
        is_note(actions[0], RightStep::kTaken)) {
      std::swap(actions[0], actions[1]);
    }
    for (destination::Action& action : actions) driver.pending.push_back(std::move(action));
  }
}

void SimAgent::send(DestinationDriver& driver, Record record) {
  world_.say(host_, "sends {}", name_of(record));
  if (!world_.send(driver.link, Link::kServer, std::move(record))) {
    driver.replies.push_back(destination::LinkLost{Error{ErrorClass::kDisconnected, "it was cut"}});
  }
}

void SimAgent::perform_note(DestinationDriver& driver, destination::Note& action) {
  const RightFacts facts{.claim = *driver.session.claim(),
                         .guest = driver.session.start().guest_name,
                         .peer = driver.session.peer() ? driver.session.peer()->agent_name : "",
                         .reason = std::move(action.reason)};
  auto noted = note(action.step, facts);
  if (noted) return;
  driver.pending.clear();
  driver.replies.push_back(destination::NoteFailed{action.step, std::move(noted.error())});
}

void SimAgent::perform(DestinationDriver& driver, destination::Action& action) {
  const auto reply = [&](destination::Event event) { driver.replies.push_back(std::move(event)); };
  const auto applied = [&](Result<void> result, destination::Event good) {
    if (result) {
      reply(std::move(good));
    } else {
      world_.say(host_, "refuses: {}", result.error().detail);
      reply(destination::Failed{std::move(result.error())});
    }
  };
  if (auto* sends = std::get_if<destination::Send>(&action)) {
    send(driver, std::move(sends->record));
  } else if (auto* notes = std::get_if<destination::Note>(&action)) {
    perform_note(driver, *notes);
  } else if (std::holds_alternative<destination::GetIdentity>(action)) {
    applied(open_incoming(driver), destination::Identity{Bytes(4)});
  } else if (std::holds_alternative<destination::BeginPlatform>(action)) {
    auto begun = firmware("import begin");
    if (begun) begun = arriving_->begin_import();
    applied(std::move(begun), destination::PlatformBegun{});
  } else if (auto* shared = std::get_if<destination::ApplyShared>(&action)) {
    applied(apply(shared->batch), destination::Applied{});
  } else if (auto* sealed = std::get_if<destination::ApplyPrivate>(&action)) {
    applied(apply(sealed->batch), destination::Applied{});
  } else if (auto* conversions = std::get_if<destination::ApplyConversions>(&action)) {
    applied(apply(conversions->conversions), destination::Applied{});
  } else if (std::holds_alternative<destination::EndEpoch>(action)) {
    reply(destination::EpochEnded{});
  } else if (auto* load = std::get_if<destination::CheckAndLoad>(&action)) {
    applied(check_and_load(*load), destination::Loaded{});
  } else if (std::holds_alternative<destination::Run>(action)) {
    run(driver);
  } else if (std::holds_alternative<destination::Discard>(action)) {
    Bytes token = arriving_ && driver.owns_place ? arriving_->abort() : Bytes{};
    world_.say(host_, "discards");
    reply(destination::Discarded{std::move(token)});
  } else if (auto* ends = std::get_if<destination::End>(&action)) {
    return end(driver, *ends);
  }
  step(driver);
}

Result<void> SimAgent::open_incoming(DestinationDriver& driver) {
  if (!may_receive(state_)) {
    return fail(ErrorClass::kRefused, "it cannot take a guest: it is {}", name_of(state_));
  }
  state_ = AgentState::kReceiving;
  copy_.reset();
  arriving_ = std::make_unique<GuestCopy>(world_.config().platform, world_.config().pages,
                                          static_cast<std::uint64_t>(host_) + 11);
  driver.owns_place = true;
  return {};
}

Result<void> SimAgent::apply(const Conversions& conversions) {
  for (GfnRange range : conversions.to_shared) arriving_->map().convert(range, PageClass::kShared);
  for (GfnRange range : conversions.to_private) {
    arriving_->map().convert(range, PageClass::kPrivate);
  }
  return {};
}

Result<void> SimAgent::apply(const SharedBatch& batch) {
  if (world_.planted(Plant::kBatchLost) && batch.epoch > 1) return {};
  for (std::size_t i = 0; i < batch.gfns.size(); ++i) {
    if (arriving_->map().class_of(batch.gfns[i]) != PageClass::kShared) {
      return fail(ErrorClass::kMalformed, "a page of the other class");
    }
    std::uint64_t word = 0;
    std::memcpy(&word, batch.body.data() + i * kPageBytes, sizeof(word));
    arriving_->write_plain(batch.gfns[i], word);
  }
  return {};
}

Result<void> SimAgent::apply(const PrivateBatch& batch) {
  SEALIFT_CHECK(firmware("import"));
  if (world_.planted(Plant::kBatchLost) && batch.epoch > 1) return {};
  for (std::size_t i = 0; i < batch.gfns.size(); ++i) {
    if (arriving_->map().class_of(batch.gfns[i]) != PageClass::kPrivate) {
      return fail(ErrorClass::kMalformed, "a page of the other class");
    }
    std::uint64_t word = 0;
    std::memcpy(&word, batch.body.data() + i * sizeof(word), sizeof(word));
    arriving_->write_private(batch.gfns[i], word);
  }
  return {};
}

Result<void> SimAgent::check_and_load(destination::CheckAndLoad& action) {
  if (arriving_->map().digest() != action.finish.page_map_digest) {
    return fail(ErrorClass::kMalformed, "the page map differs");
  }
  SEALIFT_CHECK(firmware("load state"));
  for (const StateBlob& blob : action.state) {
    if (!world_.planted(Plant::kStateNotLoaded)) {
      SEALIFT_CHECK(arriving_->load_state(blob.bytes));
    }
  }
  SEALIFT_CHECK(firmware("import seal"));
  return arriving_->seal_import(action.finish.token);
}

void SimAgent::run(DestinationDriver& driver) {
  auto done = firmware("commit");
  if (done) done = arriving_->commit();
  if (done) done = start_copy(*arriving_, "handed over");
  if (!done) {
    driver.replies.push_back(destination::Failed{std::move(done.error())});
    return;
  }
  if (driver.session.claim()) world_.moved(driver.session.claim()->generation);
  copy_ = std::move(arriving_);
  state_ = AgentState::kRunning;
  driver.replies.push_back(destination::Ran{});
}

void SimAgent::end(DestinationDriver& driver, destination::End& action) {
  driver.ended = true;
  const destination::End what = std::move(action);
  world_.say(host_, "incoming ends: {}{}{}", name_of(what.outcome), what.error ? ": " : "",
             what.error ? what.error->detail : "");
  if (driver.owns_place && what.outcome == DestinationOutcome::kHolds) {
    ++world_.counts().holding;
    state_ = AgentState::kHolding;
    copy_ = std::move(arriving_);
  } else if (driver.owns_place && what.outcome != DestinationOutcome::kRuns) {
    state_ = AgentState::kEmpty;
    arriving_.reset();
  }
  Link& link = driver.link;
  incoming_.remove_if([&](const auto& other) { return other.get() == &driver; });
  world_.close(link, Link::kServer);
}

}  // namespace sealift::sim
