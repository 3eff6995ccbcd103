#include "fence/test_locks.h"

#include <utility>

namespace sealift {

LockFault TestLocks::next_fault() {
  if (faults_.empty()) return LockFault::kNone;
  const LockFault fault = faults_.front();
  faults_.pop_front();
  return fault;
}

template <class Answer>
Result<Answer> TestLocks::exchange(std::function<Answer()> work) {
  const LockFault fault = next_fault();
  if (fault == LockFault::kArrivesLate) late_.push_back([work] { static_cast<void>(work()); });
  if (fault == LockFault::kReplyLost) static_cast<void>(work());
  if (fault == LockFault::kNone) return work();
  return fail(ErrorClass::kDisconnected, "the test lost a message");
}

void TestLocks::deliver_late() {
  for (const auto& work : std::exchange(late_, {})) work();
}

void TestLocks::pass(std::uint64_t ns) { now_ns_ += ns; }

LockState TestLocks::state_of(const std::string& guest) {
  std::erase_if(leases_, [&](const auto& lease) { return lease.second.ends_ns <= now_ns_; });
  LockState& state = guests_[guest];
  if (!state.holder.empty() && !leases_.contains(state.holder)) {
    state.holder.clear();
    state.holder_version = 0;
  }
  return state;
}

Result<LockState> TestLocks::read(const std::string& guest) {
  return exchange<LockState>([this, guest] { return state_of(guest); });
}

Result<Written> TestLocks::write(const std::string& guest, const LockState& seen,
                                 const GuestRight& next, const LeaseId& holder) {
  return exchange<Written>([this, guest, seen, next, holder] {
    const LockState now = state_of(guest);
    if (now.right_version != seen.right_version || now.holder_version != seen.holder_version)
      return Written::kChanged;
    if (!holder.empty() && !leases_.contains(holder)) return Written::kLeaseEnded;
    ++version_;
    guests_[guest] = LockState{next, holder, version_, holder.empty() ? 0 : version_};
    history_.push_back(next);
    return Written::kDone;
  });
}

Result<Lease> TestLocks::grant(std::uint64_t ttl_ns) {
  return exchange<Lease>([this, ttl_ns] {
    const LeaseId id = std::to_string(++last_lease_);
    leases_[id] = Held{now_ns_ + ttl_ns, ttl_ns};
    return Lease{id, ttl_ns};
  });
}

Result<std::optional<std::uint64_t>> TestLocks::renew(const LeaseId& lease) {
  return exchange<std::optional<std::uint64_t>>([this, lease]() -> std::optional<std::uint64_t> {
    const auto found = leases_.find(lease);
    if (found == leases_.end() || found->second.ends_ns <= now_ns_) return std::nullopt;
    found->second.ends_ns = now_ns_ + found->second.ttl_ns;
    return found->second.ttl_ns;
  });
}

Result<void> TestLocks::revoke(const LeaseId& lease) {
  auto done = exchange<bool>([this, lease] { return leases_.erase(lease) != 0; });
  if (!done) return fail(std::move(done.error()));
  return {};
}

}  // namespace sealift
