// Following a migration: polls the agent, shows progress, turns Ctrl-C into a cancel.
//
// Owner: a command. Threads: one; InterruptWatch blocks SIGINT and SIGTERM for the process while it
// lives.
#pragma once

#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "engine/result.h"
#include "tools/migrate/client.h"

namespace sealift {

class InterruptWatch {
 public:
  InterruptWatch();
  ~InterruptWatch();
  InterruptWatch(const InterruptWatch&) = delete;
  InterruptWatch& operator=(const InterruptWatch&) = delete;
  // Waits up to `limit`; true when SIGINT or SIGTERM came.
  bool wait(std::chrono::milliseconds limit) const;

 private:
  int fd_ = -1;
};

struct FollowStyle {
  bool terminal = false;  // redraw one line; otherwise one JSON object for each change
  bool cancel_on_interrupt = false;
  std::FILE* out = stderr;
};

// Returns the first status in which nothing is under way any more.
Result<nlohmann::json> follow(const AgentClient& client, const InterruptWatch& interrupt,
                              const FollowStyle& style);

}  // namespace sealift
