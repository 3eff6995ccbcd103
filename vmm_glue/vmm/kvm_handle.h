// A KVM file descriptor (system, VM or vCPU) and its ioctls with errors that say which one failed
// and why.
//
// Owner:   whoever holds the handle; the descriptor closes with it.
// Threads: as the ioctl allows.
// Failure: kLocalFault, "KVM_SET_SREGS failed: EINVAL".
#pragma once

#include <fmt/core.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "engine/result.h"

namespace sealift {

class KvmHandle {
 public:
  KvmHandle() = default;
  explicit KvmHandle(int fd) : fd_(fd) {}
  KvmHandle(KvmHandle&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  KvmHandle& operator=(KvmHandle&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~KvmHandle() {
    if (fd_ >= 0) close(fd_);
  }

  int fd() const { return fd_; }

  // The value of an ioctl that returns one. `name` is the ioctl's, for the error.
  template <class Argument>
  Result<int> call(const char* name, unsigned long request, Argument argument) const {
    const int got = ioctl(fd_, request, argument);
    if (got < 0) {
      return fail(ErrorClass::kLocalFault, "{} failed: {}", name, strerrorname_np(errno));
    }
    return got;
  }
  Result<int> call(const char* name, unsigned long request) const {
    return call(name, request, 0UL);
  }

 private:
  int fd_ = -1;
};

#define SEALIFT_KVM(handle, request, argument) (handle).call(#request, request, argument)

}  // namespace sealift
