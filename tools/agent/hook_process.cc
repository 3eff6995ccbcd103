#include "tools/agent/hook_process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

extern "C" {  // which the header of glibc 2.36 forgot
#include <sys/pidfd.h>
}

#include <algorithm>
#include <array>
#include <cerrno>
#include <memory>
#include <optional>

#include "engine/assert.h"
#include "tools/agent/clock.h"
#include "transport/fd.h"

namespace sealift {
namespace {

constexpr int kReadsMax = 16;

std::vector<char*> pointers(const std::vector<std::string>& texts) {
  std::vector<char*> out;
  for (const std::string& text : texts) out.push_back(const_cast<char*>(text.c_str()));
  out.push_back(nullptr);
  return out;
}

// Returns the process, or the error number.
tl::expected<pid_t, int> spawn(const std::vector<std::string>& words,
                               const std::vector<std::string>& environment, int output) {
  posix_spawn_file_actions_t files;
  posix_spawnattr_t how;
  // These calls fail for lack of memory only, and then posix_spawn does as well.
  posix_spawn_file_actions_init(&files);
  posix_spawnattr_init(&how);
  posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&files, output, 1);
  posix_spawn_file_actions_adddup2(&files, output, 2);
  posix_spawn_file_actions_addclosefrom_np(&files, 3);
  sigset_t none;
  sigset_t all;
  sigemptyset(&none);
  sigfillset(&all);
  posix_spawnattr_setsigmask(&how, &none);
  posix_spawnattr_setsigdefault(&how, &all);
  posix_spawnattr_setpgroup(&how, 0);
  posix_spawnattr_setflags(&how,
                           POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  pid_t pid = 0;
  const int error = ::posix_spawn(&pid, words.front().c_str(), &files, &how, pointers(words).data(),
                                  pointers(environment).data());
  posix_spawnattr_destroy(&how);
  posix_spawn_file_actions_destroy(&files);
  if (error != 0) return tl::unexpected(error);
  return pid;
}

// Takes what is in the pipe, up to what a pipe holds: a program that never stops writing must not
// keep us from the clock. False: nobody can write to it any more.
bool take_output(int fd, HookEnd& end) {
  std::array<char, 4096> buffer;
  for (int reads = 0; reads < kReadsMax; ++reads) {
    const ssize_t got = ::read(fd, buffer.data(), buffer.size());
    if (got < 0) return errno == EAGAIN || errno == EINTR;
    if (got == 0) return false;
    const auto size = static_cast<std::size_t>(got);
    const std::size_t room = std::min(size, kHookOutputMax - end.output.size());
    end.output.append(buffer.data(), room);
    end.output_cut = end.output_cut || room < size;
  }
  return true;
}

// Until the program exited, the time is over, or `stop`.
void watch(int process, int output, Deadline deadline, const CancelToken& stop, HookEnd& end) {
  bool open = true;
  for (;;) {
    const Millis left =
        std::min(deadline.remaining(), stop.fd() < 0 ? kCancelSlice : Millis{60'000});
    pollfd fds[] = {{process, POLLIN, 0}, {stop.fd(), POLLIN, 0}, {open ? output : -1, POLLIN, 0}};
    const int ready = ::poll(fds, 3, static_cast<int>(left.count()));
    SEALIFT_ASSERT(ready >= 0 || errno == EINTR);
    if (fds[2].revents != 0) open = take_output(output, end);
    if (fds[0].revents != 0) break;
    end.stopped = stop.cancelled();
    end.timed_out = !end.stopped && deadline.remaining() == Millis{0};
    if (end.stopped || end.timed_out) break;
  }
}

}  // namespace

Result<HookEnd> run_hook(const std::vector<std::string>& words,
                         const std::vector<std::string>& environment, Millis time_max,
                         const CancelToken& stop) {
  SEALIFT_ASSERT(!words.empty());
  Stopwatch watch_time;
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) {
    return fail(ErrorClass::kLocalFault, "{}: {}", words.front(), errno_text(errno));
  }
  const UniqueFd output(ends[0]);
  UniqueFd input(ends[1]);
  ::fcntl(output.get(), F_SETFL, O_NONBLOCK);  // ours only: the program may block on its end
  const Deadline deadline = Deadline::after(time_max);
  const auto pid = spawn(words, environment, input.get());
  if (!pid) {
    return fail(ErrorClass::kLocalFault, "{} cannot be started: {}", words.front(),
                errno_text(pid.error()));
  }
  input.reset();
  HookEnd end;
  const UniqueFd process(::pidfd_open(*pid, 0));
  if (process) {
    watch(process.get(), output.get(), deadline, stop, end);
  } else {
    end.stopped = true;  // out of descriptors: nothing could watch it
  }
  // The group's number stays taken until its leader is reaped, so this kills no stranger.
  ::kill(-*pid, SIGKILL);
  int status = 0;
  while (::waitpid(*pid, &status, 0) < 0) SEALIFT_ASSERT(errno == EINTR);
  take_output(output.get(), end);
  if (WIFEXITED(status)) end.exit_code = WEXITSTATUS(status);
  if (WIFSIGNALED(status)) end.signal = WTERMSIG(status);
  end.took_ns = watch_time.elapsed_ns();
  return end;
}

}  // namespace sealift
