#include "engine/dirty_set.h"

#include <algorithm>
#include <bit>

#include "engine/assert.h"
#include "engine/page_map.h"

namespace sealift {

std::uint64_t PageBitmap::count() const {
  std::uint64_t pages = 0;
  for (std::uint64_t word : words_) pages += static_cast<std::uint64_t>(std::popcount(word));
  return pages;
}

DirtySet::DirtySet(std::uint64_t span_pages) : span_(span_pages), words_((span_pages + 63) / 64) {}

void DirtySet::mark(Gfn gfn) { mark(GfnRange{gfn, 1}); }

void DirtySet::mark(GfnRange range) {
  SEALIFT_ASSERT(value(range.first) <= span_);
  SEALIFT_ASSERT(range.pages <= span_ - value(range.first));
  const std::uint64_t end = value(end_of(range));
  for (std::uint64_t at = value(range.first); at < end;) {
    const std::uint64_t in_word = at % 64;
    const std::uint64_t bits = std::min<std::uint64_t>(64 - in_word, end - at);
    const std::uint64_t mask = bits == 64 ? ~0ULL : ((1ULL << bits) - 1) << in_word;
    words_[at / 64].fetch_or(mask, std::memory_order_acq_rel);
    at += bits;
  }
}

void DirtySet::merge_word(std::uint64_t word, std::uint64_t bits) {
  SEALIFT_ASSERT(word < words_.size());
  const std::uint64_t base = word * 64;
  if (span_ - base < 64) bits &= (1ULL << (span_ - base)) - 1;
  if (bits != 0) words_[word].fetch_or(bits, std::memory_order_acq_rel);
}

bool DirtySet::is_marked(Gfn gfn) const {
  SEALIFT_ASSERT(value(gfn) < span_);
  return (words_[value(gfn) / 64].load(std::memory_order_acquire) >> (value(gfn) % 64) & 1) != 0;
}

void DirtySet::drain(PageBitmap& into) {
  SEALIFT_ASSERT(into.span_pages() == span_);
  for (std::size_t word = 0; word < words_.size(); ++word) {
    if (words_[word].load(std::memory_order_relaxed) == 0) continue;
    into.words()[word] |= words_[word].exchange(0, std::memory_order_acq_rel);
  }
}

std::uint64_t DirtySet::count() const {
  std::uint64_t pages = 0;
  for (const auto& word : words_) {
    pages += static_cast<std::uint64_t>(std::popcount(word.load(std::memory_order_relaxed)));
  }
  return pages;
}

DirtyCounts DirtySet::count_by_class(const PageMap& map) const {
  DirtyCounts counts;
  for (std::size_t word = 0; word < words_.size(); ++word) {
    std::uint64_t bits = words_[word].load(std::memory_order_acquire);
    for (; bits != 0; bits &= bits - 1) {
      const auto gfn = Gfn{word * 64 + static_cast<std::uint64_t>(std::countr_zero(bits))};
      if (map.class_of(gfn) == PageClass::kShared) {
        ++counts.shared_pages;
      } else {
        ++counts.private_pages;
      }
    }
  }
  return counts;
}

void convert_pages(PageMap& map, DirtySet& dirty, GfnRange range, PageClass cls) {
  map.convert(range, cls);
  dirty.mark(range);
}

}  // namespace sealift
