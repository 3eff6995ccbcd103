// EventQueue: a bounded queue from many threads to one, with a time limit on waiting.
//
// Threads: push() from any, blocks while full; pop() from one. Failure: after close() pushes are
// dropped.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <mutex>
#include <optional>
#include <utility>

namespace sealift {

template <class T>
class EventQueue {
 public:
  explicit EventQueue(std::size_t capacity) : capacity_(capacity) {}

  void push(T item) {
    std::unique_lock lock(mutex_);
    not_full_.wait(lock, [&] { return closed_ || items_.size() < capacity_; });
    if (closed_) return;
    items_.push_back(std::move(item));
    not_empty_.notify_one();
  }

  // Ahead of all others and past the capacity: for what must not wait behind a full queue (cancel).
  void push_urgent(T item) {
    const std::lock_guard lock(mutex_);
    if (closed_) return;
    items_.push_front(std::move(item));
    not_empty_.notify_one();
  }

  std::optional<T> pop(std::chrono::milliseconds limit) {
    std::unique_lock lock(mutex_);
    not_empty_.wait_for(lock, limit, [&] { return !items_.empty(); });
    if (items_.empty()) return std::nullopt;
    T item = std::move(items_.front());
    items_.pop_front();
    not_full_.notify_one();
    return item;
  }

  void close() {
    const std::lock_guard lock(mutex_);
    closed_ = true;
    not_full_.notify_all();
  }

 private:
  std::size_t const capacity_;
  std::mutex mutex_;
  std::condition_variable not_empty_;
  std::condition_variable not_full_;
  std::deque<T> items_;
  bool closed_ = false;
};

}  // namespace sealift
