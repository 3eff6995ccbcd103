#include "tools/agent/hooks.h"

#include <unistd.h>

#include <array>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <utility>

namespace sealift {
namespace {

constexpr std::array kEvents{HookEvent::kGuestRunsHere, HookEvent::kGuestLeft,
                             HookEvent::kGuestKept,     HookEvent::kInDoubt,
                             HookEvent::kDiscarded,     HookEvent::kLost};
constexpr std::size_t kTextMax = 1024;

// Texts may be the peer's: one line, printable, bounded, and no zero byte that would end them.
std::string plain_text(std::string_view text) {
  std::string out(text.substr(0, kTextMax));
  for (char& c : out) {
    if (static_cast<unsigned char>(c) < ' ' || c == 0x7f) c = '?';
  }
  return out;
}

std::string wall_clock_ns() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return std::to_string(std::chrono::duration_cast<std::chrono::nanoseconds>(now).count());
}

std::vector<std::string> environment_of(HookEvent event, const HookFacts& facts) {
  const char* path = std::getenv("PATH");
  return {fmt::format("PATH={}", path != nullptr ? path : "/usr/sbin:/usr/bin:/sbin:/bin"),
          fmt::format("SEALIFT_EVENT={}", name_of(event)),
          "SEALIFT_GUEST=" + plain_text(facts.guest),
          "SEALIFT_MIGRATION=" + facts.migration,
          fmt::format("SEALIFT_GENERATION={}", facts.generation),
          "SEALIFT_PEER=" + plain_text(facts.peer),
          "SEALIFT_REASON=" + plain_text(facts.reason),
          fmt::format("SEALIFT_AGAIN={}", facts.again ? 1 : 0),
          "SEALIFT_TIME_NS=" + wall_clock_ns()};
}

std::string how_it_ended(const HookEnd& end) {
  const auto ms = end.took_ns / 1'000'000;
  if (end.stopped) return "killed: the agent ends";
  if (end.timed_out) return fmt::format("killed after {} ms", ms);
  if (end.signal != 0) return fmt::format("ended by signal {}", end.signal);
  return fmt::format("exit code {}", end.exit_code);
}

}  // namespace

const char* name_of(HookEvent event) {
  switch (event) {
    case HookEvent::kGuestRunsHere:
      return "guest-runs-here";
    case HookEvent::kGuestLeft:
      return "guest-left";
    case HookEvent::kGuestKept:
      return "guest-kept";
    case HookEvent::kInDoubt:
      return "in-doubt";
    case HookEvent::kDiscarded:
      return "discarded";
    case HookEvent::kLost:
      return "lost";
  }
  return "invalid event";
}

Result<Hook> parse_hook(std::string_view text) {
  const std::size_t equals = text.find('=');
  const std::string_view name = text.substr(0, equals);
  Hook hook;
  bool known = false;
  for (const HookEvent event : kEvents) {
    if (name != name_of(event)) continue;
    hook.event = event;
    known = true;
  }
  if (!known || equals == std::string_view::npos) {
    return fail(ErrorClass::kUsage,
                "--hook {} is not EVENT=PATH with an event of guest-runs-here, guest-left, "
                "guest-kept, in-doubt, discarded, lost",
                text);
  }
  hook.path = std::string(text.substr(equals + 1));
  std::error_code ignored;
  if (!hook.path.starts_with('/') || !std::filesystem::is_regular_file(hook.path, ignored) ||
      ::access(hook.path.c_str(), X_OK) != 0) {
    return fail(ErrorClass::kUsage,
                "--hook {}: {} is not the absolute path of a program this user may execute", text,
                hook.path);
  }
  return hook;
}

Hooks::Hooks(std::vector<Hook> hooks, Millis time_max, Log log)
    : hooks_(std::move(hooks)), time_max_(time_max), log_(std::move(log)) {
  if (!hooks_.empty()) thread_ = std::jthread([this] { run_orders(); });
}

Hooks::~Hooks() {
  if (!thread_.joinable()) return;
  std::unique_lock lock(mutex_);
  ending_ = true;
  changed_.notify_all();
  changed_.wait_for(lock, kDrainMax, [&] { return queue_.empty() && !running_; });
  for (const Order& order : queue_) {
    log_(fmt::format("hook {} {} was not run: the agent ends", name_of(order.hook.event),
                     order.hook.path));
  }
  queue_.clear();
  lock.unlock();
  stop_.cancel();
}

void Hooks::fire(HookEvent event, const HookFacts& facts) {
  const std::lock_guard lock(mutex_);
  for (const Hook& hook : hooks_) {
    if (hook.event != event) continue;
    if (queue_.size() == kQueuedMax) {
      ++status_.dropped;
      log_(fmt::format("hook {} {} was not run: {} others wait", name_of(event), hook.path,
                       queue_.size()));
      continue;
    }
    queue_.push_back(Order{hook, plain_text(facts.guest), environment_of(event, facts)});
  }
  changed_.notify_all();
}

HookStatus Hooks::status() const {
  const std::lock_guard lock(mutex_);
  HookStatus status = status_;
  status.waiting = queue_.size() + (running_ ? 1 : 0);
  return status;
}

void Hooks::run_orders() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [&] { return ending_ || !queue_.empty(); });
    if (queue_.empty()) return;
    const Order order = std::move(queue_.front());
    queue_.pop_front();
    running_ = true;
    lock.unlock();
    run(order);
    lock.lock();
    running_ = false;
    changed_.notify_all();
  }
}

void Hooks::run(const Order& order) {
  const char* event = name_of(order.hook.event);
  HookRun done{order.hook.event, order.hook.path, order.guest, false, {}, 0};
  auto end = run_hook({order.hook.path, event}, order.environment, time_max_, stop_);
  if (end) {
    done.good = end->good();
    done.how = how_it_ended(*end);
    done.took_ns = end->took_ns;
    std::string_view rest = end->output;
    while (!rest.empty()) {
      const std::size_t line = std::min(rest.find('\n'), rest.size());
      log_(fmt::format("hook {} {} says: {}", event, done.path, plain_text(rest.substr(0, line))));
      rest.remove_prefix(std::min(line + 1, rest.size()));
    }
    if (end->output_cut) log_(fmt::format("hook {} {} says more", event, done.path));
  } else {
    done.how = std::move(end.error().detail);
  }
  log_(fmt::format("hook {} {}: {}", event, done.path, done.how));
  const std::lock_guard lock(mutex_);
  if (!done.good) ++status_.failed;
  status_.last.push_back(std::move(done));
  if (status_.last.size() > kRememberedMax) status_.last.erase(status_.last.begin());
}

}  // namespace sealift
