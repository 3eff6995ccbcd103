// PageMap: for every guest page, is it shared or private. Exactness of this map is the correctness
// of a migration.
//
// The guest is cut into chunks of 8192 pages (32 MiB), one 64-bit word each. A chunk with at most
// two shared runs is its word: a lookup is one load, a conversion one store. A chunk with more has
// a leaf, a bit for each page, until it is back at one run. So a 1 TiB guest costs 256 KiB while
// its shared memory is a swiotlb buffer and scattered pages, and converting all of it writes 32768
// words.
//
// Owner:   the guest (one per guest); lives as long as its memory.
// Threads: any. class_of() and shared_bits() are wait-free: at most two loads, no retry. convert()
//          calls exclude each other; a conversion becomes visible to classify() and snapshots as a
//          whole, never in part.
// Failure: nothing here fails. A range outside [0, span_pages) is a caller's bug and asserts: guest
//          input is checked by the exit decoder, peer input by DestinationSession.
// Invariants:
//   I1  Every page has exactly one class; a new map is all private.
//   I2  shared_pages() equals the number of pages with class kShared.
//   I3  A leaf belongs to its chunk as long as the map lives, so none is freed beside a reader, and
//       a chunk that needs one again reuses it. Memory is therefore at most 1.1 bits for each page
//       (35 MiB for 1 TiB), whatever the guest converts and for however long.
//   I4  A leaf that its chunk has left keeps its last content; when it is needed again, each of its
//       words goes to the chunk's present content in one store, before any conversion in it. So a
//       reader that still holds the leaf reads a class that the page had during the call.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

#include "engine/assert.h"
#include "engine/types.h"

namespace sealift {

class PageMap {
 public:
  // REQUIRES: 0 < span_pages <= limits::kGuestPagesMax.
  explicit PageMap(std::uint64_t span_pages);
  PageMap(const PageMap&) = delete;
  PageMap& operator=(const PageMap&) = delete;
  ~PageMap();

  std::uint64_t span_pages() const { return span_; }

  // REQUIRES: gfn < span_pages. Wait-free.
  PageClass class_of(Gfn gfn) const;

  // Bit i: page 64 * word + i is shared; 0 past the span. One instant. Wait-free.
  // REQUIRES: 64 * word < span_pages.
  std::uint64_t shared_bits(std::uint64_t word) const;

  // Classes of `gfns` at one instant: a concurrent conversion is seen whole or not at all.
  void classify(std::span<const Gfn> gfns, std::span<PageClass> out) const;

  // REQUIRES: range inside the map. O(chunks touched). Returns the number of pages whose class
  // changed.
  std::uint64_t convert(GfnRange range, PageClass cls);

  std::uint64_t shared_pages() const;

  // Serialised form: the maximal runs of shared pages, ascending, of one instant.
  std::vector<GfnRange> shared_ranges() const;

  // SHA-256 over the serialised form: "first,pages" as little-endian u64 pairs, after the span as
  // u64.
  std::array<std::byte, 32> digest() const;

  // What the map takes from the allocator now, itself included.
  std::uint64_t memory_bytes() const;

  static constexpr std::uint64_t kChunkPages = 8192;

 private:
  struct Leaf {
    std::array<std::atomic<std::uint64_t>, kChunkPages / 64> shared{};
    std::uint64_t shared_pages = 0;  // this and the next are for convert() alone
    std::uint64_t runs = 0;          // of shared pages

    std::uint64_t first_shared() const;
    // Runs that begin in words [first, last].
    std::uint64_t runs_in(std::uint64_t first, std::uint64_t last) const;
  };
  class Locked;

  std::uint64_t chunk_pages(std::uint64_t chunk) const;
  std::uint64_t shared_in_chunk(std::uint64_t chunk) const;
  std::uint64_t convert_in_chunk(std::uint64_t chunk, std::uint64_t first, std::uint64_t end,
                                 bool shared);
  std::uint64_t make_uniform(std::uint64_t chunk, std::uint64_t pages, bool shared);
  void move_to_leaf(std::uint64_t chunk);
  std::uint64_t convert_in_leaf(std::uint64_t chunk, std::uint64_t first, std::uint64_t end,
                                bool shared);
  template <class Read>
  auto consistently(Read read) const;

  // The word of a chunk. Highest bit clear: up to four edges, ascending, in lanes of 14 bits from
  // the lowest bit. Pages are private up to the first edge, shared from it up to the second,
  // private up to the third, shared up to the fourth. A lane holds the pages from its edge to the
  // chunk's end, so an edge at the end is 0, as is a lane without one; 0 is all private. Highest
  // bit set: the rest is the leaf's address.
  using Word = std::uint64_t;
  static constexpr unsigned kLanes = 4;
  static constexpr unsigned kLaneBits = 14;
  static constexpr Word kEachLane =
      1ULL | 1ULL << kLaneBits | 1ULL << 2 * kLaneBits | 1ULL << 3 * kLaneBits;
  static constexpr Word kLeafTag = 1ULL << 63;
  static_assert(kChunkPages == 1ULL << (kLaneBits - 1) && kLanes * kLaneBits < 63);
  struct Edges;  // what convert() does with a word

  static bool has_leaf(Word word) { return (word & kLeafTag) != 0; }
  static Leaf* leaf_of(Word word) {
    return reinterpret_cast<Leaf*>(word & ~kLeafTag);  // NOLINT(performance-no-int-to-ptr)
  }

  // Read by everybody, written by nobody: kept off the cache line that conversions write.
  std::uint64_t const span_;
  std::vector<std::atomic<Word>> chunks_;

  // Odd while a conversion is under way: the lock of conversions, and what readers of more than one
  // word look at before and after.
  alignas(64) mutable std::atomic<std::uint64_t> version_{0};
  std::atomic<std::uint64_t> shared_pages_{0};
  std::unordered_map<std::uint64_t, Leaf> leaves_;  // by chunk; its nodes never move
};

inline PageClass PageMap::class_of(Gfn gfn) const {
  SEALIFT_ASSERT(value(gfn) < span_);
  const Word word = chunks_[value(gfn) / kChunkPages].load(std::memory_order_acquire);
  const std::uint64_t page = value(gfn) % kChunkPages;
  if (has_leaf(word)) [[unlikely]] {
    const std::uint64_t bits = leaf_of(word)->shared[page / 64].load(std::memory_order_acquire);
    return (bits >> (page % 64) & 1) != 0 ? PageClass::kShared : PageClass::kPrivate;
  }
  // All four edges at once: a lane's sum has its highest bit if the edge is at or before the page.
  // The page is shared if the number of such edges is odd.
  Word passed = word + page * kEachLane;
  passed ^= passed >> 2 * kLaneBits;
  passed ^= passed >> kLaneBits;
  return (passed & kChunkPages) != 0 ? PageClass::kShared : PageClass::kPrivate;
}

}  // namespace sealift
