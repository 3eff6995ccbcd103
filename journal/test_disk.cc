#include "journal/test_disk.h"

#include <algorithm>
#include <cerrno>

namespace sealift::test {
namespace {

constexpr std::uint64_t kBlockBytes = 4096;

std::string directory_of(const std::string& path) {
  const std::size_t slash = path.rfind('/');
  return slash == 0 ? "/" : path.substr(0, slash);
}

}  // namespace

std::vector<Crash> every_crash() {
  using Data = Crash::Data;
  std::vector<Crash> all{Crash{}};
  for (const bool keep_names : {false, true}) {
    all.push_back({true, Data::kKeepAll, 0, keep_names});
    all.push_back({true, Data::kLoseAll, 0, keep_names});
    all.push_back({true, Data::kFlipByte, 0, keep_names});
    for (const std::size_t bytes : {1U, 512U, 4088U, 4095U}) {
      all.push_back({true, Data::kKeepPrefix, bytes, keep_names});
    }
  }
  return all;
}

void FaultyDisk::no_more_faults() {
  crash_at_.reset();
  fail_at_.reset();
  read_only_ = false;
}

void FaultyDisk::apply(Bytes& content, const Change& change) {
  content.resize(std::max<std::size_t>(content.size(), change.offset + change.bytes.size()));
  std::copy(change.bytes.begin(), change.bytes.end(),
            content.begin() + static_cast<std::ptrdiff_t>(change.offset));
}

void FaultyDisk::lose(Node& node, const Crash& crash) {
  if (crash.data == Crash::Data::kLoseAll) node.changes.clear();
  const auto last = std::find_if(node.changes.rbegin(), node.changes.rend(),
                                 [](const Change& change) { return !change.bytes.empty(); });
  if (last != node.changes.rend()) {
    if (crash.data == Crash::Data::kKeepPrefix) {
      last->bytes.resize(std::min(last->bytes.size(), crash.prefix_bytes));
    }
    if (crash.data == Crash::Data::kFlipByte) last->bytes[last->bytes.size() / 2] ^= std::byte{1};
  }
  for (const Change& change : node.changes) apply(node.durable, change);
  node.changes.clear();
  node.current = node.durable;
}

void FaultyDisk::restart(const Crash& crash) {
  no_more_faults();
  for (auto& [file, node] : handles_) node->locked_by = -1;
  handles_.clear();
  if (!crash.power) return;
  if (!crash.keep_names) names_ = durable_names_;
  std::erase_if(names_,
                [&](const auto& entry) { return !names_.contains(directory_of(entry.first)); });
  durable_names_ = names_;
  for (auto& [path, node] : names_) lose(*node, crash);
}

int FaultyDisk::step(bool changes) {
  if (interrupting_ && ++calls_ % 2 == 1) return -EINTR;
  const std::uint64_t operation = operation_++;
  if (crash_at_ == operation) throw Crashed{};
  if (fail_at_ && fail_at_->first == operation) return -fail_at_->second;
  return changes && read_only_ ? -EROFS : 0;
}

int FaultyDisk::take_blocks(Node& node, std::uint64_t begin, std::uint64_t end) {
  std::vector<std::uint64_t> wanted;
  for (std::uint64_t block = begin / kBlockBytes; block * kBlockBytes < end; ++block) {
    if (!node.blocks.contains(block)) wanted.push_back(block);
  }
  if (wanted.size() > free_blocks_) return -ENOSPC;
  free_blocks_ -= wanted.size();
  node.blocks.insert(wanted.begin(), wanted.end());
  return 0;
}

int FaultyDisk::open_file(const std::string& path, Open how) {
  const bool there = names_.contains(path);
  const bool may_make = how == Open::kCreate || how == Open::kReplace;
  if (const int error = step(true); error != 0) return error;
  if (!there && !may_make) return -ENOENT;
  if (!names_.contains(directory_of(path))) return -ENOENT;
  if (!there) names_[path] = std::make_shared<Node>();
  const std::shared_ptr<Node>& node = names_.at(path);
  if (how == Open::kReplace) {
    // Truncation is durable at once: the worst case, since nothing of the old file comes back.
    free_blocks_ += node->blocks.size();
    *node = Node{};
  }
  handles_[next_handle_] = node;
  return next_handle_++;
}

void FaultyDisk::close_file(int file) {
  if (!handles_.contains(file)) return;  // its process is gone
  if (node_of(file).locked_by == file) node_of(file).locked_by = -1;
  handles_.erase(file);
}

std::int64_t FaultyDisk::read_at(int file, MutableBytes into, std::uint64_t offset) {
  if (const int error = step(false); error != 0) return error;
  const Bytes& content = node_of(file).current;
  const std::size_t begin = std::min<std::size_t>(content.size(), offset);
  const std::size_t count = std::min({into.size(), content.size() - begin, transfer_bytes_max_});
  std::copy_n(content.begin() + static_cast<std::ptrdiff_t>(begin), count, into.begin());
  return static_cast<std::int64_t>(count);
}

std::int64_t FaultyDisk::write_at(int file, ByteView bytes, std::uint64_t offset) {
  Node& node = node_of(file);
  const auto write = [&](std::size_t count) {
    Change change{offset, Bytes(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(count))};
    apply(node.current, change);
    node.changes.push_back(std::move(change));
    return static_cast<std::int64_t>(count);
  };
  if (crash_at_ == operation_ || (fail_at_ && fail_at_->first == operation_)) {
    write(bytes.size() / 2);
  }
  if (const int error = step(true); error != 0) return error;
  const std::size_t count = std::min(bytes.size(), transfer_bytes_max_);
  if (const int error = take_blocks(node, offset, offset + count); error != 0) return error;
  return write(count);
}

int FaultyDisk::reserve(int file, std::uint64_t bytes) {
  if (const int error = step(true); error != 0) return error;
  Node& node = node_of(file);
  if (const int error = take_blocks(node, 0, bytes); error != 0) return error;
  const Change change{bytes, {}};
  apply(node.current, change);
  node.changes.push_back(change);
  return 0;
}

int FaultyDisk::sync_file(int file) {
  if (lie_ == Lie::kFileNotSynced) return 0;
  Node& node = node_of(file);
  if (const int error = step(true); error != 0) {
    node.changes.clear();  // the pages count as clean: no later sync writes them
    return error;
  }
  for (const Change& change : node.changes) apply(node.durable, change);
  node.changes.clear();
  return 0;
}

int FaultyDisk::lock_file(int file) {
  if (const int error = step(false); error != 0) return error;
  Node& node = node_of(file);
  if (node.locked_by >= 0 && node.locked_by != file) return -EWOULDBLOCK;
  node.locked_by = file;
  return 0;
}

int FaultyDisk::make_directory(const std::string& path) {
  if (const int error = step(true); error != 0) return error;
  if (names_.contains(path)) return 0;
  names_[path] = std::make_shared<Node>(Node{true, {}, {}, {}, {}, -1});
  return 0;
}

int FaultyDisk::sync_directory(const std::string& path) {
  if (lie_ == Lie::kDirectoryNotSynced) return 0;
  if (const int error = step(true); error != 0) return error;
  std::erase_if(durable_names_, [&](const auto& entry) {
    return entry.first != path && directory_of(entry.first) == path;
  });
  for (const auto& [name, node] : names_) {
    if (directory_of(name) == path) durable_names_[name] = node;
  }
  return 0;
}

int FaultyDisk::rename_file(const std::string& from, const std::string& to) {
  if (const int error = step(true); error != 0) return error;
  const auto found = names_.find(from);
  if (found == names_.end()) return -ENOENT;
  names_[to] = found->second;
  names_.erase(from);
  return 0;
}

int FaultyDisk::remove_file(const std::string& path) {
  if (const int error = step(true); error != 0) return error;
  return names_.erase(path) == 1 ? 0 : -ENOENT;
}

int FaultyDisk::list(const std::string& path, std::vector<std::string>& names) {
  if (const int error = step(false); error != 0) return error;
  if (!names_.contains(path)) return -ENOENT;
  for (const auto& [name, node] : names_) {
    if (name != path && directory_of(name) == path) names.push_back(name.substr(path.size() + 1));
  }
  return 0;
}

}  // namespace sealift::test
