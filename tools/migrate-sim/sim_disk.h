// SimDisk: a host's disk as its processes see it. Every operation asks the chooser whether it
// fails: with an error, with the death of the process, or with the power. What a crash leaves is
// FaultyDisk's.
//
// Owner: the host; outlives its processes. Threads: one. Failure: as Disk; a crash is thrown.
#pragma once

#include <cerrno>
#include <functional>
#include <string>
#include <vector>

#include "journal/test_disk.h"

namespace sealift::sim {

enum class DiskStrike : std::uint8_t { kNone, kError, kNoSpace, kDeath, kPower };

class SimDisk final : public Disk {
 public:
  // `strike` is asked before every operation.
  explicit SimDisk(std::function<DiskStrike()> strike) : strike_(std::move(strike)) {}

  test::FaultyDisk& platter() { return platter_; }
  // How the operation that has thrown ended its process.
  DiskStrike death() const { return death_; }
  void restarted() { death_ = DiskStrike::kNone; }

  int open_file(const std::string& path, Open how) override {
    before();
    return platter_.open_file(path, how);
  }
  void close_file(int file) override { platter_.close_file(file); }
  std::int64_t read_at(int file, MutableBytes into, std::uint64_t offset) override {
    return platter_.read_at(file, into, offset);
  }
  std::int64_t write_at(int file, ByteView bytes, std::uint64_t offset) override {
    before();
    return platter_.write_at(file, bytes, offset);
  }
  int reserve(int file, std::uint64_t bytes) override {
    before();
    return platter_.reserve(file, bytes);
  }
  int sync_file(int file) override {
    before();
    return platter_.sync_file(file);
  }
  int lock_file(int file) override { return platter_.lock_file(file); }
  int make_directory(const std::string& path) override { return platter_.make_directory(path); }
  int sync_directory(const std::string& path) override {
    before();
    return platter_.sync_directory(path);
  }
  int rename_file(const std::string& from, const std::string& to) override {
    before();
    return platter_.rename_file(from, to);
  }
  int remove_file(const std::string& path) override { return platter_.remove_file(path); }
  int list(const std::string& path, std::vector<std::string>& names) override {
    return platter_.list(path, names);
  }
  std::uint64_t process_id() const override { return platter_.process_id(); }

 private:
  void before() {
    const DiskStrike strike = strike_();
    const std::uint64_t now = platter_.operations();
    if (strike == DiskStrike::kError) platter_.fail_at(now, EIO);
    if (strike == DiskStrike::kNoSpace) platter_.fail_at(now, ENOSPC);
    if (strike != DiskStrike::kPower && strike != DiskStrike::kDeath) return;
    death_ = strike;
    platter_.crash_before(now);
  }

  std::function<DiskStrike()> strike_;
  test::FaultyDisk platter_;
  DiskStrike death_ = DiskStrike::kNone;
};

}  // namespace sealift::sim
