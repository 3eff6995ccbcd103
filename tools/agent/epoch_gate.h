// EpochGate: where the threads of a destination's streams wait until an epoch may be applied.
//
// Owner: StreamReceivers. Threads: any. Failure: kCancelled once closed; kMalformed for an epoch
// that no honest source can have reached.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>

#include "engine/result.h"

namespace sealift {

class EpochGate {
 public:
  void open(std::uint32_t epoch) {
    const std::lock_guard lock(mutex_);
    open_ = epoch;
    changed_.notify_all();
  }
  void close() {
    const std::lock_guard lock(mutex_);
    closed_ = true;
    changed_.notify_all();
  }
  // Returns once `epoch` or a later one is open. A stream may be one epoch ahead of stream 0.
  Result<void> await(std::uint32_t epoch) {
    std::unique_lock lock(mutex_);
    if (epoch > open_ + std::uint64_t{1}) {
      return fail(ErrorClass::kMalformed, "epoch {} came while epoch {} was open", epoch, open_);
    }
    changed_.wait(lock, [&] { return closed_ || open_ >= epoch; });
    if (closed_) return fail(ErrorClass::kCancelled, "the session is over");
    return {};
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::uint32_t open_ = 0;
  bool closed_ = false;
};

}  // namespace sealift
