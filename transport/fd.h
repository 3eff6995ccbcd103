// UniqueFd: one file descriptor with one owner, closed when the owner goes.
//
// Threads: plain value, move-only. Failure: close() errors are ignored; nothing here can act on
// one. Invariants: get() is -1 (empty) or a descriptor nobody else closes.
#pragma once

#include <fmt/core.h>
#include <string.h>
#include <unistd.h>

#include <string>
#include <utility>

namespace sealift {

class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    if (this != &other) {
      reset();
      fd_ = std::exchange(other.fd_, -1);
    }
    return *this;
  }
  UniqueFd(const UniqueFd&) = delete;
  UniqueFd& operator=(const UniqueFd&) = delete;
  ~UniqueFd() { reset(); }

  [[nodiscard]] int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }
  void reset() {
    if (fd_ >= 0) ::close(fd_);
    fd_ = -1;
  }

 private:
  int fd_ = -1;
};

// "Connection refused (errno 111)"
inline std::string errno_text(int code) {
  const char* text = ::strerrordesc_np(code);
  return fmt::format("{} (errno {})", text != nullptr ? text : "unknown error", code);
}

}  // namespace sealift
