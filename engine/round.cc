#include "engine/round.h"

#include <algorithm>
#include <bit>
#include <numeric>

#include "engine/assert.h"

namespace sealift {
namespace {

template <class Visit>
void for_each_page(std::uint64_t word, std::uint64_t pages, Visit visit) {
  for (; pages != 0; pages &= pages - 1) {
    visit(Gfn{word * 64 + static_cast<std::uint64_t>(std::countr_zero(pages))});
  }
}

// The pages of a word as runs, the first joined to the last one of `runs` where they touch.
void append_runs(std::uint64_t word, std::uint64_t pages, std::vector<GfnRange>& runs) {
  while (pages != 0) {
    const auto first = static_cast<unsigned>(std::countr_zero(pages));
    const auto length = static_cast<unsigned>(std::countr_one(pages >> first));
    const Gfn gfn{word * 64 + first};
    if (!runs.empty() && end_of(runs.back()) == gfn) {
      runs.back().pages += length;
    } else {
      runs.push_back(GfnRange{gfn, length});
    }
    pages = first + length == 64 ? 0 : pages >> (first + length) << (first + length);
  }
}

}  // namespace

Round::Round(DirtySet& dirty, const PageMap& live, const Heat* heat, const RoundLimits& limits)
    : dirty_(dirty), live_(live), heat_(heat), words_((dirty.span_pages() + 63) / 64) {
  SEALIFT_ASSERT(limits.private_pages_max > 0);
  Bands bands;
  take_shared(bands);
  const std::uint64_t all =
      std::accumulate(bands.dirty.begin(), bands.dirty.end(), std::uint64_t{0});
  const std::uint64_t wanted =
      std::min(limits.private_pages_max, all - std::min(all, limits.leave_hottest));
  std::uint64_t left = wanted;
  BandCounts quota{};
  for (unsigned b = 0; b < Heat::kBands; ++b) {
    quota[b] = std::min(bands.dirty[b], left);
    left -= quota[b];
  }
  list_private(bands, quota, wanted);
  private_.reserve(wanted);
  for (unsigned b = 0; b < Heat::kBands; ++b) {
    const auto end = bands.listed[b].begin() +
                     static_cast<std::ptrdiff_t>(std::min(quota[b], bands.listed[b].size()));
    private_.insert(private_.end(), bands.listed[b].begin(), end);
    band_ends_[b] = private_.size();
  }
  unlisted_ = all - std::min(all, static_cast<std::uint64_t>(private_.size()));
}

Heat::Word Round::heat_of(std::uint64_t word) const {
  return heat_ != nullptr ? heat_->word(word) : Heat::Word{{~0ULL}};
}

// What is believed to be shared now leaves the set. The rest is counted.
void Round::take_shared(Bands& bands) {
  for (std::uint64_t word = dirty_.next_marked_word(0); word < words_;
       word = dirty_.next_marked_word(word + 1)) {
    const std::uint64_t marked = dirty_.marked_bits(word);
    const std::uint64_t shared = live_.shared_bits(word);
    if ((marked & ~shared) != 0) {
      const Heat::Word heat = heat_of(word);
      std::uint64_t rest = marked & ~shared;
      for (unsigned cls = 0; rest != 0; ++cls) {
        const std::uint64_t pages = rest & heat.classes[cls];
        rest &= ~pages;
        bands.dirty[heat.band_of(cls)] += static_cast<std::uint64_t>(std::popcount(pages));
      }
    }
    if ((marked & shared) == 0) continue;
    const std::uint64_t taken = dirty_.take(word, shared);
    const std::uint64_t first_word = word / DirtyBlock::kWords * DirtyBlock::kWords;
    if (shared_.empty() || shared_.back().first_word != first_word) {
      shared_.emplace_back().first_word = first_word;
    }
    shared_.back().filled |= 1ULL << (word % DirtyBlock::kWords);
    shared_.back().words[word % DirtyBlock::kWords] = taken;
    shared_pages_ += static_cast<std::uint64_t>(std::popcount(taken));
  }
}

// The coldest ones. Of the band in which the limit falls, 2 MiB here and 2 MiB there, in an order
// that is the same in each round: while nothing is known of the guest, the place where it writes
// would be as likely at the lowest addresses as anywhere, and all of it would leave in vain. That
// looks at every 2 MiB of the guest; a few pages are found by their marks.
void Round::list_private(Bands& bands, const BandCounts& quota, std::uint64_t wanted) {
  constexpr std::uint64_t kFewPages = 4096;
  if (wanted <= kFewPages) {
    for (std::uint64_t word = dirty_.next_marked_word(0); word < words_ && wanted > 0;
         word = dirty_.next_marked_word(word + 1)) {
      wanted -= list_word(bands, quota, word);
    }
    return;
  }
  constexpr std::uint64_t kGroupWords = Heat::kNeighbourWords;
  constexpr std::uint64_t kStride = 0x9e3779b1;  // odd: every number below a power of two once
  const std::uint64_t groups = (words_ + kGroupWords - 1) / kGroupWords;
  const std::uint64_t numbers = std::bit_ceil(groups);
  for (std::uint64_t i = 0; i < numbers && wanted > 0; ++i) {
    const std::uint64_t group = i * kStride & (numbers - 1);
    if (group >= groups) continue;
    const std::uint64_t end = std::min(words_, (group + 1) * kGroupWords);
    for (std::uint64_t word = group * kGroupWords; word < end; ++word) {
      wanted -= list_word(bands, quota, word);
    }
  }
}

std::uint64_t Round::list_word(Bands& bands, const BandCounts& quota, std::uint64_t word) {
  const std::uint64_t pages = dirty_.marked_bits(word) & ~live_.shared_bits(word);
  if (pages == 0) return 0;
  const Heat::Word heat = heat_of(word);
  std::uint64_t listed = 0;
  for (unsigned cls = 0; cls < Heat::kClasses; ++cls) {
    const unsigned band = heat.band_of(cls);
    for_each_page(word, pages & heat.classes[cls], [&](Gfn gfn) {
      if (bands.listed[band].size() == quota[band]) return;
      bands.listed[band].push_back(gfn);
      ++listed;
    });
  }
  return listed;
}

std::optional<std::uint64_t> Round::claim_shared(const PageMap& announced, bool skip_redirtied,
                                                 std::vector<GfnRange>& into) {
  for (;;) {
    const std::size_t claim = shared_at_.fetch_add(1, std::memory_order_relaxed);
    if (claim >= shared_.size() * kClaimsPerBlock) return std::nullopt;
    const DirtyBlock& block = shared_[claim / kClaimsPerBlock];
    const std::size_t first = claim % kClaimsPerBlock * kClaimWords;
    if ((block.filled >> first & ((1ULL << kClaimWords) - 1)) == 0) continue;
    std::uint64_t claimed = 0;
    for (std::size_t i = first; i < first + kClaimWords; ++i) {
      const std::uint64_t word = block.first_word + i;
      const std::uint64_t pages = may_leave(word, block.words[i], announced, skip_redirtied);
      claimed += static_cast<std::uint64_t>(std::popcount(pages));
      append_runs(word, pages, into);
    }
    return claimed;
  }
}

// Those of `pages`, taken out of the set, that leave now. The others are dirty.
std::uint64_t Round::may_leave(std::uint64_t word, std::uint64_t pages, const PageMap& announced,
                               bool skip_redirtied) {
  if (pages == 0) return 0;
  std::uint64_t skipped = 0;
  if (skip_redirtied) {
    const std::uint64_t again = pages & dirty_.marked_bits(word);
    skipped += static_cast<std::uint64_t>(std::popcount(again));
    pages &= ~again;
  }
  const std::uint64_t shared = announced.shared_bits(word);
  for_each_page(word, pages & ~shared, [&](Gfn gfn) {
    dirty_.put_back(gfn);
    ++skipped;
  });
  if (skipped > 0) skipped_shared_.fetch_add(skipped, std::memory_order_relaxed);
  return pages & shared;
}

std::vector<Gfn> Round::next_shared(const PageMap& announced, std::uint32_t pages_max,
                                    bool skip_redirtied) {
  SEALIFT_ASSERT(pages_max > 0);
  std::vector<GfnRange> ranges;
  while (carry_.size() < pages_max) {
    ranges.clear();
    if (!claim_shared(announced, skip_redirtied, ranges)) break;
    for (GfnRange range : ranges) {
      for (std::uint64_t i = 0; i < range.pages; ++i) carry_.push_back(range.first + i);
    }
  }
  const auto cut =
      carry_.begin() + static_cast<std::ptrdiff_t>(std::min<std::size_t>(pages_max, carry_.size()));
  std::vector<Gfn> batch(carry_.begin(), cut);
  carry_.erase(carry_.begin(), cut);
  return batch;
}

// Those of `pages`, listed in `band_`, that may leave now. The map is read only after their marks
// are gone: a conversion that this does not see has yet to mark its pages.
std::uint64_t Round::take_private(std::uint64_t word, std::uint64_t pages, const PageMap& announced,
                                  bool skip_redirtied) {
  pages &= ~announced.shared_bits(word);
  if (skip_redirtied && heat_ != nullptr) {
    const Heat::Word heat = heat_->word(word);
    for (unsigned cls = Heat::class_of_band(band_) + 1; cls < Heat::kClasses; ++cls) {
      pages &= ~heat.classes[cls];
    }
  }
  const std::uint64_t taken = pages != 0 ? dirty_.take(word, pages) : 0;
  const std::uint64_t converted = taken & live_.shared_bits(word);
  for_each_page(word, converted, [&](Gfn gfn) { dirty_.put_back(gfn); });
  return taken & ~converted;
}

std::vector<Gfn> Round::next_private(const PageMap& announced, std::uint32_t pages_max,
                                     bool skip_redirtied) {
  SEALIFT_ASSERT(pages_max > 0);
  std::vector<Gfn> batch;
  while (private_at_ < private_.size() && batch.size() < pages_max) {
    while (private_at_ == band_ends_[band_]) ++band_;
    const std::size_t end = std::min(band_ends_[band_], private_at_ + pages_max - batch.size());
    const std::uint64_t word = value(private_[private_at_]) / 64;
    const std::size_t first = private_at_;
    std::uint64_t pages = 0;
    for (; private_at_ < end && value(private_[private_at_]) / 64 == word; ++private_at_) {
      pages |= 1ULL << (value(private_[private_at_]) % 64);
    }
    const std::size_t size = batch.size();
    for_each_page(word, take_private(word, pages, announced, skip_redirtied),
                  [&](Gfn gfn) { batch.push_back(gfn); });
    skipped_private_ += private_at_ - first - (batch.size() - size);
  }
  return batch;
}

}  // namespace sealift
