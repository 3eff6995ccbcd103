#include "engine/page_map.h"

#include <gtest/gtest.h>
#include <openssl/evp.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <set>
#include <thread>
#include <vector>

namespace sealift {
namespace {

constexpr std::uint64_t kChunk = PageMap::kChunkPages;

PageClass class_if(bool shared) { return shared ? PageClass::kShared : PageClass::kPrivate; }

// What PageMap promises, done the plain way.
class NaiveMap {
 public:
  explicit NaiveMap(std::uint64_t span) : shared_(span) {}

  std::uint64_t convert(GfnRange range, bool shared) {
    std::uint64_t changed = 0;
    for (std::uint64_t i = value(range.first); i < value(end_of(range)); ++i) {
      changed += shared_[i] != shared ? 1u : 0u;
      shared_[i] = shared;
    }
    return changed;
  }
  bool shared(std::uint64_t page) const { return shared_[page]; }
  std::uint64_t shared_pages() const {
    return static_cast<std::uint64_t>(std::count(shared_.begin(), shared_.end(), true));
  }
  std::vector<GfnRange> runs() const {
    std::vector<GfnRange> runs;
    for (std::uint64_t i = 0; i < shared_.size(); ++i) {
      if (!shared_[i]) continue;
      if (!runs.empty() && value(end_of(runs.back())) == i) {
        ++runs.back().pages;
      } else {
        runs.push_back(GfnRange{Gfn{i}, 1});
      }
    }
    return runs;
  }
  std::array<std::byte, 32> digest() const {
    std::vector<std::byte> form;
    const auto append = [&](std::uint64_t number) {
      for (unsigned i = 0; i < 8; ++i) form.push_back(std::byte(number >> (8 * i) & 0xff));
    };
    append(shared_.size());
    for (GfnRange run : runs()) {
      append(value(run.first));
      append(run.pages);
    }
    std::array<std::byte, 32> digest{};
    EVP_Digest(form.data(), form.size(), reinterpret_cast<unsigned char*>(digest.data()), nullptr,
               EVP_sha256(), nullptr);
    return digest;
  }

