// What the test guest writes into its pages: every word is a function of (seed, gfn, version), so
// that a check needs no second copy and a page that arrives at a wrong address, or an old copy of
// it, is wrong in nearly every word.
//
// Plain functions, freestanding: no ownership, no threads, no failure.
#pragma once

#include "vmm_glue/guest/mailbox.h"

namespace sealift::guest {

inline constexpr u64 kGolden = 0x9e3779b97f4a7c15;  // odd, from splitmix64

// The finaliser of splitmix64.
constexpr u64 mix(u64 x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}
constexpr u64 mix(u64 seed, u64 gfn, u64 version) {
  return mix(seed ^ mix(gfn * kGolden + version));
}

// The word index that a write of `version` hits: all 512 words in turn, none twice in 512 versions.
inline constexpr u64 kIndexStride = 167;
inline constexpr u64 kIndexStrideInverse = 279;
static_assert(kIndexStride * kIndexStrideInverse % kWordsPerPage == 1);
constexpr u64 written_index(u64 version) { return version * kIndexStride % kWordsPerPage; }
// How many versions before `version` word `index` was hit last.
constexpr u64 versions_since(u64 version, u64 index) {
  return (version - index * kIndexStrideInverse) % kWordsPerPage;
}

// Contents of one page as a function of its table entry.
class PageContent {
 public:
  constexpr PageContent(u64 seed, u64 gfn, std::uint32_t version, std::uint32_t fill)
      : seed_(seed), gfn_(gfn), version_(version), fill_(fill), base_(mix(seed, gfn, fill)) {}

  constexpr u64 word(u64 index) const {
    const u64 since = versions_since(version_, index);
    const u64 hit = version_ - since;
    if (since < version_ && hit > fill_) return mix(seed_, gfn_, hit);
    return filled_word(index);
  }

 private:
  // A quarter of all fills is zero and a quarter repeats itself, so that zero detection and
  // compression have work.
  constexpr u64 filled_word(u64 index) const {
    switch (base_ & 3) {
      case 0:
        return 0;
      case 1:
        return mix(base_ + index / 64);
      default:
        return mix(base_ + index);
    }
  }

  u64 seed_, gfn_, version_, fill_, base_;
};

}  // namespace sealift::guest
