// RightResources: what the outside world has that must be where the guest runs: the locks of its
// disks, its addresses in the network, and the operator's programs that want to hear of it.
//
// The journal's records move them. Locks: given up once Committing is durable, when no vCPU runs
// here any more; taken before Taken is written at the destination, and before Kept is at a source
// that had given them up. So whoever runs the guest holds them, and nobody needs to wait: the
// Handover that lets the destination ask for them left after the source let go.
//
// Spec:    docs/spec/handover.md, "Disks and their locks"; docs/operations.md, "Hooks".
// Owner:   the agent; outlives its RightKeeper and its guest.
// Threads: any.
// Failure: a lock that cannot be had refuses the record, and so the run. What fails of announcing
//          and of hooks is in status() and the log, and changes nothing.
// Invariant: a guest of this agent runs only while held() of its locks.
#pragma once

#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "tools/agent/announcer.h"
#include "tools/agent/disk_locks.h"
#include "tools/agent/hooks.h"
#include "tools/agent/right_keeper.h"

namespace sealift {

struct ResourcesConfig {
  std::vector<std::string> disks;
  std::vector<AnnouncePort> announce;
  std::vector<Hook> hooks;
  Millis hook_time_max{10'000};

  bool empty() const { return disks.empty() && announce.empty() && hooks.empty(); }
};

// For each target; before the process drops its capabilities.
Result<std::vector<AnnouncePort>> open_announce_ports(const std::vector<AnnounceTarget>& targets);

struct ResourcesStatus {
  std::vector<std::string> disks;
  bool disks_locked = false;
  std::vector<std::string> announce;
  AnnounceStatus announced;
  std::size_t hooks = 0;
  HookStatus hook_runs;
};

class RightResources final : public RightFollower {
 public:
  // `launches`: the guest that this process launches itself; of older migrations of that one
  // nothing is told again.
  RightResources(ResourcesConfig config, std::string launches, Hooks::Log log);

  // Before vCPUs run without a record of this process having come first: a launch. No-op while
  // held.
  Result<void> lock_to_run();
  // Before a guest arrives: whether its disks could be locked at all.
  Result<void> check_for_arrival() const;

  void found(const JournalEntry& last) override;
  Result<void> before(JournalKind kind, const RightToRun& right) override;
  Result<void> after(const JournalRecord& record) override;

  // Of the migration whose record was the last one here.
  void guest_runs();  // the guest that was taken
  void guest_in_doubt(std::string reason);
  void guest_lost(std::string reason);       // at the source: it cannot be resumed
  void arrival_dropped(std::string reason);  // the copy that was arriving is gone

  ResourcesStatus status() const;

 private:
  bool is_ours(const RightToRun& right) const {
    return current_ && current_->migration == right.migration;
  }
  void fire_current(HookEvent event, std::string reason);

  std::string const launches_;
  mutable std::mutex mutex_;
  std::optional<RightToRun> current_;       // Begun or Offered by this process
  JournalKind last_ = JournalKind::kBegun;  // its last record
  bool gave_locks_up_ = false;              // for a Handover of this process
  // Destroyed from the bottom up: locks first, then hooks have time to end.
  Hooks hooks_;
  Announcer announcer_;
  DiskLocks locks_;
};

}  // namespace sealift
