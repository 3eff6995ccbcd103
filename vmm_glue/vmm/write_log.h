// WriteLog: the dirty log of the modelled vCPUs: one bit for each page written since the last
// harvest.
//
// Owner:   ModelVm.
// Threads: any.
// Failure: none.
// Invariants:
//   I1  No write is lost. A vCPU writes the page first and sets the bit second, always by an atomic
//       read-modify-write. A harvest takes words by an atomic exchange before anybody reads the
//       pages. If the exchange sees the bit, it synchronises with the vCPU and the page's new
//       content is visible to the harvester; if not, the bit is set later and is in the next
//       harvest. Setting the bit first, or skipping the RMW when the bit is already set, would
//       break this: the exchange could fall between the bit and the write.
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include "engine/dirty_set.h"
#include "engine/types.h"

namespace sealift {

class WriteLog {
 public:
  explicit WriteLog(std::uint64_t span_pages) : words_((span_pages + 63) / 64) {}

  // REQUIRES: gfn < span_pages, and the write to the page was made before.
  void mark(Gfn gfn) {
    words_[value(gfn) / 64].fetch_or(1ULL << (value(gfn) % 64), std::memory_order_acq_rel);
  }
  void harvest(DirtySet& into) {
    for (std::size_t i = 0; i < words_.size(); ++i) {
      if (words_[i].load(std::memory_order_relaxed) == 0) continue;
      into.merge_word(i, words_[i].exchange(0, std::memory_order_acq_rel));
    }
  }
  void clear() {
    for (auto& word : words_) word.exchange(0, std::memory_order_acq_rel);
  }

 private:
  std::vector<std::atomic<std::uint64_t>> words_;
};

}  // namespace sealift
