// RunControl: the vCPU threads of one VM, and whether they run.
//
// Owner:   the VM. Its destructor, or shut_down(), stops and joins the threads.
// Threads: shut_down() comes from the owner's thread; should_stop(), terminate(), ring(), nap() and
//          pay_throttle() from the vCPU threads; the rest from any.
// Failure: kRefused for a wrong state, kLocalFault with the reason once the guest has terminated.
// Invariants:
//   I1  Between pause() and resume() no vCPU thread is inside VcpuRunner::run().
//   I2  A stop is never lost: should_stop() is true before kick() is called, and stays so until
//       resume().
//   I3  kTerminated is final, and its reason is the first one given.
//   I4  A kick without a stop is a throttle's: a vCPU that finds none pays it and runs on.
//   I5  No vCPU enters guest code at or after the moment of permit_until(), whatever became of the
//       thread that should have stopped it.
#pragma once

#include <pthread.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

#include "engine/result.h"

namespace sealift {

enum class VmState : std::uint8_t { kCreated = 1, kPaused = 2, kRunning = 3, kTerminated = 4 };
const char* name_of(VmState state);

// What RunControl drives; implemented by each kind of VM.
class VcpuRunner {
 public:
  virtual ~VcpuRunner() = default;
  // Once, on the vCPU's thread, before any kick().
  virtual Result<void> start_thread(std::uint32_t vcpu) = 0;
  // Runs guest code until RunControl::should_stop(); leaves no exit half done.
  virtual void run(std::uint32_t vcpu) = 0;
  // Gets the vCPU out of guest code; should_stop() is already true. May be called when it does not
  // run.
  virtual void kick(std::uint32_t vcpu, pthread_t thread) = 0;
};

class RunControl {
 public:
  static constexpr std::uint32_t kThrottlePercentMax = 99;

  RunControl(VcpuRunner& runner, std::uint32_t vcpus)
      : runner_(runner), vcpus_(vcpus), owes_throttle_(vcpus) {}
  RunControl(const RunControl&) = delete;
  RunControl& operator=(const RunControl&) = delete;
  ~RunControl() { shut_down(); }

  Result<void> set_ready();  // kCreated -> kPaused: the vCPUs have a state
  Result<void> resume();     // takes effect once it is permitted
  Result<void> pause();      // no effect unless running
  void shut_down();

  // The guest may run until `boot_ns` on CLOCK_BOOTTIME, which counts the time that a host sleeps.
  // With a moment that has passed every vCPU stands when the call returns; a guest that was resumed
  // and stands runs on when the moment is later again.
  static constexpr std::uint64_t kNoEnd = ~0ULL;
  Result<void> permit_until(std::uint64_t boot_ns);
  static std::uint64_t boot_now_ns();

  VmState state() const;
  std::string reason() const;  // why it terminated

  bool should_stop() { return stop_.load(std::memory_order_seq_cst) || is_expired(); }
  void terminate(std::string why);
  void ring();  // something happened that a wait_for() may wait for
  // Keeps every vCPU from running for `percent` of the time, 0 to kThrottlePercentMax. Holds until
  // it is set again.
  Result<void> throttle(std::uint32_t percent);
  std::uint32_t throttle_percent() const { return throttle_percent_.load(); }
  // Between two runs of guest code: naps if a throttle asked for it since the last call.
  void pay_throttle(std::uint32_t vcpu);
  // For a guest that says it has nothing to do: waits for a stop, at most `time`.
  void nap(std::chrono::microseconds time);

  // True when done() came true in time; false on a timeout or when the guest stopped running.
  bool wait_for(std::chrono::milliseconds timeout, const std::function<bool()>& done);

 private:
  static constexpr std::chrono::microseconds kThrottlePeriod{10'000};
  void tick_throttle(const std::stop_token& stop);

  bool is_expired();
  Result<void> start();  // REQUIRES: order_mutex_, as the next
  Result<void> stop();
  Result<void> start_threads();
  void thread_main(std::uint32_t vcpu);
  void kick_all();

  VcpuRunner& runner_;
  std::uint32_t const vcpus_;
  std::vector<std::jthread> threads_;  // made at the first resume()
  std::mutex order_mutex_;             // one of resume, pause and permit_until at a time
  bool wanted_ = false;                // guarded by order_mutex_: resumed and not paused
  std::atomic<bool> stop_{true};
  std::atomic<std::uint64_t> permit_until_ns_{kNoEnd};
  std::atomic<bool> saw_expiry_{false};  // a vCPU left, or is leaving, because time was up
  std::atomic<std::uint32_t> throttle_percent_{0};
  std::vector<std::atomic<bool>> owes_throttle_;  // one for each vCPU
  std::mutex ticker_mutex_;                       // guards ticker_
  std::condition_variable_any ticker_wake_;
  std::jthread ticker_;  // runs while the throttle is not 0

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  VmState state_ = VmState::kCreated;  // this and all below: guarded by mutex_
  std::string reason_;
  std::uint64_t run_number_ = 0;  // grows with each resume()
  std::uint32_t inside_ = 0;      // threads inside run(), or told to go there
  std::uint32_t started_ = 0;     // threads that went through start_thread()
  std::string start_error_;       // of one of them
  bool quit_ = false;
};

}  // namespace sealift
