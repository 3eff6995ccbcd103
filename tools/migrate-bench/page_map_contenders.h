// The page map and what it is measured against, behind one shape: is_shared(), set_shared(),
// runs(). And the load: two threads look pages up while one converts single pages.
//
// Owner:   the benchmark. Threads: is_shared() and set_shared() from any.
// Failure: none.
#pragma once

#include <cstdint>
#include <mutex>
#include <roaring/roaring.hh>
#include <shared_mutex>
#include <string>
#include <vector>

#include "engine/page_map.h"

namespace sealift::bench {

inline constexpr std::uint64_t kSpanPages = 1ULL << 28;  // 1 TiB

// A guest and its traffic. Plain values; the same for every contender.
struct Workload {
  std::string name;
  std::vector<GfnRange> shared;
  std::vector<std::uint32_t> lookups;      // read round and round
  std::vector<std::uint32_t> conversions;  // private pages; each is shared for a while
};
// 64 MiB of swiotlb in one piece and 10,000 scattered pages; every fourth lookup is of a shared
// page.
Workload swiotlb_workload();
Workload private_workload();

class SealiftMap {
 public:
  explicit SealiftMap(const std::vector<GfnRange>& shared) : map_(kSpanPages) {
    for (GfnRange range : shared) map_.convert(range, PageClass::kShared);
  }
  bool is_shared(std::uint32_t page) const {
    return map_.class_of(Gfn{page}) == PageClass::kShared;
  }
  void set_shared(std::uint32_t page, bool shared) {
    map_.convert(GfnRange{Gfn{page}, 1}, shared ? PageClass::kShared : PageClass::kPrivate);
  }
  std::vector<GfnRange> runs() const { return map_.shared_ranges(); }

 private:
  PageMap map_;
};

class LockedBits {
 public:
  explicit LockedBits(const std::vector<GfnRange>& shared);
  bool is_shared(std::uint32_t page) const {
    const std::lock_guard lock(mutex_);
    return bits_[page];
  }
  void set_shared(std::uint32_t page, bool shared) {
    const std::lock_guard lock(mutex_);
    bits_[page] = shared;
  }
  std::vector<GfnRange> runs() const;

 private:
  mutable std::mutex mutex_;
  std::vector<bool> bits_;
};

// CRoaring does not lock by itself. ReadLock is std::unique_lock or std::shared_lock of Mutex.
template <class Mutex, class ReadLock>
class LockedRoaring {
 public:
  explicit LockedRoaring(const std::vector<GfnRange>& shared);
  bool is_shared(std::uint32_t page) const {
    const ReadLock lock(mutex_);
    return bitmap_.contains(page);
  }
  void set_shared(std::uint32_t page, bool shared) {
    const std::lock_guard lock(mutex_);
    if (shared) {
      bitmap_.add(page);
    } else {
      bitmap_.remove(page);
    }
  }
  std::vector<GfnRange> runs() const;

 private:
  mutable Mutex mutex_;
  Roaring bitmap_;
};
using MutexRoaring = LockedRoaring<std::mutex, std::unique_lock<std::mutex>>;
using SharedMutexRoaring = LockedRoaring<std::shared_mutex, std::shared_lock<std::shared_mutex>>;

struct Rates {
  double lookups_per_s = 0;      // of both threads together
  double conversions_per_s = 0;  // of the one that converts
};
// Leaves the map as it found it.
template <class Map>
Rates run_load(Map& map, const Workload& workload, std::uint64_t duration_ns);

extern template class LockedRoaring<std::mutex, std::unique_lock<std::mutex>>;
extern template class LockedRoaring<std::shared_mutex, std::shared_lock<std::shared_mutex>>;
extern template Rates run_load(SealiftMap&, const Workload&, std::uint64_t);
extern template Rates run_load(LockedBits&, const Workload&, std::uint64_t);
extern template Rates run_load(MutexRoaring&, const Workload&, std::uint64_t);
extern template Rates run_load(SharedMutexRoaring&, const Workload&, std::uint64_t);

}  // namespace sealift::bench
