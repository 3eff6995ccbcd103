// Announcer: says on the host's interfaces, a few times with growing gaps, that the guest's
// addresses are here now.
//
// Owner:   RightResources. Threads: any; one of its own sends. The destructor stops it.
// Failure: an interface that does not take a frame does not keep the others from it; the last
//          error is in status().
#pragma once

#include <chrono>
#include <cstdint>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "transport/announce.h"
#include "transport/cancel.h"

namespace sealift {

struct AnnounceStatus {
  std::uint64_t frames_sent = 0;     // since the agent started
  std::uint64_t first_after_ns = 0;  // from the last start() until each address was said once
  std::string error;
};

class Announcer {
 public:
  // After the first frame: a switch may lose one, or learn of the host's own port late.
  static constexpr Millis kGaps[] = {Millis{50}, Millis{150}, Millis{250}, Millis{350}};

  explicit Announcer(std::vector<AnnouncePort> ports) : ports_(std::move(ports)) {}
  ~Announcer() { stop(); }
  Announcer(const Announcer&) = delete;
  Announcer& operator=(const Announcer&) = delete;

  void start();  // from the beginning, if it is under way
  void stop();
  AnnounceStatus status() const;
  const std::vector<AnnouncePort>& ports() const { return ports_; }

 private:
  void send_all();

  std::vector<AnnouncePort> const ports_;
  mutable std::mutex mutex_;  // guards status_
  AnnounceStatus status_;
  std::mutex starting_;  // guards the two below
  CancelToken cancel_;
  std::jthread thread_;
};

}  // namespace sealift
