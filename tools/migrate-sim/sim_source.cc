// The source's side of SimAgent: SourceRunner and RoundSender by steps.
#include <cstring>
#include <utility>

#include "engine/assert.h"
#include "engine/conversions.h"
#include "tools/migrate-sim/world.h"

namespace sealift::sim {
namespace {

constexpr std::size_t kBatchPages = 2;

template <class T>
bool is_note(const source::Action& action, T step) {
  const auto* note = std::get_if<source::Note>(&action);
  return note != nullptr && note->step == step;
}

std::uint64_t session_of(const std::optional<Claim>& claim) {
  std::uint64_t session = 1;
  if (claim) std::memcpy(&session, claim->migration.data(), sizeof(session));
  return session;
}

}  // namespace

// Takes replies until one of them gives something to do.
void SimAgent::step(SourceDriver& driver) {
  while (driver.pending.empty() && !driver.ended) {
    auto next = next_event(driver.replies, driver.inbox);
    if (!next) return;
    source::Event event = std::move(*next);
    std::vector<source::Action> actions;
    driver.session.step(std::move(event), actions);
    for (std::size_t i = 0; i + 1 < actions.size(); ++i) {
      if (world_.planted(Plant::kHandoverBeforeCommitting) &&
          is_note(actions[i], RightStep::kCommitting)) {
        std::swap(actions[i], actions[i + 1]);
        break;
      }
    }
    for (source::Action& action : actions) driver.pending.push_back(std::move(action));
  }
}

void SimAgent::send(SourceDriver& driver, Record record) {
  const bool handover = std::holds_alternative<Handover>(record);
  if (handover && world_.planted(Plant::kReleaseBeforeRunning)) (void)copy_->release();
  world_.say(host_, "sends {}", name_of(record));
  if (!world_.send(driver.link, Link::kClient, std::move(record))) {
    driver.replies.push_back(source::LinkLost{Error{ErrorClass::kDisconnected, "it was cut"}});
  }
}

void SimAgent::perform_note(SourceDriver& driver, source::Note& action) {
  const RightFacts facts{.claim = *driver.claim,
                         .guest = kGuestName,
                         .peer = driver.session.peer() ? driver.session.peer()->agent_name : "",
                         .reason = std::move(action.reason)};
  auto noted = note(action.step, facts);
  if (noted) return;
  driver.pending.clear();
  driver.replies.push_back(source::NoteFailed{action.step, std::move(noted.error())});
}

void SimAgent::perform(SourceDriver& driver, source::Action& action) {
  const auto reply = [&](source::Event event) { driver.replies.push_back(std::move(event)); };
  const auto failed = [&](Error error) { reply(source::Failed{std::move(error)}); };
  if (auto* sends = std::get_if<source::Send>(&action)) {
    send(driver, std::move(sends->record));
  } else if (auto* notes = std::get_if<source::Note>(&action)) {
    perform_note(driver, *notes);
  } else if (std::holds_alternative<source::CheckPlatform>(action)) {
    reply(source::PlatformChecked{});
  } else if (std::holds_alternative<source::StartPlatform>(action)) {
    auto begun = firmware("export begin");
    if (begun) begun = copy_->begin_export();
    if (begun) copy_->start_tracking();
    if (begun) reply(source::PlatformStarted{});
    if (!begun) failed(begun.error());
  } else if (auto* order = std::get_if<source::RunRound>(&action)) {
    driver.round.emplace();
    driver.round->order = *order;
  } else if (std::holds_alternative<source::StopRound>(action)) {
    driver.stop_round = true;
  } else if (std::holds_alternative<source::Survey>(action)) {
    copy_->harvest();
    reply(source::Surveyed{copy_->dirty().count_by_class(copy_->map()), 1000});
  } else if (std::holds_alternative<source::Pause>(action)) {
    if (!world_.planted(Plant::kPauseReturnsEarly)) copy_->pause();
    auto paused = firmware("export pause");
    if (paused) reply(source::Paused{});
    if (!paused) failed(paused.error());
  } else if (std::holds_alternative<source::SaveState>(action)) {
    StateBlob blob;
    blob.name = "vcpu";
    blob.bytes = copy_->save_state();
    reply(source::StateSaved{{std::move(blob)}});
  } else if (std::holds_alternative<source::Seal>(action)) {
    copy_->pause();
    auto sealed = firmware("export seal");
    if (sealed) {
      auto token = copy_->seal_export(session_of(driver.claim));
      reply(source::Sealed{std::move(*token), copy_->map().digest()});
    } else {
      failed(sealed.error());
    }
  } else if (std::holds_alternative<source::Release>(action)) {
    auto released = firmware("release");
    if (released) released = copy_->release();
    reply(source::Released{released ? std::nullopt : std::optional(released.error())});
  } else if (auto* recovers = std::get_if<source::Recover>(&action)) {
    recover(driver, *recovers);
  } else if (auto* ends = std::get_if<source::End>(&action)) {
    return end(driver, *ends);
  }
  step(driver);
}

void SimAgent::recover(SourceDriver& driver, source::Recover& action) {
  bool cancelled = true;
  if (action.cancel_platform) {
    auto done = firmware("export cancel");
    if (done) done = copy_->cancel(action.abort_token);
    cancelled = done.has_value();
  }
  copy_->stop_tracking();
  std::optional<Error> lost;
  if (action.resume) {
    if (auto resumed = start_copy(*copy_, "the migration was given up"); !resumed) {
      lost = std::move(resumed.error());
      world_.excuse("the source's platform refuses to go on");
    }
  }
  if (!cancelled) world_.excuse("the source's platform does not take its guest back");
  driver.replies.push_back(source::Recovered{std::move(lost)});
}

void SimAgent::end(SourceDriver& driver, source::End& action) {
  driver.ended = true;
  source::End what = std::move(action);
  world_.say(host_, "ends: {}{}{}", name_of(what.outcome), what.error ? ": " : "",
             what.error ? what.error->detail : "");
  if (what.outcome == Outcome::kInDoubt) {
    ++world_.counts().in_doubt;
    if (world_.planted(Plant::kResumeOnLostReply)) {
      what.outcome = Outcome::kSourceRuns;
      if (copy_->cancel({}) && copy_->resume()) world_.started(host_, *copy_, "no reply came");
    }
    if (world_.planted(Plant::kEofIsSuccess)) {
      what.outcome = Outcome::kDone;
      (void)copy_->release();
    }
  }
  state_ = state_after(what.outcome, false);
  world_.close(driver.link, Link::kClient);
  source_.reset();
}

void SimAgent::run_round() {
  SourceDriver& driver = *source_;
  RoundTask& round = *driver.round;
  const auto over = [&](source::Event event) {
    driver.round.reset();
    driver.stop_round = false;
    driver.inbox.push_back(std::move(event));
    step(driver);
  };
  if (driver.stop_round) return over(source::RoundStopped{});
  if (driver.link.cut) return over(source::Failed{Error{ErrorClass::kDisconnected, "it was cut"}});
  if (!round.begun) return begin_round(driver, round);
  if (round.next < round.pages.size()) {
    if (auto exported = firmware("export"); !exported)
      return over(source::Failed{exported.error()});
    return send_batch(driver, round);
  }
  EpochEnd marker;
  marker.epoch = round.order.epoch;
  marker.shared_pages = round.stats.shared_pages;
  marker.private_pages = round.stats.private_pages;
  world_.say(host_, "sends EpochEnd {}", marker.epoch);
  (void)world_.send(driver.link, Link::kClient, marker);
  round.stats.epoch = round.order.epoch;
  round.stats.guest_paused = round.order.paused;
  round.stats.plain_ns = round.stats.firmware_ns = round.stats.total_ns = 1'000'000;
  over(source::RoundDone{round.stats});
}

// Clears what is dirty, announces the classes it found, and from then on reads.
void SimAgent::begin_round(SourceDriver& driver, RoundTask& round) {
  round.begun = true;
  GuestCopy& copy = *copy_;
  const bool last_left_out = world_.planted(Plant::kLastHarvestLeftOut) && round.order.paused;
  if (!last_left_out) copy.harvest();
  if (round.order.epoch == 1) copy.dirty().mark(GfnRange{Gfn{0}, copy.pages()});
  PageBitmap dirty(copy.pages());
  copy.dirty().drain(dirty);
  for (std::uint64_t page = 0; page < copy.pages(); ++page) {
    if ((dirty.words()[page / 64] >> page % 64 & 1) != 0) round.pages.push_back(Gfn{page});
  }
  const std::vector<GfnRange> now = copy.map().shared_ranges();
  for (Conversions& record : conversions_between(round.order.epoch, driver.announced, now)) {
    for (GfnRange range : record.to_shared) driver.announced_map.convert(range, PageClass::kShared);
    for (GfnRange range : record.to_private) {
      driver.announced_map.convert(range, PageClass::kPrivate);
    }
    world_.say(host_, "sends Conversions {}", record.epoch);
    (void)world_.send(driver.link, Link::kClient, std::move(record));
  }
  driver.announced = now;
}

Bytes SimAgent::export_page(Gfn gfn, PageClass cls) const {
  const std::uint64_t word =
      cls == PageClass::kShared ? copy_->read_plain(gfn) : copy_->read_private(gfn);
  Bytes body(cls == PageClass::kShared ? kPageBytes : sizeof(word));
  std::memcpy(body.data(), &word, sizeof(word));
  return body;
}

void SimAgent::send_batch(SourceDriver& driver, RoundTask& round) {
  const PageClass cls = driver.announced_map.class_of(round.pages[round.next]);
  SharedBatch shared;
  PrivateBatch sealed;
  shared.epoch = sealed.epoch = round.order.epoch;
  sealed.page_body_bytes = sizeof(std::uint64_t);
  std::size_t taken = 0;
  for (; round.next < round.pages.size() && taken < kBatchPages; ++round.next) {
    const Gfn gfn = round.pages[round.next];
    if (driver.announced_map.class_of(gfn) != cls) break;
    if (copy_->map().class_of(gfn) != cls) {
      copy_->dirty().put_back(gfn);  // it was converted meanwhile
      continue;
    }
    ++taken;
    const Bytes body = export_page(gfn, cls);
    Bytes& into = cls == PageClass::kShared ? shared.body : sealed.body;
    into.insert(into.end(), body.begin(), body.end());
    (cls == PageClass::kShared ? shared.gfns : sealed.gfns).push_back(gfn);
  }
  if (taken == 0) return;
  world_.say(host_, "sends {} {} pages", taken, name_of(cls));
  if (cls == PageClass::kShared) {
    shared.encodings.assign(taken, PageEncoding::kRaw);
    round.stats.shared_pages += taken;
    (void)world_.send(driver.link, Link::kClient, std::move(shared));
  } else {
    sealed.ops.assign(taken, PrivateOp::kImport);
    round.stats.private_pages += taken;
    (void)world_.send(driver.link, Link::kClient, std::move(sealed));
  }
}

}  // namespace sealift::sim
