// What an agent knows of the right to run its guest, and how a migration in doubt is settled.
#include <utility>

#include "engine/assert.h"
#include "tools/agent/agent.h"

namespace sealift {

// An agent that finds a migration of its own unsettled launches nothing: the guest may run
// elsewhere.
Result<void> Agent::read_journals() {
  if (config_.journal_dir.empty()) return {};
  keeper_ = std::make_unique<RightKeeper>(config_.journal_dir, config_.name, KeeperWorld::real(),
                                          followers());
  SEALIFT_TRY(const std::vector<JournalEntry> to_ask, keeper_->settle_after_restart());
  if (config_.inquiry) start_inquirer();
  for (const JournalEntry& entry : to_ask) {
    inquire(entry.right.guest);
    if (is_settled(entry.last)) continue;
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

// Started again with the command line that once launched the guest, an agent must not make a second
// one: the right has left this host, and says so until the guest comes back.
Result<bool> Agent::may_launch() {
  if (state_ == AgentState::kUnsettled) return false;
  if (!keeper_) return true;
  SEALIFT_TRY(const std::optional<JournalEntry> last, keeper_->last(guest_name_));
  if (!last || (last->last != JournalKind::kReleased && last->last != JournalKind::kCeded)) {
    return true;
  }
  log_(
      fmt::format("{} is not launched: the journal says that it was handed over to {}. Another "
                  "guest needs another name, or another folder for its journal",
                  guest_name_, last->right.destination));
  return false;
}

Result<RightAnswer> Agent::right(const std::string& guest, std::optional<MigrationId> migration) {
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
    answer.has_copy = machine_ != nullptr && can_be_run(state_) && answer.guest == guest_name_;
  }
  SEALIFT_TRY(answer.last, keeper_->last(answer.guest));
  {
    const std::lock_guard lock(mutex_);
    state_ = state_after(state_, answer.last);
    answer.state = state_;
  }
  if (!migration || (answer.last && answer.last->right.migration == *migration)) return answer;
  SEALIFT_TRY(auto asked_for, keeper_->find(answer.guest, *migration));
  if (asked_for) answer.is_latest = false;
  if (asked_for) answer.last = std::move(asked_for);
  return answer;
}

Result<void> Agent::settle_right(const MigrationId& migration, Settle wish,
                                 std::optional<JournalKind> said) {
  const std::lock_guard work(guest_work_);
  return settle_locked(
      migration, wish, said,
      wish == Settle::kForget ? "given up for lost by the operator" : "settled by migrate recover");
}

Result<void> Agent::settle_locked(const MigrationId& migration, Settle wish,
                                  std::optional<JournalKind> said, const std::string& why) {
  if (!keeper_) return fail(ErrorClass::kRefused, "{} keeps no journal", config_.name);
  SEALIFT_TRY(const std::optional<std::string> guest, keeper_->guest_of(migration));
  if (!guest) {
    return fail(ErrorClass::kRefused, "{} knows no migration {}", config_.name,
                hex_text(migration));
  }
  SEALIFT_TRY(const RightAnswer now, right(*guest));
  if (!now.last || now.last->right.migration != migration) {
    return fail(ErrorClass::kRefused, "the migration {} is not the last of {} at {}",
                hex_text(migration), *guest, config_.name);
  }
  // Of a guest that never got as far as being this agent's there is no copy.
  const std::optional<CopyHere> copy =
      *guest == guest_name() ? copy_in(now.state) : std::optional(CopyHere::kNone);
  if (!copy) {
    return fail(ErrorClass::kRefused, "{} has nothing to settle now: it is {}", config_.name,
                name_of(now.state));
  }
  SEALIFT_TRY(const SettleStep step, settle_step(*now.last, *copy, wish, said));
  if (step.record) SEALIFT_CHECK(keeper_->note_settled(now.last->right, *step.record, why));
  return perform(step.act, now.guest);
}

// The journal has decided: what cannot be tidied up here is said and changes nothing.
Result<void> Agent::perform(SettleStep::Act act, const std::string& guest) {
  using Act = SettleStep::Act;
  const auto become = [&](AgentState state) {
    const std::lock_guard lock(mutex_);
    state_ = state;
  };
  const auto tidy = [&](Result<void> result) {
    if (!result) log_(fmt::format("settling {}: {}", guest, result.error().detail));
  };
  switch (act) {
    case Act::kNothing: {
      const std::lock_guard lock(mutex_);
      if (state_ == AgentState::kUnsettled && guest == guest_name_) state_ = AgentState::kEmpty;
      return {};
    }
    case Act::kDropCopy: {
      const std::lock_guard lock(mutex_);
      machine_.reset();
      arrival_.reset();
      arrival_map_.reset();
      state_ = AgentState::kEmpty;
      return {};
    }
    case Act::kStart:
      if (machine_->importer() != nullptr) SEALIFT_CHECK(machine_->importer()->commit());
      if (resources_ != nullptr) SEALIFT_CHECK(resources_->lock_to_run());
      SEALIFT_CHECK(machine_->vm().resume());
      if (resources_ != nullptr) resources_->guest_runs();
      become(AgentState::kRunning);
      return {};
    case Act::kResume:
    case Act::kRelease:
      break;
  }
  Vm& vm = machine_->vm();
  if (PrivateExporter* exporter = machine_->exporter(); exporter != nullptr) {
    tidy(act == Act::kResume ? exporter->cancel(std::nullopt) : exporter->release());
  }
  tidy(vm.throttle(0));
  tidy(vm.stop_dirty_tracking());
  if (act == Act::kResume) {
    if (resources_ != nullptr) SEALIFT_CHECK(resources_->lock_to_run());
    SEALIFT_CHECK(vm.resume());
  }
  become(act == Act::kResume ? AgentState::kRunning : AgentState::kHandedOver);
  return {};
}

}  // namespace sealift
