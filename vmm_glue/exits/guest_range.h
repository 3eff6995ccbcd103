// Checks of a guest-controlled run of pages, the same for every exit that names one.
//
// Plain functions: no ownership, no threads, no failure.
#pragma once

#include <algorithm>
#include <cstdint>

#include "engine/memory_layout.h"
#include "engine/types.h"

namespace sealift {

enum class RangeFault : std::uint8_t { kNone = 0, kUnaligned, kNoPages, kWraps, kNotRam };

// kNone: `gpa` is page-aligned and [gpa, gpa + pages * 4096) is wholly RAM.
inline RangeFault check_guest_range(std::uint64_t gpa, std::uint64_t pages,
                                    const MemoryLayout& layout) {
  constexpr std::uint64_t kFramesOf64Bits = 1ULL << (64 - kPageShift);
  if (gpa % kPageBytes != 0) return RangeFault::kUnaligned;
  if (pages == 0) return RangeFault::kNoPages;
  if (pages > kFramesOf64Bits - (gpa >> kPageShift)) return RangeFault::kWraps;
  if (!layout.contains(GfnRange{page_of(Gpa{gpa}), pages})) return RangeFault::kNotRam;
  return RangeFault::kNone;
}

inline bool overlaps(GfnRange a, GfnRange b) {
  return value(a.first) < value(end_of(b)) && value(b.first) < value(end_of(a));
}

// REQUIRES: the range does not wrap: check_guest_range() gave kNone or kNotRam.
inline bool has_ram(GfnRange range, const MemoryLayout& layout) {
  return std::any_of(layout.ranges().begin(), layout.ranges().end(),
                     [range](GfnRange ram) { return overlaps(range, ram); });
}

}  // namespace sealift
