#include "engine/downtime.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <limits>

namespace sealift {
namespace {

std::uint64_t sum_of(const DowntimeAccount& account) {
  std::uint64_t sum = 0;
  for (const DowntimePart& part : account.parts()) sum += part.ns;
  return sum;
}

constexpr DowntimeMarks kMarks{.pause_ns = 1'000,
                               .round_ns = 20'000,
                               .save_ns = 300,
                               .finish_ns = 5'000,
                               .handover_ns = 2'000,
                               .harvest_ns = 4'000,
                               .source_seal_ns = 100,
                               .load_ns = 700,
                               .destination_seal_ns = 50,
                               .commit_ns = 600,
                               .resume_ns = 900,
                               .release_ns = 77'000};

TEST(Downtime, ThePartsAddUpToTheTotal) {
  const DowntimeAccount account = account_of(kMarks);
  EXPECT_EQ(account.total_ns, 28'300u);
  EXPECT_EQ(sum_of(account), account.total_ns);
  EXPECT_EQ(account.last_harvest_ns, 4'000u);
  EXPECT_EQ(account.last_pages_ns, 16'000u);
  EXPECT_EQ(account.state_ns, 1'000u);
  EXPECT_EQ(account.firmware_finish_ns, 150u);
  EXPECT_EQ(account.handover_ns, 600u);
  EXPECT_EQ(account.resume_ns, 900u);
  EXPECT_EQ(account.waiting_ns, 4'150u + 500u);
  EXPECT_EQ(account.release_ns, 77'000u);
}

// The destination's figures are a peer's word.
TEST(Downtime, APeerThatClaimsMoreThanThereWasChangesNoSum) {
  DowntimeMarks marks = kMarks;
  marks.load_ns = std::numeric_limits<std::uint64_t>::max();
  marks.destination_seal_ns = 1'000'000;
  marks.resume_ns = std::numeric_limits<std::uint64_t>::max();
  const DowntimeAccount account = account_of(marks);
  EXPECT_EQ(account.total_ns, 28'300u);
  EXPECT_EQ(sum_of(account), account.total_ns);
  EXPECT_EQ(account.state_ns, 300u + 4'900u);
  EXPECT_EQ(account.firmware_finish_ns, 100u);
  EXPECT_EQ(account.waiting_ns, 0u);
}

}  // namespace
}  // namespace sealift
