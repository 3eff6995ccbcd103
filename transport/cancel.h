// CancelToken: the operator's "stop" as something that poll() can wait for.
//
// Owner:    shared; copies are one token, and the descriptor lives until the last copy goes.
// Threads:  any thread, any member.
// Failure:  never. When the process is out of descriptors fd() is -1, and waits look at cancelled()
//           every kCancelSlice instead.
// Invariants: once cancelled, always cancelled; every later blocking call under it fails at once.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>

namespace sealift {

class CancelToken {
 public:
  CancelToken();

  void cancel() const;
  [[nodiscard]] bool cancelled() const;
  [[nodiscard]] int fd() const;  // readable once cancelled; never read from it

 private:
  struct State;
  std::shared_ptr<State> state_;
};

using Millis = std::chrono::milliseconds;
inline constexpr Millis kNoTimeout = Millis::max();
inline constexpr Millis kCancelSlice{100};

// A point in time, or never. Plain value.
class Deadline {
 public:
  static Deadline after(Millis timeout);
  static Deadline earlier(Deadline a, Deadline b) { return a.at_ < b.at_ ? a : b; }
  [[nodiscard]] Millis remaining() const;  // 0 when it has passed, kNoTimeout for never

 private:
  explicit Deadline(std::chrono::steady_clock::time_point at) : at_(at) {}
  std::chrono::steady_clock::time_point at_;
};

enum class Wake : std::uint8_t { kReady, kCancelled, kTimedOut };

// Blocks until `fd` is ready for `events` (POLLIN, POLLOUT), fails or hangs up (kReady as well: the
// next call on it says what happened), until `cancel` or until `deadline`. fd -1 waits for those
// two.
Wake wait_for(int fd, short events, const CancelToken& cancel, Deadline deadline);

}  // namespace sealift
