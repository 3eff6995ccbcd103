#include "engine/round.h"

#include <algorithm>
#include <bit>

#include "engine/assert.h"

namespace sealift {
namespace {

// The first `pages` of `from`, which keeps the rest.
std::vector<Gfn> take_front(std::vector<Gfn>& from, std::size_t pages) {
  const auto cut = from.begin() + static_cast<std::ptrdiff_t>(std::min(pages, from.size()));
  std::vector<Gfn> front(from.begin(), cut);
  from.erase(from.begin(), cut);
  return front;
}

}  // namespace

Round::Round(DirtySet& dirty, std::uint32_t shared_pages_max, std::uint32_t private_pages_max)
    : dirty_(dirty),
      taken_(dirty.drain()),
      shared_pages_max_(shared_pages_max),
      private_pages_max_(private_pages_max) {
  SEALIFT_ASSERT(shared_pages_max > 0);
  SEALIFT_ASSERT(private_pages_max > 0);
  for (const DirtyBlock& block : taken_) pages_ += block.count();
}

std::optional<BatchPlan> Round::next(const PageMap& map, bool skip_redirtied) {
  collect(map, skip_redirtied);
  // A full list first; when the bitmap is exhausted, both are emptied one after the other.
  const bool take_shared = shared_.size() >= shared_pages_max_ || private_.empty();
  std::vector<Gfn>& list = take_shared ? shared_ : private_;
  if (list.empty()) return std::nullopt;
  return BatchPlan{take_shared ? PageClass::kShared : PageClass::kPrivate,
                   take_front(list, take_shared ? shared_pages_max_ : private_pages_max_)};
}

// Classifies until one class has a full batch or the round is exhausted.
void Round::collect(const PageMap& map, bool skip_redirtied) {
  for (; block_ < taken_.size(); ++block_) {
    DirtyBlock& block = taken_[block_];
    for (; block.filled != 0; block.filled &= block.filled - 1) {
      if (shared_.size() >= shared_pages_max_ || private_.size() >= private_pages_max_) return;
      const auto i = static_cast<std::uint64_t>(std::countr_zero(block.filled));
      collect_word(map, block.first_word + i, block.words[i], skip_redirtied);
    }
  }
}

void Round::collect_word(const PageMap& map, std::uint64_t word, std::uint64_t bits,
                         bool skip_redirtied) {
  const auto append = [word](std::vector<Gfn>& list, std::uint64_t pages) {
    for (; pages != 0; pages &= pages - 1) {
      list.push_back(Gfn{word * 64 + static_cast<std::uint64_t>(std::countr_zero(pages))});
    }
  };
  if (skip_redirtied) {
    const std::uint64_t again = bits & dirty_.marked_bits(word);
    if (again != 0) skipped_ += static_cast<std::uint64_t>(std::popcount(again));
    bits &= ~again;
  }
  const std::uint64_t shared = map.shared_bits(word);
  append(shared_, bits & shared);
  append(private_, bits & ~shared);
}

}  // namespace sealift
