#include "engine/page_admission.h"

#include <algorithm>
#include <bit>
#include <numeric>

#include "engine/assert.h"

namespace sealift {

PageAdmission::PageAdmission(const MemoryLayout& layout)
    : layout_(layout), taken_((layout.span_pages() + 63) / 64) {}

void PageAdmission::begin(std::uint8_t streams, std::uint32_t batch_pages_max) {
  SEALIFT_ASSERT(streams > 0 && streams_.empty());
  streams_ = std::vector<Stream>(streams);
  batch_pages_max_ = batch_pages_max;
}

void PageAdmission::open(std::uint32_t epoch) {
  SEALIFT_ASSERT(epoch == open_.load(std::memory_order_relaxed) + 1);
  for (auto& word : taken_) word.store(0, std::memory_order_relaxed);
  open_.store(epoch, std::memory_order_release);
}

Result<PageAdmission::Stream*> PageAdmission::check_turn(std::uint8_t stream, std::uint32_t epoch,
                                                         const char* what) {
  if (stream >= streams_.size()) {
    return fail(ErrorClass::kMalformed, "{} of epoch {} came on stream {}, which does not exist",
                what, epoch, stream);
  }
  Stream& state = streams_[stream];
  // Before the open epoch is looked at: it may change only once this stream has ended it.
  if (epoch <= state.ended) {
    return fail(ErrorClass::kMalformed,
                "{} of epoch {} came on stream {}, which has ended the epoch", what, epoch, stream);
  }
  const std::uint32_t open = open_.load(std::memory_order_acquire);
  if (epoch != open) {
    return fail(ErrorClass::kMalformed, "{} of epoch {} came in epoch {}", what, epoch, open);
  }
  if (state.epoch != epoch) {
    state.epoch = epoch;
    state.shared_pages = state.private_pages = 0;
  }
  return &state;
}

Result<void> PageAdmission::check_size(std::uint64_t pages) const {
  if (pages > 0 && pages <= batch_pages_max_) return {};
  return fail(ErrorClass::kMalformed, "a batch of {} pages is outside 1 to {}", pages,
              batch_pages_max_);
}

Result<void> PageAdmission::take(GfnRange range, std::uint32_t epoch) {
  if (!layout_.contains(range)) {
    return fail(ErrorClass::kMalformed, "page gfn {:#x} ({} pages) is not in the guest's memory",
                value(range.first), range.pages);
  }
  const std::uint64_t end = value(end_of(range));
  for (std::uint64_t gfn = value(range.first); gfn < end;) {
    const std::uint64_t in_word = std::min<std::uint64_t>(64 - gfn % 64, end - gfn);
    const std::uint64_t bits = (~0ULL >> (64 - in_word)) << (gfn % 64);
    const std::uint64_t before = taken_[gfn / 64].fetch_or(bits, std::memory_order_relaxed);
    if ((before & bits) != 0) {
      return fail(ErrorClass::kMalformed, "page gfn {:#x} came twice in epoch {}",
                  gfn / 64 * 64 + static_cast<unsigned>(std::countr_zero(before & bits)), epoch);
    }
    gfn += in_word;
  }
  return {};
}

Result<void> PageAdmission::admit(std::uint8_t stream, std::uint32_t epoch,
                                  std::span<const Gfn> pages, std::size_t entries, PageClass cls) {
  SEALIFT_TRY(Stream* const state, check_turn(stream, epoch, "pages"));
  SEALIFT_CHECK(check_size(entries));
  for (Gfn gfn : pages) SEALIFT_CHECK(take(GfnRange{gfn, 1}, epoch));
  (cls == PageClass::kShared ? state->shared_pages : state->private_pages) += pages.size();
  return {};
}

Result<void> PageAdmission::admit(const LivePages& pages) {
  SEALIFT_TRY(Stream* const state, check_turn(pages.stream, pages.epoch, "pages"));
  const std::uint64_t count = pages_in(pages.zero) + pages_in(pages.raw);
  SEALIFT_CHECK(check_size(count));
  for (GfnRange range : pages.zero) SEALIFT_CHECK(take(range, pages.epoch));
  for (GfnRange range : pages.raw) SEALIFT_CHECK(take(range, pages.epoch));
  state->shared_pages += count;
  return {};
}

Result<void> PageAdmission::end(const EpochEnd& marker) {
  SEALIFT_TRY(Stream* const state, check_turn(marker.stream, marker.epoch, "EpochEnd"));
  if (marker.shared_pages != state->shared_pages || marker.private_pages != state->private_pages) {
    return fail(ErrorClass::kMalformed,
                "epoch {} on stream {} announces {} shared and {} private pages, {} and {} came",
                marker.epoch, marker.stream, marker.shared_pages, marker.private_pages,
                state->shared_pages, state->private_pages);
  }
  state->ended = marker.epoch;
  return {};
}

}  // namespace sealift
