#include "tools/agent/announcer.h"

#include "tools/agent/clock.h"

namespace sealift {

void Announcer::start() {
  if (ports_.empty()) return;
  stop();
  const std::lock_guard lock(starting_);
  cancel_ = CancelToken();
  thread_ = std::jthread([this, cancel = cancel_, begun = Stopwatch()] {
    send_all();
    const std::uint64_t first_after_ns = begun.elapsed_ns();
    {
      const std::lock_guard first(mutex_);
      status_.first_after_ns = first_after_ns;
    }
    for (const Millis gap : kGaps) {
      if (wait_for(-1, 0, cancel, Deadline::after(gap)) == Wake::kCancelled) return;
      send_all();
    }
  });
}

void Announcer::stop() {
  const std::lock_guard lock(starting_);
  cancel_.cancel();
  if (thread_.joinable()) thread_.join();
}

void Announcer::send_all() {
  for (const AnnouncePort& port : ports_) {
    auto sent = port.send();
    const std::lock_guard lock(mutex_);
    if (!sent) {
      status_.error = std::move(sent.error().detail);
      continue;
    }
    ++status_.frames_sent;
  }
}

AnnounceStatus Announcer::status() const {
  const std::lock_guard lock(mutex_);
  return status_;
}

}  // namespace sealift
