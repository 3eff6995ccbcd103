#include "engine/page_map.h"

#include <openssl/evp.h>

#include <algorithm>
#include <bit>
#include <thread>

#include "engine/assert.h"
#include "engine/limits.h"

namespace sealift {
namespace {

constexpr std::uint64_t kAllOnes = ~0ULL;

// Bits [first, end) of the 64-bit word that starts at page `base`.
std::uint64_t mask_in_word(std::uint64_t base, std::uint64_t first, std::uint64_t end) {
  const std::uint64_t low = first > base ? kAllOnes << (first - base) : kAllOnes;
  const std::uint64_t high = end < base + 64 ? ~(kAllOnes << (end - base)) : kAllOnes;
  return low & high;
}

void append_run(std::vector<GfnRange>& runs, std::uint64_t first, std::uint64_t pages) {
  if (!runs.empty() && value(end_of(runs.back())) == first) {
    runs.back().pages += pages;
  } else {
    runs.push_back(GfnRange{Gfn{first}, pages});
  }
}

void append_word_runs(std::vector<GfnRange>& runs, std::uint64_t base, std::uint64_t word) {
  while (word != 0) {
    const auto skip = static_cast<unsigned>(std::countr_zero(word));
    const auto length = static_cast<unsigned>(std::countr_one(word >> skip));
    append_run(runs, base + skip, length);
    if (skip + length >= 64) return;
    word &= kAllOnes << (skip + length);
  }
}

}  // namespace

PageMap::PageMap(std::uint64_t span_pages)
    : span_(span_pages), chunks_((span_pages + kChunkPages - 1) / kChunkPages) {
  SEALIFT_ASSERT(span_pages > 0);
  SEALIFT_ASSERT(span_pages <= limits::kGuestPagesMax);
}

PageMap::~PageMap() = default;

// Runs `read` with no conversion beside it. First as a sequence lock: every store of a conversion is a
// release and every load of a reader an acquire, so a reader that saw any of it sees the odd version too.
// A guest that converts without a pause cannot starve it: after some tries conversions are kept out.
template <class Read>
auto PageMap::consistently(Read read) const {
  constexpr int kOptimisticTries = 16;
  for (int i = 0; i < kOptimisticTries; ++i) {
    const std::uint64_t before = version_.load(std::memory_order_acquire);
    if (before % 2 == 0) {
      auto result = read();
      if (version_.load(std::memory_order_relaxed) == before) return result;
    }
    std::this_thread::yield();
  }
  const std::lock_guard lock(convert_mutex_);
  return read();
}

PageClass PageMap::class_of(Gfn gfn) const {
  SEALIFT_ASSERT(value(gfn) < span_);
  const Chunk& chunk = chunks_[value(gfn) / kChunkPages];
  switch (chunk.state.load(std::memory_order_acquire)) {
    case kUniformPrivate:
      return PageClass::kPrivate;
    case kUniformShared:
      return PageClass::kShared;
    default:
      break;
  }
  const std::uint64_t page = value(gfn) % kChunkPages;
  const std::uint64_t word = chunk.leaf->shared[page / 64].load(std::memory_order_acquire);
  return (word >> (page % 64) & 1) != 0 ? PageClass::kShared : PageClass::kPrivate;
}

void PageMap::classify(std::span<const Gfn> gfns, std::span<PageClass> out) const {
  SEALIFT_ASSERT(gfns.size() == out.size());
  consistently([&] {
    for (std::size_t i = 0; i < gfns.size(); ++i) out[i] = class_of(gfns[i]);
    return true;
  });
}

std::uint64_t PageMap::convert(GfnRange range, PageClass cls) {
  SEALIFT_ASSERT(value(range.first) <= span_);
  SEALIFT_ASSERT(range.pages <= span_ - value(range.first));
  if (range.pages == 0) return 0;
  const std::lock_guard lock(convert_mutex_);
  version_.fetch_add(1, std::memory_order_relaxed);  // odd: the stores below are releases after it
  std::uint64_t changed = 0;
  const std::uint64_t end = value(end_of(range));
  for (std::uint64_t at = value(range.first); at < end;) {
    const std::uint64_t chunk = at / kChunkPages;
    const std::uint64_t stop = std::min(end, (chunk + 1) * kChunkPages);
    changed += convert_in_chunk(chunk, at, stop, cls);
    at = stop;
  }
  if (cls == PageClass::kShared) {
    shared_pages_.fetch_add(changed, std::memory_order_relaxed);
  } else {
    shared_pages_.fetch_sub(changed, std::memory_order_relaxed);
  }
  version_.fetch_add(1, std::memory_order_release);
  return changed;
}

// Pages [first, end) of one chunk. A whole chunk becomes uniform; its leaf stays for the next mixed
// phase.
std::uint64_t PageMap::convert_in_chunk(std::uint64_t index, std::uint64_t first, std::uint64_t end,
                                        PageClass cls) {
  Chunk& chunk = chunks_[index];
  const std::uint64_t base = index * kChunkPages;
  const std::uint64_t chunk_end = std::min(base + kChunkPages, span_);
  const std::uint8_t target = cls == PageClass::kShared ? kUniformShared : kUniformPrivate;
  const std::uint8_t state = chunk.state.load(std::memory_order_relaxed);
  if (state == target) return 0;
  if (first == base && end == chunk_end) {
    const std::uint64_t shared = shared_in_chunk(index);
    chunk.state.store(target, std::memory_order_release);
    return cls == PageClass::kShared ? end - first - shared : shared;
  }
  if (!chunk.leaf) chunk.leaf = std::make_unique<Leaf>();
  if (state != kMixed) {
    const std::uint64_t fill = state == kUniformShared ? kAllOnes : 0;
    for (auto& word : chunk.leaf->shared) word.store(fill, std::memory_order_release);
    chunk.state.store(kMixed, std::memory_order_release);
  }
  std::uint64_t changed = 0;
  for (std::uint64_t word = (first - base) / 64; word * 64 + base < end; ++word) {
    const std::uint64_t mask = mask_in_word(base + word * 64, first, end);
    auto& slot = chunk.leaf->shared[word];
    const std::uint64_t before = slot.load(std::memory_order_relaxed);
    const std::uint64_t after = cls == PageClass::kShared ? before | mask : before & ~mask;
    slot.store(after, std::memory_order_release);
    changed += static_cast<std::uint64_t>(std::popcount(before ^ after));
  }
  const std::uint64_t shared = shared_in_chunk(index);
  if (shared == 0) chunk.state.store(kUniformPrivate, std::memory_order_release);
  if (shared == chunk_end - base) chunk.state.store(kUniformShared, std::memory_order_release);
  return changed;
}

std::uint64_t PageMap::shared_in_chunk(std::uint64_t index) const {
  const Chunk& chunk = chunks_[index];
  const std::uint64_t base = index * kChunkPages;
  const std::uint64_t pages = std::min(kChunkPages, span_ - base);
  const std::uint8_t state = chunk.state.load(std::memory_order_acquire);
  if (state == kUniformPrivate) return 0;
  if (state == kUniformShared) return pages;
  std::uint64_t shared = 0;
  for (std::uint64_t word = 0; word * 64 < pages; ++word) {
    const std::uint64_t mask = mask_in_word(word * 64, 0, pages);
    const std::uint64_t bits = chunk.leaf->shared[word].load(std::memory_order_acquire) & mask;
    shared += static_cast<std::uint64_t>(std::popcount(bits));
  }
  return shared;
}

std::uint64_t PageMap::shared_pages() const {
  return shared_pages_.load(std::memory_order_relaxed);
}

std::vector<GfnRange> PageMap::shared_ranges() const {
  return consistently([&] {
    std::vector<GfnRange> runs;
    for (std::uint64_t index = 0; index < chunks_.size(); ++index) {
      const Chunk& chunk = chunks_[index];
      const std::uint64_t base = index * kChunkPages;
      const std::uint64_t pages = std::min(kChunkPages, span_ - base);
      const std::uint8_t state = chunk.state.load(std::memory_order_acquire);
      if (state == kUniformShared) append_run(runs, base, pages);
      if (state != kMixed) continue;
      for (std::uint64_t word = 0; word * 64 < pages; ++word) {
        const std::uint64_t bits = chunk.leaf->shared[word].load(std::memory_order_acquire);
        append_word_runs(runs, base + word * 64, bits & mask_in_word(word * 64, 0, pages));
      }
    }
    return runs;
  });
}

std::array<std::byte, 32> PageMap::digest() const {
  std::vector<std::uint64_t> words{span_};
  for (GfnRange run : shared_ranges()) {
    words.push_back(value(run.first));
    words.push_back(run.pages);
  }
  static_assert(std::endian::native == std::endian::little,
                "the digest is over little-endian words");
  std::array<std::byte, 32> digest{};
  unsigned int bytes = 0;
  const int ok =
      EVP_Digest(words.data(), words.size() * sizeof(std::uint64_t),
                 reinterpret_cast<unsigned char*>(digest.data()), &bytes, EVP_sha256(), nullptr);
  SEALIFT_ASSERT(ok == 1);
  SEALIFT_ASSERT(bytes == digest.size());
  return digest;
}

}  // namespace sealift
