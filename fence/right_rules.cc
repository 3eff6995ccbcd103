#include "fence/right_rules.h"

#include <algorithm>
#include <utility>

namespace sealift {
namespace {

RightMove write(GuestRight next, bool holds = true) {
  return RightMove{RightVerdict::kWrite, std::move(next), holds, {}};
}
RightMove already(const GuestRight& right) {
  return RightMove{RightVerdict::kAlready, right, true, {}};
}
RightMove wait(std::string why) {
  return RightMove{RightVerdict::kWait, {}, false, std::move(why)};
}
RightMove never(std::string why) {
  return RightMove{RightVerdict::kNever, {}, false, std::move(why)};
}

RightMove not_known() { return never("the lock manager does not know the guest"); }
RightMove has_it(const GuestRight& right) {
  return never(fmt::format("the lock manager gives it to {}", text_of(right)));
}

bool is_mine(const LockState& seen, const LockSelf& self) {
  return !self.lease.empty() && seen.holder == self.lease;
}

// `next` is in the record already; all that may be missing is this host's lease behind it.
RightMove hold(const LockState& seen, const LockSelf& self) {
  if (is_mine(seen, self)) return already(*seen.right);
  if (seen.holder.empty()) return write(*seen.right);
  return wait(fmt::format("another lease stands behind {}", text_of(*seen.right)));
}

}  // namespace

std::string text_of(const GuestRight& right) {
  std::string text = fmt::format("{}, generation {}", right.owner.empty() ? "nobody" : right.owner,
                                 right.generation);
  if (!right.offered_to.empty()) text += fmt::format(", offered to {}", right.offered_to);
  return text;
}

RightMove to_launch(const LockState& seen, const LockSelf& self, std::uint64_t generation_min,
                    bool take_over) {
  if (!seen.right) return write({generation_min, self.host, {}, {}});
  const GuestRight& right = *seen.right;
  const GuestRight next{std::max(right.generation + 1, generation_min), self.host, {}, {}};
  // Only a launch writes an owner without a migration: it is the one of a moment ago.
  if (is_mine(seen, self) && right.owner == self.host && right.migration.empty())
    return already(right);
  if (!seen.holder.empty()) {
    return wait(fmt::format("{} has it under a lease that lives", text_of(right)));
  }
  if (right.owner.empty() || take_over) return write(next);
  if (right.owner == self.host && right.offered_to.empty()) return write(next);
  return never(fmt::format(
      "the lock manager gives it to {}, whose lease has ended; --lock-take-over launches it here, "
      "if that host's copy is gone",
      text_of(right)));
}

RightMove to_retake(const LockState& seen, const LockSelf& self, std::uint64_t generation) {
  if (!seen.right) return not_known();
  const GuestRight& right = *seen.right;
  if (right.owner != self.host || right.generation != generation || !right.offered_to.empty())
    return has_it(right);
  return hold(seen, self);
}

RightMove to_offer(const LockState& seen, const LockSelf& self, std::uint64_t generation,
                   const std::string& destination, const std::string& migration) {
  if (!seen.right) return not_known();
  const GuestRight& right = *seen.right;
  const GuestRight next{generation, self.host, destination, migration};
  if (right == next) return already(right);
  if (right.owner != self.host || right.generation != generation) return has_it(right);
  RightMove move = write(next);
  move.holds = is_mine(seen, self);  // an offer is good without a lease
  return move;
}

RightMove to_keep(const LockState& seen, const LockSelf& self, std::uint64_t generation,
                  const std::string& migration) {
  if (!seen.right) return not_known();
  const GuestRight& right = *seen.right;
  const GuestRight next{right.generation + 1, self.host, {}, migration};
  if (right.generation == generation && right.owner == self.host) return write(next);
  if (right.migration != migration) return has_it(right);
  if (right.generation == generation + 1 && right.owner == self.host) {
    // Either a write of one's own, or what the destination took and gave back.
    return right.offered_to == self.host ? write(next) : hold(seen, self);
  }
  if (right.generation == generation + 2 && right.owner == self.host) return hold(seen, self);
  return has_it(right);
}

RightMove to_accept(const LockState& seen, const LockSelf& self, std::uint64_t generation,
                    const std::string& source, const std::string& migration, bool ceded) {
  if (!seen.right) return not_known();
  const GuestRight& right = *seen.right;
  const GuestRight next{generation + 1, self.host, {}, migration};
  if (right == next) return hold(seen, self);
  if (right.owner != source || right.generation != generation) return has_it(right);
  if (right.offered_to == self.host && right.migration == migration) return write(next);
  if (!right.offered_to.empty()) return has_it(right);
  if (!ceded) return wait(fmt::format("{} has not offered it", source));
  if (!seen.holder.empty()) return wait(fmt::format("{} still has a lease that lives", source));
  return write(next);
}

RightMove to_return(const LockState& seen, const LockSelf& self, std::uint64_t generation,
                    const std::string& source, const std::string& migration) {
  if (!seen.right) return not_known();
  const GuestRight& right = *seen.right;
  const GuestRight next{generation + 1, source, source, migration};
  if (right == next) return already(right);
  const GuestRight taken{generation + 1, self.host, {}, migration};
  if (right == taken) return write(next, false);
  return has_it(right);
}

RightMove to_give_up(const LockState& seen, const LockSelf& self, std::uint64_t generation) {
  if (!seen.right) return not_known();
  const GuestRight& right = *seen.right;
  const GuestRight next{generation, {}, {}, {}};
  if (right == next) return already(right);
  if (right.owner != self.host || right.generation != generation || !right.offered_to.empty())
    return has_it(right);
  return write(next, false);
}

Result<RightTaken> carry_out(LockManager& locks, const std::string& guest, const LockSelf& self,
                             const RightRule& rule) {
  std::optional<Error> last;
  for (unsigned i = 0; i < kWritesMax; ++i) {
    SEALIFT_TRY(const LockState seen, locks.read(guest));
    const RightMove move = rule(seen, self);
    if (move.verdict != RightVerdict::kWrite) return RightTaken{move.verdict, move.next, move.why};
    auto written = locks.write(guest, seen, move.next, move.holds ? self.lease : LeaseId());
    if (!written) {
      last = std::move(written.error());  // the next turn's compare settles it
    } else if (*written == Written::kDone) {
      return RightTaken{RightVerdict::kAlready, move.next, {}};
    } else if (*written == Written::kLeaseEnded) {
      return fail(ErrorClass::kTimedOut, "the lease ended before it could stand behind {}",
                  text_of(move.next));
    }
  }
  if (last) return fail(std::move(*last));
  return fail(ErrorClass::kDisconnected, "the record of {} changed {} times under its writer",
              guest, kWritesMax);
}

}  // namespace sealift
