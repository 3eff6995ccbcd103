// The arriving side of Agent.
#include <chrono>
#include <utility>

#include "engine/assert.h"
#include "engine/limits.h"
#include "tools/agent/agent.h"
#include "tools/agent/wire_channel.h"

namespace sealift {
namespace {

constexpr std::size_t kConnectionsMax = 4 + limits::kDataStreamsMax;
constexpr Millis kHandshakeMax{5'000};
constexpr Millis kPeerSilentMax{10'000};

}  // namespace

void Agent::accept_connections() {
  while (!stopping_.cancelled()) {
    auto connection = listener_->accept(stopping_);
    connections_.remove_if([](const Connection& c) { return c.done->load(); });
    if (!connection) {
      if (stopping_.cancelled()) break;
      log_(connection.error().detail);
      // Out of descriptors or memory: give the connections that hold them time to end.
      static_cast<void>(wait_for(-1, 0, stopping_, Deadline::after(Millis{200})));
      continue;
    }
    if (connections_.size() >= kConnectionsMax) {
      log_(fmt::format("{} was turned away: {} connections are open", connection->peer,
                       connections_.size()));
      continue;
    }
    auto done = std::make_shared<std::atomic<bool>>(false);
    connections_.push_back(Connection{
        std::jthread([this, done, incoming = std::make_shared<Incoming>(std::move(*connection))] {
          serve_connection(std::move(*incoming));
          done->store(true);
        }),
        done});
  }
  connections_.clear();  // joins; their streams were woken by stopping_
}

void Agent::serve_connection(Incoming connection) {
  const std::string peer = connection.peer;
  AcceptOptions accepting;
  accepting.handshake_timeout = kHandshakeMax;
  accepting.idle_timeout = kPeerSilentMax;
  if (listener_->bound_address().kind == Address::Kind::kTcp && tls_server_)
    accepting.tls = &*tls_server_;
  auto stream = accept_stream(std::move(connection), accepting, stopping_);
  if (!stream) return log_(fmt::format("connection from {}: {}", peer, stream.error().detail));

  WireChannel channel(std::move(*stream), 0);
  auto first = channel.receive();
  if (first && std::holds_alternative<StreamJoin>(*first)) {
    return serve_stream(std::get<StreamJoin>(*first), channel);
  }
  channel.put_back(std::move(first));
  serve_session(channel);
}

// A further connection of a session that runs here.
void Agent::serve_stream(const StreamJoin& join, WireChannel& channel) {
  const std::lock_guard lock(desks_mutex_);  // the desk stays until we are done
  const auto desk = desks_.find(channel.session_id());
  const std::string peer = channel.peer();
  if (desk == desks_.end()) {
    return log_(fmt::format("{} wants to be stream {} of a session that does not run here", peer,
                            join.stream));
  }
  if (auto joined = desk->second->join(join, channel.release()); !joined) {
    log_(joined.error().detail);
  }
}

void Agent::serve_session(WireChannel& channel) {
  auto progress = std::make_shared<Progress>();
  bool owned = false;  // this connection is the one that fills the guest's place
  DestinationHooks hooks;
  DestinationRunner* self = nullptr;
  hooks.open_guest = [&]() -> Result<IncomingGuest> {
    if (resources_ != nullptr) {
      if (!self->keeps_journal()) {
        return fail(ErrorClass::kRefused,
                    "{} takes only guests whose source keeps a journal: their disks and addresses "
                    "move with the right to run",
                    config_.name);
      }
      SEALIFT_CHECK(resources_->check_for_arrival());
    }
    auto guest = open_incoming();
    if (!guest) return guest;
    owned = true;
    const std::lock_guard lock(mutex_);
    destination_runner_ = self;
    arriving_by_.reset();
    if (self->claim()) arriving_by_ = self->claim()->migration;
    progress_ = progress;
    return guest;
  };
  std::atomic<bool> digested = false;
  hooks.pages_written = [&](std::span<const Gfn> gfns) {
    digested = true;
    return arrival_->update(
        gfns, [&](Gfn gfn, auto out) { return arriving_->vm().read_guest_view(gfn, out); });
  };
  hooks.about_to_run = [&] { freeze_arrival(digested); };
  hooks.runs = [&] { adopt_arrival(self->guest_name()); };
  if (inquirer_) {
    hooks.answer = [this](const Inquiry& inquiry) { return answer_inquiry(inquiry); };
  }
  StreamDesk desk;
  hooks.desk = &desk;
  hooks.session_id = [&] { return channel.session_id(); };
  bool at_desk = false;  // a second session with the same number gets no streams
  {
    const std::lock_guard lock(desks_mutex_);
    at_desk = channel.session_id() != 0 && desks_.emplace(channel.session_id(), &desk).second;
  }
  Hello local = hello();
  Bytes card;
  if (auto own = platform_->card()) {
    card = std::move(*own);
  } else {
    log_(fmt::format("{} cannot describe its platform: {}", config_.name, own.error().detail));
  }
  if (!card.empty()) local.features |= kFeaturePlatformCard;
  std::optional<SessionNotes> notes;
  if (keeper_) {
    notes.emplace(*keeper_, SessionFacts{channel.shared_secret(kSessionKeyLabel), {}});
  }
  DestinationRunner runner(std::move(local), layout_, channel, std::move(hooks), *progress,
                           std::move(card), notes ? &*notes : nullptr);
  self = &runner;
  DestinationReport report = runner.run();
  if (at_desk) {
    const std::lock_guard lock(desks_mutex_);
    desks_.erase(channel.session_id());
  }
  settle_incoming(std::move(report), owned, runner.guest_name());
}

// The guest's place is taken from here on: a second source is refused until this one has ended.
Result<IncomingGuest> Agent::open_incoming() {
  {
    const std::lock_guard lock(mutex_);
    if (!may_receive(state_)) {
      return fail(ErrorClass::kRefused, "{} cannot take a guest: it is {}", config_.name,
                  name_of(state_));
    }
    state_ = AgentState::kReceiving;
    machine_.reset();
    arrived_by_.reset();
    arrival_.reset();
    arrival_map_.reset();
  }
  auto machine = Machine::receive(*platform_, config_.guest.vm);
  if (!machine) {
    const std::lock_guard lock(mutex_);
    state_ = AgentState::kEmpty;
    return fail(std::move(machine.error()));
  }
  std::shared_ptr<Machine> waits = std::move(*machine);
  auto governed = govern(waits);
  const std::lock_guard lock(mutex_);
  if (!governed) {
    state_ = AgentState::kEmpty;
    return fail(std::move(governed.error()));
  }
  arriving_ = std::move(waits);
  arrival_ = std::make_shared<ArrivalDigest>(layout_);
  return IncomingGuest{&arriving_->vm(), arriving_->importer()};
}

void Agent::freeze_arrival(bool digested) {
  const std::lock_guard lock(mutex_);
  if (digested) {
    arrival_map_ = page_map_digest(arriving_->vm().layout(), arriving_->vm().page_map());
  } else {
    arrival_.reset();
  }
}

// Before the source hears of it, so that whoever it tells finds the guest here.
void Agent::adopt_arrival(const std::string& guest) {
  if (resources_ != nullptr) resources_->guest_runs();
  const std::lock_guard lock(mutex_);
  guest_name_ = guest;
  machine_ = std::move(arriving_);
  arrived_by_ = std::exchange(arriving_by_, std::nullopt);
  state_ = AgentState::kRunning;
  destination_runner_ = nullptr;
}

void Agent::settle_incoming(DestinationReport report, bool owned, const std::string& guest) {
  if (report.outcome == DestinationOutcome::kAnswered) return;
  std::string text = fmt::format("incoming from {}: {}",
                                 report.peer ? report.peer->agent_name : "an unknown agent",
                                 name_of(report.outcome));
  if (report.error) text += ": " + report.error->detail;
  log_(text);
  const std::lock_guard lock(mutex_);
  if (report.outcome == DestinationOutcome::kChecked) return;
  incoming_report_ = std::move(report);
  if (!owned || incoming_report_->outcome == DestinationOutcome::kRuns) return;
  destination_runner_ = nullptr;
  const auto by = std::exchange(arriving_by_, std::nullopt);
  if (incoming_report_->outcome == DestinationOutcome::kHolds) {
    arrived_by_ = by;
    guest_name_ = guest;
    state_ = AgentState::kHolding;
    machine_ = std::move(arriving_);
    arrival_.reset();  // nobody has said yet that this is the hand-over
    arrival_map_.reset();
    return;
  }
  state_ = AgentState::kEmpty;
  arriving_.reset();
  arrival_.reset();
  arrival_map_.reset();
  if (resources_ != nullptr) {
    const auto& error = incoming_report_->error;
    resources_->arrival_dropped(error ? error->detail : std::string());
  }
}

}  // namespace sealift
