// MemoryLayout: which guest page frames are RAM. Sorted, disjoint, non-adjacent runs of pages.
//
// Threads: a plain value, immutable after make(). Failure: make() refuses what a peer may have
// sent.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/result.h"
#include "engine/types.h"

namespace sealift {

class MemoryLayout {
 public:
  MemoryLayout() = default;

  // kMalformed with the offending values when ranges are empty, unsorted, touching, overlapping,
  // wrap, or exceed limits::kMemoryRangesMax / kGuestPagesMax.
  static Result<MemoryLayout> make(std::vector<GfnRange> ranges);

  const std::vector<GfnRange>& ranges() const { return ranges_; }
  std::uint64_t pages() const { return pages_; }      // RAM pages
  std::uint64_t span_pages() const { return span_; }  // one past the highest RAM gfn
  bool contains(Gfn gfn) const;
  bool contains(GfnRange range) const;  // the whole range, in one or more runs
  std::string describe() const;         // "0x0-0xbffff, 0x100000-0x13ffff (1 GiB)"
  friend bool operator==(const MemoryLayout& a, const MemoryLayout& b) {
    return a.ranges_ == b.ranges_;
  }

 private:
  std::vector<GfnRange> ranges_;
  std::uint64_t pages_ = 0;
  std::uint64_t span_ = 0;
};

}  // namespace sealift
