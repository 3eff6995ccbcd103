// Disk: the system calls that the journal needs, as a line at which tests stand.
//
// Each call is one system call: it may transfer less than asked and may be interrupted, and answers
// a count, a handle or 0, or minus errno. Loops and decisions are above it, in DiskFile and
// Journal. Threads: one user at a time for each handle. Failure: as said; nothing is retried below
// this line.
#pragma once

#include <cerrno>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "engine/result.h"
#include "engine/types.h"

namespace sealift {

class Disk {
 public:
  enum class Open : std::uint8_t {
    kExisting,  // read and write, must exist
    kCreate,    // read and write, made with mode 0600 if it is missing
    kReplace,   // as kCreate, and empty
  };

  Disk() = default;
  Disk(const Disk&) = delete;
  Disk& operator=(const Disk&) = delete;
  virtual ~Disk() = default;

  virtual int open_file(const std::string& path, Open how) = 0;  // a regular file; no symbolic link
  virtual void close_file(int file) = 0;                         // gives its lock back
  virtual std::int64_t read_at(int file, MutableBytes into, std::uint64_t offset) = 0;
  virtual std::int64_t write_at(int file, ByteView bytes, std::uint64_t offset) = 0;
  // The file has at least `bytes` bytes, new ones are zeros, and writing to any of them needs no
  // more space.
  virtual int reserve(int file, std::uint64_t bytes) = 0;
  // What was written before survives a crash. After an error nobody knows what does, and no second
  // call changes that.
  virtual int sync_file(int file) = 0;
  virtual int lock_file(int file) = 0;  // exclusive, until closed; -EWOULDBLOCK: somebody has it

  // A directory that only this user may enter (mode 0700); -EPERM: it is another's, or others may.
  virtual int make_directory(const std::string& path) = 0;
  virtual int sync_directory(const std::string& path) = 0;  // names made and changed before survive
  virtual int rename_file(const std::string& from, const std::string& to) = 0;
  virtual int remove_file(const std::string& path) = 0;
  virtual int list(const std::string& path, std::vector<std::string>& names) = 0;
  virtual std::uint64_t process_id() const = 0;
};

// Repeats a call that was interrupted. One that is interrupted for ever is a broken system, and
// answers so.
template <class Call>
auto uninterrupted(Call call) {
  constexpr int kInterruptionsMax = 1000;
  auto result = call();
  for (int i = 0; result == -EINTR && i < kInterruptionsMax; ++i) result = call();
  return result;
}

// "Input/output error (errno 5)" for -EIO.
std::string disk_error_text(std::int64_t negative_errno);

// An open file of a Disk: closes it, and finishes what a single call left undone.
class DiskFile {
 public:
  static Result<DiskFile> open(Disk& disk, std::string path, Disk::Open how);
  DiskFile(DiskFile&& other) noexcept
      : disk_(other.disk_), path_(std::move(other.path_)), file_(std::exchange(other.file_, -1)) {}
  DiskFile& operator=(DiskFile&& other) noexcept;
  ~DiskFile() { close(); }

  const std::string& path() const { return path_; }
  // The whole file; kLocalFault if it is longer than `bytes_max`.
  Result<Bytes> read(std::size_t bytes_max) const;
  Result<void> write(ByteView bytes, std::uint64_t offset);
  Result<void> reserve(std::uint64_t bytes);
  Result<void> sync();
  Result<void> rename(std::string to);  // within its directory
  // False: somebody else has it.
  Result<bool> lock();

 private:
  DiskFile(Disk& disk, std::string path, int file)
      : disk_(&disk), path_(std::move(path)), file_(file) {}
  void close();

  Disk* disk_;
  std::string path_;
  int file_;
};

}  // namespace sealift
