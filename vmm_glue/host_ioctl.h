// HostIoctl: the line between us and the kernel for platform commands. Everything above it is the
// code that runs on hardware; a software platform (model/) implements the same line below.
//
// Owner:   whoever wires the VMM; outlives every driver that was given it.
// Threads: any; an implementation serialises what its kernel would serialise.
// Failure: a result below 0 is -errno. The meaning of the argument's own error fields is the
//          ioctl's.
#pragma once

#include <string>

namespace sealift {

class HostIoctl {
 public:
  virtual ~HostIoctl() = default;
  // 0 or a positive result, or -errno.
  virtual int ioctl(int fd, unsigned long request, void* arg) = 0;
};

// The real kernel.
class KernelIoctl final : public HostIoctl {
 public:
  int ioctl(int fd, unsigned long request, void* arg) override;
};

// "EIO (Input/output error)" for 5; what every message about a failed ioctl contains.
std::string errno_text(int error_number);

}  // namespace sealift
