// FaultyDisk: a disk in memory that fails and loses power where a test says.
//
// Fault model: every call but close is one operation, numbered from 0. Before any of them the
// process may be killed or the power may fail (both throw Crashed), or the call may fail with any
// errno. What was written but not synced is lost by power failure, or kept, or the last such write
// is kept up to some byte or with a byte flipped; names likewise are lost or kept until their
// directory is synced. A sync that fails leaves the content readable and never durable. Reads and
// writes may be short, calls interrupted; space may end, and the whole disk may be read-only.
// Not modelled: damage to what was durable (tests flip bytes themselves), reordering of the parts
// of one write.
// Threads: one test.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "journal/disk.h"

namespace sealift::test {

struct Crashed {};  // thrown

// What a crash leaves.
struct Crash {
  enum class Data : std::uint8_t { kKeepAll, kLoseAll, kKeepPrefix, kFlipByte };
  bool power = false;  // false: only the process died, and everything it wrote is there
  Data data = Data::kLoseAll;
  std::size_t prefix_bytes = 0;  // of the last write that was not synced
  bool keep_names = false;
};
std::vector<Crash> every_crash();

class FaultyDisk final : public Disk {
 public:
  enum class Lie : std::uint8_t { kNone, kFileNotSynced, kDirectoryNotSynced };

  std::uint64_t operations() const { return operation_; }
  // A write that is killed or fails leaves half of itself.
  void crash_before(std::uint64_t operation) { crash_at_ = operation; }
  void fail_at(std::uint64_t operation, int error) { fail_at_ = {operation, error}; }
  void no_more_faults();
  // Everything is closed and unlocked, and what is not durable is as `crash` says.
  void restart(const Crash& crash);

  void lie(Lie lie) { lie_ = lie; }
  void transfer_at_most(std::size_t bytes) { transfer_bytes_max_ = bytes; }
  void interrupt_every_other_call(bool on) { interrupting_ = on; }
  void set_read_only(bool on) { read_only_ = on; }
  void set_free_blocks(std::uint64_t blocks) { free_blocks_ = blocks; }
  Bytes& content(const std::string& path) { return names_.at(path)->current; }
  bool exists(const std::string& path) const { return names_.contains(path); }

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
  std::uint64_t process_id() const override { return 4711; }

 private:
  struct Change {  // not synced; without bytes: the file has at least `offset` bytes
    std::uint64_t offset = 0;
    Bytes bytes;
  };
  struct Node {
    bool directory = false;
    Bytes durable;
    Bytes current;
    std::vector<Change> changes;
    std::set<std::uint64_t> blocks;
    int locked_by = -1;
  };
  using Names = std::map<std::string, std::shared_ptr<Node>>;

  static void apply(Bytes& content, const Change& change);
  static void lose(Node& node, const Crash& crash);
  int step(bool changes);  // 0, or the error that this operation is to have
  int take_blocks(Node& node, std::uint64_t begin, std::uint64_t end);
  Node& node_of(int file) { return *handles_.at(file); }

  Names names_{{"/", std::make_shared<Node>(Node{true, {}, {}, {}, {}, -1})}};
  Names durable_names_ = names_;
  std::map<int, std::shared_ptr<Node>> handles_;
  int next_handle_ = 3;
  std::uint64_t operation_ = 0;
  std::uint64_t calls_ = 0;
  std::optional<std::uint64_t> crash_at_;
  std::optional<std::pair<std::uint64_t, int>> fail_at_;
  Lie lie_ = Lie::kNone;
  std::size_t transfer_bytes_max_ = ~std::size_t{0};
  bool interrupting_ = false;
  bool read_only_ = false;
  std::uint64_t free_blocks_ = 1u << 20;
};

}  // namespace sealift::test
