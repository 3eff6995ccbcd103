// DirtySet: pages whose last sent copy is stale. Filled by the dirty log, by conversions and by
// failed batches.
//
// Owner:   the guest. Threads: any; marking and draining are lock-free and lose nothing: a page
// marked while drain()
//          runs is either in what drain() returns or still in the set.
// Failure: none. A gfn outside the span asserts (callers check guest input first).
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <vector>

#include "engine/types.h"

namespace sealift {

class PageMap;

// A plain bitmap over guest pages, for one thread.
class PageBitmap {
 public:
  explicit PageBitmap(std::uint64_t span_pages)
      : words_((span_pages + 63) / 64), span_(span_pages) {}
  std::uint64_t span_pages() const { return span_; }
  std::vector<std::uint64_t>& words() { return words_; }
  const std::vector<std::uint64_t>& words() const { return words_; }
  std::uint64_t count() const;

 private:
  std::vector<std::uint64_t> words_;
  std::uint64_t span_;
};

struct DirtyCounts {
  std::uint64_t shared_pages = 0;
  std::uint64_t private_pages = 0;
  std::uint64_t total() const { return shared_pages + private_pages; }
};

class DirtySet {
 public:
  explicit DirtySet(std::uint64_t span_pages);

  std::uint64_t span_pages() const { return span_; }
  void mark(Gfn gfn);
  void mark(GfnRange range);
  // Merges one word of a dirty log: bit i stands for page 64 * word + i. Bits past the span are
  // ignored.
  void merge_word(std::uint64_t word, std::uint64_t bits);
  bool is_marked(Gfn gfn) const;

  // Moves every marked page into `into` (or-ing) and leaves the set empty.
  void drain(PageBitmap& into);
  std::uint64_t count() const;
  // Marked pages by their present class.
  DirtyCounts count_by_class(const PageMap& map) const;

 private:
  std::uint64_t const span_;
  std::vector<std::atomic<std::uint64_t>> words_;
};

// The one way a conversion reaches the engine: the map first, then the whole range dirty, so that a
// sender which cleared and classified a page too early sends it again. Call it before the vCPU that
// asked resumes.
void convert_pages(PageMap& map, DirtySet& dirty, GfnRange range, PageClass cls);

}  // namespace sealift
