// DirtySet: pages whose last sent copy is stale. Filled by the dirty log, by conversions and by
// failed batches.
//
// Two levels: a bit for each page in words of 64, and for each block of 64 words (4096 pages) a
// word of `filled` (bit i: word i may hold marks) and one of `whole` (bit i: all pages of word i
// are marked, whatever the word says). Marking 1 TiB writes 65536 words and a nearly empty set is
// counted, drained and found empty as quickly, which is what the last round of a migration does.
//
// Owner:   the guest. Threads: any; marking and draining are lock-free and lose nothing: a page
//          marked while drain() runs is either in what drain() returns or still in the set.
// Failure: none. A gfn outside the span asserts (callers check guest input first).
// Invariants:
//   I1  A mark writes the word, then reads `filled` and sets its bit if it is clear; a drain takes
//       `filled`, then the word. Both write the word by a read-modify-write, so one comes first:
//       the drain's finds the mark, or the mark's saw the drain's and finds the bit in `filled`
//       clear. take() of all that a word holds does the same, and sets the bit again if it was not
//       all.
//   I2  drain() and take() are called by one thread at a time.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "engine/types.h"

namespace sealift {

class Heat;
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

// The marked ones of the 4096 pages that start at 64 * first_word.
struct DirtyBlock {
  static constexpr std::uint64_t kWords = 64;
  std::uint64_t first_word = 0;
  std::uint64_t filled = 0;  // bit i: words[i] may hold marks; the others are 0
  std::array<std::uint64_t, kWords> words{};

  std::uint64_t count() const;
};

class DirtySet {
 public:
  explicit DirtySet(std::uint64_t span_pages);
  DirtySet(const DirtySet&) = delete;
  DirtySet& operator=(const DirtySet&) = delete;
  ~DirtySet();

  std::uint64_t span_pages() const { return span_; }
  void mark(Gfn gfn);
  void mark(GfnRange range);
  // Merges one word of a dirty log: bit i stands for page 64 * word + i. Bits past the span are
  // ignored.
  void merge_word(std::uint64_t word, std::uint64_t bits);
  bool is_marked(Gfn gfn) const;
  // Bit i: page 64 * word + i is marked. REQUIRES: 64 * word < span_pages.
  std::uint64_t marked_bits(std::uint64_t word) const;

  // How soon pages are dirtied again: from now on every mark is reported to it, but for ranges of
  // more than a block of pages, which say nothing of one page. Begun anew by each call; lives as
  // long as the set. REQUIRES: always the same map, of the same span, that outlives the set.
  Heat& watch_heat(const PageMap& map);
  // Marks a page again that was taken and not sent, which is no news of the guest.
  void put_back(Gfn gfn);

  // The first word at or after `word` that may hold marks; the number of words when there is none.
  std::uint64_t next_marked_word(std::uint64_t word) const;
  // Takes those of `bits` that are marked out of the set and returns them.
  std::uint64_t take(std::uint64_t word, std::uint64_t bits);

  // Moves every marked page into `into` (or-ing) and leaves the set empty.
  void drain(PageBitmap& into);
  // The same, as the blocks with marked pages, ascending.
  std::vector<DirtyBlock> drain();
  // Forgets every mark. As drain(): a page marked meanwhile is forgotten or still in the set.
  void clear();
  std::uint64_t count() const;
  // Marked pages by their present class.
  DirtyCounts count_by_class(const PageMap& map) const;

 private:
  struct Block {
    std::atomic<std::uint64_t> filled{0};
    std::atomic<std::uint64_t> whole{0};
  };

  std::uint64_t pages_of_word(std::uint64_t word) const;  // as bits; fewer than 64 only in the last
  void mark_in_word(std::uint64_t word, std::uint64_t bits);
  void report(std::uint64_t word, std::uint64_t bits);
  void report(GfnRange range);
  void drain_block(std::uint64_t block, DirtyBlock& into);
  template <class Visit>
  void for_each_word(Visit visit) const;

  std::uint64_t const span_;
  std::vector<std::atomic<std::uint64_t>> words_;
  std::vector<Block> blocks_;
  std::mutex heat_mutex_;             // of making it
  std::unique_ptr<Heat> heat_owner_;  // guarded by heat_mutex_
  std::atomic<Heat*> heat_{nullptr};
};

// The one way a conversion reaches the engine: the map first, then the whole range dirty, so that a
// sender which cleared and classified a page too early sends it again. Call it before the vCPU that
// asked resumes.
void convert_pages(PageMap& map, DirtySet& dirty, GfnRange range, PageClass cls);

}  // namespace sealift
