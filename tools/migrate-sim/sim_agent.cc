#include "tools/migrate-sim/sim_agent.h"

#include <utility>

#include "engine/assert.h"
#include "tools/migrate-sim/world.h"

namespace sealift::sim {
namespace {

constexpr const char* kJournals = "/journal";

}  // namespace

SimAgent::SimAgent(World& world, int host) : world_(world), host_(host) {
  if (!world.config().journals[static_cast<std::size_t>(host)]) return;
  KeeperWorld surroundings;
  surroundings.disk = std::shared_ptr<Disk>(std::shared_ptr<Disk>(), &world.disk(host));
  surroundings.new_id = [&world] { return world.new_id(); };
  surroundings.unix_ns = [&world] { return world.now_ns(); };
  keeper_ =
      std::make_unique<RightKeeper>(kJournals, world.host(host).name, std::move(surroundings));
}

Result<void> SimAgent::read_journals() {
  if (!keeper_) return {};
  SEALIFT_TRY(const auto unsettled, keeper_->settle_after_restart());
  if (unsettled.empty()) return {};
  state_ = AgentState::kUnsettled;
  world_.say(host_, "is unsettled: {}", name_of(unsettled.front().last));
  return {};
}

void SimAgent::launch() {
  copy_ = std::make_unique<GuestCopy>(world_.config().platform, world_.config().pages,
                                      static_cast<std::uint64_t>(host_) + 11);
  copy_->launch(world_.history());
  state_ = AgentState::kRunning;
}

GuestCopy* SimAgent::runner() {
  if (copy_ && copy_->running()) return copy_.get();
  return arriving_ && arriving_->running() ? arriving_.get() : nullptr;
}

Hello SimAgent::hello() const {
  Hello hello;
  hello.agent_name = world_.host(host_).name;
  hello.build = "simulated";
  hello.platform = world_.config().platform;
  hello.backend = "model";
  hello.memory = {GfnRange{Gfn{0}, world_.config().pages}};
  hello.batch_pages_max = 32;
  if (keeper_) hello.features |= kFeatureJournal;
  return hello;
}

Result<void> SimAgent::firmware(const char* call) {
  if (!world_.firmware_fails()) return {};
  world_.say(host_, "{} fails", call);
  return fail(ErrorClass::kLocalFault, "{} failed", call);
}

Result<void> SimAgent::note(RightStep step, const RightFacts& facts) {
  SEALIFT_ASSERT(keeper_ != nullptr);
  const bool left_out = (world_.planted(Plant::kReadyNotNoted) && step == RightStep::kReady) ||
                        (world_.planted(Plant::kTakenNotNoted) && step == RightStep::kTaken);
  if (left_out) return {};
  auto noted = keeper_->note(step, facts);
  world_.say(host_, "{} {}", name_of(step), noted ? "is durable" : "cannot be written");
  world_.chooser().milestone();
  if (!noted && world_.planted(Plant::kNoteFailureIgnored)) return {};
  return noted;
}

Result<void> SimAgent::start_migration(Link& link) {
  if (state_ != AgentState::kRunning) return fail(ErrorClass::kRefused, "{}", name_of(state_));
  SourceConfig config;
  config.hello = hello();
  config.guest_name = kGuestName;
  config.goals.rounds_max = world_.config().rounds_max;
  const std::uint64_t patient_ns = 1;
  config.goals.downtime_max_ns = config.goals.rounds_max == 1 ? ~std::uint64_t{0} : patient_ns;
  config.seal_is_commitment = world_.config().platform == Platform::kTdx;
  if (keeper_) {
    SEALIFT_TRY(config.claim, keeper_->next_claim(kGuestName));
    if (world_.planted(Plant::kGenerationTwice)) ++config.claim->generation;
  }
  source_ = std::make_unique<SourceDriver>(std::move(config), link, world_.config().pages);
  state_ = AgentState::kMigrating;
  ++world_.counts().migrations;
  source_->inbox.push_back(source::LinkUp{});
  step(*source_);
  return {};
}

Result<void> SimAgent::cancel() {
  if (source_) {
    const bool late = source_->session.phase() >= source::Phase::kHandedOver;
    if (late && world_.planted(Plant::kCancelAfterHandover)) {
      if (copy_->resume()) world_.started(host_, *copy_, "cancelled");
      return {};
    }
    source_->inbox.push_front(source::CancelRequested{});
    step(*source_);
    return {};
  }
  for (auto& driver : incoming_) {
    if (!driver->owns_place) continue;
    driver->inbox.push_back(destination::CancelRequested{});
    step(*driver);
    return {};
  }
  return fail(ErrorClass::kRefused, "nothing to cancel");
}

Result<SideAnswer> SimAgent::right(std::optional<MigrationId> migration) {
  if (!keeper_) return fail(ErrorClass::kRefused, "no journal");
  SideAnswer answer;
  const bool sealed = copy_ && copy_->firmware() == Firmware::kSealed;
  answer.has_copy = copy_ != nullptr && can_be_run(state_) && !sealed;
  answer.is_busy = is_busy(state_) && !world_.planted(Plant::kBusyIsNotSaid);
  SEALIFT_TRY(answer.last, keeper_->last(kGuestName));
  state_ = state_after(state_, answer.last);
  if (!migration || (answer.last && answer.last->right.migration == *migration)) return answer;
  SEALIFT_TRY(auto asked_for, keeper_->find(kGuestName, *migration));
  if (asked_for) answer.is_latest = false;
  if (asked_for) answer.last = std::move(asked_for);
  return answer;
}

Result<void> SimAgent::settle_right(const MigrationId& migration, Settle wish,
                                    std::optional<JournalKind> said) {
  SEALIFT_TRY(const SideAnswer now, right());
  if (!now.last || now.last->right.migration != migration) {
    return fail(ErrorClass::kRefused, "it is not the last migration here");
  }
  const std::optional<CopyHere> copy = copy_in(state_);
  if (!copy) return fail(ErrorClass::kRefused, "it is {}", name_of(state_));
  SEALIFT_TRY(const SettleStep step, settle_step(*now.last, *copy, wish, said));
  if (step.record) {
    SEALIFT_CHECK(keeper_->note_settled(now.last->right, *step.record, "settled"));
    world_.say(host_, "settles: {}", name_of(*step.record));
    world_.chooser().milestone();
  }
  SEALIFT_CHECK(perform(step.act));
  if (step.act == Act::kStart) world_.moved(now.last->right.generation);
  ++world_.counts().settled_by_recover;
  return {};
}

Result<void> SimAgent::perform(Act act) {
  switch (act) {
    case Act::kNothing:
      if (state_ == AgentState::kUnsettled) state_ = AgentState::kEmpty;
      return {};
    case Act::kDropCopy:
      copy_.reset();
      state_ = AgentState::kEmpty;
      return {};
    case Act::kStart:
      SEALIFT_CHECK(firmware("commit"));
      SEALIFT_CHECK(copy_->commit());
      SEALIFT_CHECK(start_copy(*copy_, "settled"));
      state_ = AgentState::kRunning;
      return {};
    case Act::kResume:
      (void)copy_->cancel({});  // what the platform does not take back is seen when it resumes
      copy_->stop_tracking();
      SEALIFT_CHECK(start_copy(*copy_, "settled"));
      state_ = AgentState::kRunning;
      return {};
    case Act::kRelease:
      SEALIFT_CHECK(copy_->release());
      state_ = AgentState::kHandedOver;
      return {};
  }
  SEALIFT_ASSERT(false);
  return {};
}

Result<void> SimAgent::start_copy(GuestCopy& copy, const char* why) {
  SEALIFT_CHECK(firmware("resume"));
  SEALIFT_CHECK(copy.resume());
  world_.started(host_, copy, why);
  return {};
}

void SimAgent::accept(Link& link) {
  const auto layout = MemoryLayout::make({GfnRange{Gfn{0}, world_.config().pages}});
  SEALIFT_ASSERT(layout.has_value());
  incoming_.push_back(std::make_unique<DestinationDriver>(hello(), *layout, link));
}

bool SimAgent::can_act() const {
  if (source_ && !source_->pending.empty()) return true;
  for (const auto& driver : incoming_) {
    if (!driver->pending.empty()) return true;
  }
  return false;
}

void SimAgent::act() {
  if (source_ && !source_->pending.empty()) {
    source::Action action = std::move(source_->pending.front());
    source_->pending.pop_front();
    return perform(*source_, action);
  }
  for (auto& driver : incoming_) {
    if (driver->pending.empty()) continue;
    destination::Action action = std::move(driver->pending.front());
    driver->pending.pop_front();
    return perform(*driver, action);
  }
}

bool SimAgent::takes_event(const Link& link) const {
  if (source_ && &source_->link == &link) return source_->pending.empty() && !source_->link_lost;
  for (const auto& driver : incoming_) {
    if (&driver->link == &link) return driver->pending.empty() && !driver->link_lost;
  }
  return false;
}

void SimAgent::receive(Link& link, Record record) {
  if (source_ && &source_->link == &link) {
    source_->inbox.push_back(source::Received{std::move(record)});
    return step(*source_);
  }
  for (auto& driver : incoming_) {
    if (&driver->link != &link) continue;
    driver->inbox.push_back(destination::Received{std::move(record)});
    return step(*driver);
  }
}

void SimAgent::link_lost(Link& link, Error error) {
  if (source_ && &source_->link == &link) {
    source_->link_lost = true;
    source_->inbox.push_back(source::LinkLost{std::move(error)});
    return step(*source_);
  }
  for (auto& driver : incoming_) {
    if (&driver->link != &link) continue;
    driver->link_lost = true;
    driver->inbox.push_back(destination::LinkLost{std::move(error)});
    return step(*driver);
  }
}

}  // namespace sealift::sim
