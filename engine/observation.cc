#include "engine/observation.h"

#include <bit>
#include <cmath>

#include "engine/assert.h"

namespace sealift {

void Observation::add(const std::vector<DirtyBlock>& dirtied, double seconds) {
  SEALIFT_ASSERT(intervals_ < kIntervalsMax);
  ++intervals_;
  seconds_ += seconds;
  for (const DirtyBlock& block : dirtied) {
    if (block.filled == 0) continue;
    auto& counts = counts_[block.first_word * 64];
    if (!counts) counts = std::make_unique<Counts>();
    for (std::uint64_t word = 0; word < DirtyBlock::kWords; ++word) {
      if ((block.filled >> word & 1) == 0) continue;
      for (std::uint64_t bits = block.words[word]; bits != 0; bits &= bits - 1) {
        ++(*counts)[word * 64 + static_cast<std::uint64_t>(std::countr_zero(bits))];
      }
    }
  }
}

std::vector<PageGroup> Observation::groups(const MemoryLayout& layout, const PageMap& map) const {
  constexpr std::size_t kClasses = 2;
  const auto index_of = [](PageClass cls) { return cls == PageClass::kShared ? 0U : 1U; };
  std::array<std::vector<double>, kClasses> pages;  // by how often they were written
  for (auto& counts : pages) counts.resize(intervals_ + 1);
  const std::uint64_t shared = map.shared_pages();
  pages[0][0] = static_cast<double>(shared);
  pages[1][0] = static_cast<double>(layout.pages() - shared);
  for (const auto& [first, counts] : counts_) {
    for (std::uint64_t i = 0; i < kBlockPages; ++i) {
      if ((*counts)[i] == 0) continue;
      auto& own = pages[index_of(map.class_of(Gfn{first + i}))];
      own[0] -= 1;
      own[(*counts)[i]] += 1;
    }
  }
  std::vector<PageGroup> groups;
  if (intervals_ == 0) return groups;
  const double interval_s = seconds_ / intervals_;
  for (const PageClass cls : {PageClass::kShared, PageClass::kPrivate}) {
    for (std::uint32_t written = 0; written <= intervals_; ++written) {
      const double own = pages[index_of(cls)][written];
      if (own <= 0) continue;
      // In each of them: that is all one sees, so half an interval is taken off.
      const double clean = written == intervals_ ? 0.5 : static_cast<double>(intervals_ - written);
      const double writes_per_s = std::log(static_cast<double>(intervals_) / clean) / interval_s;
      groups.push_back({cls, own, written == 0 ? 0 : writes_per_s});
    }
  }
  return groups;
}

}  // namespace sealift
