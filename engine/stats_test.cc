#include "engine/stats.h"

#include <gtest/gtest.h>

namespace sealift {
namespace {

TEST(AppendRound, KeepsSumsExactAndMemoryBounded) {
  std::vector<RoundStats> rounds;
  constexpr std::uint32_t kRounds = 50'000;
  for (std::uint32_t epoch = 1; epoch <= kRounds; ++epoch) {
    RoundStats round;
    round.epoch = epoch;
    round.passes = epoch % 10 == 0 ? 1 : 0;
    round.shared_pages = epoch;
    round.private_pages = 400;
    round.firmware_ns = 7;
    round.total_ns = 11;
    round.dirty_after = {epoch, 2};
    append_round(rounds, round);
    ASSERT_LE(rounds.size(), kRoundsKeptMax);
    ASSERT_EQ(rounds.back().epochs, 1u);
  }
  MigrationReport report;
  report.rounds = rounds;
  const RoundStats sum = report.totals();
  EXPECT_EQ(sum.epochs, kRounds);
  EXPECT_EQ(sum.epoch, kRounds);
  EXPECT_EQ(sum.passes, kRounds / 10);
  EXPECT_EQ(sum.shared_pages, std::uint64_t{kRounds} * (kRounds + 1) / 2);
  EXPECT_EQ(sum.private_pages, 400ULL * kRounds);
  EXPECT_EQ(sum.firmware_ns, 7ULL * kRounds);
  EXPECT_EQ(sum.total_ns, 11ULL * kRounds);
  EXPECT_EQ(sum.dirty_after.shared_pages, kRounds);
  for (std::size_t i = 1; i < rounds.size(); ++i) {  // neighbours, in order, without a gap
    EXPECT_EQ(rounds[i].epoch - rounds[i].epochs, rounds[i - 1].epoch);
  }
  for (std::size_t i = rounds.size() - 64; i < rounds.size(); ++i) {
    EXPECT_EQ(rounds[i].epochs, 1u) << "what was sent last is kept apart";
  }
}

TEST(AppendRound, AFewRoundsStayAsTheyAre) {
  std::vector<RoundStats> rounds;
  for (std::uint32_t epoch = 1; epoch <= kRoundsKeptMax; ++epoch) {
    RoundStats round;
    round.epoch = epoch;
    append_round(rounds, round);
  }
  ASSERT_EQ(rounds.size(), kRoundsKeptMax);
  EXPECT_EQ(rounds.front().epochs, 1u);
  EXPECT_EQ(sum_of({}).epochs, 0u);
}

}  // namespace
}  // namespace sealift
