// A RecordChannel between two threads of one process: what the runners see of a network, without
// one.
//
// Fault model: records arrive whole and in order until the link is cut; a cut loses everything
// still queued, wakes blocked calls on both sides and lasts. A sender blocks while kQueuedMax
// records are unread.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <utility>

#include "engine/records.h"

namespace sealift::test {

class MemoryLink;

class MemoryChannel : public RecordChannel {
 public:
  MemoryChannel(std::shared_ptr<MemoryLink> link, int side) : link_(std::move(link)), side_(side) {}
  Result<void> send(Record record) override;
  Result<Record> receive() override;
  void drain() override;
  void shutdown() override;
  // Called before each send with the record, one at a time; the test may cut the link or alter the
  // record there.
  std::function<void(Record&)> on_send;

 private:
  std::mutex hook_mutex_;
  std::shared_ptr<MemoryLink> link_;
  int side_;
};

// Two ends of one link.
std::pair<std::unique_ptr<MemoryChannel>, std::unique_ptr<MemoryChannel>> make_memory_channels();

}  // namespace sealift::test
