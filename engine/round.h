// Round: the pages of one epoch and the order in which they leave.
//
// The order that loses nothing (docs/ARCHITECTURE.md, "Order of harvest"):
//   1. the platform's dirty log is fetched and cleared into the DirtySet GuestPort::harvest_dirty()
//   2. the DirtySet is drained into the round                                 Round()
//   3. each page is classified by the PageMap                                 next()
//   4. and only then read or exported                                         the caller
// A write or conversion after 1 marks the page again, so the next epoch sends it again.
//
// Owner: the thread that runs the round. Threads: one; PageMap and DirtySet may change beside it.
// Failure: none. Invariant: each page of the round is returned by next() at most once.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "engine/dirty_set.h"
#include "engine/page_map.h"
#include "engine/types.h"

namespace sealift {

struct BatchPlan {
  PageClass cls = PageClass::kShared;
  std::vector<Gfn> gfns;  // ascending
};

class Round {
 public:
  // Step 2. `dirty` outlives the round. Private pages may be asked for in larger windows than one
  // batch (PrivateTraits::prepare_window_pages).
  Round(DirtySet& dirty, std::uint32_t shared_pages_max, std::uint32_t private_pages_max);

  std::uint64_t pages() const { return pages_; }  // taken into the round

  // Step 3 for as many pages as their class's limit; empty when the round is over. Pages that are
  // dirty again already are left out when `skip_redirtied` (they travel in a later epoch anyway)
  // and counted in skipped_pages().
  std::optional<BatchPlan> next(const PageMap& map, bool skip_redirtied);

  std::uint64_t skipped_pages() const { return skipped_; }

 private:
  void collect(const PageMap& map, bool skip_redirtied);
  void collect_word(const PageMap& map, std::uint64_t word, std::uint64_t bits,
                    bool skip_redirtied);

  DirtySet& dirty_;
  std::vector<DirtyBlock> taken_;
  std::uint64_t pages_ = 0;
  std::uint32_t const shared_pages_max_;
  std::uint32_t const private_pages_max_;
  std::size_t block_ = 0;  // of taken_; words that were classified are no longer in its `filled`
  std::uint64_t skipped_ = 0;
  std::vector<Gfn> shared_;
  std::vector<Gfn> private_;
};

}  // namespace sealift
