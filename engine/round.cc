#include "engine/round.h"

#include <algorithm>
#include <bit>
#include <utility>

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
      taken_(dirty.span_pages()),
      pages_(0),
      shared_pages_max_(shared_pages_max),
      private_pages_max_(private_pages_max) {
  SEALIFT_ASSERT(shared_pages_max > 0);
  SEALIFT_ASSERT(private_pages_max > 0);
  dirty.drain(taken_);
  pages_ = taken_.count();
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
  auto& words = taken_.words();
  while (word_ < words.size() && shared_.size() < shared_pages_max_ &&
         private_.size() < private_pages_max_) {
    for (std::uint64_t bits = std::exchange(words[word_], 0); bits != 0; bits &= bits - 1) {
      const Gfn gfn{word_ * 64 + static_cast<std::uint64_t>(std::countr_zero(bits))};
      if (skip_redirtied && dirty_.is_marked(gfn)) {
        ++skipped_;
      } else if (map.class_of(gfn) == PageClass::kShared) {
        shared_.push_back(gfn);
      } else {
        private_.push_back(gfn);
      }
    }
    ++word_;
  }
}

}  // namespace sealift
