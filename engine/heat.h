// Heat: how soon each private page is dirtied again, estimated from the reports of the dirty log.
//
// A page has a class of 3 bits: 0 was never reported, 1 was once, and each class above stands for
// twice as many reports as the one below (a report takes a page from class c to c + 1 with a chance
// of 1 in 2^c). Every minute of the guest's time the counts are halved: each class above 1 falls by
// one. What a class means in writes per second is not derived from that but measured: the reports
// that hit each class are counted, those of the last seconds weighing most, since the pages of a
// class are not the same for long.
//
// Of two pages of a class the one with more reported pages in its 2 MiB is the warmer: a class has
// a band for each power of two of those. Pages leave in the order of bands.
//
// Owner:   its DirtySet. Threads: report() and all const calls from any; restart() and
//          guest_ran() from one at a time.
// Failure: none. It is an estimate: nothing that a migration is correct by may depend on it.
// Memory:  3 bits for each page of the blocks of 4096 pages in which one was ever reported, 8 bytes
//          for each other block: at most 97 MiB for 1 TiB.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "engine/types.h"

namespace sealift {

class PageMap;

struct HeatClass {
  std::uint64_t pages = 0;  // private pages of the guest in this class
  double writes_per_s = 0;  // how often one of them was reported, all together, per guest second
};

// What the policy is to know of the guest. Plain values.
struct HeatEstimate {
  static constexpr unsigned kClasses = 8;
  double observed_s = 0;                      // of the guest running
  std::array<HeatClass, kClasses> classes{};  // coldest first
};

class Heat {
 public:
  static constexpr unsigned kClasses = HeatEstimate::kClasses;
  static constexpr std::uint64_t kNeighbourWords = 8;  // 2 MiB
  static constexpr unsigned kBandsOfClass = 10;  // 0, 1, 2 to 3, 4 to 7, …, 256 or more neighbours
  static constexpr unsigned kBands = kClasses * kBandsOfClass;
  static constexpr unsigned class_of_band(unsigned band) { return band / kBandsOfClass; }
  // The 64 pages of a word, which have the same neighbours.
  struct Word {
    std::array<std::uint64_t, kClasses> classes{};  // bit i: page i; disjoint
    unsigned neighbours = 0;
    unsigned band_of(unsigned cls) const { return cls * kBandsOfClass + neighbours; }
  };

  // `map` outlives it; reports of pages that are shared are ignored.
  explicit Heat(const PageMap& map);
  Heat(const Heat&) = delete;
  Heat& operator=(const Heat&) = delete;
  ~Heat();

  // Bit i: the log reports page 64 * word + i. REQUIRES: bits past the span are 0.
  void report(std::uint64_t word, std::uint64_t bits);
  // The guest's vCPUs ran for so long since the last call.
  void guest_ran(double seconds);
  void restart();

  unsigned class_of(Gfn gfn) const;
  Word word(std::uint64_t word) const;
  HeatEstimate estimate() const;
  std::uint64_t memory_bytes() const;

  static constexpr double kHalving_s = 60;
  static constexpr double kReportsHalving_s = 4;

 private:
  static constexpr std::uint64_t kBlockWords = 64;
  static constexpr unsigned kPlanes = 3;
  // Bit i of plane p of a word: bit p of the class of its page i. Written under the mutex, read
  // without: a class may be read half changed, which only misplaces a page once.
  struct Block {
    std::array<std::array<std::atomic<std::uint64_t>, kPlanes>, kBlockWords> words{};
    std::array<std::atomic<std::uint16_t>, kBlockWords / kNeighbourWords> reported_pages{};
  };
  using Planes = std::array<std::uint64_t, kPlanes>;
  using Classes = std::array<std::uint64_t, kClasses>;

  const Block* block_of(std::uint64_t word) const;
  static Planes planes_of(const Block& block, std::uint64_t word);
  static void store(Block& block, std::uint64_t word, const Planes& planes);
  static Classes split(const Planes& planes);
  std::uint64_t chances(unsigned halvings);
  void halve();

  const PageMap& map_;
  std::uint64_t const span_;
  std::vector<std::atomic<Block*>> blocks_;
  mutable std::mutex mutex_;
  std::vector<std::unique_ptr<Block>> owned_;  // this and the rest are guarded by mutex_
  std::array<double, kClasses> reports_{};     // of each class, halved every kReportsHalving_s
  double window_s_ = 0;                        // what reports_ is over
  double since_halving_s_ = 0;
  double observed_s_ = 0;
  std::uint64_t random_ = 0x9e3779b97f4a7c15;
};

}  // namespace sealift
