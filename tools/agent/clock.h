// The agent's monotonic clock. The engine has none: times reach it as numbers.
#pragma once

#include <chrono>
#include <cstdint>

namespace sealift {

inline std::uint64_t steady_now_ns() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return static_cast<std::uint64_t>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(now).count());
}

// ns since construction or the last lap().
class Stopwatch {
 public:
  std::uint64_t lap() {
    const std::uint64_t now = steady_now_ns();
    const std::uint64_t passed = now - start_;
    start_ = now;
    return passed;
  }
  std::uint64_t elapsed_ns() const { return steady_now_ns() - start_; }

 private:
  std::uint64_t start_ = steady_now_ns();
};

}  // namespace sealift
