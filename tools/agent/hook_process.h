// Runs one program of the operator's, bounded in time and output.
//
// No shell. The program gets /dev/null to read, a pipe to write to, the default signals, no
// descriptor of ours, and a process group of its own, whose processes have all been killed when
// this returns. A process that left the group (setsid) is the program's own affair.
//
// Threads: blocks its caller; any number at a time.
// Failure: kLocalFault: it could not be started. How it ended is in the HookEnd.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/result.h"
#include "transport/cancel.h"

namespace sealift {

struct HookEnd {
  int exit_code = 0;       // of a program that exited
  int signal = 0;          // that ended it; 0: it exited
  bool timed_out = false;  // and was killed
  bool stopped = false;    // killed by `stop`
  std::string output;      // both streams, at most kHookOutputMax bytes; more is read and dropped
  bool output_cut = false;
  std::uint64_t took_ns = 0;

  bool good() const { return exit_code == 0 && signal == 0 && !timed_out && !stopped; }
};

inline constexpr std::size_t kHookOutputMax = 4096;

// `words`: path and arguments, not empty; `environment`: all of it, as NAME=VALUE.
Result<HookEnd> run_hook(const std::vector<std::string>& words,
                         const std::vector<std::string>& environment, Millis time_max,
                         const CancelToken& stop);

}  // namespace sealift
