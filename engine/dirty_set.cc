#include "engine/dirty_set.h"

#include <algorithm>
#include <bit>

#include "engine/assert.h"
#include "engine/heat.h"
#include "engine/page_map.h"

namespace sealift {
namespace {

// Bits [first, end) of a word. REQUIRES: first < end <= 64.
std::uint64_t bits_between(std::uint64_t first, std::uint64_t end) {
  return (~0ULL >> (64 - (end - first))) << first;
}

// std::popcount is a call on x86-64 as it is compiled for every CPU, and this is done for every
// word of a guest: sums of 1, 2 and 4 bits side by side, then of all bytes.
std::uint64_t count_of(std::uint64_t bits) {
  bits -= bits >> 1 & 0x5555555555555555;
  bits = (bits & 0x3333333333333333) + (bits >> 2 & 0x3333333333333333);
  bits = (bits + (bits >> 4)) & 0x0f0f0f0f0f0f0f0f;
  return bits * 0x0101010101010101 >> 56;
}

}  // namespace

std::uint64_t PageBitmap::count() const {
  std::uint64_t pages = 0;
  for (std::uint64_t word : words_) pages += count_of(word);
  return pages;
}

std::uint64_t DirtyBlock::count() const {
  std::uint64_t pages = 0;
  for (std::uint64_t rest = filled; rest != 0; rest &= rest - 1) {
    pages += count_of(words[static_cast<std::size_t>(std::countr_zero(rest))]);
  }
  return pages;
}

DirtySet::DirtySet(std::uint64_t span_pages)
    : span_(span_pages),
      words_((span_pages + 63) / 64),
      blocks_((words_.size() + DirtyBlock::kWords - 1) / DirtyBlock::kWords) {}

DirtySet::~DirtySet() = default;

std::uint64_t DirtySet::pages_of_word(std::uint64_t word) const {
  return bits_between(0, std::min<std::uint64_t>(64, span_ - word * 64));
}

void DirtySet::mark_in_word(std::uint64_t word, std::uint64_t bits) {
  words_[word].fetch_or(bits, std::memory_order_acq_rel);
  auto& filled = blocks_[word / DirtyBlock::kWords].filled;
  const std::uint64_t bit = 1ULL << (word % DirtyBlock::kWords);
  if ((filled.load(std::memory_order_relaxed) & bit) == 0) {
    filled.fetch_or(bit, std::memory_order_acq_rel);
  }
}

Heat& DirtySet::watch_heat(const PageMap& map) {
  SEALIFT_ASSERT(map.span_pages() == span_);
  const std::lock_guard lock(heat_mutex_);
  if (heat_owner_) {
    heat_owner_->restart();
  } else {
    heat_owner_ = std::make_unique<Heat>(map);
    heat_.store(heat_owner_.get(), std::memory_order_release);
  }
  return *heat_owner_;
}

void DirtySet::report(std::uint64_t word, std::uint64_t bits) {
  if (Heat* heat = heat_.load(std::memory_order_acquire)) heat->report(word, bits);
}

void DirtySet::report(GfnRange range) {
  if (range.pages > DirtyBlock::kWords * 64) return;
  if (heat_.load(std::memory_order_acquire) == nullptr) return;
  for (std::uint64_t at = value(range.first), end = value(end_of(range)); at < end;) {
    const std::uint64_t stop = std::min(end, (at / 64 + 1) * 64);
    report(at / 64, bits_between(at % 64, stop - at / 64 * 64));
    at = stop;
  }
}

void DirtySet::mark(Gfn gfn) {
  put_back(gfn);
  report(value(gfn) / 64, 1ULL << (value(gfn) % 64));
}

void DirtySet::put_back(Gfn gfn) {
  SEALIFT_ASSERT(value(gfn) < span_);
  mark_in_word(value(gfn) / 64, 1ULL << (value(gfn) % 64));
}

void DirtySet::mark(GfnRange range) {
  SEALIFT_ASSERT(value(range.first) <= span_);
  SEALIFT_ASSERT(range.pages <= span_ - value(range.first));
  std::uint64_t at = value(range.first);
  const std::uint64_t end = value(end_of(range));
  while (at < end) {
    const std::uint64_t word = at / 64;
    const std::uint64_t whole_end = end / 64;  // words before it are marked to their last page
    if (at % 64 != 0 || word == whole_end) {
      const std::uint64_t stop = std::min(end, (word + 1) * 64);
      mark_in_word(word, bits_between(at % 64, stop - word * 64));
      at = stop;
      continue;
    }
    const std::uint64_t block = word / DirtyBlock::kWords;
    const std::uint64_t stop = std::min(whole_end, (block + 1) * DirtyBlock::kWords);
    const std::uint64_t base = block * DirtyBlock::kWords;
    blocks_[block].whole.fetch_or(bits_between(word - base, stop - base),
                                  std::memory_order_acq_rel);
    at = stop * 64;
  }
  report(range);
}

void DirtySet::merge_word(std::uint64_t word, std::uint64_t bits) {
  SEALIFT_ASSERT(word < words_.size());
  bits &= pages_of_word(word);
  if (bits == 0) return;
  mark_in_word(word, bits);
  report(word, bits);
}

std::uint64_t DirtySet::marked_bits(std::uint64_t word) const {
  SEALIFT_ASSERT(word < words_.size());
  const Block& block = blocks_[word / DirtyBlock::kWords];
  const std::uint64_t bit = 1ULL << (word % DirtyBlock::kWords);
  if ((block.whole.load(std::memory_order_acquire) & bit) != 0) return pages_of_word(word);
  if ((block.filled.load(std::memory_order_acquire) & bit) == 0) return 0;
  return words_[word].load(std::memory_order_acquire);
}

bool DirtySet::is_marked(Gfn gfn) const {
  SEALIFT_ASSERT(value(gfn) < span_);
  return (marked_bits(value(gfn) / 64) >> (value(gfn) % 64) & 1) != 0;
}

std::uint64_t DirtySet::next_marked_word(std::uint64_t word) const {
  while (word < words_.size()) {
    const Block& block = blocks_[word / DirtyBlock::kWords];
    const std::uint64_t marked = (block.filled.load(std::memory_order_acquire) |
                                  block.whole.load(std::memory_order_acquire)) >>
                                 (word % DirtyBlock::kWords);
    if (marked != 0) return word + static_cast<std::uint64_t>(std::countr_zero(marked));
    word = (word / DirtyBlock::kWords + 1) * DirtyBlock::kWords;
  }
  return words_.size();
}

std::uint64_t DirtySet::take(std::uint64_t word, std::uint64_t bits) {
  SEALIFT_ASSERT(word < words_.size());
  Block& block = blocks_[word / DirtyBlock::kWords];
  const std::uint64_t bit = 1ULL << (word % DirtyBlock::kWords);
  if ((block.whole.load(std::memory_order_acquire) & bit) != 0) {
    // Into the word first: its pages are marked in one of the two at every moment.
    mark_in_word(word, pages_of_word(word));
    block.whole.fetch_and(~bit, std::memory_order_acq_rel);
  }
  const bool all = (words_[word].load(std::memory_order_relaxed) & ~bits) == 0;
  if (all) block.filled.fetch_and(~bit, std::memory_order_acq_rel);
  const std::uint64_t marked = words_[word].fetch_and(~bits, std::memory_order_acq_rel);
  const bool more_came = all && (marked & ~bits) != 0;
  if (more_came) block.filled.fetch_or(bit, std::memory_order_acq_rel);
  return marked & bits;
}

// Moves the marks of a block into `into`.
void DirtySet::drain_block(std::uint64_t block, DirtyBlock& into) {
  Block& from = blocks_[block];
  const auto take = [](std::atomic<std::uint64_t>& bits) {
    const bool empty = bits.load(std::memory_order_relaxed) == 0;
    return empty ? 0 : bits.exchange(0, std::memory_order_acq_rel);
  };
  const std::uint64_t filled = take(from.filled);
  const std::uint64_t whole = take(from.whole);
  into.first_word = block * DirtyBlock::kWords;
  into.filled = filled | whole;
  for (std::uint64_t rest = into.filled; rest != 0; rest &= rest - 1) {
    const auto i = static_cast<std::uint64_t>(std::countr_zero(rest));
    const std::uint64_t word = into.first_word + i;
    // Always an exchange, also of an empty word: I1 needs it.
    into.words[i] =
        (filled >> i & 1) != 0 ? words_[word].exchange(0, std::memory_order_acq_rel) : 0;
    if ((whole >> i & 1) != 0) into.words[i] = pages_of_word(word);
  }
}

void DirtySet::drain(PageBitmap& into) {
  SEALIFT_ASSERT(into.span_pages() == span_);
  DirtyBlock taken;  // words that are not in `filled` may be left from the block before
  for (std::uint64_t block = 0; block < blocks_.size(); ++block) {
    drain_block(block, taken);
    for (std::uint64_t rest = taken.filled; rest != 0; rest &= rest - 1) {
      const auto i = static_cast<std::uint64_t>(std::countr_zero(rest));
      into.words()[taken.first_word + i] |= taken.words[i];
    }
  }
}

void DirtySet::clear() {
  DirtyBlock forgotten;
  for (std::uint64_t block = 0; block < blocks_.size(); ++block) drain_block(block, forgotten);
}

std::vector<DirtyBlock> DirtySet::drain() {
  const auto marked = [](const Block& block) {
    return (block.filled.load(std::memory_order_relaxed) |
            block.whole.load(std::memory_order_relaxed)) != 0;
  };
  std::vector<DirtyBlock> drained;
  drained.reserve(static_cast<std::size_t>(std::count_if(blocks_.begin(), blocks_.end(), marked)));
  for (std::uint64_t block = 0; block < blocks_.size(); ++block) {
    if (marked(blocks_[block])) drain_block(block, drained.emplace_back());
  }
  return drained;
}

// Every word with a mark, and its marks.
template <class Visit>
void DirtySet::for_each_word(Visit visit) const {
  for (std::uint64_t block = 0; block < blocks_.size(); ++block) {
    std::uint64_t rest = blocks_[block].filled.load(std::memory_order_acquire) |
                         blocks_[block].whole.load(std::memory_order_acquire);
    for (; rest != 0; rest &= rest - 1) {
      const auto i = static_cast<std::uint64_t>(std::countr_zero(rest));
      const std::uint64_t word = block * DirtyBlock::kWords + i;
      visit(word, marked_bits(word));
    }
  }
}

std::uint64_t DirtySet::count() const {
  std::uint64_t pages = 0;
  for_each_word([&](std::uint64_t, std::uint64_t bits) { pages += count_of(bits); });
  return pages;
}

DirtyCounts DirtySet::count_by_class(const PageMap& map) const {
  DirtyCounts counts;
  for_each_word([&](std::uint64_t word, std::uint64_t bits) {
    const std::uint64_t shared = count_of(bits & map.shared_bits(word));
    counts.shared_pages += shared;
    counts.private_pages += count_of(bits) - shared;
  });
  return counts;
}

void convert_pages(PageMap& map, DirtySet& dirty, GfnRange range, PageClass cls) {
  map.convert(range, cls);
  dirty.mark(range);
}

}  // namespace sealift
