// StreamRig: a Rig whose shared pages travel on further streams, each a connection of its own.
//
// Fault model: a test may put a Stream of its own around the source's end of each.
// Owner: the test. Threads: as Rig, and one for each stream that joins.
#pragma once

#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <utility>

#include "engine/limits.h"
#include "tests/sim/rig.h"
#include "tools/agent/stream_desk.h"
#include "tools/agent/wire_channel.h"
#include "transport/stream.h"
#include "transport/test_support.h"

namespace sealift::test {

// The source's end, then the destination's.
inline Pair stream_pair(const CancelToken& cancel = {}) {
  PairOptions options;
  options.client_cancel = cancel;
  return connected(loopback(), options);
}

struct StreamRig : Rig {
  static constexpr std::uint64_t kSession = 77;
  using Wrap = std::function<std::unique_ptr<Stream>(std::uint8_t, std::unique_ptr<Stream>)>;

  StreamRig(std::uint64_t seed, std::uint8_t streams) : Rig(seed) {
    for (Hello* side : {&source_config.hello, &destination_hello}) {
      side->features |= kFeatureStreams;
      side->streams_max = limits::kStreamsMax;
    }
    source_config.data_streams = streams;
    stream_links.session_id = kSession;
    stream_links.open = [this](std::uint8_t number, const CancelToken& cancel) {
      return open(number, cancel);
    };
    links = &stream_links;
    hooks.desk = &desk;
    hooks.session_id = [] { return kSession; };
  }

  Wrap wrap;
  StreamLinks stream_links;
  StreamDesk desk;

 private:
  // The destination's end says who it is to an acceptor's thread, as at an agent.
  Result<std::unique_ptr<Stream>> open(std::uint8_t number, const CancelToken& cancel) {
    auto [ours, theirs] = stream_pair(cancel);
    const std::lock_guard lock(mutex_);
    acceptors_.emplace_back([this, end = std::move(theirs)]() mutable {
      WireChannel channel(std::move(end), 0);
      auto first = channel.receive();
      if (!first || !std::holds_alternative<StreamJoin>(*first)) return;
      static_cast<void>(desk.join(std::get<StreamJoin>(*first), channel.release()));
    });
    return wrap ? wrap(number, std::move(ours)) : std::move(ours);
  }

  std::mutex mutex_;
  std::list<std::jthread> acceptors_;  // guarded by mutex_
};

}  // namespace sealift::test