 private:
  std::vector<bool> shared_;
};

void expect_equal(const PageMap& map, const NaiveMap& naive) {
  std::vector<Gfn> gfns;
  for (std::uint64_t i = 0; i < map.span_pages(); ++i) {
    gfns.push_back(Gfn{i});
    RC_ASSERT(map.class_of(Gfn{i}) == class_if(naive.shared(i)));
    RC_ASSERT((map.shared_bits(i / 64) >> (i % 64) & 1) == (naive.shared(i) ? 1u : 0u));
  }
  const std::uint64_t past = map.span_pages() % 64;
  if (past != 0) RC_ASSERT(map.shared_bits(map.span_pages() / 64) >> past == 0u);
  std::vector<PageClass> classes(gfns.size());
  map.classify(gfns, classes);
  for (std::uint64_t i = 0; i < classes.size(); ++i) {
    RC_ASSERT(classes[i] == class_if(naive.shared(i)));
  }
  RC_ASSERT(map.shared_pages() == naive.shared_pages());
  RC_ASSERT(map.shared_ranges() == naive.runs());
  RC_ASSERT(map.digest() == naive.digest());
}

// Near where words, chunks and the map end as often as anywhere else.
rc::Gen<std::uint64_t> page_gen(std::uint64_t span) {
  const auto near = [span](std::uint64_t unit) {
    return rc::gen::map(rc::gen::pair(rc::gen::inRange<std::uint64_t>(0, span / unit + 1),
                                      rc::gen::inRange<std::uint64_t>(0, 4)),
                        [=](std::pair<std::uint64_t, std::uint64_t> at) {
                          const std::uint64_t page = at.first * unit + at.second;
                          return page < 2 ? 0 : std::min(page - 2, span);
                        });
  };
  return rc::gen::oneOf(rc::gen::inRange<std::uint64_t>(0, span + 1), near(64), near(kChunk),
                        rc::gen::just(span));
}

GfnRange some_range(std::uint64_t span) {
  const std::uint64_t first = *page_gen(span);
  const std::uint64_t other =
      *rc::gen::oneOf(page_gen(span), rc::gen::just(std::min(first + 1, span)));
  return GfnRange{Gfn{std::min(first, other)}, std::max(first, other) - std::min(first, other)};
}

TEST(PageMap, EverythingIsPrivateAtFirst) {
  const PageMap map(1000);
  EXPECT_EQ(map.class_of(Gfn{0}), PageClass::kPrivate);
  EXPECT_EQ(map.class_of(Gfn{999}), PageClass::kPrivate);
  EXPECT_EQ(map.shared_pages(), 0u);
  EXPECT_TRUE(map.shared_ranges().empty());
}

RC_GTEST_PROP(PageMap, AgreesWithANaiveMap, ()) {
  const auto span = *rc::gen::oneOf(
      rc::gen::inRange<std::uint64_t>(1, 3000), rc::gen::inRange<std::uint64_t>(1, 3 * kChunk),
      rc::gen::element<std::uint64_t>(kChunk - 1, kChunk, 2 * kChunk, 2 * kChunk + 1));
  PageMap map(span);
  NaiveMap naive(span);
  const auto steps = *rc::gen::inRange(1, 60);
  for (int step = 0; step < steps; ++step) {
    const GfnRange range = some_range(span);
    const bool shared = *rc::gen::arbitrary<bool>();
    RC_ASSERT(map.convert(range, class_if(shared)) == naive.convert(range, shared));
    RC_ASSERT(map.shared_pages() == naive.shared_pages());
  }
  expect_equal(map, naive);
}

// Many small conversions in two chunks: their words fill up, become leaves and come back.
RC_GTEST_PROP(PageMap, AgreesWithANaiveMapWhenChunksChangeTheirForm, ()) {
  constexpr std::uint64_t kSpan = kChunk + 777;
  PageMap map(kSpan);
  NaiveMap naive(kSpan);
  const auto convert = [&](GfnRange range, bool shared) {
    RC_ASSERT(map.convert(range, class_if(shared)) == naive.convert(range, shared));
  };
  for (int phase = 0; phase < 4; ++phase) {
    std::vector<GfnRange> scattered;
    const auto pages = *rc::gen::inRange(0, 12);
    for (int i = 0; i < pages; ++i) scattered.push_back(some_range(kSpan));
    const bool shared = *rc::gen::arbitrary<bool>();
    for (GfnRange range : scattered) convert(GfnRange{range.first, range.pages % 70}, shared);
    RC_ASSERT(map.shared_ranges() == naive.runs());
    const bool back = *rc::gen::arbitrary<bool>();
    for (GfnRange range : scattered) {
      if (back) convert(GfnRange{range.first, range.pages % 70}, !shared);
    }
    RC_ASSERT(map.shared_ranges() == naive.runs());
  }
  expect_equal(map, naive);
}

// Every way in which one range can lie to two runs that are there already, at a chunk's ends too.
TEST(PageMap, AgreesWithANaiveMapForEveryOverlapOfThreeRanges) {
  const std::vector<std::uint64_t> edges = {0, 1, 64, 100, kChunk - 1, kChunk};
  std::vector<GfnRange> ranges;
  for (std::uint64_t first : edges) {
    for (std::uint64_t end : edges) {
      if (first < end) ranges.push_back(GfnRange{Gfn{first}, end - first});
    }
  }
  for (GfnRange one : ranges) {
    for (GfnRange two : ranges) {
      for (GfnRange three : ranges) {
        for (unsigned classes = 0; classes < 8; ++classes) {
          PageMap map(kChunk);
          std::set<std::uint64_t>
              shared;  // of the pages at the edges; between them nothing changes
          unsigned bit = 0;
          for (GfnRange range : {one, two, three}) {
            const bool to_shared = (classes >> bit++ & 1) != 0;
            map.convert(range, class_if(to_shared));
            for (std::uint64_t page : edges) {
              if (page < value(range.first) || page >= value(end_of(range))) continue;
              to_shared ? static_cast<void>(shared.insert(page))
                        : static_cast<void>(shared.erase(page));
            }
          }
          for (std::uint64_t page : edges) {
            if (page == kChunk) continue;
            ASSERT_EQ(map.class_of(Gfn{page}), class_if(shared.contains(page)))
                << page << " after " << value(one.first) << "+" << one.pages << ", "
                << value(two.first) << "+" << two.pages << ", " << value(three.first) << "+"
                << three.pages << ", classes " << classes;
          }
        }
      }
    }
  }
}

TEST(PageMap, TheDigestTellsMapsApart) {
  PageMap a(100), b(100), longer(101);
  EXPECT_EQ(a.digest(), b.digest());
  EXPECT_NE(a.digest(), longer.digest());
  b.convert(GfnRange{Gfn{7}, 1}, PageClass::kShared);
  EXPECT_NE(a.digest(), b.digest());
  b.convert(GfnRange{Gfn{7}, 1}, PageClass::kPrivate);
  EXPECT_EQ(a.digest(), b.digest());
}

TEST(PageMap, MemoryIsBoundedForEveryMapAndDoesNotGrowOverTime) {
  constexpr std::uint64_t kSpan = 32 * kChunk;
  PageMap map(kSpan);
  const std::uint64_t empty = map.memory_bytes();
  EXPECT_LT(empty, 1024u);
  std::uint64_t worst = 0;
  for (int day = 0; day < 10; ++day) {
    for (std::uint64_t page = 0; page < kSpan; page += 2) {
      map.convert(GfnRange{Gfn{page}, 1}, PageClass::kShared);
    }
    EXPECT_EQ(map.shared_pages(), kSpan / 2);
    if (day == 0) worst = map.memory_bytes();
    map.convert(GfnRange{Gfn{0}, kSpan}, class_if(day % 2 == 0));
    map.convert(GfnRange{Gfn{0}, kSpan}, PageClass::kPrivate);
    EXPECT_EQ(map.memory_bytes(), worst);
  }
  EXPECT_LT(static_cast<double>(worst * 8) / kSpan, 1.1);
  EXPECT_GT(static_cast<double>(worst * 8) / kSpan, 1.0);  // the worst case was reached
}

TEST(PageMap, TwoRunsInAChunkTakeNoMemory) {
  PageMap map(kChunk);
  const std::uint64_t empty = map.memory_bytes();
  for (std::uint64_t page : {1000u, 5000u}) {
    map.convert(GfnRange{Gfn{page}, 10}, PageClass::kShared);
  }
  EXPECT_EQ(map.memory_bytes(), empty);  // two runs cost nothing
  map.convert(GfnRange{Gfn{7000}, 1}, PageClass::kShared);
  EXPECT_GT(map.memory_bytes(), empty);
  for (std::uint64_t page : {7000u, 1000u}) {
    map.convert(GfnRange{Gfn{page}, 10}, PageClass::kPrivate);
  }
  EXPECT_EQ(map.shared_ranges(), (std::vector{GfnRange{Gfn{5000}, 10}}));
}

// A reader of many pages never sees half a conversion, whatever chunks it spans and whatever form
// they have.
TEST(PageMap, AConversionIsSeenWholeOrNotAtAll) {
  constexpr std::uint64_t kSpan = 3 * kChunk;
  const GfnRange range{Gfn{300}, 2 * kChunk};
  PageMap map(kSpan);
  std::vector<GfnRange> always;  // the first chunk has a leaf for them
  for (std::uint64_t page = 0; page < 8; page += 2) {
    always.push_back(GfnRange{Gfn{page}, 1});
    map.convert(always.back(), PageClass::kShared);
  }
  const auto digest_private = map.digest();
  map.convert(range, PageClass::kShared);
  const auto digest_shared = map.digest();
  std::vector<GfnRange> with_range = always;
  with_range.push_back(range);
  // The writer never pauses: the readers must get their turn all the same.
  std::atomic<bool> done{false};
  std::jthread writer([&] {
    for (std::uint64_t i = 0; !done; ++i) map.convert(range, class_if(i % 2 != 0));
  });
  const std::vector<Gfn> probes = {Gfn{300},        Gfn{511},
                                   Gfn{kChunk - 1}, Gfn{kChunk},
                                   Gfn{9000},       Gfn{2 * kChunk - 1},
                                   Gfn{2 * kChunk}, Gfn{299 + 2 * kChunk}};
  std::vector<PageClass> classes(probes.size());
  std::set<PageClass> seen;
  for (int look = 0; look < 2000 || seen.size() < 2; ++look) {
    map.classify(probes, classes);
    for (PageClass cls : classes) EXPECT_EQ(cls, classes.front());
    seen.insert(classes.front());
    const auto runs = map.shared_ranges();
    EXPECT_TRUE(runs == always || runs == with_range);
    const auto digest = map.digest();
    EXPECT_TRUE(digest == digest_private || digest == digest_shared);
    EXPECT_EQ(map.class_of(Gfn{299}), PageClass::kPrivate);
    EXPECT_EQ(map.class_of(Gfn{6}), PageClass::kShared);
    if (HasFailure()) break;
  }
  done = true;
}

// Lookups beside conversions that give and take a leaf: a page that is not converted keeps its
// class.
TEST(PageMap, ALookupIsRightWhileItsChunkChangesItsForm) {
  PageMap map(2 * kChunk);
  map.convert(GfnRange{Gfn{kChunk}, kChunk}, PageClass::kShared);
  constexpr Gfn kPrivateAlways{4097}, kSharedAlways{kChunk + 4097};
  std::atomic<bool> done{false};
  std::vector<std::jthread> readers;
  std::atomic<std::uint64_t> wrong{0}, looks{0};
  for (int i = 0; i < 2; ++i) {
    readers.emplace_back([&] {
      do {
        if (map.class_of(kPrivateAlways) != PageClass::kPrivate) ++wrong;
        if (map.class_of(kSharedAlways) != PageClass::kShared) ++wrong;
        if ((map.shared_bits(4097 / 64) & 2) != 0) ++wrong;
        ++looks;
      } while (!done);
    });
  }
  for (int round = 0; round < 20'000 || looks < 1000; ++round) {
    for (const std::uint64_t base : {std::uint64_t{0}, kChunk}) {
      const bool shared = base == 0;
      // Both neighbours make two runs, the third makes a leaf; then all goes back, in two ways.
      for (std::uint64_t page : {4096u, 4098u, 64u}) {
        map.convert(GfnRange{Gfn{base + page}, 1}, class_if(shared));
      }
      if (round % 2 == 0) {
        map.convert(GfnRange{Gfn{base}, 4097}, class_if(!shared));
        map.convert(GfnRange{Gfn{base + 4098}, kChunk - 4098}, class_if(!shared));
      } else {
        map.convert(GfnRange{Gfn{base}, kChunk}, class_if(!shared));
      }
    }
  }
  done = true;
  readers.clear();
  EXPECT_EQ(wrong, 0u);
}

TEST(PageMap, ConversionsBesideEachOtherAreAllThere) {
  PageMap map(kChunk);
  {
    std::vector<std::jthread> writers;
    for (std::uint64_t writer = 0; writer < 3; ++writer) {
      writers.emplace_back([&map, writer] {
        for (std::uint64_t round = 0; round < 21; ++round) {
          for (std::uint64_t page = writer; page < 600; page += 3) {
            map.convert(GfnRange{Gfn{page}, 1}, class_if(round % 2 == 0));
          }
        }
      });
    }
  }
  EXPECT_EQ(map.shared_pages(), 600u);
  EXPECT_EQ(map.shared_ranges(), (std::vector{GfnRange{Gfn{0}, 600}}));
}

}  // namespace
}  // namespace sealift
