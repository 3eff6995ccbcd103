// Observation: a running guest's writes, seen through its dirty log for a few seconds, as the
// groups of pages that a forecast works with.
//
// A page that was written in c of n intervals is taken for one that is written at random moments at
// the rate that makes c the likeliest. A page that was never seen written counts as never written:
// what the guest writes more seldom than it was watched is not known.
//
// Owner:   the caller. Threads: one.
// Failure: none.
// Memory:  4 KiB for each 4096 pages in which one was written: at most 256 MiB for 1 TiB.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

#include "engine/dirty_set.h"
#include "engine/forecast.h"
#include "engine/memory_layout.h"
#include "engine/page_map.h"

namespace sealift {

class Observation {
 public:
  static constexpr std::uint32_t kIntervalsMax = 255;

  // What was dirtied since the last call, `seconds` ago. REQUIRES: fewer than kIntervalsMax so far.
  void add(const std::vector<DirtyBlock>& dirtied, double seconds);

  std::uint32_t intervals() const { return intervals_; }
  double seconds() const { return seconds_; }
  // By the class that pages have in `map`; for each class one of pages never seen written.
  std::vector<PageGroup> groups(const MemoryLayout& layout, const PageMap& map) const;

 private:
  static constexpr std::uint64_t kBlockPages = 64 * DirtyBlock::kWords;
  using Counts = std::array<std::uint8_t, kBlockPages>;

  std::unordered_map<std::uint64_t, std::unique_ptr<Counts>> counts_;  // by first page
  std::uint32_t intervals_ = 0;
  double seconds_ = 0;
};

}  // namespace sealift
