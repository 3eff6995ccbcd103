#include "tools/agent/linger.h"

#include <thread>

namespace sealift {

void linger(RecordChannel& channel, std::chrono::milliseconds limit) {
  PeerWatch gone;
  const std::jthread watchdog([&] {
    gone.wait(limit);
    channel.shutdown();
  });
  channel.drain();
  gone.set();
}

}  // namespace sealift
