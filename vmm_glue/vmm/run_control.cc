#include "vmm_glue/vmm/run_control.h"

#include <time.h>

#include <utility>

namespace sealift {

const char* name_of(VmState state) {
  switch (state) {
    case VmState::kCreated:
      return "created";
    case VmState::kPaused:
      return "paused";
    case VmState::kRunning:
      return "running";
    case VmState::kTerminated:
      return "terminated";
  }
  return "invalid state";
}

Result<void> RunControl::set_ready() {
  const std::lock_guard lock(mutex_);
  if (state_ != VmState::kCreated && state_ != VmState::kPaused) {
    return fail(ErrorClass::kRefused, "the vCPUs' state cannot be set while the guest is {}",
                name_of(state_));
  }
  state_ = VmState::kPaused;
  return {};
}

// All threads are ready before one of them runs: a kick may find any of them, and it is a signal
// that would end the process if it came to a thread that has not blocked it yet.
Result<void> RunControl::start_threads() {
  if (threads_.empty()) {
    threads_.reserve(vcpus_);
    for (std::uint32_t i = 0; i < vcpus_; ++i) {
      threads_.emplace_back([this, i] { thread_main(i); });
    }
  }
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return started_ == vcpus_; });
  if (!start_error_.empty())
    return fail(ErrorClass::kLocalFault, "a vCPU thread cannot run: {}", start_error_);
  return {};
}

std::uint64_t RunControl::boot_now_ns() {
  timespec now{};
  clock_gettime(CLOCK_BOOTTIME, &now);  // cannot fail with a clock that exists
  return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000 +
         static_cast<std::uint64_t>(now.tv_nsec);
}

bool RunControl::is_expired() {
  const std::uint64_t until = permit_until_ns_.load(std::memory_order_seq_cst);
  if (until == kNoEnd || boot_now_ns() < until) return false;
  saw_expiry_.store(true, std::memory_order_seq_cst);
  return true;
}

Result<void> RunControl::resume() {
  const std::lock_guard order(order_mutex_);
  wanted_ = true;
  auto started = start();
  if (!started) wanted_ = false;
  return started;
}

Result<void> RunControl::pause() {
  const std::lock_guard order(order_mutex_);
  wanted_ = false;
  return stop();
}

Result<void> RunControl::permit_until(std::uint64_t boot_ns) {
  const std::lock_guard order(order_mutex_);
  permit_until_ns_.store(boot_ns, std::memory_order_seq_cst);
  if (!wanted_) return {};
  // A vCPU that saw the earlier end is out already, and comes back only with all of them.
  if (is_expired() || saw_expiry_.load(std::memory_order_seq_cst)) SEALIFT_CHECK(stop());
  return start();
}

Result<void> RunControl::start() {
  SEALIFT_CHECK(start_threads());
  {
    const std::lock_guard lock(mutex_);
    if (state_ == VmState::kRunning) return {};
    if (state_ == VmState::kTerminated) {
      return fail(ErrorClass::kLocalFault, "the guest cannot run: it terminated: {}", reason_);
    }
    if (state_ == VmState::kCreated) {
      return fail(ErrorClass::kRefused,
                  "the guest was neither booted nor given a state to run from");
    }
    if (is_expired()) return {};  // permit_until() will start it
    state_ = VmState::kRunning;
    stop_.store(false, std::memory_order_seq_cst);
    inside_ = vcpus_;
    ++run_number_;
  }
  changed_.notify_all();
  return {};
}

Result<void> RunControl::stop() {
  {
    const std::lock_guard lock(mutex_);
    stop_.store(true, std::memory_order_seq_cst);
  }
  changed_.notify_all();  // for nap()
  kick_all();
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return inside_ == 0; });
  if (state_ == VmState::kTerminated) {
    return fail(ErrorClass::kLocalFault, "the guest terminated: {}", reason_);
  }
  saw_expiry_.store(false, std::memory_order_seq_cst);
  if (state_ == VmState::kRunning) state_ = VmState::kPaused;
  changed_.notify_all();
  return {};
}

