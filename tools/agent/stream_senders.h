// StreamSenders: streams 1 to n of a source. One thread each takes shared pages out of the round,
// 2 MiB at a time, and sends them straight from the guest's memory.
//
// Spec:    docs/spec/wire.md, "Connections and streams". The order of engine/round.h holds for each
//          claim: what a thread claims has left the dirty set, and is classified, then read.
// Owner:   SourceRunner. Threads: join(), begin_round(), wait(), end_round() and end_epoch() come
//          from one thread at a time; stop() from any. Its own end in the destructor.
// Failure: the first failure of a stream, with its number; pages of the round that were not sent
// are
//          lost, as RoundSender says. A stream that failed stays failed.
// Invariant: an idle stream says KeepAlive, so that the peer knows a dead link from a quiet one.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "engine/guest_port.h"
#include "engine/records.h"
#include "engine/round.h"
#include "transport/cancel.h"
#include "transport/frame.h"
#include "transport/stream.h"

namespace sealift {

// How a source comes to its further connections.
struct StreamLinks {
  std::uint64_t session_id = 0;
  // Connects stream `number`; the token ends this and all use of the stream. From any thread.
  std::function<Result<std::unique_ptr<Stream>>(std::uint8_t number, const CancelToken&)> open;
  // Sees what the stream sends, for captures; may give none. Then pages are copied before they
  // leave.
  std::function<Result<FrameTap>(std::uint8_t number)> tap;
};

class StreamSenders {
 public:
  struct Totals {  // of a round
    std::uint64_t shared_pages = 0;
    std::uint64_t zero_pages = 0;
    std::uint64_t shared_bytes = 0;
    std::uint64_t ns = 0;  // from its begin to the last page of the last stream
  };

  // `links` is used until the end. `secret`: what each stream says first. `cancel` ends all that
  // the streams do.
  StreamSenders(GuestPort& guest, const StreamLinks& links, std::uint8_t streams,
                const StreamSecret& secret, std::uint32_t batch_pages_max, CancelToken cancel);
  ~StreamSenders();
  StreamSenders(const StreamSenders&) = delete;
  StreamSenders& operator=(const StreamSenders&) = delete;

  Result<void> join();  // all streams, at the same time

  // Begins to send the shared pages of `round` by the map that was announced; both outlive the
  // round.
  void begin_round(Round& round, const PageMap& announced, std::uint32_t epoch,
                   bool skip_redirtied);
  bool wait(std::chrono::milliseconds limit);  // true: no stream is at work
  Result<Totals> end_round();                  // waits; REQUIRES: begin_round()
  Result<void> end_epoch(std::uint32_t epoch);
  Totals sent() const;  // by the round so far. Any thread

  void stop();  // the round ends after the batches under way

 private:
  struct Sender {
    std::uint8_t number = 0;
    std::unique_ptr<Stream> stream;
    std::optional<FrameWriter> writer;
    bool tapped = false;
    std::uint64_t epoch_pages = 0;  // since the last EpochEnd
    std::optional<Error> broken;
    std::vector<GfnRange> claimed;
    LivePages batch;
    std::uint64_t batch_pages = 0;  // in it
    std::vector<ByteView> parts;
    Bytes staged;  // pages of the batch that do not leave from where they lie
    std::jthread thread;
  };
  using Job = std::function<Result<void>(Sender&)>;

  void run(Sender& sender);
  void perform(Sender& sender, const Job& job);
  void begin(Job job);
  Result<void> finish();  // the job of all streams
  Result<void> open(Sender& sender);
  Result<void> send_round(Sender& sender, Round& round, const PageMap& announced,
                          std::uint32_t epoch, bool skip_redirtied);
  Result<void> send_claimed(Sender& sender, std::uint32_t epoch);
  Result<void> add_page(Sender& sender, Gfn gfn, ByteView memory);
  Result<void> flush(Sender& sender);

  GuestPort& guest_;
  const StreamLinks& links_;
  StreamSecret const secret_;
  std::uint32_t const batch_pages_max_;
  CancelToken const cancel_;
  std::atomic<bool> stop_{false};
  std::atomic<bool> failed_{false};  // one stream: the others need not go on
  std::atomic<std::uint64_t> shared_pages_{0};
  std::atomic<std::uint64_t> zero_pages_{0};
  std::uint64_t began_ns_ = 0;

  std::mutex mutex_;  // guards all down to the blank line
  std::condition_variable job_given_;
  std::condition_variable job_done_;
  Job job_;
  std::uint64_t job_number_ = 0;
  std::size_t at_work_ = 0;
  std::uint64_t done_ns_ = 0;
  bool quit_ = false;

  std::list<Sender> senders_;
};

}  // namespace sealift
