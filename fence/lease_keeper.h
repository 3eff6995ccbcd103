// LeaseKeeper: until when a host may run its guest under a lease, and when to ask for more time.
// Pure: times go in as numbers of the host's own clock, orders come out.
//
// Spec:       docs/spec/handover.md, "Lock manager".
// Owner:      whoever runs the guest, one for each guest it holds the right to run; a right that is
//             lost and comes back is a new LeaseKeeper.
// Threads:    plain value; one at a time.
// Failure:    none: what cannot be reached is an event.
// Invariants:
//   I1  The guest may run at t only if a take or renewal that was sent at s succeeded with
//       t < s + ttl - drift - stop time: also if the host's clock is slower than the lock manager's
//       by the allowed drift, every vCPU stands before the lease can be given to another.
//   I2  After lost() it never may run again. After offered() it may not, whatever is renewed, until
//       took() with a later generation.
//   I3  At most one ask is unanswered.
#pragma once

#include <cstdint>
#include <string>

#include "engine/result.h"

namespace sealift {

struct LeaseTerms {
  std::uint64_t ttl_ns = 10'000'000'000;         // asked of the lock manager
  std::uint64_t stop_max_ns = 500'000'000;       // from the order to stop until no vCPU runs
  std::uint64_t request_max_ns = 2'000'000'000;  // until an ask counts as unanswered
  std::uint32_t drift_ppm = 5'000;  // our clock against the lock manager's; 200 is a bad crystal

  // How long after sending an ask the guest may run, if it is granted for `granted_ns`.
  std::uint64_t usable_ns(std::uint64_t granted_ns) const;
  // After a success the next ask waits this long, so that two may fail and the third still helps.
  std::uint64_t renew_every_ns() const;
  std::uint64_t retry_ns() const;  // after an ask that got no answer
};
// The limits that go with a lease of this length: a tenth of a short one to stop in, a fifth to
// answer in; the defaults from 10 s on.
void set_ttl(LeaseTerms& terms, std::uint64_t ttl_ns);
// kUsage for terms under which a guest would stop although every ask is answered.
Result<void> check_terms(const LeaseTerms& terms);

enum class LeaseAsk : std::uint8_t {
  kNothing,
  kRenew,   // keep the lease alive                               [renewed, lease_ended, lost]
  kRetake,  // the lease has ended: a new one, if the right is ours still        [took, lost]
};

struct LeaseOrder {
  bool may_run = false;
  LeaseAsk ask = LeaseAsk::kNothing;  // given once: it must be answered, or unanswered()
  std::uint64_t wake_ns = 0;          // ask for orders again then, or when something happens
};

class LeaseKeeper {
 public:
  enum class State : std::uint8_t {
    kNone,     // no right yet
    kOurs,     // ours as far as we know; whether there is time to run is another matter
    kOffered,  // ours, but a destination may take it
    kLost,     // another's, for good
  };

  // REQUIRES: check_terms(terms).
  explicit LeaseKeeper(LeaseTerms terms) : terms_(terms) {}

  // The right of `generation` and a lease for `granted_ns` are ours: a take that was sent at
  // `sent_ns` succeeded. REQUIRES: not lost; a later generation than the one offered.
  void took(std::uint64_t generation, std::uint64_t sent_ns, std::uint64_t granted_ns);
  void renewed(std::uint64_t sent_ns, std::uint64_t granted_ns);
  void lease_ended();  // the lock manager does not know the lease (any more)
  void unanswered(std::uint64_t now_ns, std::string why);
  void lost(std::string why);
  void offered();  // before the offer is sent

  LeaseOrder order(std::uint64_t now_ns);

  State state() const { return state_; }
  std::uint64_t generation() const { return generation_; }
  bool may_run(std::uint64_t now_ns) const { return state_ == State::kOurs && now_ns < run_until_; }
  // May run before this moment, without another order; 0: not at all.
  std::uint64_t run_until_ns() const { return state_ == State::kOurs ? run_until_ : 0; }
  // Why it may not run at `now_ns`, one sentence; empty: it may.
  std::string why_not(std::uint64_t now_ns) const;

 private:
  void extend(std::uint64_t sent_ns, std::uint64_t granted_ns);

  LeaseTerms terms_;
  State state_ = State::kNone;
  std::uint64_t generation_ = 0;
  std::uint64_t run_until_ = 0;
  std::uint64_t ask_at_ = 0;
  bool lease_ended_ = false;
  bool asking_ = false;
  std::string trouble_;  // of the last ask; empty: it succeeded
};

}  // namespace sealift
