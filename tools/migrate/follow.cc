#include "tools/migrate/follow.h"

#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <string>

#include "engine/assert.h"
#include "tools/migrate/view.h"

namespace sealift {

using nlohmann::json;

namespace {

constexpr std::chrono::milliseconds kPollEvery{200};

sigset_t interrupts() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  return set;
}

std::size_t columns_of(std::FILE* out) {
  winsize size{};
  if (ioctl(fileno(out), TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return 80;
  return size.ws_col;
}

class ProgressPrinter {
 public:
  explicit ProgressPrinter(const FollowStyle& style) : style_(style) {}

  void show(const json& status) {
    const auto progress = status.find("progress");
    if (progress == status.end()) return;
    if (!style_.terminal) {
      fmt::print(style_.out, "{}\n", progress->dump());
    } else {
      const std::string line = progress_line(*progress).substr(0, columns_of(style_.out) - 1);
      fmt::print(style_.out, "\r\033[K{}", line);
      drawn_ = true;
    }
    std::fflush(style_.out);
  }

  void say(const std::string& text) {
    fmt::print(style_.out, "{}{}\n", drawn_ ? "\r\033[K" : "",
               style_.terminal ? text : json{{"note", text}}.dump());
    std::fflush(style_.out);
    drawn_ = false;
  }

  ~ProgressPrinter() {
    if (drawn_) fmt::print(style_.out, "\r\033[K");
    std::fflush(style_.out);
  }

 private:
  FollowStyle style_;
  bool drawn_ = false;
};

bool under_way(const json& status) {
  const std::string state = status.value("state", "");
  return state == "migrating" || state == "receiving";
}

}  // namespace

InterruptWatch::InterruptWatch() {
  const sigset_t set = interrupts();
  SEALIFT_ASSERT(pthread_sigmask(SIG_BLOCK, &set, nullptr) == 0);
  fd_ = signalfd(-1, &set, SFD_CLOEXEC);
  SEALIFT_ASSERT(fd_ >= 0);
}

InterruptWatch::~InterruptWatch() {
  close(fd_);
  const sigset_t set = interrupts();
  pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
}

bool InterruptWatch::wait(std::chrono::milliseconds limit) const {
  pollfd ready{fd_, POLLIN, 0};
  if (poll(&ready, 1, static_cast<int>(limit.count())) <= 0) return false;
  signalfd_siginfo info{};
  return read(fd_, &info, sizeof(info)) == sizeof(info);
}

Result<json> follow(const AgentClient& client, const InterruptWatch& interrupt,
                    const FollowStyle& style) {
  ProgressPrinter printer(style);
  for (;;) {
    SEALIFT_TRY(json status, client.get("/v1/status"));
    if (!under_way(status)) return status;
    printer.show(status);
    if (!interrupt.wait(kPollEvery)) continue;
    if (!style.cancel_on_interrupt) return status;
    printer.say("interrupted: cancelling the migration");
    if (auto cancelled = client.post("/v1/cancel", json()); !cancelled) {
      printer.say("cancel: " + cancelled.error().detail);
    }
  }
}

}  // namespace sealift
