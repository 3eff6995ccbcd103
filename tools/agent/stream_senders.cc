#include "tools/agent/stream_senders.h"

#include <algorithm>
#include <utility>

#include "engine/assert.h"
#include "engine/zero_scan.h"
#include "schemas/codec.h"
#include "schemas/record_type.h"
#include "tools/agent/clock.h"

namespace sealift {
namespace {

constexpr std::chrono::milliseconds kKeepAliveEvery{500};
// Few pages are still cut into so many batches for each stream, so that all of them work.
constexpr std::uint64_t kBatchesPerStream = 4;
constexpr std::uint64_t kSmallBatchPages = 16;

}  // namespace

StreamSenders::StreamSenders(GuestPort& guest, const StreamLinks& links, std::uint8_t streams,
                             const StreamSecret& secret, std::uint32_t batch_pages_max,
                             CancelToken cancel)
    : guest_(guest),
      links_(links),
      secret_(secret),
      batch_pages_max_(batch_pages_max),
      cancel_(std::move(cancel)) {
  SEALIFT_ASSERT(streams > 0 && batch_pages_max > 0);
  for (std::uint8_t i = 1; i <= streams; ++i) senders_.emplace_back().number = i;
  for (Sender& sender : senders_) {
    sender.thread = std::jthread([this, &sender] { run(sender); });
  }
}

StreamSenders::~StreamSenders() {
  {
    const std::lock_guard lock(mutex_);
    quit_ = true;
  }
  job_given_.notify_all();
  cancel_.cancel();
}

void StreamSenders::stop() { stop_.store(true); }

// A stream's thread: its part of one job after the other, and a word when there is none for long.
void StreamSenders::run(Sender& sender) {
  std::uint64_t seen = 0;
  std::unique_lock lock(mutex_);
  for (;;) {
    const bool given =
        job_given_.wait_for(lock, kKeepAliveEvery, [&] { return quit_ || job_number_ != seen; });
    if (quit_) return;
    const Job job = given ? job_ : Job();
    seen = job_number_;
    lock.unlock();
    if (given) {
      perform(sender, job);
    } else if (sender.writer && !sender.broken) {
      perform(sender, [](Sender& idle) {
        const EncodedRecord alive = encode(KeepAlive{});
        return idle.writer->write(alive.type, idle.number, alive.meta, alive.payload);
      });
    }
    lock.lock();
    if (given && --at_work_ == 0) {
      done_ns_ = steady_now_ns();
      job_done_.notify_all();
    }
  }
}

void StreamSenders::perform(Sender& sender, const Job& job) {
  if (sender.broken) return;
  auto done = job(sender);
  if (done) return;
  done.error().detail = fmt::format("stream {}: {}", sender.number, done.error().detail);
  sender.broken = std::move(done.error());
  failed_.store(true);
}

void StreamSenders::begin(Job job) {
  {
    const std::lock_guard lock(mutex_);
    SEALIFT_ASSERT(at_work_ == 0);
    job_ = std::move(job);
    ++job_number_;
    at_work_ = senders_.size();
  }
  job_given_.notify_all();
}

bool StreamSenders::wait(std::chrono::milliseconds limit) {
  std::unique_lock lock(mutex_);
  return job_done_.wait_for(lock, limit, [&] { return at_work_ == 0; });
}

Result<void> StreamSenders::finish() {
  {
    std::unique_lock lock(mutex_);
    job_done_.wait(lock, [&] { return at_work_ == 0; });
  }
  for (const Sender& sender : senders_) {
    if (sender.broken) return fail(*sender.broken);
  }
  return {};
}

Result<void> StreamSenders::join() {
  begin([this](Sender& sender) { return open(sender); });
  return finish();
}

Result<void> StreamSenders::open(Sender& sender) {
  SEALIFT_TRY(sender.stream, links_.open(sender.number, cancel_));
  FrameTap tap;
  if (links_.tap) {
    SEALIFT_TRY(tap, links_.tap(sender.number));
  }
  sender.tapped = tap != nullptr;
  sender.writer.emplace(*sender.stream, links_.session_id, std::move(tap));
  const EncodedRecord join = encode(StreamJoin{sender.number, secret_});
  return sender.writer->write(join.type, join.stream, join.meta, join.payload);
}

void StreamSenders::begin_round(Round& round, const PageMap& announced, std::uint32_t epoch,
                                bool skip_redirtied) {
  shared_pages_.store(0);
  zero_pages_.store(0);
  began_ns_ = steady_now_ns();
  begin([this, &round, &announced, epoch, skip_redirtied](Sender& sender) {
    return send_round(sender, round, announced, epoch, skip_redirtied);
  });
}

Result<StreamSenders::Totals> StreamSenders::end_round() {
  SEALIFT_CHECK(finish());
  if (stop_.load()) return fail(ErrorClass::kCancelled, "the round was stopped");
  Totals totals = sent();
  const std::lock_guard lock(mutex_);
  totals.ns = done_ns_ - began_ns_;
  return totals;
}

StreamSenders::Totals StreamSenders::sent() const {
  Totals totals;
  totals.shared_pages = shared_pages_.load();
  totals.zero_pages = zero_pages_.load();
  totals.shared_bytes = totals.shared_pages * kPageBytes;
  return totals;
}

Result<void> StreamSenders::send_round(Sender& sender, Round& round, const PageMap& announced,
                                       std::uint32_t epoch, bool skip_redirtied) {
  const std::uint64_t share = round.shared_pages() / (senders_.size() * kBatchesPerStream);
  const std::uint64_t wanted = std::clamp<std::uint64_t>(
      share, std::min<std::uint64_t>(kSmallBatchPages, batch_pages_max_), batch_pages_max_);
  while (!stop_.load() && !failed_.load()) {
    sender.claimed.clear();
    std::optional<std::uint64_t> claim = 0;
    for (std::uint64_t pages = 0; claim && pages < wanted; pages += claim.value_or(0)) {
      claim = round.claim_shared(announced, skip_redirtied, sender.claimed);
    }
    SEALIFT_CHECK(send_claimed(sender, epoch));
    if (!claim) break;
  }
  return {};
}

Result<void> StreamSenders::send_claimed(Sender& sender, std::uint32_t epoch) {
  sender.batch.epoch = epoch;
  sender.batch.stream = sender.number;
  for (GfnRange rest : sender.claimed) {
    while (rest.pages > 0) {
      const ByteView memory = guest_.plain_memory(rest);
      const std::uint64_t pages = memory.empty() ? rest.pages : memory.size() / kPageBytes;
      for (std::uint64_t i = 0; i < pages; ++i) {
        const ByteView page = memory.empty() ? memory : memory.subspan(i * kPageBytes, kPageBytes);
        SEALIFT_CHECK(add_page(sender, rest.first + i, page));
      }
      rest = GfnRange{rest.first + pages, rest.pages - pages};
    }
  }
  return flush(sender);
}

// Puts a page into the batch and sends that when it is full. `memory`: where it lies; empty:
// nowhere.
Result<void> StreamSenders::add_page(Sender& sender, Gfn gfn, ByteView memory) {
  if (sender.batch_pages == batch_pages_max_) SEALIFT_CHECK(flush(sender));
  ++sender.batch_pages;
  if (memory.empty() || sender.tapped) {
    // Never moved while a batch refers to it.
    if (sender.staged.capacity() == 0) sender.staged.reserve(batch_pages_max_ * kPageBytes);
    const std::size_t at = sender.staged.size();
    sender.staged.resize(at + kPageBytes);
    const auto copy = std::span(sender.staged).subspan(at).first<kPageBytes>();
    SEALIFT_CHECK(guest_.read_plain(gfn, copy));
    memory = copy;
  }
  const bool zero = is_zero(memory.data(), kPageBytes);
  std::vector<GfnRange>& ranges = zero ? sender.batch.zero : sender.batch.raw;
  if (!ranges.empty() && end_of(ranges.back()) == gfn) {
    ++ranges.back().pages;
  } else {
    ranges.push_back(GfnRange{gfn, 1});
  }
  if (zero) return {};
  std::vector<ByteView>& parts = sender.parts;
  if (!parts.empty() && parts.back().data() + parts.back().size() == memory.data()) {
    parts.back() = ByteView(parts.back().data(), parts.back().size() + kPageBytes);
  } else {
    parts.push_back(memory);
  }
  return {};
}

Result<void> StreamSenders::flush(Sender& sender) {
  LivePages& batch = sender.batch;
  if (sender.batch_pages == 0) return {};
  const std::uint64_t raw = pages_in(batch.raw);
  const Bytes meta = encode_live_pages(batch);
  SEALIFT_CHECK(sender.writer->write_in_parts(kLivePagesType, sender.number, meta, sender.parts));
  sender.epoch_pages += sender.batch_pages;
  shared_pages_.fetch_add(raw, std::memory_order_relaxed);
  zero_pages_.fetch_add(sender.batch_pages - raw, std::memory_order_relaxed);
  sender.batch_pages = 0;
  batch.raw.clear();
  batch.zero.clear();
  sender.parts.clear();
  sender.staged.clear();
  return {};
}

Result<void> StreamSenders::end_epoch(std::uint32_t epoch) {
  begin([epoch](Sender& sender) {
    const EncodedRecord end =
        encode(EpochEnd{epoch, sender.number, std::exchange(sender.epoch_pages, 0), 0, {}});
    return sender.writer->write(end.type, end.stream, end.meta, end.payload);
  });
  return finish();
}

}  // namespace sealift
