// RightLock: this host's part in a lock manager: keeps the lease of the guest that runs here alive,
// lets its vCPUs run only while it lives, and moves the right beside the records of the journal.
//
// Spec:       docs/spec/handover.md, "Lock manager".
// Owner:      the agent; the LockManager and the log outlive it. Its destructor joins its threads.
// Threads:    any. One thread sees to the time, another talks to the lock manager about the lease,
//             so that a lock manager that hangs delays no stop.
// Failure:    kRefused: another has the right, with its name; kDisconnected and others: the lock
//             manager does not answer, and what was asked may have happened: the guest stands.
// Invariants: the guest that govern() names runs only while LeaseKeeper says so; before it has
//             been told anything it stands.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "fence/lease_keeper.h"
#include "fence/lock_manager.h"
#include "fence/right_rules.h"
#include "tools/agent/right_keeper.h"
#include "transport/cancel.h"

namespace sealift {

// The vCPUs of a guest: may run until then, on CLOCK_BOOTTIME. Returns when it is so.
using PermitUntil = std::function<Result<void>(std::uint64_t boot_ns)>;

struct LockStatus {
  std::string manager;
  std::string guest;  // empty: nothing is held here
  std::string state;  // "held", "fenced", "offered", "lost", "none"
  std::uint64_t generation = 0;
  std::uint64_t run_left_ns = 0;  // the guest may run this long without another answer
  std::string reason;             // why it may not run; empty: it may
};

// Whom the lock manager gives a migration that this side knows as unsettled.
enum class LockSays : std::uint8_t {
  kSource,       // not offered, or taken back, or given back
  kOffered,      // the destination may take it
  kDestination,  // taken under this migration, and a lease stands behind it
  kSilent,       // taken under this migration, and the lease has ended
  kMovedOn,      // neither: somebody else's, or a later generation
};

class RightLock final : public RightFollower {
 public:
  using Log = std::function<void(const std::string&)>;
  RightLock(LockManager& locks, std::string host, LeaseTerms terms, Log log);
  ~RightLock() override;

  // Takes a guest that is to be booted here; waits for a lease that is in the way, once it can end.
  Result<void> take_for_launch(const std::string& guest, std::uint64_t generation_min,
                               bool take_over, const CancelToken& stop);
  // Whose vCPUs obey from now on; empty: nobody's. They stand until the right is held.
  Result<void> govern(PermitUntil permit);
  // The guest has ended here: anybody may launch it. REQUIRES: its vCPUs will not run again.
  void give_up();

  Result<LockSays> says(const RightToRun& right);
  LockStatus status() const;

  // Under which `guest` is here: the next migration's.
  Result<std::uint64_t> generation(const std::string& guest) const;

  void found(const JournalEntry&) override {}  // what the lock manager has is read when needed
  Result<void> before(JournalKind kind, const RightToRun& right) override;
  Result<void> after(const JournalRecord& record) override;

 private:
  struct FreshLease {
    LeaseId id;
    std::uint64_t sent_ns = 0;
    std::uint64_t granted_ns = 0;
  };
  Result<FreshLease> new_lease();
  Result<RightTaken> ask(const std::string& guest, const LeaseId& lease, const RightRule& rule);
  void hold(const std::string& guest, const FreshLease& lease, std::uint64_t generation);
  void let_go_of(const std::string& guest, std::optional<MigrationId> taken);

  Result<void> check_begin(const RightToRun& right);
  Result<void> check_offer(const RightToRun& right);
  Result<void> take(const RightToRun& right, const RightRule& rule);
  Result<void> accept(const RightToRun& right);
  Result<void> keep(const RightToRun& right);
  Result<void> offer(const RightToRun& right);
  void give_back(const RightToRun& right);

  void keep_time(const std::stop_token& stop);
  void keep_lease(const std::stop_token& stop);
  void renew();
  void retake();
  void apply();  // what the keeper says now, to the vCPUs
  void poke();

  LockManager& locks_;
  std::string const host_;
  LeaseTerms const terms_;
  Log const log_;

  std::mutex
      talk_mutex_;  // one conversation with the lock manager at a time; taken before the next
  std::optional<FreshLease> spare_;  // guarded by talk_mutex_: for the take that is near
  std::mutex apply_mutex_;           // one order to the vCPUs at a time; taken before mutex_
  PermitUntil permit_;               // guarded by apply_mutex_
  bool stands_ = true;               // guarded by apply_mutex_: as last ordered
  mutable std::mutex mutex_;         // guards all below; never held across I/O
  std::condition_variable_any wake_;
  bool poked_ = false;
  std::optional<LeaseKeeper> keeper_;
  std::string guest_;
  std::optional<MigrationId> taken_;  // by which the guest came here
  LeaseId lease_;
  LeaseAsk asked_ = LeaseAsk::kNothing;

  std::jthread time_thread_;
  std::jthread lease_thread_;
};

}  // namespace sealift
