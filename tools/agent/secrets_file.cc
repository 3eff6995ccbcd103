#include "tools/agent/secrets_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <system_error>

#include "tools/agent/guest_digest.h"

namespace sealift {

Result<RevealSecret> open_secrets_file(const std::string& path) {
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (fd < 0) {
    return fail(ErrorClass::kUsage, "opening {} for secrets: {} (errno {})", path,
                std::generic_category().message(errno), errno);
  }
  // A shared_ptr because std::function copies.
  const std::shared_ptr<const int> owned(new int(fd), [](const int* file) {
    close(*file);
    delete file;
  });
  return RevealSecret([owned](std::string_view name, ByteView secret) {
    const std::string line = std::string(name) + " " + hex(secret) + "\n";
    (void)!write(*owned, line.data(), line.size());  // whole or not at all, on a file
  });
}

}  // namespace sealift
