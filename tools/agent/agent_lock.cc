// The agent under a lock manager: whose vCPUs obey it, and what it settles by itself.
#include <chrono>
#include <utility>

#include "fence/etcd.h"
#include "tools/agent/agent.h"
#include "tools/agent/clock.h"
#include "tools/agent/lock_http.h"

namespace sealift {
namespace {

constexpr Millis kSettleEvery{1'000};
constexpr std::chrono::milliseconds kBootMax{120'000};

}  // namespace

Result<std::unique_ptr<LockManager>> make_locks(const LockConfig& config, const CancelToken& stop) {
  SEALIFT_CHECK(check_terms(config.terms));
  SEALIFT_TRY(EtcdEndpoints endpoints, parse_endpoints(config.etcd));
  std::optional<TlsContext> tls;
  if (endpoints.tls) {
    if (config.certs_dir.empty()) {
      return fail(ErrorClass::kUsage, "{} needs certificates: --lock-certs DIR", config.etcd);
    }
    SEALIFT_TRY(tls, TlsContext::load(config.certs_dir, TlsRole::kClient));
  }
  const Millis request_max{config.terms.request_max_ns / 1'000'000};
  auto http =
      std::make_shared<EtcdHttp>(std::move(endpoints.members), std::move(tls), request_max, stop);
  return std::make_unique<EtcdLocks>(
      [http](const std::string& path, const std::string& body) { return http->call(path, body); },
      "etcd at " + config.etcd, config.prefix.empty() ? EtcdLocks::kPrefixDefault : config.prefix);
}

Result<void> Agent::open_lock() {
  if (config_.lock.etcd.empty()) return {};
  if (config_.journal_dir.empty()) {
    return fail(ErrorClass::kUsage, "a lock manager needs a journal beside it: --journal DIR");
  }
  SEALIFT_TRY(locks_, make_locks(config_.lock, lock_stop_));
  right_lock_ = std::make_unique<RightLock>(*locks_, config_.name, config_.lock.terms, log_);
  return {};
}

// Before the guest's first instruction here. A machine that goes takes its obedience along.
Result<void> Agent::govern(const std::shared_ptr<Machine>& machine) {
  if (!right_lock_) return {};
  return right_lock_->govern(
      [weak = std::weak_ptr<Machine>(machine)](std::uint64_t boot_ns) -> Result<void> {
        const auto alive = weak.lock();
        return alive ? alive->vm().permit_until(boot_ns) : Result<void>();
      });
}

Result<void> Agent::launch() {
  if (resources_ != nullptr) SEALIFT_CHECK(resources_->lock_to_run());
  if (right_lock_) {
    SEALIFT_TRY(const std::uint64_t generation_min, keeper_->generation_min(guest_name_));
    SEALIFT_CHECK(right_lock_->take_for_launch(guest_name_, generation_min, config_.lock.take_over,
                                               stopping_));
  }
  SEALIFT_TRY(std::shared_ptr<Machine> machine, Machine::launch(*platform_, config_.guest.vm));
  SEALIFT_CHECK(govern(machine));
  SEALIFT_CHECK(machine->vm().resume());
  SEALIFT_CHECK(machine->vm().wait_booted(kBootMax));
  machine_ = std::move(machine);
  state_ = AgentState::kRunning;
  return {};
}

// A migration begins in the generation that the lock manager has.
Result<void> Agent::place_claim(Claim& claim) const {
  if (!right_lock_) return {};
  SEALIFT_TRY(const std::uint64_t held, right_lock_->generation(guest_name()));
  if (held < claim.generation) {
    return fail(ErrorClass::kRefused,
                "the journal knows generation {} of {}, and the lock manager is behind it with {}",
                claim.generation, guest_name(), held);
  }
  claim.generation = held;
  return {};
}

// The lock manager is asked first. Disk locks are free before an offer says that they are.
std::vector<RightFollower*> Agent::followers() const {
  std::vector<RightFollower*> all;
  if (right_lock_) all.push_back(right_lock_.get());
  if (resources_ != nullptr) all.push_back(resources_);
  return all;
}

// What is unsettled here, and may be settled by what the lock manager says.
void Agent::settle_by_lock() {
  std::uint64_t unsettled_since_ns = 0;
  std::string trouble;
  while (wait_for(-1, 0, stopping_, Deadline::after(kSettleEvery)) != Wake::kCancelled) {
    const std::lock_guard work(guest_work_);
    AgentState state = AgentState::kEmpty;
    std::string guest;
    {
      const std::lock_guard lock(mutex_);
      state = state_;
      guest = guest_name_;
    }
    const bool runs = state == AgentState::kRunning && right_lock_->status().state == "offered";
    if (state != AgentState::kInDoubt && state != AgentState::kHolding && !runs) {
      unsettled_since_ns = 0;
      continue;
    }
    if (unsettled_since_ns == 0) unsettled_since_ns = steady_now_ns();
    auto settled = settle_now(guest, runs, steady_now_ns() - unsettled_since_ns);
    std::string said = settled ? std::string() : settled.error().detail;
    if (!said.empty() && said != trouble) {
      log_(fmt::format("{} is not settled: {}", guest, said));
    }
    trouble = std::move(said);
  }
}

Result<void> Agent::settle_now(const std::string& guest, bool runs, std::uint64_t waited_ns) {
  const std::uint64_t ttl_ns = config_.lock.terms.ttl_ns;
  SEALIFT_TRY(const std::optional<JournalEntry> entry, keeper_->last(guest));
  if (!entry) return {};
  const bool at_source = side_of(entry->last) == JournalSide::kSource;
  SEALIFT_TRY(const LockSays says, right_lock_->says(entry->right));
  Settle wish = Settle::kRunSource;
  switch (says) {
    case LockSays::kSource:
      // The source has not offered it, or has it back. A copy that waits for it waits on.
      if (!at_source) return {};
      break;
    case LockSays::kOffered:
      // A destination that holds looks each second, and is to have it.
      if (at_source && !runs && waited_ns < ttl_ns / 3) return {};
      if (!at_source) wish = Settle::kRunDestination;
      break;
    case LockSays::kDestination:
      // One that took it and died before it could run it gives it back when it is restarted: its
      // lease shows that it lives only when it has been renewed.
      if (at_source && waited_ns < ttl_ns + ttl_ns / 2) return {};
      wish = Settle::kRunDestination;
      break;
    case LockSays::kSilent:
      if (!at_source) {
        wish = Settle::kRunDestination;
        break;
      }
      return fail(ErrorClass::kRefused,
                  "{} took it and has gone silent: it may have run there, so a person decides, or "
                  "its agent, when it is restarted",
                  name_in(entry->right.destination));
    case LockSays::kMovedOn:
      wish = at_source ? Settle::kRunDestination : Settle::kRunSource;
      break;
  }
  if (runs && wish == Settle::kRunDestination) {
    // Resumed here, but under an offer: it stood all the time, and the destination has taken it.
    SEALIFT_CHECK(machine_->vm().pause());
    const std::lock_guard lock(mutex_);
    state_ = AgentState::kInDoubt;
    return {};
  }
  const CopyHere copy = runs        ? CopyHere::kRunning
                        : at_source ? CopyHere::kPaused
                                    : CopyHere::kComplete;
  SEALIFT_TRY(const SettleStep step, settle_step(*entry, copy, wish, std::nullopt));
  if (step.record) {
    SEALIFT_CHECK(keeper_->note_settled(entry->right, *step.record, "settled by the lock manager"));
  }
  SEALIFT_CHECK(perform(step.act, guest));
  log_(fmt::format("the lock manager settles {}: {}", guest, name_of(wish)));
  return {};
}

}  // namespace sealift
