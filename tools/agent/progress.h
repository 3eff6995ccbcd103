// Progress: what a running migration looks like from outside, for `migrate status` and `watch`.
//
// Owner: the agent; written by a runner, read by API threads. Threads: any (one mutex). Failure:
// none.
#pragma once

#include <cstdint>
#include <mutex>
#include <optional>
#include <string>

#include "engine/policy.h"
#include "engine/stats.h"

namespace sealift {

struct ProgressSnapshot {
  std::string phase;
  std::uint64_t started_ns = 0;                 // steady clock
  std::uint64_t round_pages = 0;                // taken into the running round
  RoundStats round{.epochs = 0, .passes = 0};   // the running round so far
  RoundStats totals{.epochs = 0, .passes = 0};  // finished rounds
  std::uint32_t rounds = 0;
  Rates rates;
  std::optional<Decision> decision;
  bool guest_paused = false;
};

class Progress {
 public:
  ProgressSnapshot read() const {
    const std::lock_guard lock(mutex_);
    return snapshot_;
  }
  template <class Change>
  void update(Change change) {
    const std::lock_guard lock(mutex_);
    change(snapshot_);
  }

 private:
  mutable std::mutex mutex_;
  ProgressSnapshot snapshot_;
};

}  // namespace sealift
