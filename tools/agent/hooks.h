// Hooks: runs the operator's programs when something happened to the right to run a guest.
//
// Spec:    docs/operations.md, "Hooks".
// Owner:   RightResources. Threads: fire() from any, returns at once; one thread of its own runs
//          the programs one after another, in the order of the events. The destructor lets what is
//          queued run for kDrainMax altogether, then kills.
// Failure: a hook that fails, hangs or cannot be started is said in the log and in status(), and
//          changes nothing else. Events beyond kQueuedMax are dropped and counted.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "engine/result.h"
#include "tools/agent/hook_process.h"

namespace sealift {

enum class HookEvent : std::uint8_t {
  kGuestRunsHere,  // it arrived, and its vCPUs run
  kGuestLeft,      // it runs at the destination, or may from now on; its copy here will not
  kGuestKept,      // a migration that had begun is over, and the guest runs on here
  kInDoubt,        // it is paused here and may run at the destination
  kDiscarded,      // it never ran here and never will under this migration
  kLost,           // its copy here cannot run any more
};
const char* name_of(HookEvent event);  // "guest-runs-here"

struct Hook {
  HookEvent event = HookEvent::kGuestRunsHere;
  std::string path;
};
// "EVENT=PATH"; the path is absolute and can be executed.
Result<Hook> parse_hook(std::string_view text);

// What the programs are told, beside the event.
struct HookFacts {
  std::string guest;
  std::string migration;  // hexadecimal
  std::uint64_t generation = 0;
  std::string peer;
  std::string reason;
  bool again = false;  // of a restarted agent: whether it was told before is not known
};

struct HookRun {
  HookEvent event = HookEvent::kGuestRunsHere;
  std::string path;
  std::string guest;
  bool good = false;
  std::string how;  // "exit code 3", "killed after 10000 ms"
  std::uint64_t took_ns = 0;
};

struct HookStatus {
  std::size_t waiting = 0;  // programs to run, with the one that runs
  std::uint64_t failed = 0;
  std::uint64_t dropped = 0;
  std::vector<HookRun> last;  // at most kRememberedMax, the newest last
};

class Hooks {
 public:
  static constexpr std::size_t kQueuedMax = 256;
  static constexpr std::size_t kRememberedMax = 16;
  static constexpr Millis kDrainMax{10'000};
  using Log = std::function<void(const std::string&)>;

  Hooks(std::vector<Hook> hooks, Millis time_max, Log log);
  ~Hooks();
  Hooks(const Hooks&) = delete;
  Hooks& operator=(const Hooks&) = delete;

  void fire(HookEvent event, const HookFacts& facts);
  HookStatus status() const;
  const std::vector<Hook>& hooks() const { return hooks_; }

 private:
  struct Order {
    Hook hook;
    std::string guest;
    std::vector<std::string> environment;
  };
  void run_orders();
  void run(const Order& order);

  std::vector<Hook> const hooks_;
  Millis const time_max_;
  Log const log_;
  CancelToken stop_;
  mutable std::mutex mutex_;  // guards all down to the blank line
  std::condition_variable changed_;
  std::deque<Order> queue_;
  bool running_ = false;
  bool ending_ = false;
  HookStatus status_;

  std::jthread thread_;
};

}  // namespace sealift
