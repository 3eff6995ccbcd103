#include "transport/cancel.h"

#include <poll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <memory>

#include "engine/assert.h"
#include "transport/fd.h"

namespace sealift {

struct CancelToken::State {
  std::atomic<bool> cancelled{false};
  UniqueFd event{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
};

CancelToken::CancelToken() : state_(std::make_shared<State>()) {}

void CancelToken::cancel() const {
  state_->cancelled.store(true, std::memory_order_release);
  if (!state_->event) return;
  const std::uint64_t one = 1;
  // A full counter (EAGAIN) is readable already, and nothing else can fail.
  const auto ignored = ::write(state_->event.get(), &one, sizeof one);
  static_cast<void>(ignored);
}

bool CancelToken::cancelled() const { return state_->cancelled.load(std::memory_order_acquire); }

int CancelToken::fd() const { return state_->event.get(); }

Deadline Deadline::after(Millis timeout) {
  using Point = std::chrono::steady_clock::time_point;
  const Point now = std::chrono::steady_clock::now();
  if (timeout >= std::chrono::duration_cast<Millis>(Point::max() - now)) {
    return Deadline(Point::max());
  }
  return Deadline(now + timeout);
}

Millis Deadline::remaining() const {
  if (at_ == std::chrono::steady_clock::time_point::max()) return kNoTimeout;
  const auto left = at_ - std::chrono::steady_clock::now();
  return std::max(Millis{0}, std::chrono::ceil<Millis>(left));
}

Wake wait_for(int fd, short events, const CancelToken& cancel, Deadline deadline) {
  constexpr Millis kSliceMax{60'000};  // poll() takes an int; a longer wait is several
  for (;;) {
    if (cancel.cancelled()) return Wake::kCancelled;
    const Millis left = deadline.remaining();
    const Millis slice = std::min(left, cancel.fd() < 0 ? kCancelSlice : kSliceMax);
    pollfd fds[2] = {{fd, events, 0}, {cancel.fd(), POLLIN, 0}};
    const int ready = ::poll(fds, 2, static_cast<int>(slice.count()));
    SEALIFT_ASSERT(ready >= 0 || errno == EINTR);
    if (ready > 0 && fds[1].revents != 0) return Wake::kCancelled;
    if (ready > 0 && fds[0].revents != 0) return Wake::kReady;
    if (left == Millis{0} && !cancel.cancelled()) return Wake::kTimedOut;
  }
}

}  // namespace sealift
