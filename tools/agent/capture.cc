#include "tools/agent/capture.h"

#include <fcntl.h>

#include <cerrno>
#include <cstdio>
#include <memory>
#include <system_error>

namespace sealift {

Result<FrameTap> open_capture(const std::string& path) {
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
  std::FILE* file = fd < 0 ? nullptr : fdopen(fd, "wb");
  if (file == nullptr) {
    return fail(ErrorClass::kUsage, "opening the capture {}: {} (errno {})", path,
                std::generic_category().message(errno), errno);
  }
  // A shared_ptr because std::function copies.
  std::shared_ptr<std::FILE> owned(file, [](std::FILE* f) { std::fclose(f); });
  return FrameTap([owned, broken = false](ByteView bytes) mutable {
    if (broken) return;
    broken = std::fwrite(bytes.data(), 1, bytes.size(), owned.get()) != bytes.size();
  });
}

}  // namespace sealift
