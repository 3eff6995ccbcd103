// What an agent knows of the right to run its guest, and how a migration in doubt is settled.
#include <utility>

#include "engine/assert.h"
#include "tools/agent/agent.h"

namespace sealift {
namespace {

constexpr const char* kByOperator = "settled by migrate recover";

}  // namespace

// An agent that finds a migration of its own unsettled launches nothing: the guest may run
// elsewhere.
Result<void> Agent::read_journals() {
  if (config_.journal_dir.empty()) return {};
  keeper_ = std::make_unique<RightKeeper>(config_.journal_dir, config_.name);
  SEALIFT_TRY(const std::vector<JournalEntry> unsettled, keeper_->settle_after_restart());
  for (const JournalEntry& entry : unsettled) {
    log_(
        fmt::format("the migration {} of {} to {} is not settled: its journal ends with {}. "
                    "`migrate recover` settles it",
                    hex_text(entry.right.migration), entry.right.guest, entry.right.destination,
                    name_of(entry.last)));
    if (!config_.has_guest || entry.right.guest == guest_name_) {
      guest_name_ = entry.right.guest;
      state_ = AgentState::kUnsettled;
    }
  }
  return {};
}

Result<RightAnswer> Agent::right(const std::string& guest) {
  if (!keeper_) {
    return fail(ErrorClass::kRefused,
                "{} keeps no journal: start it with --journal DIR to have its migrations settled",
                config_.name);
  }
  RightAnswer answer;
  {
    const std::lock_guard lock(mutex_);
    answer.agent = config_.name;
    answer.state = state_;
    answer.guest = guest.empty() ? guest_name_ : guest;
    answer.has_copy =
        machine_ != nullptr && state_ != AgentState::kHandedOver && answer.guest == guest_name_;
  }
  SEALIFT_TRY(answer.last, keeper_->last(answer.guest));
  return answer;
}

Result<void> Agent::settle_right(const MigrationId& migration, Settle wish) {
  const std::lock_guard work(guest_work_);
  SEALIFT_TRY(const RightAnswer now, right());
  if (!now.last || now.last->right.migration != migration) {
    return fail(ErrorClass::kRefused, "{} knows no migration {} of {} that is its last",
                config_.name, hex_text(migration), now.guest);
  }
  const JournalEntry& entry = *now.last;
  if (is_settled(entry.last)) {
    return fail(ErrorClass::kRefused, "the migration {} is settled here: {}", hex_text(migration),
                name_of(entry.last));
  }
  switch (now.state) {
    case AgentState::kInDoubt:
      return settle_in_doubt(entry.right, wish);
    case AgentState::kUnsettled:
      return settle_without_copy(entry.right, wish);
    case AgentState::kHolding:
      return settle_holding(entry.right, wish);
    default:
      return fail(ErrorClass::kRefused, "{} has nothing to settle: it is {}", config_.name,
                  name_of(now.state));
  }
}

// The source's copy, paused since before Handover.
Result<void> Agent::settle_in_doubt(const RightToRun& right, Settle wish) {
  if (wish == Settle::kForget) {
    return fail(ErrorClass::kRefused, "{} still has its copy of {}", config_.name, right.guest);
  }
  Vm& vm = machine_->vm();
  PrivateExporter* exporter = machine_->exporter();
  const bool runs_here = wish == Settle::kRunSource;
  SEALIFT_CHECK(keeper_->note_settled(
      right, runs_here ? JournalKind::kKept : JournalKind::kReleased, kByOperator));
  // The journal has decided. What cannot be tidied up here is said and changes nothing.
  const auto tidy = [&](Result<void> result) {
    if (!result) log_(fmt::format("settling {}: {}", right.guest, result.error().detail));
  };
  if (exporter != nullptr) tidy(runs_here ? exporter->cancel(std::nullopt) : exporter->release());
  tidy(vm.throttle(0));
  tidy(vm.stop_dirty_tracking());
  if (runs_here) SEALIFT_CHECK(vm.resume());
  const std::lock_guard lock(mutex_);
  state_ = runs_here ? AgentState::kRunning : AgentState::kHandedOver;
  return {};
}

// A restarted source: the copy went with the process before it.
Result<void> Agent::settle_without_copy(const RightToRun& right, Settle wish) {
  if (wish == Settle::kRunSource) {
    return fail(ErrorClass::kRefused, "{} was restarted and has no copy of {} to run", config_.name,
                right.guest);
  }
  const bool cedes = wish == Settle::kRunDestination;
  SEALIFT_CHECK(keeper_->note_settled(right, cedes ? JournalKind::kCeded : JournalKind::kKept,
                                      cedes ? kByOperator : "given up for lost by the operator"));
  const std::lock_guard lock(mutex_);
  state_ = AgentState::kEmpty;
  return {};
}

// The destination's complete copy, which never ran.
Result<void> Agent::settle_holding(const RightToRun& right, Settle wish) {
  if (wish != Settle::kRunDestination) {
    SEALIFT_CHECK(keeper_->note_settled(right, JournalKind::kDiscarded, kByOperator));
    const std::lock_guard lock(mutex_);
    machine_.reset();
    arrival_.reset();
    arrival_map_.reset();
    state_ = AgentState::kEmpty;
    return {};
  }
  SEALIFT_CHECK(keeper_->note_settled(right, JournalKind::kTaken, kByOperator));
  if (machine_->importer() != nullptr) SEALIFT_CHECK(machine_->importer()->commit());
  SEALIFT_CHECK(machine_->vm().resume());
  const std::lock_guard lock(mutex_);
  state_ = AgentState::kRunning;
  return {};
}

}  // namespace sealift