void RunControl::shut_down() {
  (void)throttle(0);
  if (threads_.empty()) return;
  (void)pause();  // of a terminated guest too: its other vCPUs may still be on their way out
  {
    const std::lock_guard lock(mutex_);
    quit_ = true;
  }
  changed_.notify_all();
  threads_.clear();  // joins
}

VmState RunControl::state() const {
  const std::lock_guard lock(mutex_);
  return state_;
}

std::string RunControl::reason() const {
  const std::lock_guard lock(mutex_);
  return reason_;
}

void RunControl::terminate(std::string why) {
  {
    const std::lock_guard lock(mutex_);
    if (state_ == VmState::kTerminated) return;
    state_ = VmState::kTerminated;
    reason_ = std::move(why);
    stop_.store(true, std::memory_order_seq_cst);
  }
  changed_.notify_all();
  kick_all();
}

void RunControl::ring() {
  {
    const std::lock_guard lock(mutex_);
  }  // so that no waiter is between its look and its sleep
  changed_.notify_all();
}

void RunControl::nap(std::chrono::microseconds time) {
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, time, [this] { return should_stop(); });
}

Result<void> RunControl::throttle(std::uint32_t percent) {
  if (percent > kThrottlePercentMax) {
    return fail(ErrorClass::kUsage, "a throttle of {} % is above {} %", percent,
                kThrottlePercentMax);
  }
  const std::lock_guard lock(ticker_mutex_);
  throttle_percent_.store(percent);
  if (percent == 0) {
    ticker_ = std::jthread();  // stops and joins
  } else if (!ticker_.joinable()) {
    ticker_ = std::jthread([this](const std::stop_token& stop) { tick_throttle(stop); });
  }
  return {};
}

void RunControl::tick_throttle(const std::stop_token& stop) {
  std::mutex mutex;
  std::unique_lock lock(mutex);
  while (
      !ticker_wake_.wait_for(lock, stop, kThrottlePeriod, [&] { return stop.stop_requested(); })) {
    bool runs = false;
    {
      const std::lock_guard state_lock(mutex_);
      runs = state_ == VmState::kRunning && started_ == vcpus_;
    }
    if (!runs) continue;
    for (std::uint32_t i = 0; i < vcpus_; ++i) {
      owes_throttle_[i].store(true);
      runner_.kick(i, threads_[i].native_handle());
    }
  }
}

void RunControl::pay_throttle(std::uint32_t vcpu) {
  if (!owes_throttle_[vcpu].load(std::memory_order_relaxed)) return;
  owes_throttle_[vcpu].store(false);
  nap(kThrottlePeriod * throttle_percent_.load() / 100);
}

bool RunControl::wait_for(std::chrono::milliseconds timeout, const std::function<bool()>& done) {
  std::unique_lock lock(mutex_);
  bool is_done = false;
  changed_.wait_for(lock, timeout, [&] {
    is_done = done();
    return is_done || state_ != VmState::kRunning;
  });
  return is_done;
}

void RunControl::thread_main(std::uint32_t vcpu) {
  const Result<void> start = runner_.start_thread(vcpu);
  std::unique_lock lock(mutex_);
  std::uint64_t last_run = run_number_;  // no run begins before every thread is here
  ++started_;
  if (!start) start_error_ = start.error().detail;
  changed_.notify_all();
  for (;;) {
    changed_.wait(lock, [&] { return quit_ || run_number_ != last_run; });
    if (quit_) return;
    last_run = run_number_;
    lock.unlock();
    runner_.run(vcpu);
    lock.lock();
    --inside_;
    changed_.notify_all();
  }
}

void RunControl::kick_all() {
  for (std::uint32_t i = 0; i < threads_.size(); ++i) runner_.kick(i, threads_[i].native_handle());
}

}  // namespace sealift
