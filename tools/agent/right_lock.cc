#include "tools/agent/right_lock.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "vmm_glue/vmm/run_control.h"

namespace sealift {
namespace {

constexpr std::uint64_t kWakeAtLeastEvery_ns = 1'000'000'000;
constexpr Millis kLaunchRetry{300};

std::uint64_t now_ns() { return RunControl::boot_now_ns(); }

Failure refused(const std::string& guest, const RightTaken& answer) {
  return fail(ErrorClass::kRefused, "{} may not run here: {}", guest, answer.why);
}

std::string migration_of(const RightToRun& right) { return hex_text(right.migration); }

}  // namespace

RightLock::RightLock(LockManager& locks, std::string host, LeaseTerms terms, Log log)
    : locks_(locks), host_(std::move(host)), terms_(terms), log_(std::move(log)) {
  time_thread_ = std::jthread([this](const std::stop_token& stop) { keep_time(stop); });
  lease_thread_ = std::jthread([this](const std::stop_token& stop) { keep_lease(stop); });
}

RightLock::~RightLock() {
  time_thread_.request_stop();
  lease_thread_.request_stop();
}

// --- Talking to the lock manager. REQUIRES: talk_mutex_ ---

Result<RightLock::FreshLease> RightLock::new_lease() {
  if (spare_ && now_ns() < spare_->sent_ns + terms_.renew_every_ns()) {
    return *std::exchange(spare_, std::nullopt);
  }
  const std::uint64_t sent_ns = now_ns();
  SEALIFT_TRY(const Lease lease, locks_.grant(terms_.ttl_ns));
  return FreshLease{lease.id, sent_ns, lease.granted_ns};
}

Result<RightTaken> RightLock::ask(const std::string& guest, const LeaseId& lease,
                                  const RightRule& rule) {
  return carry_out(locks_, guest, LockSelf{host_, lease}, rule);
}

void RightLock::hold(const std::string& guest, const FreshLease& lease, std::uint64_t generation) {
  {
    const std::lock_guard lock(mutex_);
    const bool anew = !keeper_ || guest_ != guest || keeper_->state() == LeaseKeeper::State::kLost;
    if (anew) keeper_.emplace(terms_);
    guest_ = guest;
    lease_ = lease.id;
    asked_ = LeaseAsk::kNothing;
    keeper_->took(generation, lease.sent_ns, lease.granted_ns);
  }
  apply();
}

// `taken`: only if it came here by this migration. Another guest's lease is not touched.
void RightLock::let_go_of(const std::string& guest, std::optional<MigrationId> taken) {
  LeaseId lease;
  {
    const std::lock_guard lock(mutex_);
    if (guest_ != guest || (taken && taken_ != taken)) return;
    taken_.reset();
    lease = std::exchange(lease_, {});
    keeper_.reset();
    guest_.clear();
    asked_ = LeaseAsk::kNothing;
  }
  apply();
  // Only shortens what its end would bring.
  if (!lease.empty()) static_cast<void>(locks_.revoke(lease));
}

Result<void> RightLock::take_for_launch(const std::string& guest, std::uint64_t generation_min,
                                        bool take_over, const CancelToken& stop) {
  const std::lock_guard talk(talk_mutex_);
  const std::uint64_t patience_ns = terms_.ttl_ns + terms_.ttl_ns / 2;
  const std::uint64_t give_up_at = now_ns() + patience_ns;
  bool told = false;
  for (;;) {
    SEALIFT_TRY(const FreshLease lease, new_lease());
    SEALIFT_TRY(const RightTaken answer,
                ask(guest, lease.id, [&](const LockState& seen, const LockSelf& self) {
                  return to_launch(seen, self, generation_min, take_over);
                }));
    if (answer.verdict == RightVerdict::kAlready) {
      hold(guest, lease, answer.right.generation);
      return {};
    }
    static_cast<void>(locks_.revoke(lease.id));
    if (answer.verdict == RightVerdict::kNever || now_ns() > give_up_at)
      return refused(guest, answer);
    if (!std::exchange(told, true)) {
      log_(fmt::format("{} waits for an earlier lease to end: {}", guest, answer.why));
    }
    if (wait_for(-1, 0, stop, Deadline::after(kLaunchRetry)) == Wake::kCancelled) {
      return fail(ErrorClass::kCancelled, "stopped while waiting for the lease of {}", guest);
    }
  }
}

void RightLock::give_up() {
  const std::lock_guard talk(talk_mutex_);
  std::string guest;
  LeaseId lease;
  std::uint64_t generation = 0;
  {
    const std::lock_guard lock(mutex_);
    if (!keeper_ || keeper_->state() != LeaseKeeper::State::kOurs) return;
    guest = guest_;
    lease = lease_;
    generation = keeper_->generation();
  }
  auto given = ask(guest, lease, [&](const LockState& seen, const LockSelf& self) {
    return to_give_up(seen, self, generation);
  });
  if (!given) log_(fmt::format("{} keeps its right until then: {}", guest, given.error().detail));
  let_go_of(guest, {});
}

Result<LockSays> RightLock::says(const RightToRun& right) {
  const std::lock_guard talk(talk_mutex_);
  SEALIFT_TRY(const LockState state, locks_.read(right.guest));
  if (!state.right) return LockSays::kMovedOn;
  const GuestRight& now = *state.right;
  if (now.generation == right.generation && now.owner == right.source) {
    const bool offered =
        now.offered_to == name_in(right.destination) && now.migration == migration_of(right);
    return offered ? LockSays::kOffered : LockSays::kSource;
  }
  if (now.migration != migration_of(right) || now.generation <= right.generation)
    return LockSays::kMovedOn;
  if (now.owner == name_in(right.destination) && now.generation == right.generation + 1)
    return state.holder.empty() ? LockSays::kSilent : LockSays::kDestination;
  return now.owner == right.source && now.owner == host_ ? LockSays::kSource : LockSays::kMovedOn;
}

// --- Beside the records ---

Result<std::uint64_t> RightLock::generation(const std::string& guest) const {
  const std::lock_guard lock(mutex_);
  if (keeper_ && guest_ == guest) return keeper_->generation();
  return fail(ErrorClass::kRefused, "{} holds no right to run {}", host_, guest);
}

Result<void> RightLock::before(JournalKind kind, const RightToRun& right) {
  const std::lock_guard talk(talk_mutex_);
  switch (kind) {
    case JournalKind::kBegun:
      return check_begin(right);
    case JournalKind::kOffered:
      return check_offer(right);
    case JournalKind::kReady: {
      SEALIFT_TRY(spare_, new_lease());
      return {};
    }
    case JournalKind::kTaken:
      return accept(right);
    case JournalKind::kKept:
      return keep(right);
    default:
      return {};
  }
}

Result<void> RightLock::after(const JournalRecord& record) {
  const JournalKind kind = record.kind;
  const RightToRun& right = record.right;
  const std::lock_guard talk(talk_mutex_);
  if (kind == JournalKind::kCommitting) return offer(right);
  if (kind == JournalKind::kDiscarded) give_back(right);
  // The destination can take it at once; without this it waits for the lease to end.
  if (kind == JournalKind::kCeded) {
    if (auto offered = offer(right); !offered) log_(offered.error().detail);
  }
  if (kind == JournalKind::kReleased || kind == JournalKind::kCeded) let_go_of(right.guest, {});
  return {};
}

Result<void> RightLock::check_begin(const RightToRun& right) {
  if (name_in(right.destination) == host_) {
    return fail(ErrorClass::kRefused,
                "both agents are called {}: with a lock manager each needs a name of its own",
                host_);
  }
  const std::lock_guard lock(mutex_);
  const std::uint64_t now = now_ns();
  if (keeper_ && guest_ == right.guest && keeper_->generation() == right.generation &&
      keeper_->may_run(now)) {
    return {};
  }
  return fail(ErrorClass::kRefused, "{} is not under a lease of generation {} here: {}",
              right.guest, right.generation,
              keeper_ ? keeper_->why_not(now) : std::string("nothing is held"));
}

// A destination that could never take the right refuses before anything moves.
Result<void> RightLock::check_offer(const RightToRun& right) {
  SEALIFT_TRY(const LockState state, locks_.read(right.guest));
  if (!state.right || state.right->owner != right.source ||
      state.right->generation != right.generation || right.source == host_) {
    return fail(ErrorClass::kRefused,
                "{} comes from {} in generation {}, and the lock manager of {} gives it to {}",
                right.guest, right.source, right.generation, host_,
                state.right ? text_of(*state.right) : std::string("nobody it knows"));
  }
  return {};
}

Result<void> RightLock::take(const RightToRun& right, const RightRule& rule) {
  SEALIFT_TRY(const FreshLease lease, new_lease());
  auto answer = ask(right.guest, lease.id, rule);
  if (!answer) {
    spare_ = lease;  // it may stand behind the right already: the next try finds it so
    return fail(std::move(answer.error()));
  }
  if (answer->verdict != RightVerdict::kAlready) return refused(right.guest, *answer);
  hold(right.guest, lease, answer->right.generation);
  return {};
}

// Taken is written only because of Handover, or of what both sides, a person or an offer decided: a
// source that has not offered has lost its copy, and its lease must have ended.
Result<void> RightLock::accept(const RightToRun& right) {
  {
    const std::lock_guard lock(mutex_);
    if (keeper_ && guest_ == right.guest && keeper_->state() == LeaseKeeper::State::kOurs &&
        taken_ == right.migration) {
      return {};  // taken, and the journal did not take its record the last time
    }
  }
  SEALIFT_CHECK(take(right, [&](const LockState& seen, const LockSelf& self) {
    return to_accept(seen, self, right.generation, right.source, migration_of(right), true);
  }));
  const std::lock_guard lock(mutex_);
  taken_ = right.migration;
  return {};
}

// Only an offer has to be taken back. Without one the right never left, and what this host may do
// under its lease is the LeaseKeeper's to say.
Result<void> RightLock::keep(const RightToRun& right) {
  {
    const std::lock_guard lock(mutex_);
    if (!keeper_ || guest_ != right.guest) return {};
    if (keeper_->state() == LeaseKeeper::State::kOurs) return {};
  }
  return take(right, [&](const LockState& seen, const LockSelf& self) {
    return to_keep(seen, self, right.generation, migration_of(right));
  });
}

// The guest stands from here on, whatever becomes of the request.
Result<void> RightLock::offer(const RightToRun& right) {
  LeaseId lease;
  {
    const std::lock_guard lock(mutex_);
    if (keeper_ && keeper_->state() == LeaseKeeper::State::kOurs) keeper_->offered();
    lease = lease_;
  }
  apply();
  SEALIFT_TRY(const RightTaken answer,
              ask(right.guest, lease, [&](const LockState& seen, const LockSelf& self) {
                return to_offer(seen, self, right.generation, name_in(right.destination),
                                migration_of(right));
              }));
  if (answer.verdict != RightVerdict::kAlready) return refused(right.guest, answer);
  return {};
}

// What was taken and never ran. If it cannot be said now the source stays in doubt, and asks again.
void RightLock::give_back(const RightToRun& right) {
  spare_.reset();
  auto returned = ask(right.guest, {}, [&](const LockState& seen, const LockSelf& self) {
    return to_return(seen, self, right.generation, right.source, migration_of(right));
  });
  if (!returned) log_(fmt::format("{}: {}", right.guest, returned.error().detail));
  let_go_of(right.guest, right.migration);
}

// --- The lease and the vCPUs ---

Result<void> RightLock::govern(PermitUntil permit) {
  {
    const std::lock_guard one(apply_mutex_);
    permit_ = std::move(permit);
    stands_ = true;
    if (permit_) SEALIFT_CHECK(permit_(0));
  }
  apply();
  return {};
}

void RightLock::poke() {
  {
    const std::lock_guard lock(mutex_);
    poked_ = true;
  }
  wake_.notify_all();
}

void RightLock::apply() {
  {
    const std::lock_guard one(apply_mutex_);
    std::uint64_t until = 0;
    std::string guest;
    std::string why;
    {
      const std::lock_guard lock(mutex_);
      const std::uint64_t now = now_ns();
      guest = guest_;
      if (keeper_ && keeper_->may_run(now)) until = keeper_->run_until_ns();
      // An offer is part of a migration, which speaks for itself.
      if (keeper_ && keeper_->state() != LeaseKeeper::State::kOffered) why = keeper_->why_not(now);
    }
    if (permit_) {
      if (auto done = permit_(until); !done && until != 0 && stands_)
        log_(fmt::format("{}: {}", guest, done.error().detail));
    }
    const bool stands = until == 0;
    if (permit_ && stands && !stands_ && !why.empty())
      log_(fmt::format("{} is fenced, its vCPUs stand: {}", guest, why));
    if (permit_ && !stands && stands_) log_(fmt::format("{} may run under its lease", guest));
    stands_ = stands;
  }
  poke();
}

void RightLock::keep_time(const std::stop_token& stop) {
  std::unique_lock lock(mutex_);
  while (!stop.stop_requested()) {
    poked_ = false;
    std::chrono::nanoseconds wait{kWakeAtLeastEvery_ns};
    bool may_run = false;
    if (keeper_) {
      const std::uint64_t now = now_ns();
      const LeaseOrder order = keeper_->order(now);
      may_run = order.may_run;
      if (order.ask != LeaseAsk::kNothing) {
        asked_ = order.ask;
        wake_.notify_all();
      }
      const std::uint64_t left_ns = order.wake_ns - std::min(now, order.wake_ns);
      if (left_ns < kWakeAtLeastEvery_ns) wait = std::chrono::nanoseconds(left_ns);
    }
    lock.unlock();
    bool must_stop = false;
    {
      const std::lock_guard one(apply_mutex_);
      must_stop = !stands_ && !may_run;
    }
    if (must_stop) apply();
    lock.lock();
    if (!must_stop) wake_.wait_for(lock, stop, wait, [this] { return poked_; });
  }
}

void RightLock::keep_lease(const std::stop_token& stop) {
  for (;;) {
    LeaseAsk ask = LeaseAsk::kNothing;
    {
      std::unique_lock lock(mutex_);
      if (!wake_.wait(lock, stop, [this] { return asked_ != LeaseAsk::kNothing; })) return;
    }
    const std::lock_guard talk(talk_mutex_);
    {
      const std::lock_guard lock(mutex_);
      ask = std::exchange(asked_, LeaseAsk::kNothing);  // a move may have made it needless
    }
    if (ask == LeaseAsk::kRenew) renew();
    if (ask == LeaseAsk::kRetake) retake();
    if (ask != LeaseAsk::kNothing) apply();
  }
}

void RightLock::renew() {
  LeaseId lease;
  std::string guest;
  {
    const std::lock_guard lock(mutex_);
    lease = lease_;
    guest = guest_;
  }
  const std::uint64_t sent_ns = now_ns();
  auto granted = locks_.renew(lease);
  // A lease may live although the right has gone: the record counts.
  auto state = granted && *granted ? locks_.read(guest) : Result<LockState>(LockState{});
  const std::lock_guard lock(mutex_);
  if (!keeper_) return;
  if (!granted) return keeper_->unanswered(now_ns(), std::move(granted.error().detail));
  if (!*granted) return keeper_->lease_ended();
  if (!state) return keeper_->unanswered(now_ns(), std::move(state.error().detail));
  const bool ours = state->right && state->right->owner == host_ &&
                    state->right->generation == keeper_->generation();
  if (!ours) {
    return keeper_->lost(
        fmt::format("the lock manager gives {} to {}", guest,
                    state->right ? text_of(*state->right) : std::string("nobody it knows")));
  }
  if (state->holder != lease && keeper_->state() == LeaseKeeper::State::kOurs)
    return keeper_->lease_ended();
  keeper_->renewed(sent_ns, **granted);
}

void RightLock::retake() {
  std::string guest;
  std::uint64_t generation = 0;
  {
    const std::lock_guard lock(mutex_);
    guest = guest_;
    generation = keeper_->generation();
  }
  auto lease = new_lease();
  if (!lease) {
    const std::lock_guard lock(mutex_);
    return keeper_->unanswered(now_ns(), std::move(lease.error().detail));
  }
  auto answer = ask(guest, lease->id, [&](const LockState& seen, const LockSelf& self) {
    return to_retake(seen, self, generation);
  });
  if (answer && answer->verdict == RightVerdict::kAlready) return hold(guest, *lease, generation);
  const std::lock_guard lock(mutex_);
  if (!answer) return keeper_->unanswered(now_ns(), std::move(answer.error().detail));
  if (answer->verdict == RightVerdict::kWait)
    return keeper_->unanswered(now_ns(), std::move(answer->why));
  keeper_->lost(std::move(answer->why));
}

LockStatus RightLock::status() const {
  LockStatus status;
  status.manager = locks_.describe();
  const std::lock_guard lock(mutex_);
  status.state = "none";
  if (!keeper_) return status;
  const std::uint64_t now = now_ns();
  status.guest = guest_;
  status.generation = keeper_->generation();
  if (keeper_->may_run(now)) status.run_left_ns = keeper_->run_until_ns() - now;
  status.reason = keeper_->why_not(now);
  switch (keeper_->state()) {
    case LeaseKeeper::State::kNone:
      break;
    case LeaseKeeper::State::kOurs:
      status.state = status.reason.empty() ? "held" : "fenced";
      break;
    case LeaseKeeper::State::kOffered:
      status.state = "offered";
      break;
    case LeaseKeeper::State::kLost:
      status.state = "lost";
      break;
  }
  return status;
}

}  // namespace sealift
