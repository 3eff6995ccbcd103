#include "engine/conversions.h"

#include <algorithm>

#include "engine/limits.h"

namespace sealift {
namespace {

// Pages in `minuend` and not in `subtrahend`, as maximal runs.
std::vector<GfnRange> subtract(const std::vector<GfnRange>& minuend,
                               const std::vector<GfnRange>& subtrahend) {
  std::vector<GfnRange> rest;
  auto cut = subtrahend.begin();
  for (GfnRange range : minuend) {
    std::uint64_t at = value(range.first);
    const std::uint64_t end = value(end_of(range));
    while (cut != subtrahend.end() && value(end_of(*cut)) <= at) ++cut;
    for (auto hole = cut; at < end; ++hole) {
      if (hole == subtrahend.end() || value(hole->first) >= end) {
        rest.push_back(GfnRange{Gfn{at}, end - at});
        break;
      }
      if (value(hole->first) > at) rest.push_back(GfnRange{Gfn{at}, value(hole->first) - at});
      at = std::max(at, value(end_of(*hole)));
    }
  }
  return rest;
}

}  // namespace

std::vector<Conversions> conversions_between(std::uint32_t epoch,
                                             const std::vector<GfnRange>& before,
                                             const std::vector<GfnRange>& after) {
  std::vector<Conversions> records;
  std::size_t in_record = 0;
  const auto append = [&](std::vector<GfnRange> Conversions::* list, GfnRange range) {
    if (records.empty() || in_record == limits::kConversionRangesMax) {
      records.push_back(Conversions{epoch, {}, {}});
      in_record = 0;
    }
    (records.back().*list).push_back(range);
    ++in_record;
  };
  for (GfnRange range : subtract(after, before)) append(&Conversions::to_shared, range);
  for (GfnRange range : subtract(before, after)) append(&Conversions::to_private, range);
  return records;
}

}  // namespace sealift
