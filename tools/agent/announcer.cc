#include "tools/agent/announcer.h"

#include "tools/agent/clock.h"

namespace sealift {

void Announcer::start() {
  if (ports_.empty()) return;
  stop();
  const std::lock_guard lock(starting_);
  cancel_ = CancelToken();
  thread_ = std::jthread([this, cancel = cancel_, started_ns = steady_now_ns()] {
    send_all(started_ns);
    for (const Millis gap : kGaps) {
      if (wait_for(-1, 0, cancel, Deadline::after(gap)) == Wake::kCancelled) return;
      send_all(started_ns);
    }
  });
}

void Announcer::stop() {
  const std::lock_guard lock(starting_);
  cancel_.cancel();
  if (thread_.joinable()) thread_.join();
}

void Announcer::send_all(std::uint64_t started_ns) {
  for (const AnnouncePort& port : ports_) {
    auto sent = port.send();
    const std::lock_guard lock(mutex_);
    if (!sent) {
      status_.error = std::move(sent.error().detail);
      continue;
    }
    if (status_.frames_sent++ == 0 || status_.first_after_ns == 0) {
      status_.first_after_ns = steady_now_ns() - started_ns;
    }
  }
}

AnnounceStatus Announcer::status() const {
  const std::lock_guard lock(mutex_);
  return status_;
}

}  // namespace sealift
