// PosixDisk: Disk by system calls.
//
// sync_file() is fdatasync(), which keeps content, size and blocks, and not times: nothing here
// reads times. reserve() is posix_fallocate(). Threads, Failure: as Disk.
#pragma once

#include <string>
#include <vector>

#include "journal/disk.h"

namespace sealift {

class PosixDisk final : public Disk {
 public:
  int open_file(const std::string& path, Open how) override;
  void close_file(int file) override;
  std::int64_t read_at(int file, MutableBytes into, std::uint64_t offset) override;
  std::int64_t write_at(int file, ByteView bytes, std::uint64_t offset) override;
  int reserve(int file, std::uint64_t bytes) override;
  int sync_file(int file) override;
  int lock_file(int file) override;
  int make_directory(const std::string& path) override;
  int sync_directory(const std::string& path) override;
  int rename_file(const std::string& from, const std::string& to) override;
  int remove_file(const std::string& path) override;
  int list(const std::string& path, std::vector<std::string>& names) override;
  std::uint64_t process_id() const override;
};

}  // namespace sealift
