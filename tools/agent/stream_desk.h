// StreamDesk: where the further connections of a session meet the one that waits for them.
//
// Spec:    docs/spec/wire.md, "Connections and streams".
// Owner:   who accepts connections; outlives the runner that uses it.
// Threads: any. Failure: as Result says: the connection is closed, and the session waits on.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "engine/records.h"
#include "engine/result.h"
#include "transport/stream.h"

namespace sealift {

class StreamDesk {
 public:
  // Streams 1 to streams - 1 may join from now on, with the secret of `join`.
  void expect(const StreamJoin& join, std::uint8_t streams);
  // kRefused for a connection that nobody waits for.
  Result<void> join(const StreamJoin& join, std::unique_ptr<Stream> stream);
  // All of them, stream 1 first. kDisconnected when one has not come in time, kCancelled once
  // closed.
  Result<std::vector<std::unique_ptr<Stream>>> await_all(std::chrono::milliseconds limit);
  void close();

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::optional<StreamJoin> expected_;
  std::vector<std::unique_ptr<Stream>> streams_;
  std::size_t missing_ = 0;
  bool closed_ = false;
};

}  // namespace sealift
