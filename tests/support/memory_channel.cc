#include "tests/support/memory_channel.h"

#include <array>
#include <condition_variable>
#include <deque>
#include <mutex>

namespace sealift::test {

class MemoryLink {
 public:
  Result<void> send(int to, Record record) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return cut_ || inbox(to).size() < kQueuedMax; });
    if (cut_) return fail(ErrorClass::kDisconnected, "the link was cut");
    inbox(to).push_back(std::move(record));
    changed_.notify_all();
    return {};
  }

  Result<Record> receive(int at) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return cut_ || !inbox(at).empty(); });
    if (cut_) return fail(ErrorClass::kDisconnected, "the link was cut");
    Record record = std::move(inbox(at).front());
    inbox(at).pop_front();
    changed_.notify_all();
    return record;
  }

  void cut() {
    const std::lock_guard lock(mutex_);
    cut_ = true;
    changed_.notify_all();
  }

 private:
  static constexpr std::size_t kQueuedMax = 8;
  std::deque<Record>& inbox(int side) { return inboxes_[static_cast<std::size_t>(side)]; }
  std::mutex mutex_;
  std::condition_variable changed_;
  std::array<std::deque<Record>, 2> inboxes_;
  bool cut_ = false;
};

Result<void> MemoryChannel::send(Record record) {
  if (on_send) {
    const std::lock_guard lock(hook_mutex_);
    on_send(record);
  }
  return link_->send(1 - side_, std::move(record));
}
Result<Record> MemoryChannel::receive() { return link_->receive(side_); }
void MemoryChannel::drain() {
  while (receive()) {
  }
}
void MemoryChannel::shutdown() { link_->cut(); }

std::pair<std::unique_ptr<MemoryChannel>, std::unique_ptr<MemoryChannel>> make_memory_channels() {
  auto link = std::make_shared<MemoryLink>();
  return {std::make_unique<MemoryChannel>(link, 0), std::make_unique<MemoryChannel>(link, 1)};
}

}  // namespace sealift::test
