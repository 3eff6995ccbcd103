#include "engine/heat.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "engine/assert.h"
#include "engine/page_map.h"

namespace sealift {

Heat::Heat(const PageMap& map)
    : map_(map),
      span_(map.span_pages()),
      blocks_((span_ + kBlockWords * 64 - 1) / (kBlockWords * 64)) {}

Heat::~Heat() = default;

const Heat::Block* Heat::block_of(std::uint64_t word) const {
  SEALIFT_ASSERT(word / kBlockWords < blocks_.size());
  return blocks_[word / kBlockWords].load(std::memory_order_acquire);
}

Heat::Planes Heat::planes_of(const Block& block, std::uint64_t word) {
  Planes planes;
  for (unsigned p = 0; p < kPlanes; ++p) {
    planes[p] = block.words[word % kBlockWords][p].load(std::memory_order_relaxed);
  }
  return planes;
}

void Heat::store(Block& block, std::uint64_t word, const Planes& planes) {
  for (unsigned p = 0; p < kPlanes; ++p) {
    block.words[word % kBlockWords][p].store(planes[p], std::memory_order_relaxed);
  }
}

Heat::Classes Heat::split(const Planes& planes) {
  Classes classes;
  for (unsigned c = 0; c < kClasses; ++c) {
    classes[c] = ~0ULL;
    for (unsigned p = 0; p < kPlanes; ++p) {
      classes[c] &= (c >> p & 1) != 0 ? planes[p] : ~planes[p];
    }
  }
  return classes;
}

// Each bit is set with a chance of 1 in 2^halvings.
std::uint64_t Heat::chances(unsigned halvings) {
  std::uint64_t bits = ~0ULL;
  for (; halvings > 0; --halvings) {
    random_ += 0x9e3779b97f4a7c15;  // splitmix64
    std::uint64_t mixed = random_;
    mixed = (mixed ^ mixed >> 30) * 0xbf58476d1ce4e5b9;
    mixed = (mixed ^ mixed >> 27) * 0x94d049bb133111eb;
    bits &= mixed ^ mixed >> 31;
  }
  return bits;
}

void Heat::report(std::uint64_t word, std::uint64_t bits) {
  bits &= ~map_.shared_bits(word);
  if (bits == 0) return;
  const std::lock_guard lock(mutex_);
  Block* block = blocks_[word / kBlockWords].load(std::memory_order_relaxed);
  if (block == nullptr) {
    block = owned_.emplace_back(std::make_unique<Block>()).get();
    blocks_[word / kBlockWords].store(block, std::memory_order_release);
  }
  Planes planes = planes_of(*block, word);
  const Classes classes = split(planes);
  auto& neighbours = block->reported_pages[word % kBlockWords / kNeighbourWords];
  const int first_reports = std::popcount(classes[0] & bits);
  neighbours.store(static_cast<std::uint16_t>(neighbours.load(std::memory_order_relaxed) +
                                              static_cast<unsigned>(first_reports)),
                   std::memory_order_relaxed);
  std::uint64_t carry = 0;  // pages that rise
  for (unsigned c = 0; c < kClasses; ++c) {
    const std::uint64_t hit = classes[c] & bits;
    if (hit == 0) continue;
    reports_[c] += std::popcount(hit);
    if (c + 1 < kClasses) carry |= hit & chances(c);
  }
  for (std::uint64_t& plane : planes) {
    const std::uint64_t both = plane & carry;
    plane ^= carry;
    carry = both;
  }
  store(*block, word, planes);
}

void Heat::guest_ran(double seconds) {
  const std::lock_guard lock(mutex_);
  observed_s_ += seconds;
  const double kept = std::exp2(-seconds / kReportsHalving_s);
  for (double& reports : reports_) reports *= kept;
  window_s_ = (window_s_ + seconds) * kept;
  for (since_halving_s_ += seconds; since_halving_s_ >= kHalving_s;
       since_halving_s_ -= kHalving_s) {
    halve();
  }
}

void Heat::halve() {
  for (const auto& block : owned_) {
    for (std::uint64_t word = 0; word < kBlockWords; ++word) {
      Planes planes = planes_of(*block, word);
      std::uint64_t borrow = planes[1] | planes[2];  // classes above 1
      if (borrow == 0) continue;
      for (std::uint64_t& plane : planes) {
        const std::uint64_t next = borrow & ~plane;
        plane ^= borrow;
        borrow = next;
      }
      store(*block, word, planes);
    }
  }
}

void Heat::restart() {
  const std::lock_guard lock(mutex_);
  reports_ = {};
  window_s_ = since_halving_s_ = observed_s_ = 0;
  for (const auto& block : owned_) {
    for (std::uint64_t word = 0; word < kBlockWords; ++word) store(*block, word, {});
    for (auto& pages : block->reported_pages) pages.store(0, std::memory_order_relaxed);
  }
}

unsigned Heat::class_of(Gfn gfn) const {
  SEALIFT_ASSERT(value(gfn) < span_);
  const Block* block = block_of(value(gfn) / 64);
  if (block == nullptr) return 0;
  const Planes planes = planes_of(*block, value(gfn) / 64);
  unsigned cls = 0;
  for (unsigned p = 0; p < kPlanes; ++p) {
    cls |= static_cast<unsigned>(planes[p] >> (value(gfn) % 64) & 1) << p;
  }
  return cls;
}

Heat::Word Heat::word(std::uint64_t word) const {
  Word pages;
  const Block* block = block_of(word);
  if (block == nullptr) {
    pages.classes[0] = ~0ULL;
    return pages;
  }
  pages.classes = split(planes_of(*block, word));
  const std::size_t group = word % kBlockWords / kNeighbourWords;
  const unsigned reported = block->reported_pages[group].load(std::memory_order_relaxed);
  pages.neighbours = std::min(static_cast<unsigned>(std::bit_width(reported)), kBandsOfClass - 1);
  return pages;
}

HeatEstimate Heat::estimate() const {
  HeatEstimate estimate;
  const std::lock_guard lock(mutex_);
  estimate.observed_s = observed_s_;
  std::uint64_t reported = 0;
  for (std::uint64_t b = 0; b < blocks_.size(); ++b) {
    const Block* block = blocks_[b].load(std::memory_order_relaxed);
    if (block == nullptr) continue;
    const std::uint64_t words = std::min(kBlockWords, (span_ + 63) / 64 - b * kBlockWords);
    for (std::uint64_t word = b * kBlockWords; word < b * kBlockWords + words; ++word) {
      const Planes planes = planes_of(*block, word);
      if ((planes[0] | planes[1] | planes[2]) == 0) continue;
      const std::uint64_t shared = map_.shared_bits(word);
      const Classes classes = split(planes);
      for (unsigned c = 1; c < kClasses; ++c) {
        const auto pages = static_cast<std::uint64_t>(std::popcount(classes[c] & ~shared));
        estimate.classes[c].pages += pages;
        reported += pages;
      }
    }
  }
  estimate.classes[0].pages = span_ - std::min(span_, map_.shared_pages() + reported);
  for (unsigned c = 0; c < kClasses && window_s_ > 0; ++c) {
    estimate.classes[c].writes_per_s = reports_[c] / window_s_;
  }
  return estimate;
}

std::uint64_t Heat::memory_bytes() const {
  const std::lock_guard lock(mutex_);
  return sizeof(*this) + blocks_.size() * sizeof(blocks_[0]) +
         owned_.capacity() * sizeof(owned_[0]) + owned_.size() * sizeof(Block);
}

}  // namespace sealift
