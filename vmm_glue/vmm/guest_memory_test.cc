#include "vmm_glue/vmm/guest_memory.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <vector>

#include "engine/zero_scan.h"
#include "vmm_glue/guest/guest_plan.h"
#include "vmm_glue/vmm/model_vm.h"
#include "vmm_glue/vmm/vm_test_support.h"

namespace sealift {
namespace {

using namespace test;  // NOLINT(google-build-using-namespace)

GuestMemory memory_of(std::uint64_t bytes, GuestMemory::Populate populate) {
  auto layout = layout_of_guest(bytes);
  EXPECT_TRUE(layout.has_value());
  auto memory = GuestMemory::make(*layout, populate);
  EXPECT_TRUE(memory.has_value()) << why(memory);
  return std::move(*memory);
}

std::vector<std::uint64_t> populated(const GuestMemory& memory) {
  std::vector<std::uint64_t> gfns;
  SEALIFT_EXPECT_OK(memory.for_each_populated([&](GfnRange range) {
    for (std::uint64_t i = 0; i < range.pages; ++i) gfns.push_back(value(range.first + i));
  }));
  return gfns;
}

Bytes filled(std::uint64_t pages, unsigned char byte) {
  return Bytes(pages * kPageBytes, std::byte{byte});
}

TEST(GuestMemoryHoles, ExactlyWhatWasTouchedIsPopulated) {
  GuestMemory memory = memory_of(64u << 20, GuestMemory::Populate::kOnTouch);
  EXPECT_TRUE(populated(memory).empty());
  std::mt19937_64 random(3);
  std::vector<std::uint64_t> touched = {0, 16383};
  for (int i = 0; i < 300; ++i) touched.push_back(random() % 16384);
  for (std::uint64_t i = 4000; i < 4700; ++i) touched.push_back(i);
  for (const std::uint64_t gfn : touched) std::memset(memory.at(Gfn{gfn}), 0, 1);  // zeros count
  std::sort(touched.begin(), touched.end());
  touched.erase(std::unique(touched.begin(), touched.end()), touched.end());
  EXPECT_EQ(populated(memory), touched);
  for (std::uint64_t gfn = 0; gfn < 16384; ++gfn) {
    ASSERT_EQ(memory.is_hole(Gfn{gfn}), !std::binary_search(touched.begin(), touched.end(), gfn));
  }
}

// What mincore and pagemap would miss: the file has the page, this mapping does not.
TEST(GuestMemoryHoles, APageThatLeftThePageTableIsStillPopulated) {
  GuestMemory memory = memory_of(8u << 20, GuestMemory::Populate::kOnTouch);
  std::memset(memory.at(Gfn{7}), 1, 1);
  ASSERT_EQ(madvise(memory.at(Gfn{0}), 8u << 20, MADV_DONTNEED), 0);  // of a file: unmapped only
  EXPECT_EQ(populated(memory), std::vector<std::uint64_t>{7});
}

TEST(GuestMemoryHoles, RunsEndAtTheGapAndGoOnBehindIt) {
  GuestMemory memory = memory_of((3ULL << 30) + (8u << 20), GuestMemory::Populate::kOnTouch);
  const std::uint64_t below = guest::kGapFirstGfn - 1;
  const std::uint64_t above = guest::kGapEndGfn;
  SEALIFT_EXPECT_OK(memory.write({Gfn{below}, 1}, filled(1, 1)));
  SEALIFT_EXPECT_OK(memory.write({Gfn{above}, 2}, filled(2, 2)));
  std::vector<GfnRange> runs;
  SEALIFT_EXPECT_OK(memory.for_each_populated([&](GfnRange run) { runs.push_back(run); }));
  EXPECT_EQ(runs, (std::vector<GfnRange>{{Gfn{below}, 1}, {Gfn{above}, 2}}));
  EXPECT_EQ(*memory.at(Gfn{below}), std::byte{1});
  EXPECT_EQ(*memory.at(Gfn{above + 1}), std::byte{2});
}

TEST(GuestMemoryHoles, PopulatedMemoryHasNone) {
  GuestMemory memory = memory_of(8u << 20, GuestMemory::Populate::kNow);
  EXPECT_EQ(populated(memory).size(), 2048u);
}

class GuestMemoryWrites : public testing::TestWithParam<GuestMemory::Populate> {};
INSTANTIATE_TEST_SUITE_P(Each, GuestMemoryWrites,
                         testing::Values(GuestMemory::Populate::kOnTouch,
                                         GuestMemory::Populate::kNow));

TEST_P(GuestMemoryWrites, AreWhatTheGuestReads) {
  GuestMemory memory = memory_of(16u << 20, GetParam());
  std::mt19937_64 random(5);
  std::vector<unsigned char> expected(4096, 0);
  for (int turn = 0; turn < 400; ++turn) {
    const GfnRange range{Gfn{random() % 3000}, 1 + random() % 900};
    const auto byte = static_cast<unsigned char>(random() % 3);
    if (byte == 0) {
      SEALIFT_EXPECT_OK(memory.write_zeros(range, turn % 5 == 0));
    } else {
      SEALIFT_EXPECT_OK(memory.write(range, filled(range.pages, byte)));
    }
    std::fill_n(expected.begin() + static_cast<std::ptrdiff_t>(value(range.first)), range.pages,
                byte);
  }
  for (std::uint64_t gfn = 0; gfn < 4096; ++gfn) {
    const Bytes page = filled(1, expected[gfn]);
    ASSERT_EQ(std::memcmp(memory.at(Gfn{gfn}), page.data(), page.size()), 0) << gfn;
  }
}

TEST(GuestMemoryHoles, ZerosKeepThemAndMakeThem) {
  GuestMemory memory = memory_of(8u << 20, GuestMemory::Populate::kOnTouch);
  SEALIFT_EXPECT_OK(memory.write_zeros({Gfn{0}, 2048}, false));
  SEALIFT_EXPECT_OK(memory.write_zeros({Gfn{0}, 2048}, true));
  EXPECT_TRUE(populated(memory).empty());
  SEALIFT_EXPECT_OK(memory.write({Gfn{10}, 4}, filled(4, 9)));
  SEALIFT_EXPECT_OK(memory.write_zeros({Gfn{11}, 2}, false));
  EXPECT_EQ(populated(memory), (std::vector<std::uint64_t>{10, 13}));
  // Memory that a platform holds by its address is emptied in place.
  SEALIFT_EXPECT_OK(memory.write_zeros({Gfn{0}, 2048}, true));
  EXPECT_EQ(populated(memory), (std::vector<std::uint64_t>{10, 13}));
  EXPECT_TRUE(is_zero(memory.at(Gfn{10}), kPageBytes));
}

// --- The first round of a migration ---

VmConfig half_used(std::uint64_t seed) {
  VmConfig config;
  config.platform = seed % 2 == 0 ? Platform::kNone : Platform::kSev;
  config.memory_bytes = 32u << 20;
  // An idle guest writes each page once, when it boots: one that is lost stays lost.
  config.workload = seed % 3 == 0 ? Workload::kSweep : Workload::kIdle;
  config.seed = seed;
  config.populated_percent = 40;
  return config;
}

enum class Plant { kNone, kLooksBeforeTheLog };

// The guest fills its memory while its migration begins. Number of errors it finds afterwards.
std::uint64_t migrate_while_it_boots(std::uint64_t seed, Plant plant, std::uint64_t& sent_pages) {
  Machine from = make_machine(half_used(seed), seed);
  Machine to = make_machine(half_used(seed), seed + 1);
  auto& source = dynamic_cast<ModelVm&>(*from.vm);
  SEALIFT_EXPECT_OK(from->boot());
  SEALIFT_EXPECT_OK(source.run_steps(0, 300 * seed));
  HandMigration migration(from, to);
  const auto look = [&] {
    from->dirty().clear();
    SEALIFT_EXPECT_OK(from->mark_populated());
  };
  if (plant == Plant::kLooksBeforeTheLog) look();
  SEALIFT_EXPECT_OK(source.run_steps(0, 900));
  SEALIFT_EXPECT_OK(from->start_dirty_tracking());
  if (plant == Plant::kNone) {
    SEALIFT_EXPECT_OK(from->harvest_dirty());
    SEALIFT_EXPECT_OK(source.run_steps(0, 900));
    look();
  }
  for (int i = 0; i < 10; ++i) {
    SEALIFT_EXPECT_OK(source.run_steps(0, 200));
    sent_pages += migration.round();
  }
  SEALIFT_EXPECT_OK(source.run_steps(0, 2'000));
  sent_pages += migration.round();
  migration.move_state();
  SEALIFT_EXPECT_OK(to->resume());
  const auto check = to->self_check(60s);
  return check ? check->errors : 1;
}

TEST(FirstRound, OfWhatIsPopulatedLosesNothing) {
  for (std::uint64_t seed = 1; seed <= 12; ++seed) {
    std::uint64_t sent_pages = 0;
    EXPECT_EQ(migrate_while_it_boots(seed, Plant::kNone, sent_pages), 0u) << "seed " << seed;
    EXPECT_GT(sent_pages, 0u);
  }
}

TEST(FirstRound, ThatLooksBeforeTheLogIsOnLosesPagesAndIsFound) {
  std::uint64_t found = 0;
  for (std::uint64_t seed = 1; seed <= 6; ++seed) {
    std::uint64_t sent_pages = 0;
    found += migrate_while_it_boots(seed, Plant::kLooksBeforeTheLog, sent_pages) > 0 ? 1u : 0u;
  }
  EXPECT_GT(found, 0u);
}

TEST(FirstRound, MemoryThatWasNeverTouchedStaysSoOnBothSides) {
  for (const std::uint64_t seed : {1u, 2u}) {
    Machine from = booted_machine(half_used(seed));
    Machine to = make_machine(half_used(seed), 77);
    SEALIFT_EXPECT_OK(from->pause());
    const auto touched = [](Machine& machine) {
      machine->dirty().clear();
      SEALIFT_EXPECT_OK(machine->mark_populated());
      return machine->dirty().count();
    };
    SEALIFT_EXPECT_OK(from->start_dirty_tracking());
    const std::uint64_t before = touched(from);
    EXPECT_GT(before, from->layout().pages() / 4);
    EXPECT_LT(before, from->layout().pages() / 2);
    HandMigration migration(from, to);
    EXPECT_GE(migration.round(), before);
    for (const Gfn gfn : all_gfns(from->layout())) (void)guest_view(*from, gfn);  // a look is free
    for (const Gfn gfn : all_gfns(to->layout())) (void)guest_view(*to, gfn);
    EXPECT_EQ(touched(from), before);
    EXPECT_LE(touched(to), before);
  }
}

}  // namespace
}  // namespace sealift
