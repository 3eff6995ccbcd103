// migrate-dump: prints a captured migration stream, or a journal of the right to run, in words.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <string>
#include <string_view>

#include "tools/migrate-dump/dump.h"
#include "tools/migrate-dump/dump_journal.h"

namespace {

constexpr int kExitOk = 0;
constexpr int kExitMalformed = 1;
constexpr int kExitUsage = 2;

constexpr const char* kUsage =
    "usage: migrate-dump FILE\n"
    "\n"
    "Prints a captured migration stream, one line for each frame: offset, record type, stream,\n"
    "sequence, sizes and the record's key fields. FILE holds the frames of one direction of a "
    "session.\n"
    "The contents of memory and of vCPU state are not printed.\n"
    "\n"
    "FILE may also be a journal of an agent (NAME.journal, in use or not): one line for each "
    "record,\n"
    "then what holds for each migration. It is only read.\n"
    "\n"
    "  --help   this text\n"
    "\n"
    "Exit status: 0 FILE is sound; 1 it is malformed (what was good is printed first);\n"
    "2 the command line is wrong or FILE cannot be read.\n";

int cannot(const char* what, const std::string& path) {
  std::fprintf(stderr, "migrate-dump: cannot %s %s: %s\n", what, path.c_str(),
               std::strerror(errno));  // NOLINT(concurrency-mt-unsafe): one thread
  return kExitUsage;
}

void print_line(std::string_view line) {
  std::printf("%.*s\n", static_cast<int>(line.size()), line.data());
}

int dump_records(sealift::ByteView bytes) {
  const auto result = sealift::dump_journal(bytes, print_line);
  std::printf("%zu records, %zu bytes\n", result.records, bytes.size());
  std::fflush(stdout);
  if (!result.error) return kExitOk;
  std::fprintf(stderr, "migrate-dump: %s\n", result.error->detail.c_str());
  return kExitMalformed;
}

int dump(sealift::ByteView bytes) {
  if (sealift::looks_like_journal(bytes)) return dump_records(bytes);
  const auto result = sealift::dump_stream(bytes, print_line);
  std::printf("%llu frames, %zu bytes\n", static_cast<unsigned long long>(result.frames),
              bytes.size());
  std::fflush(stdout);
  if (!result.error) return kExitOk;
  std::fprintf(stderr, "migrate-dump: the stream is malformed %s\n", result.error->detail.c_str());
  return kExitMalformed;
}

// A capture may be larger than memory, so it is mapped and not read.
int dump_file(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return cannot("open", path);
  struct stat info = {};
  if (::fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
    if (errno == 0) errno = EINVAL;
    ::close(fd);
    return cannot("use as a regular file", path);
  }
  const auto size = static_cast<std::size_t>(info.st_size);
  void* mapped = size == 0 ? nullptr : ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd, 0);
  ::close(fd);
  if (mapped == MAP_FAILED) return cannot("map", path);
  const int status = dump({static_cast<const std::byte*>(mapped), size});
  if (mapped != nullptr) ::munmap(mapped, size);
  return status;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 2 && (std::string_view(argv[1]) == "--help" || std::string_view(argv[1]) == "-h")) {
    std::fputs(kUsage, stdout);
    return kExitOk;
  }
  if (argc != 2 || std::string_view(argv[1]).substr(0, 2) == "--") {
    std::fputs(kUsage, stderr);
    return kExitUsage;
  }
  errno = 0;
  return dump_file(argv[1]);
}
