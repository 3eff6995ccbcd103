#include "engine/memory_layout.h"

#include <algorithm>

#include "engine/limits.h"

namespace sealift {

Result<MemoryLayout> MemoryLayout::make(std::vector<GfnRange> ranges) {
  if (ranges.empty()) return fail(ErrorClass::kMalformed, "memory layout has no range");
  if (ranges.size() > limits::kMemoryRangesMax) {
    return fail(ErrorClass::kMalformed, "memory layout has {} ranges, more than {}", ranges.size(),
                limits::kMemoryRangesMax);
  }
  std::uint64_t previous_end = 0;
  std::uint64_t pages = 0;
  for (std::size_t i = 0; i < ranges.size(); ++i) {
    const GfnRange range = ranges[i];
    const std::uint64_t first = value(range.first);
    if (range.pages == 0 || first >= limits::kGuestPagesMax ||
        range.pages > limits::kGuestPagesMax - first) {
      return fail(ErrorClass::kMalformed,
                  "memory layout range {} (gfn {:#x}, {} pages) is empty or beyond gfn {:#x}", i,
                  first, range.pages, limits::kGuestPagesMax);
    }
    if (i > 0 && first <= previous_end) {
      return fail(ErrorClass::kMalformed,
                  "memory layout range {} starts at gfn {:#x}, not after a gap from {:#x}", i,
                  first, previous_end);
    }
    previous_end = first + range.pages;
    pages += range.pages;
  }
  MemoryLayout layout;
  layout.ranges_ = std::move(ranges);
  layout.pages_ = pages;
  layout.span_ = previous_end;
  return layout;
}

bool MemoryLayout::contains(Gfn gfn) const { return contains(GfnRange{gfn, 1}); }

bool MemoryLayout::contains(GfnRange range) const {
  std::uint64_t at = value(range.first);
  if (range.pages == 0 || range.pages > span_ || at > span_ - range.pages) return false;
  const std::uint64_t end = at + range.pages;
  // Ranges never touch (make()), so a range that is all RAM lies inside one of them.
  return std::any_of(ranges_.begin(), ranges_.end(), [&](GfnRange ram) {
    return value(ram.first) <= at && end <= value(end_of(ram));
  });
}

std::string MemoryLayout::describe() const {
  std::string text;
  for (GfnRange range : ranges_) {
    text += fmt::format("{}{:#x}-{:#x}", text.empty() ? "" : ", ", value(base_of(range.first)),
                        value(base_of(end_of(range))) - 1);
  }
  const std::uint64_t kib = pages_ * (kPageBytes / 1024);
  if (kib % (1ULL << 20) == 0) return fmt::format("{} ({} GiB)", text, (kib >> 20));
  if (kib % 1024 == 0) return fmt::format("{} ({} MiB)", text, kib / 1024);
  return fmt::format("{} ({} KiB)", text, kib);
}

}  // namespace sealift
