#include "vmm_glue/model/sev/shim_asid.h"

#include <algorithm>
#include <utility>

#include "engine/assert.h"

namespace sealift::sev {

AsidPool::AsidPool(std::uint32_t asids, std::uint32_t sev_min, std::function<bool()> flush)
    : sev_min_(std::max(sev_min, std::uint32_t{1})),
      flush_(std::move(flush)),
      uses_(std::size_t{asids} + 1, Use::kFree) {}

std::optional<std::uint32_t> AsidPool::find(const Range& range, Use use) const {
  for (std::uint32_t asid = range.first; asid < range.end; ++asid) {
    if (uses_[asid] == use) return asid;
  }
  return std::nullopt;
}

bool AsidPool::reclaim(const Range& range) {
  if (!find(range, Use::kUnflushed).has_value() || !flush_()) return false;
  std::replace(uses_.begin(), uses_.end(), Use::kUnflushed, Use::kFree);
  return true;
}

std::optional<std::uint32_t> AsidPool::take(bool es) {
  const auto end = static_cast<std::uint32_t>(uses_.size());
  const Range range =
      es ? Range{.first = 1, .end = std::min(sev_min_, end)} : Range{.first = sev_min_, .end = end};
  auto asid = find(range, Use::kFree);
  if (!asid.has_value() && reclaim(range)) asid = find(range, Use::kFree);
  if (asid.has_value()) uses_[*asid] = Use::kTaken;
  return asid;
}

void AsidPool::give_back(std::uint32_t asid) {
  SEALIFT_ASSERT(uses_.at(asid) == Use::kTaken);
  uses_[asid] = Use::kUnflushed;
}

std::uint64_t AsidPool::in_use() const {
  return static_cast<std::uint64_t>(std::count(uses_.begin(), uses_.end(), Use::kTaken));
}

}  // namespace sealift::sev
