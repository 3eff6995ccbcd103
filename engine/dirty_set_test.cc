#include "engine/dirty_set.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <set>
#include <thread>
#include <vector>

#include "engine/page_map.h"

namespace sealift {
namespace {

using Pages = std::set<std::uint64_t>;

Pages pages_of(const std::vector<DirtyBlock>& blocks) {
  Pages pages;
  for (const DirtyBlock& block : blocks) {
    for (std::uint64_t i = 0; i < 64 * DirtyBlock::kWords; ++i) {
      if ((block.words[i / 64] >> (i % 64) & 1) != 0) pages.insert(block.first_word * 64 + i);
    }
  }
  return pages;
}

Pages pages_of(const PageBitmap& bitmap) {
  Pages pages;
  for (std::uint64_t i = 0; i < bitmap.words().size() * 64; ++i) {
    if ((bitmap.words()[i / 64] >> (i % 64) & 1) != 0) pages.insert(i);
  }
  return pages;
}

// Single pages, ranges that are whole words and blocks or end inside one, words of a log.
void mark_something(DirtySet& dirty, Pages& model) {
  const std::uint64_t span = dirty.span_pages();
  const auto first = *rc::gen::inRange<std::uint64_t>(0, span);
  switch (*rc::gen::inRange(0, 3)) {
    case 0:
      dirty.mark(Gfn{first});
      model.insert(first);
      return;
    case 1: {
      const auto pages =
          *rc::gen::oneOf(rc::gen::inRange<std::uint64_t>(0, std::min<std::uint64_t>(span, 300)),
                          rc::gen::inRange<std::uint64_t>(0, span), rc::gen::just(span));
      const GfnRange range{Gfn{first}, std::min(pages, span - first)};
      dirty.mark(range);
      for (std::uint64_t i = 0; i < range.pages; ++i) model.insert(first + i);
      return;
    }
    default: {
      const auto bits = *rc::gen::arbitrary<std::uint64_t>();
      dirty.merge_word(first / 64, bits);
      for (std::uint64_t i = 0; i < 64 && first / 64 * 64 + i < span; ++i) {
        if ((bits >> i & 1) != 0) model.insert(first / 64 * 64 + i);
      }
    }
  }
}

rc::Gen<std::uint64_t> span_gen() {
  return rc::gen::oneOf(rc::gen::inRange<std::uint64_t>(1, 300),
                        rc::gen::inRange<std::uint64_t>(1, 13'000),
                        rc::gen::element<std::uint64_t>(64, 4096, 4160, 8192));
}

TEST(DirtySet, KeepsWhatItIsGivenAndDrainsItOnce) {
  DirtySet dirty(130);
  dirty.mark(Gfn{0});
  dirty.mark(GfnRange{Gfn{60}, 70});
  dirty.merge_word(2, ~0ULL);  // pages 128 and 129 exist, the rest of the word does not
  EXPECT_EQ(dirty.count(), 71u);
  PageBitmap into(130);
  dirty.drain(into);
  EXPECT_EQ(into.count(), 71u);
  EXPECT_EQ(dirty.count(), 0u);
  dirty.drain(into);
  EXPECT_EQ(into.count(), 71u);
}

RC_GTEST_PROP(DirtySet, AgreesWithASetOfPages, ()) {
  DirtySet dirty(*span_gen());
  Pages model;
  const auto steps = *rc::gen::inRange(1, 20);
  for (int step = 0; step < steps; ++step) {
    if (*rc::gen::inRange(0, 4) > 0) {
      mark_something(dirty, model);
    } else if (*rc::gen::arbitrary<bool>()) {
      PageBitmap into(dirty.span_pages());
      into.words()[0] = 1;  // what is there stays there
      model.insert(0);
      dirty.drain(into);
      RC_ASSERT(pages_of(into) == model);
      model.clear();
    } else {
      RC_ASSERT(pages_of(dirty.drain()) == model);
      model.clear();
    }
    RC_ASSERT(dirty.count() == model.size());
  }
  for (std::uint64_t i = 0; i < dirty.span_pages(); ++i) {
    RC_ASSERT(dirty.is_marked(Gfn{i}) == model.contains(i));
    RC_ASSERT((dirty.marked_bits(i / 64) >> (i % 64) & 1) == model.count(i));
  }
}

RC_GTEST_PROP(DirtySet, CountsByTheClassOfNow, ()) {
  DirtySet dirty(*span_gen());
  PageMap map(dirty.span_pages());
  Pages model;
  for (int i = 0; i < 5; ++i) mark_something(dirty, model);
  for (int i = 0; i < 5; ++i) {
    const auto first = *rc::gen::inRange<std::uint64_t>(0, dirty.span_pages());
    const auto pages = *rc::gen::inRange<std::uint64_t>(0, dirty.span_pages() - first + 1);
    map.convert(GfnRange{Gfn{first}, pages}, i % 2 == 0 ? PageClass::kShared : PageClass::kPrivate);
  }
  const auto shared =
      static_cast<std::uint64_t>(std::count_if(model.begin(), model.end(), [&](std::uint64_t page) {
        return map.class_of(Gfn{page}) == PageClass::kShared;
      }));
  const DirtyCounts counts = dirty.count_by_class(map);
  RC_ASSERT(counts.shared_pages == shared);
  RC_ASSERT(counts.total() == model.size());
}

TEST(DirtySet, NothingMarkedBesideADrainIsLost) {
  constexpr std::uint64_t kSpan = 4096;
  DirtySet dirty(kSpan);
  std::vector<std::uint64_t> seen(kSpan);
  std::atomic<bool> done{false};
  std::jthread marker([&] {
    for (std::uint64_t i = 0; i < kSpan; ++i) dirty.mark(Gfn{i});
    done = true;
  });
  bool last = false;
  while (!last) {
    last = done;
    PageBitmap into(kSpan);
    dirty.drain(into);
    for (std::uint64_t i = 0; i < kSpan; ++i) seen[i] += into.words()[i / 64] >> (i % 64) & 1;
  }
  for (std::uint64_t i = 0; i < kSpan; ++i) ASSERT_EQ(seen[i], 1u) << i;
}

// What the set is for: a page is written, then marked; a copy taken after each drain is never older
// than the last mark that the set no longer holds.
TEST(DirtySet, TheLastCopyOfAPageIsItsLastContent) {
  constexpr std::array<std::uint64_t, 4> kPages = {0, 1, 64, 4096};
  constexpr std::uint64_t kWrites = 100'000;
  DirtySet dirty(3 * 4096);
  std::array<std::atomic<std::uint64_t>, kPages.size()> content{};
  std::array<std::uint64_t, kPages.size()> copy{};
  std::atomic<bool> done{false};
  std::jthread writer([&] {
    for (std::uint64_t n = 1; n <= kWrites; ++n) {
      const std::uint64_t i = n % kPages.size();
      content[i].store(n, std::memory_order_relaxed);
      if (n % 7 == 0) {
        dirty.mark(GfnRange{Gfn{kPages[i]}, 64});  // a whole word for three of them
      } else {
        dirty.mark(Gfn{kPages[i]});
      }
    }
    done = true;
  });
  for (bool last = false; !last;) {
    last = done;
    const Pages drained = pages_of(dirty.drain());
    for (std::size_t i = 0; i < kPages.size(); ++i) {
      if (drained.contains(kPages[i])) copy[i] = content[i].load(std::memory_order_relaxed);
    }
  }
  for (std::size_t i = 0; i < kPages.size(); ++i) EXPECT_EQ(copy[i], content[i].load()) << i;
}

// Each mark races with a drain of its own: after the next whole drain it must have come out.
TEST(DirtySet, AMarkComesOutOfTheNextDrain) {
  constexpr int kMarks = 20'000;
  DirtySet dirty(4096);
  std::atomic<std::uint64_t> drains{0}, came_out{0};
  std::atomic<bool> done{false};
  std::jthread drainer([&] {
    while (!done) {
      for (const DirtyBlock& block : dirty.drain()) came_out += block.words[0] & 1;
      ++drains;
    }
  });
  for (std::uint64_t mark = 1; mark <= kMarks; ++mark) {
    dirty.mark(Gfn{0});
    // The drain under way may have missed it; the one after it may not.
    const std::uint64_t enough = drains + 2;
    while (drains < enough && came_out < mark) std::this_thread::yield();
    EXPECT_EQ(came_out, mark);
    if (HasFailure()) break;
  }
  done = true;
}

RC_GTEST_PROP(DirtySet, TakeRemovesJustWhatItReturns, ()) {
  DirtySet dirty(*span_gen());
  Pages model;
  for (int i = 0; i < 4; ++i) mark_something(dirty, model);
  const std::uint64_t words = (dirty.span_pages() + 63) / 64;
  for (int i = 0; i < 20; ++i) {
    const auto word = *rc::gen::inRange<std::uint64_t>(0, words);
    const auto bits =
        *rc::gen::oneOf(rc::gen::arbitrary<std::uint64_t>(), rc::gen::just(~std::uint64_t{0}));
    const std::uint64_t taken = dirty.take(word, bits);
    for (std::uint64_t bit = 0; bit < 64; ++bit) {
      const bool expected = (bits >> bit & 1) != 0 && model.erase(word * 64 + bit) == 1;
      RC_ASSERT((taken >> bit & 1) == (expected ? 1u : 0u));
    }
  }
  RC_ASSERT(dirty.count() == model.size());
  Pages walked;
  for (std::uint64_t word = dirty.next_marked_word(0); word < words;
       word = dirty.next_marked_word(word + 1)) {
    for (std::uint64_t bit = 0; bit < 64; ++bit) {
      if ((dirty.marked_bits(word) >> bit & 1) != 0) walked.insert(word * 64 + bit);
    }
  }
  RC_ASSERT(walked == model);
  RC_ASSERT(pages_of(dirty.drain()) == model);
}

TEST(DirtySet, WhatWasTakenEmptyIsNotVisitedAgain) {
  DirtySet dirty(3 * 4096);
  dirty.mark(GfnRange{Gfn{0}, 3 * 4096});
  for (std::uint64_t word = 0; word < 3 * 64; ++word) EXPECT_EQ(dirty.take(word, ~0ULL), ~0ULL);
  EXPECT_EQ(dirty.next_marked_word(0), 3u * 64);
  dirty.put_back(Gfn{100});
  EXPECT_EQ(dirty.next_marked_word(0), 1u);
}

// One mark and one take begin at the same moment, again and again: of that page, or of the only
// other one in its word. The mark is either taken or found by the next walk.
TEST(DirtySet, AMarkBesideATakeIsFoundByTheNextWalk) {
  constexpr std::uint64_t kRaces = 40'000;
  DirtySet dirty(4096);
  std::atomic<std::uint64_t> begun{0}, marked{0};
  std::jthread marker([&] {
    for (std::uint64_t race = 1; race <= kRaces; ++race) {
      for (int spins = 1; begun < race; ++spins) {
        if (spins % 4096 == 0) std::this_thread::yield();
      }
      dirty.mark(Gfn{0});
      marked = race;
    }
  });
  for (std::uint64_t race = 1; race <= kRaces; ++race) {
    const std::uint64_t bits = race % 2 == 0 ? 1 : 2;
    if (bits == 2) dirty.put_back(Gfn{1});
    begun = race;
    for (std::uint64_t i = 0; i < race % 512; ++i) static_cast<void>(begun.load());
    const bool taken = (dirty.take(0, bits) & 1) != 0;
    while (marked < race) std::this_thread::yield();
    if (!taken) {
      EXPECT_EQ(dirty.next_marked_word(0), 0u) << race;
    }
    static_cast<void>(dirty.take(0, ~0ULL));
  }
}

TEST(ConvertPages, TheWholeRangeIsDirtyAfterwards) {
  PageMap map(64);
  DirtySet dirty(64);
  convert_pages(map, dirty, GfnRange{Gfn{3}, 5}, PageClass::kShared);
  EXPECT_EQ(map.shared_pages(), 5u);
  EXPECT_EQ(dirty.count(), 5u);
  convert_pages(map, dirty, GfnRange{Gfn{3}, 5}, PageClass::kShared);  // also when nothing changes
  EXPECT_EQ(dirty.count(), 5u);
}

}  // namespace
}  // namespace sealift
