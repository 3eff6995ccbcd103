#include "tools/agent/agent.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "engine/assert.h"
#include "engine/limits.h"
#include "schemas/wire_text.h"
#include "tools/agent/capture.h"
#include "tools/agent/clock.h"
#include "tools/agent/secrets_file.h"
#include "tools/agent/wire_channel.h"

namespace sealift {
namespace {

constexpr std::chrono::milliseconds kSelfCheckMax{120'000};
constexpr std::uint64_t kHarvestEvery_ns = 100'000'000;
constexpr Millis kConnectMax{5'000};
constexpr Millis kPeerSilentMax{10'000};
constexpr const char* kBuild = "sealift 0.1.0";

}  // namespace

Agent::Agent(AgentConfig config, BackendDecision backend, Log log)
    : config_(std::move(config)),
      backend_(std::move(backend)),
      log_(std::move(log)),
      resources_(config_.resources.get()) {
  guest_name_ = config_.guest.name;
}

Result<std::unique_ptr<Agent>> Agent::start(AgentConfig config, Log log) {
  SEALIFT_TRY(BackendDecision backend,
              decide_backend(config.guest.backend, config.guest.vm.platform));
  config.guest.vm.backend = backend.backend;
  if (config.resources && config.journal_dir.empty()) {
    return fail(ErrorClass::kUsage,
                "disk=, announce= and --hook move with the right to run a guest: they need "
                "--journal DIR, which says who has it");
  }
  if (!config.journal_dir.empty() &&
      !(is_wire_text(config.name) && is_wire_text(config.guest.name))) {
    return fail(
        ErrorClass::kUsage,
        "names in journals are UTF-8 without control characters: the other side has to have "
        "the same");
  }
  SEALIFT_CHECK(check_config(config.guest.vm));
  SEALIFT_CHECK(check_sev_settings(config.guest.sev, config.guest.vm.platform));
  const bool has_guest = config.has_guest;
  std::unique_ptr<Agent> agent(new Agent(std::move(config), std::move(backend), std::move(log)));
  SEALIFT_CHECK(agent->open(has_guest));
  return agent;
}

Result<void> Agent::open(bool has_guest) {
  SEALIFT_TRY(layout_, layout_of_guest(config_.guest.vm.memory_bytes));
  PlatformConfig platform{config_.guest.vm.platform, backend_.backend, config_.guest.sev, {}};
  if (!config_.capture_path.empty()) {
    SEALIFT_CHECK(open_capture(config_.capture_path));
    // Further streams of an earlier migration, which may have had more of them.
    for (unsigned i = 1; i <= limits::kDataStreamsMax; ++i) std::remove(capture_of(i).c_str());
  }
  if (!config_.secrets_path.empty()) {
    log_("the keys of this agent's sessions are written to " + config_.secrets_path +
         ": whoever reads it can open a captured stream");
    SEALIFT_TRY(platform.reveal, open_secrets_file(config_.secrets_path));
  }
  SEALIFT_TRY(platform_, PlatformHost::make(platform));
  if (!config_.certs_dir.empty()) {
    SEALIFT_TRY(tls_client_, TlsContext::load(config_.certs_dir, TlsRole::kClient));
    SEALIFT_TRY(tls_server_, TlsContext::load(config_.certs_dir, TlsRole::kServer));
  }
  SEALIFT_CHECK(open_lock());
  SEALIFT_CHECK(read_journals());
  SEALIFT_TRY(const bool may_launch_guest, may_launch());
  if (has_guest && may_launch_guest) SEALIFT_CHECK(launch());
  if (right_lock_) settle_thread_ = std::jthread([this] { settle_by_lock(); });
  if (config_.listen) {
    SEALIFT_TRY(Listener listener, Listener::bind(*config_.listen));
    listener_.emplace(std::move(listener));
    accept_thread_ = std::jthread([this] { accept_connections(); });
  }
  return {};
}

Agent::~Agent() {
  static_cast<void>(cancel());  // nothing to cancel is fine here
  stopping_.cancel();
  if (accept_thread_.joinable()) accept_thread_.join();
  if (migration_thread_.joinable()) migration_thread_.join();
  inquirer_.reset();
  if (settle_thread_.joinable()) settle_thread_.join();
  if (right_lock_ && state_ == AgentState::kRunning) {
    machine_.reset();  // it will not run again, here or by mistake
    right_lock_->give_up();
  }
  lock_stop_.cancel();
}

std::optional<Address> Agent::listen_address() const {
  if (!listener_) return std::nullopt;
  return listener_->bound_address();
}

Hello Agent::hello() const {
  Hello hello;
  hello.version_min = config_.version_min;
  hello.version_max = config_.version_max;
  hello.agent_name = config_.name;
  hello.build = kBuild;
  hello.platform = config_.guest.vm.platform;
  hello.backend = name_of(backend_.backend);
  hello.memory = layout_.ranges();
  hello.vcpus = config_.guest.vm.vcpus;
  hello.features = kFeatureVerifyDigest | kFeatureStreams;
  hello.streams_max = limits::kStreamsMax;
  if (keeper_) hello.features |= kFeatureJournal;
  if (right_lock_) hello.features |= kFeatureLockManager;
  if (inquirer_) hello.features |= kFeatureInquiry;
  hello.batch_pages_max = limits::kBatchPagesMax;
  return hello;
}

std::string Agent::capture_of(unsigned stream) const {
  return fmt::format("{}.{}", config_.capture_path, stream);
}

std::string Agent::guest_name() const {
  const std::lock_guard lock(mutex_);
  return guest_name_;
}

AgentStatus Agent::status() const {
  const std::lock_guard lock(mutex_);
  AgentStatus status;
  status.name = config_.name;
  status.state = state_;
  status.backend = backend_;
  status.platform = platform_->describe();
  status.guest = config_.guest;
  status.launched_here = config_.has_guest;
  if (machine_) status.vm = machine_->vm().status();
  if (state_ == AgentState::kRunning && status.vm && status.vm->state == VmState::kTerminated) {
    status.state = AgentState::kTerminated;
  }
  if (right_lock_) {
    status.lock = right_lock_->status();
    if (status.state == AgentState::kRunning && status.lock->state != "held")
      status.state = AgentState::kFenced;
  }
  if (state_ == AgentState::kMigrating || state_ == AgentState::kReceiving)
    status.progress = progress_->read();
  status.bandwidth_bytes_per_s = bandwidth_->bytes_per_s();
  status.report = report_;
  status.incoming = incoming_report_;
  if (resources_ != nullptr) status.resources = resources_->status();
  if (inquirer_) status.inquiries = inquirer_->status();
  return status;
}

Result<void> Agent::start_migration(const MigrateOptions& options) {
  const std::lock_guard work(guest_work_);
  {
    const std::lock_guard lock(mutex_);
    if (state_ != AgentState::kRunning) {
      return fail(ErrorClass::kRefused, "{} has no running guest to migrate: it is {}",
                  config_.name, name_of(state_));
    }
    const GuestHealth health = machine_->vm().health();
    if (!health.ended.empty()) {
      return fail(ErrorClass::kRefused, "the guest of {} has terminated: {}", config_.name,
                  health.ended);
    }
    if (!health.not_ready.empty() && !options.ignore_readiness) {
      return fail(ErrorClass::kRefused, "the guest of {} is not ready to be migrated: {}",
                  config_.name, health.not_ready);
    }
    if (options.to.kind == Address::Kind::kTcp && !tls_client_ && !config_.allow_plain_tcp) {
      return fail(ErrorClass::kPolicy,
                  "{} was started without certificates; migrating over {} needs them", config_.name,
                  to_string(options.to));
    }
    state_ = AgentState::kMigrating;
    report_.reset();
    bandwidth_->set(options.bandwidth_bytes_per_s);
    connecting_.emplace();
    progress_ = std::make_shared<Progress>();
    progress_->update([](ProgressSnapshot& p) {
      p.phase = "connecting";
      p.started_ns = steady_now_ns();
    });
  }
  if (migration_thread_.joinable()) migration_thread_.join();
  migration_thread_ = std::jthread([this, options] { run_migration(options); });
  return {};
}

void Agent::run_migration(const MigrateOptions& options) {
  log_(fmt::format("{} {} to {}", options.check_only ? "checking a migration of" : "migrating",
                   config_.guest.name, to_string(options.to)));
  settle(options, migrate(options));
}

Agent::Sent Agent::migrate(const MigrateOptions& options) {
  MigrationReport failed;
  Stopwatch watch;
  ConnectOptions connecting;
  connecting.connect_timeout = kConnectMax;
  connecting.idle_timeout = kPeerSilentMax;
  connecting.dscp = options.dscp;
  if (options.to.kind == Address::Kind::kTcp && tls_client_) connecting.tls = &*tls_client_;
  CancelToken token;
  std::shared_ptr<Machine> machine;
  std::shared_ptr<Progress> progress;
  {
    const std::lock_guard lock(mutex_);
    token = *connecting_;
    progress = progress_;
    machine = machine_;
  }
  auto stream = connect(options.to, connecting, token);
  if (!stream) {
    failed.outcome = source::outcome_of(stream.error());
    failed.error = std::move(stream.error());
    failed.total_ns = watch.elapsed_ns();
    return {std::move(failed)};
  }
  FrameTap tap;
  if (!config_.capture_path.empty() && !options.check_only) {
    auto capture = open_capture(config_.capture_path);
    if (!capture) {
      failed.outcome = Outcome::kSourceRuns;
      failed.error = std::move(capture.error());
      return {std::move(failed)};
    }
    tap = std::move(*capture);
  }
  const std::uint64_t session_id = new_session_id();
  WireChannel channel(make_limited_stream(std::move(*stream), bandwidth_), session_id,
                      std::move(tap));
  SourceConfig source;
  source.hello = hello();
  source.hello.features |= kFeaturePlatformCard;
  source.guest_name = guest_name();
  if (keeper_ && !options.check_only) {
    auto claim = keeper_->next_claim(source.guest_name);
    if (!claim) {
      failed.outcome = Outcome::kRefused;
      failed.error = std::move(claim.error());
      return {std::move(failed)};
    }
    if (auto placed = place_claim(*claim); !placed) {
      failed.outcome = Outcome::kRefused;
      failed.error = std::move(placed.error());
      return {std::move(failed)};
    }
    source.claim = *claim;
  } else {
    source.hello.features &= ~kFeatureJournal;
  }
  source.goals = options.goals;
  source.check_only = options.check_only;
  source.verify = options.verify;
  source.data_streams = options.streams;
  source.harvest_every_ns = kHarvestEvery_ns;
  source.ignore_readiness = options.ignore_readiness;
  source.needs_peer_journal = resources_ != nullptr;
  if (options.timeout_ns != 0) source.deadline_ns = steady_now_ns() + options.timeout_ns;
  std::optional<SessionNotes> notes;
  if (source.claim) {
    notes.emplace(*keeper_,
                  SessionFacts{channel.shared_secret(kSessionKeyLabel), to_string(options.to)});
  }
  StreamLinks links;
  links.session_id = session_id;
  links.open = [&](std::uint8_t, const CancelToken& cancel) -> Result<std::unique_ptr<Stream>> {
    SEALIFT_TRY(auto further, connect(options.to, connecting, cancel));
    return make_limited_stream(std::move(further), bandwidth_);
  };
  if (!config_.capture_path.empty()) {
    links.tap = [&](std::uint8_t number) { return open_capture(capture_of(number)); };
  }
  SourceRunner runner(source, machine->vm(), machine->exporter(), channel, *progress,
                      notes ? &*notes : nullptr, &links);
  {
    const std::lock_guard lock(mutex_);
    if (token.cancelled()) runner.cancel();
    connecting_.reset();
    source_runner_ = &runner;
  }
  Sent sent{runner.run()};
  constexpr std::uint64_t kAnswers = kFeatureJournal | kFeatureInquiry;
  const bool answers = runner.peer() && (runner.peer()->features & kAnswers) == kAnswers;
  const bool may_hold = sent.report.outcome == Outcome::kInDoubt || runner.destination_may_hold();
  sent.ask = source.claim && answers && may_hold;
  const std::lock_guard lock(mutex_);
  source_runner_ = nullptr;
  return sent;
}

void Agent::settle(const MigrateOptions& options, Sent sent) {
  MigrationReport& report = sent.report;
  std::string text =
      fmt::format("{}: {}", options.check_only ? "check" : "migration", name_of(report.outcome));
  if (report.error) text += ": " + report.error->detail;
  log_(text);
  // A guest that is lost here may be saved by the copy there: a human decides.
  const bool asks =
      sent.ask && report.outcome != Outcome::kDone && report.outcome != Outcome::kGuestLost;
  end_migration(options, std::move(report), text);
  if (asks) inquire(guest_name());
}

void Agent::end_migration(const MigrateOptions& options, MigrationReport report,
                          const std::string& text) {
  const std::lock_guard lock(mutex_);
  connecting_.reset();
  state_ = state_after(report.outcome, options.check_only);
  if (resources_ != nullptr && state_ == AgentState::kInDoubt) resources_->guest_in_doubt(text);
  if (resources_ != nullptr && state_ == AgentState::kLost) resources_->guest_lost(text);
  report_ = std::move(report);
}

Result<void> Agent::set_bandwidth(std::uint64_t bytes_per_s) {
  const std::lock_guard lock(mutex_);
  if (state_ != AgentState::kMigrating) {
    return fail(ErrorClass::kRefused, "{} has no migration to set the bandwidth of: it is {}",
                config_.name, name_of(state_));
  }
  bandwidth_->set(bytes_per_s);
  return {};
}

Result<void> Agent::cancel() {
  const std::lock_guard lock(mutex_);
  if (state_ == AgentState::kMigrating && source_runner_ != nullptr) {
    if (source_runner_->cancel()) return {};
    return fail(ErrorClass::kRefused,
                "too late to cancel: the hand-over of {} was sent. It runs at the destination, or, "
                "if the link is lost, is in doubt until `migrate recover` settles it",
                guest_name_);
  }
  if (state_ == AgentState::kMigrating && connecting_) {
    connecting_->cancel();
    return {};
  }
  if (state_ == AgentState::kReceiving && destination_runner_ != nullptr) {
    if (destination_runner_->cancel()) return {};
    return fail(ErrorClass::kRefused, "too late to cancel: the guest is being started by {}",
                config_.name);
  }
  if (state_ == AgentState::kHandedOver) {
    return fail(ErrorClass::kRefused, "too late to cancel: {} was handed over, and runs elsewhere",
                guest_name_);
  }
  if (state_ == AgentState::kInDoubt) {
    return fail(ErrorClass::kRefused,
                "too late to cancel: the hand-over of {} was sent, and whether it arrived is in "
                "doubt; `migrate recover` settles it",
                guest_name_);
  }
  return fail(ErrorClass::kRefused, "{} has no migration to cancel: it is {}", config_.name,
              name_of(state_));
}

Result<DigestAnswer> Agent::digest(DigestAt at) {
  const std::lock_guard work(guest_work_);
  bool handover = at == DigestAt::kHandover;
  if (at == DigestAt::kAuto) {
    const std::lock_guard lock(mutex_);
    handover = state_ == AgentState::kHandedOver || (arrival_ && arrival_map_);
  }
  return handover ? digest_handover() : digest_now();
}

Result<DigestAnswer> Agent::digest_now() {
  std::shared_ptr<Machine> machine;
  {
    const std::lock_guard lock(mutex_);
    if (state_ == AgentState::kMigrating || state_ == AgentState::kReceiving) {
      return fail(ErrorClass::kRefused, "{} is {}: its memory is on the move", config_.name,
                  name_of(state_));
    }
    if (!machine_) return fail(ErrorClass::kRefused, "{} has no guest", config_.name);
    machine = machine_;
  }
  Vm& vm = machine->vm();
  const bool was_running = vm.status().state == VmState::kRunning;
  if (was_running) SEALIFT_CHECK(vm.pause());
  auto digest = digest_of(vm.layout(), vm.page_map(),
                          [&](Gfn gfn, auto out) { return vm.read_guest_view(gfn, out); });
  if (was_running) SEALIFT_CHECK(vm.resume());
  if (!digest) return fail(std::move(digest.error()));
  return DigestAnswer{*digest, vm.can_read_private(), false};
}

Result<DigestAnswer> Agent::digest_handover() {
  std::shared_ptr<ArrivalDigest> arrival;
  std::optional<GuestDigest> map;
  bool left = false;
  {
    const std::lock_guard lock(mutex_);
    left = state_ == AgentState::kHandedOver;
    arrival = arrival_;
    map = arrival_map_;
  }
  if (left) {
    SEALIFT_TRY(DigestAnswer answer, digest_now());  // the memory has not changed since
    answer.at_handover = true;
    return answer;
  }
  if (!arrival || !map) {
    return fail(ErrorClass::kRefused,
                "{} has no digest of a hand-over: no guest arrived or left with one", config_.name);
  }
  map->memory_sha256 = arrival->memory_sha256();
  return DigestAnswer{*map, config_.guest.vm.platform != Platform::kSwProtected, true};
}

Result<SelfCheck> Agent::self_check() {
  const std::lock_guard work(guest_work_);
  std::shared_ptr<Machine> machine;
  {
    const std::lock_guard lock(mutex_);
    if (state_ != AgentState::kRunning) {
      return fail(ErrorClass::kRefused, "{} has no running guest to ask: it is {}", config_.name,
                  name_of(state_));
    }
    machine = machine_;
  }
  return machine->vm().self_check(kSelfCheckMax);
}

}  // namespace sealift
