// Ending a link without losing the last record: the side that spoke last waits, for a bounded time,
// until its peer closed. Closing at once could reset the connection while the record is on its way.
#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <utility>

#include "engine/records.h"

namespace sealift {

// One thread reports that the peer is gone, another waits for it. Threads: any.
class PeerWatch {
 public:
  void set() {
    const std::lock_guard lock(mutex_);
    gone_ = true;
    changed_.notify_all();
  }
  bool wait(std::chrono::milliseconds limit) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, limit, [&] { return gone_; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool gone_ = false;
};

// Calls `shutdown` when `limit` passes before the guard is destroyed: nothing may hang on a peer
// that stopped reading.
class ShutdownGuard {
 public:
  ShutdownGuard(std::function<void()> shutdown, std::chrono::milliseconds limit)
      : thread_([this, shutdown = std::move(shutdown), limit] {
          if (!done_.wait(limit)) shutdown();
        }) {}
  ShutdownGuard(RecordChannel& channel, std::chrono::milliseconds limit)
      : ShutdownGuard([&channel] { channel.shutdown(); }, limit) {}
  ~ShutdownGuard() { done_.set(); }
  ShutdownGuard(const ShutdownGuard&) = delete;
  ShutdownGuard& operator=(const ShutdownGuard&) = delete;

 private:
  PeerWatch done_;
  std::jthread thread_;  // last: joined before done_ goes
};

// Drops what comes until the peer closes or `limit` passes, then shuts the channel down.
void linger(RecordChannel& channel, std::chrono::milliseconds limit);

}  // namespace sealift
