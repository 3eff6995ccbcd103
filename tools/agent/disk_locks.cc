#include "tools/agent/disk_locks.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <system_error>

namespace sealift {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kDescriptorsLookedAtMax = 50'000;
constexpr std::size_t kCommandLineMax = 120;
constexpr std::streamsize kFdinfoMax = 4096;

struct OpenDisk {
  UniqueFd fd;
  struct stat info = {};
};

Result<OpenDisk> open_disk(const std::string& path) {
  OpenDisk disk;
  // Not blocking: a pipe at this place must not hang us.
  disk.fd = UniqueFd(::open(path.c_str(), O_RDWR | O_CLOEXEC | O_NONBLOCK));
  if (!disk.fd || ::fstat(disk.fd.get(), &disk.info) != 0) {
    return fail(ErrorClass::kLocalFault, "disk {} cannot be opened to be locked: {}", path,
                errno_text(errno));
  }
  if (!S_ISREG(disk.info.st_mode) && !S_ISBLK(disk.info.st_mode)) {
    return fail(ErrorClass::kUsage, "disk {} is neither a file nor a block device", path);
  }
  return disk;
}

struct flock whole_file(short type) {
  struct flock lock = {};  // l_pid must be 0
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  return lock;
}

std::string read_some(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::string text(kFdinfoMax, '\0');
  file.read(text.data(), kFdinfoMax);
  text.resize(static_cast<std::size_t>(file.gcount()));
  return text;
}

std::string process_text(const std::string& pid) {
  std::string command = read_some("/proc/" + pid + "/cmdline").substr(0, kCommandLineMax);
  while (!command.empty() && command.back() == '\0') command.pop_back();
  for (char& c : command) {
    if (c < ' ' || c > '~') c = ' ';
  }
  return command.empty() ? "process " + pid : fmt::format("process {} ({})", pid, command);
}

// The kernel does not say who owns such a lock, but each process's /proc/PID/fdinfo lists those of
// its descriptors: for our own user's processes on this host.
std::string holder_in_proc(const struct stat& info) {
  const std::string file =
      fmt::format(" {:02x}:{:02x}:{} ", major(info.st_dev), minor(info.st_dev), info.st_ino);
  std::size_t looked_at = 0;
  std::error_code ignored;
  for (const fs::directory_entry& process : fs::directory_iterator("/proc", ignored)) {
    const std::string pid = process.path().filename();
    if (pid.find_first_not_of("0123456789") != std::string::npos) continue;
    std::error_code unreadable;
    for (const fs::directory_entry& fd :
         fs::directory_iterator(process.path() / "fdinfo", unreadable)) {
      if (++looked_at > kDescriptorsLookedAtMax) return {};
      const std::string text = read_some(fd.path());
      if (const std::size_t lock = text.find("\nlock:");
          lock != std::string::npos && text.find(file, lock) != std::string::npos) {
        return process_text(pid);
      }
    }
  }
  return {};
}

std::string holder_text(const OpenDisk& disk) {
  struct flock other = whole_file(F_WRLCK);
  if (::fcntl(disk.fd.get(), F_OFD_GETLK, &other) == 0 && other.l_type != F_UNLCK &&
      other.l_pid > 0) {
    return process_text(std::to_string(other.l_pid));
  }
  const std::string holder = holder_in_proc(disk.info);
  return holder.empty() ? "somebody that this agent cannot see" : holder;
}

}  // namespace

Result<void> DiskLocks::check() const {
  std::vector<struct stat> seen;
  for (const std::string& path : paths_) {
    SEALIFT_TRY(const OpenDisk disk, open_disk(path));
    for (const struct stat& other : seen) {
      if (other.st_dev != disk.info.st_dev || other.st_ino != disk.info.st_ino) continue;
      return fail(ErrorClass::kUsage, "disk {} is the same file as another disk of this guest",
                  path);
    }
    seen.push_back(disk.info);
  }
  return {};
}

Result<void> DiskLocks::acquire() {
  if (held()) return {};
  SEALIFT_CHECK(check());
  std::vector<UniqueFd> locked;  // closing gives back what was taken when a later one fails
  for (const std::string& path : paths_) {
    // Opened anew: since the last time, another file may have got the name.
    SEALIFT_TRY(OpenDisk disk, open_disk(path));
    struct flock lock = whole_file(F_WRLCK);
    if (::fcntl(disk.fd.get(), F_OFD_SETLK, &lock) != 0) {
      const int error = errno;
      if (error == EAGAIN || error == EACCES) {
        return fail(ErrorClass::kRefused, "disk {} is locked by {}", path, holder_text(disk));
      }
      return fail(ErrorClass::kLocalFault, "disk {} cannot be locked: {}", path, errno_text(error));
    }
    locked.push_back(std::move(disk.fd));
  }
  files_ = std::move(locked);
  return {};
}

void DiskLocks::release() {
  // Unlocked before it is closed: a child between fork and exec may share the description.
  for (const UniqueFd& file : files_) {
    struct flock unlock = whole_file(F_UNLCK);
    static_cast<void>(::fcntl(file.get(), F_OFD_SETLK, &unlock));  // cannot fail on an open file
  }
  files_.clear();
}

}  // namespace sealift
