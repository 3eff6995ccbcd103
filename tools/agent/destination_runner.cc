#include "tools/agent/destination_runner.h"

#include <array>
#include <chrono>
#include <thread>
#include <utility>

#include "engine/assert.h"
#include "tools/agent/clock.h"
#include "tools/agent/fault_point.h"
#include "tools/agent/linger.h"

namespace sealift {
namespace {

constexpr std::uint64_t kKeepAliveEvery_ns = 500'000'000;
constexpr std::chrono::milliseconds kLingerMax{2000};
// A cancel is looked at between two records; a live source is never silent for so long.
constexpr std::chrono::milliseconds kSilentSourceMax{700};
constexpr std::chrono::milliseconds kTick{100};
// Read ahead of what is applied: 4 MiB each at most.
constexpr std::size_t kQueuedRecordsMax = 4;

}  // namespace

DestinationRunner::DestinationRunner(Hello local, MemoryLayout layout, RecordChannel& channel,
                                     DestinationHooks hooks, Progress& progress, Bytes card,
                                     RightNotes* notes)
    : session_(std::move(local), std::move(layout), std::move(card)),
      channel_(channel),
      hooks_(std::move(hooks)),
      progress_(progress),
      notes_(notes),
      queue_(kQueuedRecordsMax) {
  SEALIFT_ASSERT(hooks_.open_guest != nullptr);
  SEALIFT_ASSERT((hooks_.desk != nullptr) == (hooks_.session_id != nullptr));
}

DestinationReport DestinationRunner::run() {
  progress_.update([&](ProgressSnapshot& p) {
    p = ProgressSnapshot{};
    p.phase = destination::name_of(session_.phase());
    p.started_ns = steady_now_ns();
  });
  last_sent_ns_ = steady_now_ns();
  PeerWatch peer_gone;
  std::jthread reader([&] {
    read_records();
    peer_gone.set();
  });
  while (!ended_) {
    auto event = queue_.pop(kTick);
    if (!event) continue;
    handle(std::move(*event));
    // The source's pages and keep-alives pace this: a live source always hears from us in turn.
    if (!ended_ && session_.peer() && steady_now_ns() - last_sent_ns_ > kKeepAliveEvery_ns) {
      destination::Send alive{KeepAlive{}};
      perform(alive);
    }
  }
  queue_.close();
  end_of_cancelling();
  // After our own last word the peer closes first: closing here could destroy that word on its way.
  const bool cancelled = report_.error && report_.error->cls == ErrorClass::kCancelled;
  if (spoke_last_) peer_gone.wait(cancelled ? kSilentSourceMax : kLingerMax);
  channel_.shutdown();
  if (streams_) report_.stream_pages = streams_->pages();
  streams_.reset();
  report_.peer = session_.peer();
  report_.epochs = session_.epoch() - 1;
  report_.shared_pages = session_.shared_pages();
  report_.private_pages = session_.private_pages();
  return std::move(report_);
}

bool DestinationRunner::cancel() {
  const std::lock_guard lock(cancel_mutex_);
  if (too_late_) return false;
  queue_.push_urgent(destination::CancelRequested{});
  if (hooks_.desk != nullptr) hooks_.desk->close();
  if (!cancel_guard_) cancel_guard_.emplace(channel_, kSilentSourceMax);
  return true;
}

void DestinationRunner::read_records() {
  for (;;) {
    auto record = channel_.receive();
    // Who waits for further connections need not wait any more.
    const bool over = !record || std::holds_alternative<Abort>(*record);
    if (over && hooks_.desk != nullptr) hooks_.desk->close();
    if (!record) {
      queue_.push(destination::LinkLost{std::move(record.error())});
      channel_.drain();  // what we still say gets through only while the peer's bytes are read
      return;
    }
    queue_.push(destination::Received{std::move(*record)});
  }
}

// Nothing cuts the link any more on which Running, or the last word, is to leave.
void DestinationRunner::end_of_cancelling() {
  const std::lock_guard lock(cancel_mutex_);
  cancel_guard_.reset();
  too_late_ = true;
}

void DestinationRunner::handle(destination::Event event) {
  replies_.push_back(std::move(event));
  spoke_last_ = false;
  while (!replies_.empty() && !ended_) {
    destination::Event next = std::move(replies_.front());
    replies_.erase(replies_.begin());
    std::vector<destination::Action> actions;
    session_.step(std::move(next), actions);
    for (destination::Action& action : actions) {
      if (auto* note = std::get_if<destination::Note>(&action)) {
        if (!perform_note(*note)) break;
        continue;
      }
      SEALIFT_FAULT_POINT("destination", action, "before");
      std::visit([&](auto& a) { perform(a); }, action);
      SEALIFT_FAULT_POINT("destination", action, "after");
    }
  }
  publish();
}

void DestinationRunner::reply(Result<void> result) {
  if (result) return reply(destination::Applied{});
  reply(destination::Failed{std::move(result.error())});
}

bool DestinationRunner::perform_note(destination::Note& action) {
  const RightFacts facts{.claim = *session_.claim(),
                         .guest = session_.start().guest_name,
                         .peer = session_.peer() ? session_.peer()->agent_name : std::string(),
                         .reason = std::move(action.reason),
                         .page_map_digest = session_.page_map_digest()};
  // From a complete copy on only the source, or whoever settles it, can say what becomes of it.
  if (action.step == RightStep::kReady || action.step == RightStep::kTaken) end_of_cancelling();
  auto noted = notes_->note(action.step, facts);
  if (noted) return true;
  reply(destination::NoteFailed{action.step, std::move(noted.error())});
  return false;
}

void DestinationRunner::perform(destination::Send& action) {
  last_sent_ns_ = steady_now_ns();
  auto sent = channel_.send(std::move(action.record));
  spoke_last_ = sent.has_value();
  if (!sent) {
    reply(destination::LinkLost{std::move(sent.error())});
  }
}

void DestinationRunner::perform(destination::AwaitStreams& action) {
  SEALIFT_ASSERT(hooks_.desk != nullptr);
  hooks_.desk->expect(action.join, action.streams);
}

void DestinationRunner::perform(destination::GetIdentity&) {
  auto guest = hooks_.open_guest();
  if (!guest) return reply(destination::Failed{std::move(guest.error())});
  incoming_ = *guest;
  Bytes identity;
  if (incoming_.importer != nullptr) {
    auto own = incoming_.importer->identity();
    if (!own) return reply(destination::Failed{std::move(own.error())});
    identity = std::move(*own);
  }
  reply(destination::Identity{std::move(identity)});
}

void DestinationRunner::perform(destination::BeginPlatform& action) {
  if (incoming_.importer != nullptr) {
    incoming_.importer->use_streams(1);  // private pages come on stream 0
    if (auto begun = incoming_.importer->begin(action.start); !begun) {
      return reply(destination::Failed{std::move(begun.error())});
    }
  } else if (!action.start.empty()) {
    return reply(destination::Failed{
        Error{ErrorClass::kMalformed,
              fmt::format("PlatformStart has {} bytes for a guest without a platform",
                          action.start.size())}});
  }
  if (auto started = start_streams(); !started) {
    return reply(destination::Failed{std::move(started.error())});
  }
  reply(destination::PlatformBegun{});
}

Result<void> DestinationRunner::start_streams() {
  if (session_.start().streams == 1) return {};
  SEALIFT_TRY(auto streams, hooks_.desk->await_all(hooks_.join_max));
  StreamReceivers::PagesWritten written;
  if (session_.start().verify) written = hooks_.pages_written;
  // Past the queue's capacity, which bounds what the source sends: of these there is one for each
  // stream, and its thread must not wait for ours.
  streams_.emplace(*incoming_.guest, session_.admission(), hooks_.session_id(), std::move(streams),
                   std::move(written),
                   [this](destination::Event event) { queue_.push_urgent(std::move(event)); });
  return {};
}

void DestinationRunner::perform(destination::OpenEpoch& action) { streams_->open(action.epoch); }

void DestinationRunner::perform(destination::ApplyShared& action) {
  reply(write_shared(action.batch));
}

Result<void> DestinationRunner::write_shared(const SharedBatch& batch) {
  for (Gfn gfn : batch.gfns) SEALIFT_CHECK(check_class(gfn, PageClass::kShared));
  ByteView body = batch.body;
  for (std::size_t at = 0; at < batch.gfns.size();) {
    GfnRange run{batch.gfns[at], 1};
    const PageEncoding encoding = batch.encodings[at];
    for (++at;
         at < batch.gfns.size() && batch.gfns[at] == end_of(run) && batch.encodings[at] == encoding;
         ++at) {
      ++run.pages;
    }
    if (encoding == PageEncoding::kZero) {
      SEALIFT_CHECK(incoming_.guest->write_zeros(run));
      continue;
    }
    // The codec checked that the body holds a page for each kRaw entry.
    SEALIFT_CHECK(incoming_.guest->write_run(run, body.first(run.pages * kPageBytes)));
    body = body.subspan(run.pages * kPageBytes);
  }
  if (hooks_.pages_written && session_.start().verify)
    SEALIFT_CHECK(hooks_.pages_written(batch.gfns));
  return {};
}

// Both sides classify by what the source announced; a page of the other class would become garbage.
Result<void> DestinationRunner::check_class(Gfn gfn, PageClass cls) const {
  if (incoming_.guest->page_map().class_of(gfn) == cls) return {};
  return fail(ErrorClass::kMalformed,
              "page gfn {:#x} came as {} but was announced as the other class", value(gfn),
              name_of(cls));
}

void DestinationRunner::perform(destination::ApplyPrivate& action) {
  reply(import_private(action.batch));
}

Result<void> DestinationRunner::import_private(const PrivateBatch& batch) {
  std::vector<Gfn> pages;
  for (std::size_t i = 0; i < batch.gfns.size(); ++i) {
    if (is_page(batch.ops[i])) pages.push_back(batch.gfns[i]);
  }
  for (Gfn gfn : pages) SEALIFT_CHECK(check_class(gfn, PageClass::kPrivate));
  SEALIFT_CHECK(incoming_.importer->import_batch(batch));
  if (!hooks_.pages_written || !session_.start().verify) return {};
  return hooks_.pages_written(pages);
}

void DestinationRunner::perform(destination::ApplyConversions& action) {
  reply(apply(action.conversions));
}

Result<void> DestinationRunner::apply(const Conversions& conversions) {
  const auto convert = [&](const std::vector<GfnRange>& ranges, PageClass cls) -> Result<void> {
    for (GfnRange range : ranges) {
      incoming_.guest->page_map().convert(range, cls);
      SEALIFT_CHECK(incoming_.guest->apply_conversion(range, cls));
      if (incoming_.importer != nullptr) SEALIFT_CHECK(incoming_.importer->converted(range, cls));
    }
    return {};
  };
  SEALIFT_CHECK(convert(conversions.to_shared, PageClass::kShared));
  return convert(conversions.to_private, PageClass::kPrivate);
}

void DestinationRunner::perform(destination::EndEpoch& action) {
  if (incoming_.importer != nullptr) {
    if (auto ended = incoming_.importer->end_epoch(action.epoch, action.token); !ended) {
      return reply(destination::Failed{std::move(ended.error())});
    }
  }
  reply(destination::EpochEnded{});
}

void DestinationRunner::perform(destination::CheckAndLoad& action) {
  if (streams_) streams_->stop();  // all pages are there, and nothing else writes them from here on
  auto loaded = check_and_load(action);
  if (!loaded) return reply(destination::Failed{std::move(loaded.error())});
  report_.load_state_ns = loaded->load_state_ns;
  report_.seal_ns = loaded->seal_ns;
  reply(*loaded);
}

Result<destination::Loaded> DestinationRunner::check_and_load(destination::CheckAndLoad& action) {
  if (incoming_.guest->page_map().digest() != action.finish.page_map_digest) {
    return fail(ErrorClass::kMalformed,
                "the page map here ({} shared pages) differs from the source's",
                incoming_.guest->page_map().shared_pages());
  }
  destination::Loaded loaded;
  Stopwatch watch;
  std::vector<StateBlob> own_state, sealed_state;
  for (StateBlob& blob : action.state) {
    const bool sealed = blob.kind == StateBlob::Kind::kPlatform;
    (sealed ? sealed_state : own_state).push_back(std::move(blob));
  }
  SEALIFT_CHECK(incoming_.guest->load_state(std::move(own_state)));
  if (incoming_.importer != nullptr) {
    SEALIFT_CHECK(incoming_.importer->load_state(std::move(sealed_state)));
  } else if (!sealed_state.empty()) {
    return fail(ErrorClass::kMalformed,
                "{} items of platform state came for a guest without a platform",
                sealed_state.size());
  }
  loaded.load_state_ns = watch.lap();
  if (incoming_.importer != nullptr) SEALIFT_CHECK(incoming_.importer->seal(action.finish.token));
  loaded.seal_ns = watch.lap();
  return loaded;
}

void DestinationRunner::perform(destination::Run&) {
  end_of_cancelling();
  Stopwatch watch;
  if (incoming_.importer != nullptr) {
    if (auto committed = incoming_.importer->commit(); !committed) {
      return reply(destination::Failed{std::move(committed.error())});
    }
  }
  if (hooks_.about_to_run) hooks_.about_to_run();
  if (auto resumed = incoming_.guest->resume(); !resumed) {
    return reply(destination::Failed{std::move(resumed.error())});
  }
  report_.resume_ns = watch.elapsed_ns();
  if (hooks_.runs) hooks_.runs();
  reply(destination::Ran{report_.resume_ns});
}

void DestinationRunner::perform(destination::Discard&) {
  if (streams_) streams_->stop();
  Bytes token;
  if (incoming_.importer != nullptr) {
    // The guest is given up either way; a token that cannot be made is simply not there.
    if (auto made = incoming_.importer->abort()) token = std::move(*made);
  }
  reply(destination::Discarded{std::move(token)});
}

void DestinationRunner::perform(destination::AnswerInquiry& action) {
  if (!hooks_.answer) {
    return reply(destination::Failed{
        Error{ErrorClass::kRefused, "nobody here answers questions about migrations"}});
  }
  auto answer = hooks_.answer(action.inquiry);
  if (!answer) return reply(destination::Failed{std::move(answer.error())});
  reply(destination::Answered{std::move(*answer)});
}

void DestinationRunner::perform(destination::End& action) {
  ended_ = true;
  report_.outcome = action.outcome;
  report_.error = std::move(action.error);
}

void DestinationRunner::publish() {
  progress_.update([&](ProgressSnapshot& p) {
    p.phase = destination::name_of(session_.phase());
    p.rounds = session_.epoch() - 1;
    p.totals.shared_pages = session_.shared_pages();
    p.totals.private_pages = session_.private_pages();
  });
}

}  // namespace sealift
