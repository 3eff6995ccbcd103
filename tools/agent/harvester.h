// Harvester: fetches the platform's dirty log again and again while a round is being sent, so that
// pages which are dirty again already are not sent for nothing, and the rings of a guest that
// writes much do not fill up.
//
// Safe beside a round: what it marks stays in the DirtySet for the next one (engine/round.h).
//
// Owner:   the round's thread. Threads: one of its own, joined by stop().
// Failure: stop() returns the first failed harvest; `failed` is called at once, on its thread.
#pragma once

#include <chrono>
#include <functional>
#include <optional>
#include <thread>

#include "engine/guest_port.h"
#include "engine/result.h"

namespace sealift {

class Harvester {
 public:
  // `every` zero: does nothing. Both references outlive it.
  Harvester(GuestPort& guest, std::chrono::nanoseconds every, std::function<void()> failed);
  Harvester(const Harvester&) = delete;
  Harvester& operator=(const Harvester&) = delete;

  Result<void> stop();  // once

 private:
  void run(const std::stop_token& stop, std::chrono::nanoseconds every);

  GuestPort& guest_;
  std::function<void()> const failed_;
  std::optional<Error> error_;  // of the thread, until it is joined
  std::jthread thread_;
};

}  // namespace sealift
