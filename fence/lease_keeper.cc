#include "fence/lease_keeper.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "engine/assert.h"

namespace sealift {
namespace {

constexpr std::uint64_t kTtlMax_ns = 3'600'000'000'000;
constexpr std::uint32_t kDriftMax_ppm = 100'000;
constexpr std::uint64_t kMillion = 1'000'000;

double seconds(std::uint64_t ns) { return static_cast<double>(ns) / 1e9; }

}  // namespace

// A clock that is slower than the lock manager's by d sees ttl / (1 + d), which is above
// ttl * (1 - d).
std::uint64_t LeaseTerms::usable_ns(std::uint64_t granted_ns) const {
  const std::uint64_t ttl = std::min(granted_ns, kTtlMax_ns);
  const std::uint64_t margin = (ttl * drift_ppm + kMillion - 1) / kMillion + stop_max_ns;
  return ttl > margin ? ttl - margin : 0;
}

std::uint64_t LeaseTerms::renew_every_ns() const { return usable_ns(ttl_ns) / 4; }

std::uint64_t LeaseTerms::retry_ns() const { return usable_ns(ttl_ns) / 20; }

void set_ttl(LeaseTerms& terms, std::uint64_t ttl_ns) {
  const LeaseTerms full;
  terms.ttl_ns = ttl_ns;
  terms.stop_max_ns = std::min(full.stop_max_ns, ttl_ns / 10);
  terms.request_max_ns = std::min(full.request_max_ns, ttl_ns / 5);
}

Result<void> check_terms(const LeaseTerms& terms) {
  if (terms.ttl_ns > kTtlMax_ns || terms.drift_ppm > kDriftMax_ppm) {
    return fail(ErrorClass::kUsage, "a lease of {:.1f} s and a drift of {} ppm exceed {} s, {} ppm",
                seconds(terms.ttl_ns), terms.drift_ppm, kTtlMax_ns / 1'000'000'000, kDriftMax_ppm);
  }
  // Asked at renew_every, answered at the last moment, and asked once more after that.
  const std::uint64_t needed = terms.renew_every_ns() + 2 * terms.request_max_ns + terms.retry_ns();
  if (terms.usable_ns(terms.ttl_ns) > needed) return {};
  return fail(ErrorClass::kUsage,
              "a lease of {:.1f} s is too short: {:.2f} s of it can be used, and one request that "
              "is not answered takes {:.2f} s",
              seconds(terms.ttl_ns), seconds(terms.usable_ns(terms.ttl_ns)), seconds(needed));
}

void LeaseKeeper::took(std::uint64_t generation, std::uint64_t sent_ns, std::uint64_t granted_ns) {
  SEALIFT_ASSERT(state_ != State::kLost);
  SEALIFT_ASSERT(state_ != State::kOffered || generation > generation_);
  SEALIFT_ASSERT(generation >= generation_);
  state_ = State::kOurs;
  generation_ = generation;
  run_until_ = 0;  // of another lease
  extend(sent_ns, granted_ns);
}

void LeaseKeeper::renewed(std::uint64_t sent_ns, std::uint64_t granted_ns) {
  if (state_ == State::kLost || lease_ended_) return;
  extend(sent_ns, granted_ns);
}

void LeaseKeeper::extend(std::uint64_t sent_ns, std::uint64_t granted_ns) {
  asking_ = false;
  lease_ended_ = false;
  trouble_.clear();
  run_until_ = std::max(run_until_, sent_ns + terms_.usable_ns(granted_ns));
  ask_at_ = sent_ns + terms_.renew_every_ns();
}

void LeaseKeeper::lease_ended() {
  asking_ = false;
  lease_ended_ = true;
  run_until_ = 0;
  ask_at_ = 0;
  trouble_ = "the lock manager has ended the lease";
}

void LeaseKeeper::unanswered(std::uint64_t now_ns, std::string why) {
  asking_ = false;
  ask_at_ = now_ns + terms_.retry_ns();
  trouble_ = std::move(why);
}

void LeaseKeeper::lost(std::string why) {
  asking_ = false;
  state_ = State::kLost;
  run_until_ = 0;
  trouble_ = std::move(why);
}

void LeaseKeeper::offered() {
  SEALIFT_ASSERT(state_ == State::kOurs || state_ == State::kOffered);
  state_ = State::kOffered;
}

LeaseOrder LeaseKeeper::order(std::uint64_t now_ns) {
  constexpr std::uint64_t kNever = std::numeric_limits<std::uint64_t>::max();
  LeaseOrder order{may_run(now_ns), LeaseAsk::kNothing, kNever};
  if (order.may_run) order.wake_ns = run_until_;
  if (state_ == State::kNone || state_ == State::kLost || asking_) return order;
  // An offered right is not retaken under a new lease: the destination may have it.
  if (state_ == State::kOffered && lease_ended_) return order;
  if (now_ns < ask_at_) {
    order.wake_ns = std::min(order.wake_ns, ask_at_);
    return order;
  }
  asking_ = true;
  order.ask = lease_ended_ ? LeaseAsk::kRetake : LeaseAsk::kRenew;
  return order;
}

std::string LeaseKeeper::why_not(std::uint64_t now_ns) const {
  if (may_run(now_ns)) return {};
  switch (state_) {
    case State::kNone:
      return "the right to run it was not taken yet";
    case State::kOffered:
      return fmt::format("its right of generation {} is offered to a destination", generation_);
    case State::kLost:
      return trouble_;
    case State::kOurs:
      break;
  }
  return fmt::format("the lease of generation {} could not be renewed in time{}{}", generation_,
                     trouble_.empty() ? "" : ": ", trouble_);
}

}  // namespace sealift
