#include "engine/page_map.h"

#include <openssl/evp.h>

#include <algorithm>
#include <bit>
#include <thread>

#include "engine/limits.h"

namespace sealift {
namespace {

constexpr std::uint64_t kAllOnes = ~0ULL;

// The pages from `edge` on, of the 64 that start at `base`.
std::uint64_t pages_from(std::uint64_t edge, std::uint64_t base) {
  if (edge <= base) return kAllOnes;
  return edge - base < 64 ? kAllOnes << (edge - base) : 0;
}

// g++ makes __builtin_prefetch(…, 1) a prefetch to read unless told of -mprfchw: the line would
// come twice, shared with its readers and then alone. Processors without PREFETCHW ignore it.
void prefetch_to_write(const void* at) {
#if defined(__x86_64__)
  asm volatile("prefetchw %0" : : "m"(*static_cast<const char*>(at)));
#else
  __builtin_prefetch(at, 1);
#endif
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

// Words without a leaf.
struct PageMap::Edges {
  __extension__ using Wide = unsigned __int128;  // a word and room for two edges more

  static std::uint64_t edge(Word word, unsigned lane) {
    return kChunkPages - (word >> lane * kLaneBits & (2 * kChunkPages - 1));
  }

  // kLaneBits for each edge at or before `page`, which is in the chunk.
  static unsigned bits_passed(Word word, std::uint64_t page) {
    const Word ahead = ~(word + page * kEachLane) & kChunkPages * kEachLane;
    if (ahead == 0) return kLanes * kLaneBits;
    return static_cast<unsigned>(std::countr_zero(ahead)) - (kLaneBits - 1);
  }

  // The word with [first, end) shared or not: its edges before `first`, then `first` and `end`
  // where the class changes there, then its edges after `end`. Does not fit if it has bits above a
  // word's lanes.
  static Wide with(Word word, std::uint64_t first, std::uint64_t end, bool shared) {
    const unsigned before = first == 0 ? 0 : bits_passed(word, first - 1);
    const unsigned through = end == kChunkPages ? kLanes * kLaneBits : bits_passed(word, end);
    Wide made = word & ((1ULL << before) - 1);
    unsigned at = before;
    // Without a branch: which edges a conversion adds is not to be predicted.
    const auto add = [&](std::uint64_t edge, unsigned passed) {
      const bool changes = (passed / kLaneBits % 2 != 0) != shared;
      made |= Wide{(kChunkPages - edge) * (changes ? 1 : 0)} << at;
      at += kLaneBits * (changes ? 1 : 0);
    };
    add(first, before);
    add(end, through);
    return made | Wide{word >> through} << at;
  }
  // with() of an all private chunk; 0 < end - first.
  static Word one_run(std::uint64_t first, std::uint64_t end) {
    return (kChunkPages - first) | (kChunkPages - end) << kLaneBits;
  }
  static bool fits(Wide word) { return word >> kLanes * kLaneBits == 0; }

  // The shared ones of the 64 pages from `base`.
  static std::uint64_t bits(Word word, std::uint64_t base) {
    std::uint64_t bits = 0;
    for (unsigned lane = 0; lane < kLanes; ++lane) bits ^= pages_from(edge(word, lane), base);
    return bits;
  }

  static std::uint64_t shared_pages(Word word) {
    return edge(word, 1) - edge(word, 0) + edge(word, 3) - edge(word, 2);
  }
};

// Excludes conversions from each other and readers that got no turn without a lock.
class PageMap::Locked {
 public:
  explicit Locked(std::atomic<std::uint64_t>& version) : version_(version) {
    std::uint64_t even = version_.load(std::memory_order_relaxed) & ~1ULL;
    while (!version_.compare_exchange_weak(even, even + 1, std::memory_order_acquire,
                                           std::memory_order_relaxed)) {
      if (even % 2 != 0) std::this_thread::yield();
      even &= ~1ULL;
    }
    locked_ = even + 1;
  }
  Locked(const Locked&) = delete;
  Locked& operator=(const Locked&) = delete;
  ~Locked() { version_.store(locked_ + 1, std::memory_order_release); }

 private:
  std::atomic<std::uint64_t>& version_;
  std::uint64_t locked_ = 0;
};

PageMap::PageMap(std::uint64_t span_pages)
    : span_(span_pages), chunks_((span_pages + kChunkPages - 1) / kChunkPages) {
  SEALIFT_ASSERT(span_pages > 0);
  SEALIFT_ASSERT(span_pages <= limits::kGuestPagesMax);
}

PageMap::~PageMap() = default;

// Runs `read` with no conversion beside it. First as a sequence lock: every store of a conversion
// is a release and every load of a reader an acquire, so a reader that saw any of it sees the odd
// version too. A guest that converts without a pause cannot starve it: after some tries conversions
// are kept out.
template <class Read>
auto PageMap::consistently(Read read) const {
  constexpr int kOptimisticTries = 4;
  for (int i = 0; i < kOptimisticTries; ++i) {
    const std::uint64_t before = version_.load(std::memory_order_acquire);
    if (before % 2 == 0) {
      auto result = read();
      if (version_.load(std::memory_order_relaxed) == before) return result;
    }
    std::this_thread::yield();
  }
  const Locked lock(version_);
  return read();
}

void PageMap::classify(std::span<const Gfn> gfns, std::span<PageClass> out) const {
  SEALIFT_ASSERT(gfns.size() == out.size());
  consistently([&] {
    for (std::size_t i = 0; i < gfns.size(); ++i) out[i] = class_of(gfns[i]);
    return true;
  });
}

std::uint64_t PageMap::shared_bits(std::uint64_t word) const {
  SEALIFT_ASSERT(word < (span_ + 63) / 64);
  const Word chunk = chunks_[word * 64 / kChunkPages].load(std::memory_order_acquire);
  if (chunk == 0) return 0;
  const std::uint64_t page = word * 64 % kChunkPages;
  if (has_leaf(chunk)) return leaf_of(chunk)->shared[page / 64].load(std::memory_order_acquire);
  return Edges::bits(chunk, page);
}

std::uint64_t PageMap::convert(GfnRange range, PageClass cls) {
  SEALIFT_ASSERT(value(range.first) <= span_);
  SEALIFT_ASSERT(range.pages <= span_ - value(range.first));
  if (range.pages == 0) return 0;
  const bool shared = cls == PageClass::kShared;
  const std::uint64_t end = value(end_of(range));
  // The lock waits for earlier stores to land; what is needed after it can come meanwhile.
  prefetch_to_write(&chunks_[value(range.first) / kChunkPages]);
  const Locked lock(version_);  // odd: the stores below are releases after it
  std::uint64_t changed = 0;
  for (std::uint64_t at = value(range.first); at < end;) {
    const std::uint64_t chunk = at / kChunkPages;
    const std::uint64_t base = chunk * kChunkPages;
    const std::uint64_t stop = std::min(end, base + kChunkPages);
    changed += convert_in_chunk(chunk, at - base, stop - base, shared);
    at = stop;
  }
  const std::uint64_t were = shared_pages_.load(std::memory_order_relaxed);
  shared_pages_.store(shared ? were + changed : were - changed, std::memory_order_relaxed);
  return changed;
}

std::uint64_t PageMap::chunk_pages(std::uint64_t chunk) const {
  return std::min(kChunkPages, span_ - chunk * kChunkPages);
}

// Pages [first, end) of one chunk, counted from its start.
std::uint64_t PageMap::convert_in_chunk(std::uint64_t chunk, std::uint64_t first, std::uint64_t end,
                                        bool shared) {
  const std::uint64_t pages = chunk_pages(chunk);
  if (end - first == pages) return make_uniform(chunk, pages, shared);
  const Word word = chunks_[chunk].load(std::memory_order_relaxed);
  // Most chunks of most guests: nothing is shared, until one run is, and it is taken back whole.
  const Word run = Edges::one_run(first, end);
  if (word == (shared ? 0 : run)) {
    chunks_[chunk].store(shared ? run : 0, std::memory_order_release);
    return end - first;
  }
  if (!has_leaf(word)) {
    const Edges::Wide made = Edges::with(word, first, end, shared);
    if (Edges::fits(made)) {
      const auto after = static_cast<Word>(made);
      chunks_[chunk].store(after, std::memory_order_release);
      const std::uint64_t was = Edges::shared_pages(word);
      const std::uint64_t is = Edges::shared_pages(after);
      return shared ? is - was : was - is;
    }
    move_to_leaf(chunk);
  }
  return convert_in_leaf(chunk, first, end, shared);
}

std::uint64_t PageMap::shared_in_chunk(std::uint64_t chunk) const {
  const Word word = chunks_[chunk].load(std::memory_order_relaxed);
  return has_leaf(word) ? leaf_of(word)->shared_pages : Edges::shared_pages(word);
}

std::uint64_t PageMap::make_uniform(std::uint64_t chunk, std::uint64_t pages, bool shared) {
  const std::uint64_t was = shared_in_chunk(chunk);
  const auto uniform = static_cast<Word>(Edges::with(0, 0, pages, shared));
  chunks_[chunk].store(uniform, std::memory_order_release);
  return shared ? pages - was : was;
}

// The leaf is filled with what the chunk holds already: only then may it be converted (I4).
void PageMap::move_to_leaf(std::uint64_t chunk) {
  const Word word = chunks_[chunk].load(std::memory_order_relaxed);
  Leaf& leaf = leaves_.try_emplace(chunk).first->second;
  for (std::uint64_t i = 0; i < leaf.shared.size(); ++i) {
    leaf.shared[i].store(Edges::bits(word, i * 64), std::memory_order_release);
  }
  leaf.shared_pages = Edges::shared_pages(word);
  leaf.runs = leaf.runs_in(0, leaf.shared.size() - 1);
  chunks_[chunk].store(reinterpret_cast<Word>(&leaf) | kLeafTag, std::memory_order_release);
}

std::uint64_t PageMap::Leaf::first_shared() const {
  std::uint64_t word = 0;
  while (shared[word].load(std::memory_order_relaxed) == 0) ++word;
  const std::uint64_t bits = shared[word].load(std::memory_order_relaxed);
  return word * 64 + static_cast<std::uint64_t>(std::countr_zero(bits));
}

std::uint64_t PageMap::Leaf::runs_in(std::uint64_t first, std::uint64_t last) const {
  std::uint64_t before = first == 0 ? 0 : shared[first - 1].load(std::memory_order_relaxed);
  std::uint64_t runs_found = 0;
  for (std::uint64_t word = first; word <= last; ++word) {
    const std::uint64_t bits = shared[word].load(std::memory_order_relaxed);
    runs_found += static_cast<std::uint64_t>(std::popcount(bits & ~(bits << 1 | before >> 63)));
    before = bits;
  }
  return runs_found;
}

// Leaves the leaf at one run and not at two: a chunk that needs a leaf for every second conversion
// must not fill it each time.
std::uint64_t PageMap::convert_in_leaf(std::uint64_t chunk, std::uint64_t first, std::uint64_t end,
                                       bool shared) {
  Leaf& leaf = *leaf_of(chunks_[chunk].load(std::memory_order_relaxed));
  const std::uint64_t last = std::min<std::uint64_t>(end / 64, leaf.shared.size() - 1);
  leaf.runs -= leaf.runs_in(first / 64, last);
  std::uint64_t changed = 0;
  for (std::uint64_t word = first / 64; word <= last; ++word) {
    const std::uint64_t mask = pages_from(first, word * 64) & ~pages_from(end, word * 64);
    const std::uint64_t before = leaf.shared[word].load(std::memory_order_relaxed);
    const std::uint64_t after = shared ? before | mask : before & ~mask;
    leaf.shared[word].store(after, std::memory_order_release);
    changed += static_cast<std::uint64_t>(std::popcount(before ^ after));
  }
  leaf.runs += leaf.runs_in(first / 64, last);
  leaf.shared_pages = shared ? leaf.shared_pages + changed : leaf.shared_pages - changed;
  if (leaf.runs > 1) return changed;
  const std::uint64_t run = leaf.runs == 0 ? 0 : leaf.first_shared();
  const auto word = static_cast<Word>(Edges::with(0, run, run + leaf.shared_pages, leaf.runs == 1));
  chunks_[chunk].store(word, std::memory_order_release);
  return changed;
}

std::uint64_t PageMap::shared_pages() const {
  return shared_pages_.load(std::memory_order_relaxed);
}

std::vector<GfnRange> PageMap::shared_ranges() const {
  return consistently([&] {
    std::vector<GfnRange> runs;
    for (std::uint64_t chunk = 0; chunk < chunks_.size(); ++chunk) {
      const Word word = chunks_[chunk].load(std::memory_order_acquire);
      if (word == 0) continue;
      const std::uint64_t base = chunk * kChunkPages;
      if (has_leaf(word)) {
        for (std::uint64_t i = 0; i < kChunkPages / 64; ++i) {
          const auto bits = leaf_of(word)->shared[i].load(std::memory_order_acquire);
          append_word_runs(runs, base + i * 64, bits);
        }
        continue;
      }
      for (unsigned lane = 0; lane < kLanes; lane += 2) {
        const std::uint64_t first = Edges::edge(word, lane);
        const std::uint64_t pages = Edges::edge(word, lane + 1) - first;
        if (pages > 0) append_run(runs, base + first, pages);
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

std::uint64_t PageMap::memory_bytes() const {
  constexpr std::uint64_t kAllocatorHeader = 16;
  constexpr std::uint64_t kNode =
      sizeof(decltype(leaves_)::value_type) + sizeof(void*) + kAllocatorHeader;
  const Locked lock(version_);
  return sizeof(*this) + chunks_.capacity() * sizeof(Word) + leaves_.size() * kNode +
         leaves_.bucket_count() * sizeof(void*);
}

}  // namespace sealift
