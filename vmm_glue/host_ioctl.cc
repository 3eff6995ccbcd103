#include "vmm_glue/host_ioctl.h"

#include <fmt/core.h>
#include <sys/ioctl.h>

#include <cerrno>
#include <cstring>

namespace sealift {

int KernelIoctl::ioctl(int fd, unsigned long request, void* arg) {
  const int result = ::ioctl(fd, request, arg);
  return result < 0 ? -errno : result;
}

std::string errno_text(int error_number) {
  const char* name = strerrorname_np(error_number);
  const char* words = strerrordesc_np(error_number);
  if (name == nullptr || words == nullptr) return fmt::format("errno {}", error_number);
  return fmt::format("{} ({})", name, words);
}

}  // namespace sealift
