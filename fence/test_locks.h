// TestLocks: a lock manager in memory, with a clock that a test turns and a network that it breaks.
//
// Fault model: requests are lost before they arrive; replies are lost after the request was carried
// out; a request arrives later than everything that was asked after it. The manager itself is
// linearizable, keeps what it wrote, and ends each lease exactly at its time.
// Threads: one.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "fence/lock_manager.h"

namespace sealift {

enum class LockFault : std::uint8_t { kNone, kRequestLost, kReplyLost, kArrivesLate };

class TestLocks final : public LockManager {
 public:
  std::string describe() const override { return "locks of a test"; }
  Result<LockState> read(const std::string& guest) override;
  Result<Written> write(const std::string& guest, const LockState& seen, const GuestRight& next,
                        const LeaseId& holder) override;
  Result<Lease> grant(std::uint64_t ttl_ns) override;
  Result<std::optional<std::uint64_t>> renew(const LeaseId& lease) override;
  Result<void> revoke(const LeaseId& lease) override;

  void pass(std::uint64_t ns);  // time
  // Of the requests to come, in order; after them none fails.
  void plan(std::vector<LockFault> faults) { faults_.assign(faults.begin(), faults.end()); }
  void deliver_late();  // what kArrivesLate has kept back
  const std::vector<GuestRight>& history() const { return history_; }  // every right written

 private:
  struct Held {
    std::uint64_t ends_ns = 0;
    std::uint64_t ttl_ns = 0;
  };
  LockState state_of(const std::string& guest);
  LockFault next_fault();
  template <class Answer>
  Result<Answer> exchange(std::function<Answer()> work);

  std::map<std::string, LockState> guests_;
  std::map<LeaseId, Held> leases_;
  std::deque<LockFault> faults_;
  std::vector<std::function<void()>> late_;
  std::vector<GuestRight> history_;
  std::uint64_t now_ns_ = 0;
  std::uint64_t version_ = 0;
  std::uint64_t last_lease_ = 0;
};

}  // namespace sealift
