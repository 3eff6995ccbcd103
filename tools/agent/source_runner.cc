#include "tools/agent/source_runner.h"

#include <chrono>
#include <limits>
#include <random>
#include <utility>

#include "engine/assert.h"
#include "tools/agent/fault_point.h"
#include "tools/agent/harvester.h"

namespace sealift {
namespace {

constexpr std::size_t kQueuedEventsMax = 64;
constexpr std::uint64_t kNever = std::numeric_limits<std::uint64_t>::max();
constexpr std::chrono::milliseconds kTick{100};
constexpr std::uint64_t kKeepAliveEvery_ns = 500'000'000;
constexpr std::chrono::milliseconds kLingerMax{1000};
// A peer that does not read holds up a send for this long at most once the migration is being given
// up.
constexpr std::chrono::milliseconds kStuckSendMax{500};

// What the session has to know of the platform, so that no caller can forget it.
SourceConfig completed(SourceConfig config, const PrivateExporter* exporter) {
  std::random_device random;
  for (std::byte& b : config.stream_secret) b = static_cast<std::byte>(random());
  if (exporter == nullptr) return config;
  const PrivateTraits traits = exporter->traits();
  config.seal_is_commitment = traits.seal_is_commitment;
  config.goals.firmware_pages_per_s_hint = traits.pages_per_s_hint;
  return config;
}

}  // namespace

SourceRunner::SourceRunner(SourceConfig config, GuestPort& guest, PrivateExporter* exporter,
                           RecordChannel& channel, Progress& progress, RightNotes* notes,
                           const StreamLinks* links)
    : ignore_readiness_(config.ignore_readiness),
      harvest_every_(config.harvest_every_ns),
      slice_ns_(config.slice_ns),
      facts_{config.claim.value_or(Claim{}), config.guest_name, {}, {}, {}},
      session_(completed(std::move(config), exporter)),
      guest_(guest),
      exporter_(exporter),
      channel_(channel),
      progress_(progress),
      notes_(notes),
      links_(links),
      sender_(guest, exporter, channel, progress),
      queue_(kQueuedEventsMax) {
  SEALIFT_ASSERT((notes_ != nullptr) == session_.keeps_journal());
  if (slice_ns_ != 0) sender_.set_slice_ns(slice_ns_);
}

MigrationReport SourceRunner::run() {
  progress_.update([&](ProgressSnapshot& p) {
    p = ProgressSnapshot{};
    p.phase = source::name_of(session_.phase());
    p.started_ns = steady_now_ns();
  });
  PeerWatch peer_gone;
  std::jthread reader([&] {
    read_records();
    peer_gone.set();
  });
  handle(source::LinkUp{});
  while (!ended_) {
    if (auto event = queue_.pop(kTick)) handle(std::move(*event));
    handle(source::Tick{steady_now_ns()});
    if (GuestHealth health = guest_.health(); !health.ended.empty()) {
      handle(source::GuestEnded{std::move(health.ended)});
    }
    keep_alive();
  }
  queue_.close();
  {
    const std::lock_guard lock(cancel_mutex_);
    cancel_guard_.reset();
    handed_over_ = true;  // a cancel that comes now finds nothing to cut
  }
  // After our own last word the peer closes first: closing here could destroy that word on its way.
  const bool cancelled = report_.outcome == Outcome::kCancelled;
  if (spoke_last_) peer_gone.wait(cancelled ? kStuckSendMax : kLingerMax);
  cut();
  report_.total_ns = total_.elapsed_ns();
  return std::move(report_);
}

bool SourceRunner::cancel() {
  const std::lock_guard lock(cancel_mutex_);
  if (handed_over_) return false;
  queue_.push_urgent(source::CancelRequested{});
  if (!cancel_guard_) cancel_guard_.emplace([this] { cut(); }, kStuckSendMax);
  return true;
}

void SourceRunner::cut() {
  channel_.shutdown();
  cut_streams_.cancel();
}

void SourceRunner::read_records() {
  for (;;) {
    auto record = channel_.receive();
    if (!record) {
      queue_.push(source::LinkLost{std::move(record.error())});
      channel_.drain();  // what we still say gets through only while the peer's bytes are read
      return;
    }
    queue_.push(source::Received{std::move(*record)});
  }
}

void SourceRunner::handle(source::Event event) {
  replies_.push_back(std::move(event));
  if (const auto* received = std::get_if<source::Received>(&replies_.front());
      received != nullptr && handing_over_ && std::holds_alternative<Running>(received->record)) {
    marks_.handover_ns = part_.lap();
  }
  if (std::holds_alternative<source::Received>(replies_.front()) ||
      std::holds_alternative<source::LinkLost>(replies_.front())) {
    spoke_last_ = false;
  }
  if (std::holds_alternative<source::RoundDone>(replies_.front()) ||
      std::holds_alternative<source::RoundStopped>(replies_.front()) ||
      std::holds_alternative<source::Failed>(replies_.front())) {
    round_guard_.reset();
  }
  while (!replies_.empty() && !ended_) {
    source::Event next = std::move(replies_.front());
    replies_.erase(replies_.begin());
    std::vector<source::Action> actions;
    session_.step(std::move(next), actions);
    publish_phase();
    note_prediction();
    for (source::Action& action : actions) {
      if (auto* note = std::get_if<source::Note>(&action)) {
        if (!perform_note(*note)) break;
        continue;
      }
      SEALIFT_FAULT_POINT("source", action, "before");
      std::visit([&](auto& a) { perform(a); }, action);
      SEALIFT_FAULT_POINT("source", action, "after");
    }
  }
}

// The first decision says how long it will take from there on.
void SourceRunner::note_prediction() {
  if (report_.prediction || !session_.last_decision()) return;
  const EtaRange& eta = session_.last_decision()->eta;
  const std::uint64_t passed_ns = total_.elapsed_ns();
  const auto total = [&](std::uint64_t left_ns) {
    return left_ns > kNever - passed_ns ? kNever : passed_ns + left_ns;
  };
  report_.prediction = Prediction{0, total(eta.low_ns), total(eta.high_ns), {}};
}

bool SourceRunner::perform_note(source::Note& action) {
  if (action.step == RightStep::kCommitting) begin_handover();
  facts_.peer = session_.peer() ? session_.peer()->agent_name : std::string();
  facts_.reason = std::move(action.reason);
  facts_.page_map_digest = session_.page_map_digest();
  auto noted = notes_->note(action.step, facts_);
  if (noted) return true;
  reply(source::NoteFailed{action.step, std::move(noted.error())});
  return false;
}

void SourceRunner::perform(source::Send& action) {
  const bool handover = std::holds_alternative<Handover>(action.record);
  const bool start = std::holds_alternative<SessionStart>(action.record);
  if (start) sender_.set_batch_pages_max(session_.batch_pages_max());
  if (handover) {
    begin_handover();
    const std::lock_guard lock(cancel_mutex_);
    handed_over_ = true;
    cancel_guard_.reset();
  }
  std::optional<ShutdownGuard> guard;
  if (std::holds_alternative<Abort>(action.record)) guard.emplace(channel_, kStuckSendMax);
  auto sent = channel_.send(std::move(action.record));
  last_sent_ns_ = steady_now_ns();
  spoke_last_ = sent.has_value();
  if (handover) marks_.commit_ns = part_.elapsed_ns();
  if (!sent) reply(source::LinkLost{std::move(sent.error())});
}

void SourceRunner::perform(source::CheckPlatform& action) {
  PlatformFindings findings;
  if (exporter_ != nullptr) {
    auto judged = exporter_->judge(action.card);
    if (!judged) return reply(source::Failed{std::move(judged.error())});
    findings = std::move(*judged);
  }
  reply(source::PlatformChecked{std::move(findings)});
}

void SourceRunner::perform(source::StartPlatform& action) {
  if (auto joined = join_streams(); !joined) {
    return reply(source::Failed{std::move(joined.error())});
  }
  Bytes start;
  if (exporter_ != nullptr) {
    exporter_->use_streams(1);
    auto begun = exporter_->begin(action.identity);
    if (!begun) return reply(source::Failed{std::move(begun.error())});
    start = std::move(*begun);
  }
  if (auto started = guest_.start_dirty_tracking(); !started) {
    return reply(source::Failed{std::move(started.error())});
  }
  tracking_ = true;
  report_.setup_ns = total_.elapsed_ns();
  reply(source::PlatformStarted{std::move(start)});
}

Result<void> SourceRunner::join_streams() {
  if (session_.data_streams() == 0) return {};
  SEALIFT_ASSERT(links_ != nullptr);
  streams_.emplace(guest_, *links_, session_.data_streams(), session_.stream_secret(),
                   session_.batch_pages_max(), cut_streams_);
  sender_.use_streams(*streams_);
  report_.data_streams = session_.data_streams();
  return streams_->join();
}

void SourceRunner::perform(source::RunRound& action) {
  round_.lap();
  progress_.update([&](ProgressSnapshot& p) {
    p.round = RoundStats{};
    p.round.epoch = action.epoch;
    p.guest_paused = action.paused;
  });
  const RoundOrder order{action.epoch, action.paused, action.leave_hottest_pages,
                         action.throttle_percent};
  round_thread_ = std::jthread([this, order] {
    Harvester harvester(guest_, order.paused ? std::chrono::nanoseconds(0) : harvest_every_,
                        [this] { sender_.stop(); });
    auto stats = sender_.send_round(order);
    auto harvested = harvester.stop();
    if (!harvested) {
      queue_.push(source::Failed{std::move(harvested.error())});
    } else if (stats) {
      queue_.push(source::RoundDone{*stats});
    } else if (stats.error().cls == ErrorClass::kCancelled) {
      queue_.push(source::RoundStopped{});
    } else {
      queue_.push(source::Failed{std::move(stats.error())});
    }
  });
}

void SourceRunner::perform(source::StopRound&) {
  sender_.stop();
  round_guard_.emplace([this] { cut(); }, kStuckSendMax);
}

void SourceRunner::perform(source::Throttle& action) {
  throttled_ = true;
  if (auto slowed = guest_.throttle(action.percent); !slowed) {
    reply(source::Failed{std::move(slowed.error())});
  }
}

void SourceRunner::perform(source::Survey&) {
  const std::uint64_t round_ns = round_.elapsed_ns();
  if (auto harvested = guest_.harvest_dirty(); !harvested) {
    return reply(source::Failed{std::move(harvested.error())});
  }
  reply(source::Surveyed{guest_.dirty().count_by_class(guest_.page_map()), round_ns,
                         sender_.heat_estimate()});
}

void SourceRunner::perform(source::Pause&) {
  part_.lap();
  report_.prediction->downtime_ns = session_.last_decision()->predicted_downtime_ns;
  report_.prediction->why = session_.last_decision()->reason;
  auto paused = guest_.pause();
  GuestHealth health = guest_.health();  // stands still from here on
  if (!health.ended.empty()) return reply(source::GuestEnded{std::move(health.ended)});
  if (!paused) return reply(source::Failed{std::move(paused.error())});
  if (!health.not_ready.empty() && !ignore_readiness_) {
    return reply(source::Failed{Error{ErrorClass::kRefused, std::move(health.not_ready)}});
  }
  if (exporter_ != nullptr) {
    if (auto told = exporter_->guest_paused(); !told) {
      return reply(source::Failed{std::move(told.error())});
    }
  }
  marks_.pause_ns = part_.lap();
  reply(source::Paused{});
}

void SourceRunner::perform(source::SaveState&) {
  marks_.round_ns = part_.lap();
  marks_.harvest_ns = session_.rounds().back().harvest_ns;
  auto state = guest_.save_state();
  if (!state) return reply(source::Failed{std::move(state.error())});
  if (exporter_ != nullptr) {
    auto sealed_state = exporter_->save_state();
    if (!sealed_state) return reply(source::Failed{std::move(sealed_state.error())});
    for (StateBlob& blob : *sealed_state) state->push_back(std::move(blob));
  }
  reply(source::StateSaved{std::move(*state)});
}

void SourceRunner::perform(source::Seal&) {
  marks_.save_ns = part_.lap();
  source::Sealed sealed;
  sealed.page_map_digest = guest_.page_map().digest();
  if (exporter_ != nullptr) {
    auto token = exporter_->seal();
    if (!token) return reply(source::Failed{std::move(token.error())});
    sealed.token = std::move(*token);
  }
  marks_.source_seal_ns = part_.elapsed_ns();
  reply(std::move(sealed));
}

// The guest runs at the destination: everything from here on is tidying up.
void SourceRunner::perform(source::Release&) {
  Stopwatch watch;
  std::optional<Error> trouble;
  if (exporter_ != nullptr) {
    if (auto released = exporter_->release(); !released) trouble = std::move(released.error());
  }
  marks_.release_ns = watch.elapsed_ns();
  if (throttled_) (void)guest_.throttle(0);  // 0 is never refused
  if (auto stopped = guest_.stop_dirty_tracking(); !stopped && !trouble)
    trouble = std::move(stopped.error());
  reply(source::Released{std::move(trouble)});
}

void SourceRunner::perform(source::Recover& action) {
  std::optional<Error> trouble;
  const auto note = [&](Result<void> result) {
    if (!result && !trouble) trouble = std::move(result.error());
  };
  if (action.cancel_platform && exporter_ != nullptr) {
    std::optional<ByteView> token;
    if (!action.abort_token.empty()) token = action.abort_token;
    note(exporter_->cancel(token));
  }
  if (throttled_) note(guest_.throttle(0));
  if (tracking_) note(guest_.stop_dirty_tracking());
  tracking_ = false;
  // A guest whose platform context could not be cancelled is resumed all the same: it may well run.
  std::optional<Error> lost;
  if (action.resume) {
    if (auto resumed = guest_.resume(); !resumed) lost = std::move(resumed.error());
  }
  if (lost && trouble) lost->detail += "; before that " + trouble->detail;
  report_.recovery_error = std::move(trouble);
  reply(source::Recovered{std::move(lost)});
}

void SourceRunner::perform(source::End& action) {
  ended_ = true;
  report_.outcome = action.outcome;
  report_.error = std::move(action.error);
  report_.findings = session_.findings();
  report_.rounds = session_.rounds();
  fill_downtime();
}

// The destination is ready: what is left is the hand-over, which begins with a note of it.
void SourceRunner::begin_handover() {
  if (handing_over_) return;
  handing_over_ = true;
  marks_.finish_ns = part_.lap();
}

void SourceRunner::fill_downtime() {
  if (session_.ready()) {
    marks_.load_ns = session_.ready()->load_state_ns;
    marks_.destination_seal_ns = session_.ready()->seal_ns;
  }
  if (session_.running()) marks_.resume_ns = session_.running()->resume_ns;
  report_.downtime = account_of(marks_);
}

void SourceRunner::keep_alive() {
  const std::uint64_t now = steady_now_ns();
  if (ended_ || now - last_sent_ns_ < kKeepAliveEvery_ns) return;
  // While a round runs its pages keep the link alive, and a send here could wait behind a slow one.
  using source::Phase;
  if (session_.phase() == Phase::kRound || session_.phase() == Phase::kFinalRound ||
      session_.phase() == Phase::kStopping) {
    return;
  }
  last_sent_ns_ = now;
  if (auto sent = channel_.send(KeepAlive{}); !sent)
    handle(source::LinkLost{std::move(sent.error())});
}

void SourceRunner::publish_phase() {
  progress_.update([&](ProgressSnapshot& p) {
    p.phase = source::name_of(session_.phase());
    p.guest_paused = session_.guest_paused();
    RoundStats totals = sum_of(session_.rounds());
    if (p.rounds == totals.epochs) return;
    p.rounds = totals.epochs;
    p.totals = totals;
    p.rates = measure_rates(session_.rounds());
  });
  progress_.update([&](ProgressSnapshot& p) { p.decision = session_.last_decision(); });
}

}  // namespace sealift
