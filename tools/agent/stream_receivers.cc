#include "tools/agent/stream_receivers.h"

#include <algorithm>
#include <array>
#include <bit>
#include <utility>

#include "engine/assert.h"
#include "schemas/codec.h"
#include "schemas/record_type.h"

namespace sealift {
namespace {

// Copied while they are in the cache of the CPU that received them.
constexpr std::uint64_t kStagedPagesMax = 64;

}  // namespace

StreamReceivers::StreamReceivers(GuestPort& guest, PageAdmission& admission,
                                 std::uint64_t session_id,
                                 std::vector<std::unique_ptr<Stream>> streams, PagesWritten written,
                                 Report report)
    : guest_(guest),
      admission_(admission),
      written_(std::move(written)),
      report_(std::move(report)) {
  SEALIFT_ASSERT(streams.size() + 1 == admission.streams());
  for (auto& stream : streams) {
    const auto number = static_cast<std::uint8_t>(receivers_.size() + 1);
    receivers_.emplace_back(number, std::move(stream), session_id);
  }
  for (Receiver& receiver : receivers_) {
    receiver.thread = std::jthread([this, &receiver] { run(receiver); });
  }
}

void StreamReceivers::stop() {
  stopped_.store(true);
  gate_.close();
  for (Receiver& receiver : receivers_) receiver.stream->shutdown();
  for (Receiver& receiver : receivers_) {
    if (receiver.thread.joinable()) receiver.thread.join();
  }
}

std::vector<std::uint64_t> StreamReceivers::pages() const {
  std::vector<std::uint64_t> pages;
  for (const Receiver& receiver : receivers_) pages.push_back(receiver.pages.load());
  return pages;
}

void StreamReceivers::run(Receiver& receiver) {
  auto received = receive_frames(receiver);
  SEALIFT_ASSERT(!received);
  if (stopped_.load()) return;
  Error error = std::move(received.error());
  error.detail = fmt::format("stream {}: {}", receiver.number, error.detail);
  report_(destination::StreamFailed{std::move(error)});
}

Result<void> StreamReceivers::receive_frames(Receiver& receiver) {
  for (;;) {
    SEALIFT_TRY(const FrameHeader head, receiver.reader.read_head(receiver.meta));
    if (head.stream != receiver.number) {
      return fail(ErrorClass::kMalformed, "a frame of stream {} came on it", head.stream);
    }
    switch (RecordType{head.type}) {
      case RecordType::kLivePages:
        SEALIFT_CHECK(receive_pages(receiver, head));
        break;
      case RecordType::kEpochEnd:
        SEALIFT_CHECK(end_epoch(receiver));
        break;
      default: {
        SEALIFT_TRY(const auto record, decode(head.type, head.stream, receiver.meta, {}));
        const bool skipped = !record || std::holds_alternative<KeepAlive>(*record);
        if (!skipped) return fail(ErrorClass::kMalformed, "unexpected record {}", name_of(*record));
      }
    }
  }
}

Result<void> StreamReceivers::receive_pages(Receiver& receiver, const FrameHeader& head) {
  SEALIFT_TRY(const LivePages pages,
              decode_live_pages(head.stream, receiver.meta, head.payload_bytes));
  SEALIFT_CHECK(gate_.await(pages.epoch));
  SEALIFT_CHECK(admission_.admit(pages));
  for (GfnRange range : pages.zero) SEALIFT_CHECK(check_class(range));
  for (GfnRange range : pages.raw) SEALIFT_CHECK(check_class(range));
  for (GfnRange range : pages.zero) SEALIFT_CHECK(guest_.write_zeros(range));
  SEALIFT_CHECK(read_raw(receiver, pages.raw));
  receiver.pages.fetch_add(pages_in(pages.zero) + pages_in(pages.raw), std::memory_order_relaxed);
  if (!written_) return {};
  std::vector<Gfn> gfns;
  for (const auto* ranges : {&pages.zero, &pages.raw}) {
    for (GfnRange range : *ranges) {
      for (std::uint64_t i = 0; i < range.pages; ++i) gfns.push_back(range.first + i);
    }
  }
  return written_(gfns);
}

// A payload comes in the order of its ranges.
Result<void> StreamReceivers::read_raw(Receiver& receiver, const std::vector<GfnRange>& ranges) {
  for (GfnRange rest : ranges) {
    while (rest.pages > 0) {
      const MutableBytes memory = guest_.landing(rest);
      if (memory.empty()) {
        SEALIFT_CHECK(finish_parts(receiver));
        SEALIFT_CHECK(read_staged(receiver, rest));
        break;
      }
      const std::uint64_t pages = memory.size() / kPageBytes;
      receiver.parts.push_back(memory);
      receiver.landed.push_back(GfnRange{rest.first, pages});
      rest = GfnRange{rest.first + pages, rest.pages - pages};
    }
  }
  return finish_parts(receiver);
}

Result<void> StreamReceivers::finish_parts(Receiver& receiver) {
  if (receiver.parts.empty()) return {};
  SEALIFT_CHECK(receiver.stream->read_parts(receiver.parts));
  for (GfnRange range : receiver.landed) guest_.note_written(range);
  receiver.parts.clear();
  receiver.landed.clear();
  return {};
}

Result<void> StreamReceivers::read_staged(Receiver& receiver, GfnRange range) {
  while (range.pages > 0) {
    const GfnRange now{range.first, std::min(range.pages, kStagedPagesMax)};
    receiver.staged.resize(kStagedPagesMax * kPageBytes);
    const auto bytes = std::span(receiver.staged).first(now.pages * kPageBytes);
    SEALIFT_CHECK(receiver.stream->read_exact(bytes));
    SEALIFT_CHECK(guest_.write_run(now, bytes));
    range = GfnRange{range.first + now.pages, range.pages - now.pages};
  }
  return {};
}

Result<void> StreamReceivers::end_epoch(Receiver& receiver) {
  SEALIFT_TRY(auto record,
              decode(value(RecordType::kEpochEnd), receiver.number, receiver.meta, {}));
  auto& marker = std::get<EpochEnd>(*record);
  SEALIFT_CHECK(gate_.await(marker.epoch));
  SEALIFT_CHECK(admission_.end(marker));
  report_(destination::StreamEnded{std::move(marker)});
  return {};
}

// Both sides classify by what the source announced; a page of the other class would become garbage.
Result<void> StreamReceivers::check_class(GfnRange range) const {
  const PageMap& map = guest_.page_map();
  for (std::uint64_t gfn = value(range.first), end = value(end_of(range)); gfn < end;) {
    const std::uint64_t in_word = std::min<std::uint64_t>(64 - gfn % 64, end - gfn);
    const std::uint64_t bits = (~0ULL >> (64 - in_word)) << (gfn % 64);
    const std::uint64_t other = bits & ~map.shared_bits(gfn / 64);
    if (other != 0) {
      return fail(ErrorClass::kMalformed,
                  "page gfn {:#x} came as shared but was announced as the other class",
                  gfn / 64 * 64 + static_cast<unsigned>(std::countr_zero(other)));
    }
    gfn += in_word;
  }
  return {};
}

}  // namespace sealift
