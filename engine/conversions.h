// What changed between two serialised page maps, as the ranges a Conversions record carries. Pure
// functions.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/records.h"
#include "engine/types.h"

namespace sealift {

// `before` and `after`: PageMap::shared_ranges(), ascending and disjoint. The result is split into
// records of at most limits::kConversionRangesMax ranges; empty when nothing changed.
std::vector<Conversions> conversions_between(std::uint32_t epoch,
                                             const std::vector<GfnRange>& before,
                                             const std::vector<GfnRange>& after);

}  // namespace sealift
