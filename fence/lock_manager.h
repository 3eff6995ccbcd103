// LockManager: one record for each guest that all hosts read and compare-and-write, and leases that
// end when their holder goes silent. Who may write what is in right_rules.h.
//
// Spec:       docs/spec/handover.md, "Lock manager".
// Owner:      the agent; outlives whoever uses it.
// Threads:    any; each call is one exchange with the lock manager and may block until its limit.
// Failure:    kDisconnected: it cannot be reached, or does not answer; kMalformed: it answered
//             something else. After a write that failed so NOBODY KNOWS whether it happened or
//             still will: reading the old state proves nothing. It is settled by a later write of
//             one's own that succeeded, or by a state that has changed (carry_out() does it).
// Invariants: reads are linearizable. write() happens as a whole or not at all, and only if the
//             guest's state is still the one that was seen, both keys of it. A holder's key goes
//             when its lease ends or is revoked; the right stays.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "engine/result.h"

namespace sealift {

// Who has the right to run a guest.
struct GuestRight {
  std::uint64_t generation = 0;
  std::string owner;       // a host; empty: given back, nobody has it
  std::string offered_to;  // a host that may take the next generation; empty: none
  std::string migration;   // under which it was offered, or came here; 32 hexadecimal digits
  friend bool operator==(const GuestRight&, const GuestRight&) = default;
};
std::string text_of(const GuestRight& right);  // for people: "A, generation 3"

using LeaseId = std::string;  // the lock manager's; never empty

// What is kept of a guest: the right, and whose lease stands behind it.
struct LockState {
  std::optional<GuestRight> right;   // empty: the guest is not known
  LeaseId holder;                    // empty: no lease, so nobody runs the guest
  std::uint64_t right_version = 0;   // changes with each write; 0: not there
  std::uint64_t holder_version = 0;  // changes with each write and with the lease's end
  friend bool operator==(const LockState&, const LockState&) = default;
};

struct Lease {
  LeaseId id;
  std::uint64_t granted_ns = 0;  // may differ from what was asked
};

enum class Written : std::uint8_t {
  kDone,
  kChanged,     // the state is not what was seen; nothing was written
  kLeaseEnded,  // the lease is not there (any more); nothing was written
};

class LockManager {
 public:
  virtual ~LockManager() = default;
  virtual std::string describe() const = 0;  // for people: "etcd at https://…"

  virtual Result<LockState> read(const std::string& guest) = 0;
  // `holder`: the lease that stands behind `next`; empty: none does.
  virtual Result<Written> write(const std::string& guest, const LockState& seen,
                                const GuestRight& next, const LeaseId& holder) = 0;

  virtual Result<Lease> grant(std::uint64_t ttl_ns) = 0;
  virtual Result<std::optional<std::uint64_t>> renew(const LeaseId& lease) = 0;  // empty: ended
  virtual Result<void> revoke(const LeaseId& lease) = 0;  // one that has ended is no error
};

}  // namespace sealift
