#include "journal/disk.h"

#include <string.h>

#include <algorithm>

namespace sealift {
namespace {

Failure failed(const char* what, const std::string& path, std::int64_t error) {
  return fail(ErrorClass::kLocalFault, "{} {}: {}", what, path, disk_error_text(error));
}

}  // namespace

std::string disk_error_text(std::int64_t negative_errno) {
  const int code = static_cast<int>(-negative_errno);
  const char* text = ::strerrordesc_np(code);
  return fmt::format("{} (errno {})", text != nullptr ? text : "unknown error", code);
}

Result<DiskFile> DiskFile::open(Disk& disk, std::string path, Disk::Open how) {
  const int file = uninterrupted([&] { return disk.open_file(path, how); });
  if (file < 0) return failed("opening", path, file);
  return DiskFile(disk, std::move(path), file);
}

DiskFile& DiskFile::operator=(DiskFile&& other) noexcept {
  if (this != &other) {
    close();
    disk_ = other.disk_;
    path_ = std::move(other.path_);
    file_ = std::exchange(other.file_, -1);
  }
  return *this;
}

void DiskFile::close() {
  if (file_ >= 0) disk_->close_file(file_);
  file_ = -1;
}

Result<Bytes> DiskFile::read(std::size_t bytes_max) const {
  Bytes bytes;
  constexpr std::size_t kStep = 64u << 10;
  for (;;) {
    const std::size_t had = bytes.size();
    bytes.resize(std::min(had + kStep, bytes_max + 1));
    const MutableBytes space = MutableBytes(bytes).subspan(had);
    const std::int64_t got = uninterrupted([&] { return disk_->read_at(file_, space, had); });
    if (got < 0) return failed("reading", path_, got);
    bytes.resize(had + static_cast<std::size_t>(got));
    if (got == 0) return bytes;
    if (bytes.size() > bytes_max) {
      return fail(ErrorClass::kLocalFault, "{} is longer than {} bytes", path_, bytes_max);
    }
  }
}

Result<void> DiskFile::write(ByteView bytes, std::uint64_t offset) {
  while (!bytes.empty()) {
    const std::int64_t wrote = uninterrupted([&] { return disk_->write_at(file_, bytes, offset); });
    if (wrote < 0) return failed("writing", path_, wrote);
    if (wrote == 0) return fail(ErrorClass::kLocalFault, "writing {}: nothing is written", path_);
    bytes = bytes.subspan(static_cast<std::size_t>(wrote));
    offset += static_cast<std::uint64_t>(wrote);
  }
  return {};
}

Result<void> DiskFile::reserve(std::uint64_t bytes) {
  const int result = uninterrupted([&] { return disk_->reserve(file_, bytes); });
  if (result < 0) return failed("reserving space in", path_, result);
  return {};
}

Result<void> DiskFile::sync() {
  const int result = uninterrupted([&] { return disk_->sync_file(file_); });
  if (result < 0) return failed("syncing", path_, result);
  return {};
}

Result<void> DiskFile::rename(std::string to) {
  const int result = uninterrupted([&] { return disk_->rename_file(path_, to); });
  if (result < 0) return failed("renaming", path_, result);
  path_ = std::move(to);
  return {};
}

Result<bool> DiskFile::lock() {
  const int result = uninterrupted([&] { return disk_->lock_file(file_); });
  if (result == -EWOULDBLOCK) return false;
  if (result < 0) return failed("locking", path_, result);
  return true;
}

}  // namespace sealift
