// PageMap: for every guest page, is it shared or private. Exactness of this map is the correctness
// of a migration.
//
// Owner:   the guest (one per guest); lives as long as its memory.
// Threads: any. class_of() is lock-free. convert() calls exclude each other; a conversion becomes
// visible to
//          classify() and snapshots as a whole, never in part.
// Failure: nothing here fails. A range outside [0, span_pages) is a caller's bug and asserts: guest
// input is checked
//          by the exit decoder, peer input by DestinationSession.
// Invariants:
//   I1  Every page has exactly one class; a new map is all private.
//   I2  shared_pages() equals the number of pages with class kShared.
//   I3  A uniform chunk holds no leaf that differs from its uniform class.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

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

 private:
  static constexpr std::uint64_t kChunkPages = 512;
  static constexpr std::uint64_t kWords = kChunkPages / 64;
  struct Leaf {
    std::array<std::atomic<std::uint64_t>, kWords> shared;  // bit set: the page is shared
  };
  struct Chunk {  // kPrivate / kShared: uniform; kMixed: see leaf. A leaf, once made, lives as long
                  // as the map.
    std::atomic<std::uint8_t> state;
    std::unique_ptr<Leaf> leaf;
  };
  enum : std::uint8_t { kUniformPrivate = 0, kUniformShared = 1, kMixed = 2 };

  std::uint64_t convert_in_chunk(std::uint64_t chunk, std::uint64_t first, std::uint64_t end,
                                 PageClass cls);
  std::uint64_t shared_in_chunk(std::uint64_t chunk) const;
  template <class Read>
  auto consistently(Read read) const;

  std::uint64_t const span_;
  std::vector<Chunk> chunks_;
  mutable std::mutex convert_mutex_;
  std::atomic<std::uint64_t> version_{0};  // odd while a conversion is under way
  std::atomic<std::uint64_t> shared_pages_{0};
};

}  // namespace sealift
