#include "tools/agent/capture.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <memory>
#include <system_error>

#include "engine/assert.h"

namespace sealift {

Result<int> open_private_file(const std::string& path, const char* what) {
  const auto refuse = [&](const std::string& why) {
    return fail(ErrorClass::kUsage, "opening {} {}: {}", path, what, why);
  };
  const auto errno_words = [] {
    return fmt::format("{} (errno {})", std::generic_category().message(errno), errno);
  };
  // A FIFO without a reader would block; nothing is emptied before it is known to be a file.
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600);
  if (fd < 0) return refuse(errno_words());
  struct stat about{};
  std::string why;
  if (fstat(fd, &about) != 0) {
    why = errno_words();
  } else if (!S_ISREG(about.st_mode)) {
    why = "it is no regular file";
  } else if (fchmod(fd, 0600) != 0 || ftruncate(fd, 0) != 0) {
    why = errno_words();
  }
  if (why.empty()) return fd;
  close(fd);
  return refuse(why);
}

Result<FrameTap> open_capture(const std::string& path) {
  SEALIFT_TRY(const int fd, open_private_file(path, "for a capture"));
  std::FILE* file = fdopen(fd, "wb");
  SEALIFT_ASSERT(file != nullptr);
  // A shared_ptr because std::function copies.
  std::shared_ptr<std::FILE> owned(file, [](std::FILE* f) { std::fclose(f); });
  return FrameTap([owned, broken = false](ByteView bytes) mutable {
    if (broken) return;
    broken = std::fwrite(bytes.data(), 1, bytes.size(), owned.get()) != bytes.size();
  });
}

}  // namespace sealift
