#include "journal/posix_disk.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <string_view>

namespace sealift {
namespace {

template <class Number>
Number or_errno(Number result) {
  return result < 0 ? Number{-errno} : result;
}

int flags_of(Disk::Open how) {
  switch (how) {
    case Disk::Open::kExisting:
      return O_RDWR;
    case Disk::Open::kCreate:
      return O_RDWR | O_CREAT;
    case Disk::Open::kReplace:
      return O_RDWR | O_CREAT | O_TRUNC;
  }
  return O_RDWR;
}

// 0, or minus errno. The descriptor is closed by the caller.
int check_regular(int fd) {
  struct stat info{};
  if (::fstat(fd, &info) != 0) return -errno;
  return S_ISREG(info.st_mode) ? 0 : -EINVAL;
}

}  // namespace

int PosixDisk::open_file(const std::string& path, Open how) {
  // O_NONBLOCK: a FIFO in the place of the file is refused and not waited for.
  const int fd =
      ::open(path.c_str(), flags_of(how) | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, mode_t{0600});
  if (fd < 0) return -errno;
  const int regular = check_regular(fd);
  if (regular == 0) return fd;
  ::close(fd);
  return regular;
}

void PosixDisk::close_file(int file) { ::close(file); }

std::int64_t PosixDisk::read_at(int file, MutableBytes into, std::uint64_t offset) {
  return or_errno<std::int64_t>(
      ::pread(file, into.data(), into.size(), static_cast<off_t>(offset)));
}

std::int64_t PosixDisk::write_at(int file, ByteView bytes, std::uint64_t offset) {
  return or_errno<std::int64_t>(
      ::pwrite(file, bytes.data(), bytes.size(), static_cast<off_t>(offset)));
}

int PosixDisk::reserve(int file, std::uint64_t bytes) {
  return -::posix_fallocate(file, 0, static_cast<off_t>(bytes));
}

int PosixDisk::sync_file(int file) { return or_errno(::fdatasync(file)); }

int PosixDisk::lock_file(int file) { return or_errno(::flock(file, LOCK_EX | LOCK_NB)); }

int PosixDisk::make_directory(const std::string& path) {
  if (::mkdir(path.c_str(), 0700) != 0 && errno != EEXIST) return -errno;
  struct stat info{};
  if (::lstat(path.c_str(), &info) != 0) return -errno;
  if (!S_ISDIR(info.st_mode)) return -ENOTDIR;
  return info.st_uid == ::geteuid() && (info.st_mode & 077) == 0 ? 0 : -EPERM;
}

int PosixDisk::sync_directory(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return -errno;
  const int result = or_errno(::fsync(fd));
  ::close(fd);
  return result;
}

int PosixDisk::rename_file(const std::string& from, const std::string& to) {
  return or_errno(::rename(from.c_str(), to.c_str()));
}

int PosixDisk::remove_file(const std::string& path) { return or_errno(::unlink(path.c_str())); }

int PosixDisk::list(const std::string& path, std::vector<std::string>& names) {
  struct Close {
    void operator()(DIR* dir) const { ::closedir(dir); }
  };
  const std::unique_ptr<DIR, Close> dir(::opendir(path.c_str()));
  if (dir == nullptr) return -errno;
  for (;;) {
    errno = 0;
    const dirent* entry = ::readdir(dir.get());  // NOLINT(concurrency-mt-unsafe): our own DIR
    if (entry == nullptr) return -errno;
    const std::string_view name = &entry->d_name[0];
    if (name != "." && name != "..") names.emplace_back(name);
  }
}

std::uint64_t PosixDisk::process_id() const { return static_cast<std::uint64_t>(::getpid()); }

}  // namespace sealift
