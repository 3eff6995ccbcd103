#include "tools/agent/secrets_file.h"

#include <unistd.h>

#include <memory>

#include "journal/record.h"
#include "tools/agent/capture.h"

namespace sealift {

Result<RevealSecret> open_secrets_file(const std::string& path) {
  SEALIFT_TRY(const int fd, open_private_file(path, "for secrets"));
  // A shared_ptr because std::function copies.
  const std::shared_ptr<const int> owned(new int(fd), [](const int* file) {
    close(*file);
    delete file;
  });
  return RevealSecret([owned](std::string_view name, ByteView secret) {
    const std::string line = std::string(name) + " " + hex_text(secret) + "\n";
    (void)!write(*owned, line.data(), line.size());  // whole or not at all, on a file
  });
}

}  // namespace sealift
