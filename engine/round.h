// Round: the pages of one epoch and the order in which they leave.
//
// The order that loses nothing (docs/ARCHITECTURE.md, "Order of harvest"):
//   1. the platform's dirty log is fetched and cleared into the DirtySet GuestPort::harvest_dirty()
//   2. pages leave the DirtySet: shared ones when the round is made, private ones when they are
//      asked for, so that those an epoch has no time for never leave it
//   3. each page is classified                                            next_…()
//   4. and only then read or exported                                     the caller
// A write or conversion after 2 marks the page again, so the next epoch sends it again.
//
// Pages travel by the map that was announced to the destination. A page whose class in it is not
// the one it has at 3 is put back: its conversion is announced before the next epoch.
//
// Private pages leave coldest first (engine/heat.h); within a band 2 MiB here and 2 MiB there.
//
// Owner:   the thread that runs the round. Threads: next_shared() and next_private() may be called
//          by one thread each at the same time, claim_shared() by any number, who take no lock;
//          maps, DirtySet and Heat may change beside it, the announced map may not.
// Failure: none. Invariant: each page of the round is returned at most once.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <optional>
#include <vector>

#include "engine/dirty_set.h"
#include "engine/heat.h"
#include "engine/page_map.h"
#include "engine/types.h"

namespace sealift {

struct RoundLimits {
  // Listed in one round, 8 bytes each: at AMD's rate those of ten minutes, and as many as a fast
  // wire carries in a second.
  std::uint64_t private_pages_max = 256 * 1024;
  std::uint64_t leave_hottest = 0;  // so many of the dirty private pages, the hottest, stay dirty
};

class Round {
 public:
  // Step 2. `live` is the guest's own map. All three outlive the round. Without `heat` all pages
  // are equally cold.
  Round(DirtySet& dirty, const PageMap& live, const Heat* heat, const RoundLimits& limits);

  // Shared pages taken and private pages listed.
  std::uint64_t pages() const { return shared_pages_ + private_.size(); }
  std::uint64_t shared_pages() const { return shared_pages_; }
  bool has_shared() const { return shared_pages_ > 0; }
  bool has_private() const { return !private_.empty(); }
  // Private pages that were dirty and are not listed.
  std::uint64_t unlisted_private_pages() const { return unlisted_; }

  // Steps 2 and 3 for at most `pages_max` pages, ascending; empty when the class is exhausted.
  // Pages that are dirty again already are left out when `skip_redirtied` (they travel in a later
  // epoch anyway) and counted in skipped_pages().
  std::vector<Gfn> next_shared(const PageMap& announced, std::uint32_t pages_max,
                               bool skip_redirtied);
  // The same for 2 MiB at a time, as ranges, appended to `into`. How many pages that were; nothing
  // when the class is exhausted. Any number of threads, together with no next_shared().
  std::optional<std::uint64_t> claim_shared(const PageMap& announced, bool skip_redirtied,
                                            std::vector<GfnRange>& into);
  // The same for private pages; ascending within a band and 2 MiB only.
  // Pages that became hotter since they
  // were listed are left out when `skip_redirtied`.
  std::vector<Gfn> next_private(const PageMap& announced, std::uint32_t pages_max,
                                bool skip_redirtied);

  // REQUIRES: no call of next_…() is under way.
  std::uint64_t skipped_pages() const { return skipped_shared_.load() + skipped_private_; }
  std::uint64_t unasked_private_pages() const { return private_.size() - private_at_; }

 private:
  using BandCounts = std::array<std::uint64_t, Heat::kBands>;

  struct Bands {  // of the dirty private pages
    BandCounts dirty{};
    std::array<std::vector<Gfn>, Heat::kBands> listed;
  };

  Heat::Word heat_of(std::uint64_t word) const;
  void take_shared(Bands& bands);
  void list_private(Bands& bands, const BandCounts& quota, std::uint64_t wanted);
  std::uint64_t list_word(Bands& bands, const BandCounts& quota, std::uint64_t word);  // how many
  std::uint64_t may_leave(std::uint64_t word, std::uint64_t pages, const PageMap& announced,
                          bool skip_redirtied);
  std::uint64_t take_private(std::uint64_t word, std::uint64_t pages, const PageMap& announced,
                             bool skip_redirtied);

  DirtySet& dirty_;
  const PageMap& live_;
  const Heat* heat_;
  std::uint64_t const words_;
  // What is given out at a time: 2 MiB, which are one host page where the guest has huge ones.
  static constexpr std::size_t kClaimWords = 8;
  static constexpr std::size_t kClaimsPerBlock = DirtyBlock::kWords / kClaimWords;

  std::vector<DirtyBlock> shared_;
  std::uint64_t shared_pages_ = 0;
  std::atomic<std::size_t> shared_at_{0};  // of shared_, in claims
  std::vector<Gfn> carry_;                 // classified and not given out yet
  std::vector<Gfn> private_;
  std::array<std::size_t, Heat::kBands> band_ends_{};  // of private_
  std::size_t private_at_ = 0;
  unsigned band_ = 0;  // of private_[private_at_]
  std::uint64_t unlisted_ = 0;
  std::atomic<std::uint64_t> skipped_shared_{0};
  std::uint64_t skipped_private_ = 0;
};

}  // namespace sealift
