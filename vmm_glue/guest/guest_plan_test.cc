#include "vmm_glue/guest/guest_plan.h"

#include <gtest/gtest.h>

#include "vmm_glue/guest/pattern.h"

namespace sealift {
namespace {

TEST(GuestPlan, PartsDoNotOverlapAndStayInRam) {
  for (std::uint64_t mib : {2u, 3u, 64u, 1024u, 3072u, 3073u, 8192u, 262144u}) {
    for (std::uint32_t vcpus = 1; vcpus <= 8; ++vcpus) {
      const auto plan = plan_guest(mib << 20, vcpus, 0);
      ASSERT_TRUE(plan.has_value()) << plan.error().detail;
      std::uint64_t end = guest::kPageTablesGfn + 2 + plan->page_directories;
      for (const VcpuPlan& vcpu : plan->vcpus) {
        EXPECT_EQ(value(vcpu.control), end);
        EXPECT_EQ(value(page_of(vcpu.stack_top)), end + 3);
        end += 3;
      }
      for (const VcpuPlan& vcpu : plan->vcpus) {
        EXPECT_EQ(value(page_of(vcpu.table)), end);
        end += (vcpu.arena_pages * guest::kTableEntryBytes + kPageBytes - 1) / kPageBytes;
      }
      EXPECT_LE(end, guest::kGapFirstGfn);
      for (const VcpuPlan& vcpu : plan->vcpus) {
        EXPECT_EQ(vcpu.arena_first, end);
        end += vcpu.arena_pages;
      }
      EXPECT_LE(end, plan->ram_pages);
      EXPECT_LT(plan->ram_pages - end, 2u * vcpus + plan->ram_pages / 200);
    }
  }
}

TEST(GuestPlan, SpreadsAnImageAndRefusesOneThatIsTooLarge) {
  const auto plan = plan_guest(4 << 20, 3, 10 * kPageBytes + 1);
  ASSERT_TRUE(plan.has_value());
  EXPECT_EQ(plan->vcpus[0].image_pages, 4u);
  EXPECT_EQ(plan->vcpus[1].image_offset, 4u);
  EXPECT_EQ(plan->vcpus[2].image_offset, 8u);
  EXPECT_EQ(plan->vcpus[2].image_pages, 3u);
  EXPECT_FALSE(plan_guest(4 << 20, 3, 4 << 20).has_value());
  EXPECT_FALSE(plan_guest(4 << 20, 3, ~0ULL).has_value());
}

// The word-by-word recomputation against a page that really takes the writes.
TEST(PageContent, EqualsAPageThatWasWritten) {
  constexpr std::uint64_t kSeed = 3, kGfn = 0x1234;
  for (std::uint32_t fill : {1u, 2u, 3u, 4u, 500u, 513u}) {
    std::uint64_t page[guest::kWordsPerPage];
    const guest::PageContent fresh(kSeed, kGfn, fill, fill);
    for (std::uint64_t i = 0; i < guest::kWordsPerPage; ++i) page[i] = fresh.word(i);
    for (std::uint32_t version = fill + 1; version < fill + 1500; ++version) {
      page[guest::written_index(version)] = guest::mix(kSeed, kGfn, version);
      if (version % 7 != 0) continue;
      const guest::PageContent content(kSeed, kGfn, version, fill);
      for (std::uint64_t i = 0; i < guest::kWordsPerPage; ++i) ASSERT_EQ(content.word(i), page[i]);
    }
  }
}

TEST(PageContent, AQuarterOfFillsIsZero) {
  int zero = 0;
  for (std::uint64_t gfn = 0; gfn < 4000; ++gfn) {
    const guest::PageContent content(1, gfn, 1, 1);
    bool is_zero = true;
    for (std::uint64_t i = 0; i < guest::kWordsPerPage; ++i) is_zero &= content.word(i) == 0;
    zero += is_zero ? 1 : 0;
  }
  EXPECT_GT(zero, 800);
  EXPECT_LT(zero, 1200);
}

}  // namespace
}  // namespace sealift
