// WireChannel: a RecordChannel over a Stream: schemas' codec and transport's frames joined.
//
// Owner:   the agent; owns its Stream. Threads: as RecordChannel. Failure: as Stream, FrameReader
// and decode().
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "engine/records.h"
#include "transport/frame.h"
#include "transport/stream.h"

namespace sealift {

class WireChannel : public RecordChannel {
 public:
  // The source draws the session id; the destination passes 0 and adopts the source's from its
  // first frame.
  WireChannel(std::unique_ptr<Stream> stream, std::uint64_t session_id, FrameTap tap = {});

  Result<void> send(Record record) override;
  Result<Record> receive() override;
  void drain() override;
  void shutdown() override { stream_->shutdown(); }
  std::string peer() const { return stream_->peer(); }
  std::optional<SharedSecret> shared_secret(const std::string& label) {
    return stream_->shared_secret(label);
  }
  std::uint64_t session_id() const { return reader_.session_id(); }  // 0: nothing was received
  // receive() gives this first. REQUIRES: it gave it before, and nothing since.
  void put_back(Result<Record> record) { first_.emplace(std::move(record)); }
  // The stream, after what receive() gave. The channel is not used any more.
  std::unique_ptr<Stream> release() { return std::move(stream_); }

 private:
  std::unique_ptr<Stream> stream_;
  FrameTap tap_;
  FrameReader reader_;
  std::optional<Result<Record>> first_;
  std::mutex writer_mutex_;              // guards making the writer
  std::unique_ptr<FrameWriter> writer_;  // the destination's exists once the session is known
};

// A random session id, never 0.
std::uint64_t new_session_id();

}  // namespace sealift
