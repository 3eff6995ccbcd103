#include "vmm_glue/exits/quote_provider.h"

#include <utility>

namespace sealift {

WorkerQuoteProvider::WorkerQuoteProvider(MakeQuote make_quote)
    : make_quote_(std::move(make_quote)), worker_([this] { serve(); }) {}

WorkerQuoteProvider::~WorkerQuoteProvider() {
  std::deque<Job> refused;
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
    refused.swap(waiting_);
  }
  changed_.notify_one();
  for (Job& job : refused) job.done(fail(ErrorClass::kRefused, "the quote provider is ending"));
  worker_.join();
}

void WorkerQuoteProvider::request(Bytes report, Done done) {
  {
    const std::lock_guard lock(mutex_);
    if (waiting_.size() < kWaitingMax) {
      waiting_.push_back({std::move(report), std::move(done)});
      changed_.notify_one();
      return;
    }
  }
  done(fail(ErrorClass::kRefused, "{} quote requests are waiting already", kWaitingMax));
}

void WorkerQuoteProvider::serve() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return ending_ || !waiting_.empty(); });
    if (ending_) return;
    Job job = std::move(waiting_.front());
    waiting_.pop_front();
    lock.unlock();
    job.done(make_quote_(job.report));
    lock.lock();
  }
}

}  // namespace sealift
