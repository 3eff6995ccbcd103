// QuoteProvider: whoever turns a TD report into a quote. WorkerQuoteProvider: one that calls a
// function on its own thread.
//
// Owner:   the VMM; outlives the TdxCalls that use it.
// Threads: request() from any vCPU thread and never blocks; `done` is called on any thread, also
//          before request() returns, exactly once.
// Failure: the Result given to `done`. kRefused: no quote at present (the guest sees "service
//          unavailable"); anything else: an error of this one request.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

#include "engine/result.h"
#include "engine/types.h"

namespace sealift {

class QuoteProvider {
 public:
  using Done = std::function<void(Result<Bytes>)>;
  virtual ~QuoteProvider() = default;
  // `report` is what the guest wrote: not checked, up to 128 KiB.
  virtual void request(Bytes report, Done done) = 0;
};

// Requests are served in order, one at a time. The destructor refuses those that wait and waits
// for the one being served.
class WorkerQuoteProvider final : public QuoteProvider {
 public:
  static constexpr std::size_t kWaitingMax = 64;
  using MakeQuote = std::function<Result<Bytes>(ByteView report)>;

  // REQUIRES: `make_quote` returns in bounded time and does not throw.
  explicit WorkerQuoteProvider(MakeQuote make_quote);
  WorkerQuoteProvider(const WorkerQuoteProvider&) = delete;
  WorkerQuoteProvider& operator=(const WorkerQuoteProvider&) = delete;
  ~WorkerQuoteProvider() override;
  void request(Bytes report, Done done) override;

 private:
  struct Job {
    Bytes report;
    Done done;
  };
  void serve();

  MakeQuote const make_quote_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Job> waiting_;
  bool ending_ = false;
  std::thread worker_;  // last: it uses the members above
};

}  // namespace sealift
