#include "engine/stats.h"

#include <algorithm>

namespace sealift {

const char* name_of(Outcome outcome) {
  switch (outcome) {
    case Outcome::kUnfinished:
      return "unfinished";
    case Outcome::kDone:
      return "done";
    case Outcome::kSourceRuns:
      return "failed, source running";
    case Outcome::kCancelled:
      return "cancelled";
    case Outcome::kRefused:
      return "refused";
    case Outcome::kPolicy:
      return "policy";
    case Outcome::kTimedOut:
      return "timed out";
    case Outcome::kInDoubt:
      return "in doubt";
    case Outcome::kGuestLost:
      return "guest lost";
    case Outcome::kGuestEnded:
      return "guest terminated";
  }
  return "invalid outcome";
}

RoundStats sum_of(std::span<const RoundStats> rounds) {
  RoundStats sum;
  sum.epochs = 0;
  sum.passes = 0;
  for (const RoundStats& round : rounds) {
    sum.epoch = round.epoch;
    sum.epochs += round.epochs;
    sum.passes += round.passes;
    sum.shared_pages += round.shared_pages;
    sum.zero_pages += round.zero_pages;
    sum.private_pages += round.private_pages;
    sum.skipped_pages += round.skipped_pages;
    sum.left_private_pages = round.left_private_pages;
    sum.shared_bytes += round.shared_bytes;
    sum.private_bytes += round.private_bytes;
    sum.firmware_commands += round.firmware_commands;
    sum.harvest_ns += round.harvest_ns;
    sum.plain_ns += round.plain_ns;
    sum.firmware_ns += round.firmware_ns;
    sum.total_ns += round.total_ns;
    sum.ack_ns += round.ack_ns;
    sum.throttle_percent = std::max(sum.throttle_percent, round.throttle_percent);
    sum.dirty_after = round.dirty_after;
  }
  return sum;
}

void append_round(std::vector<RoundStats>& rounds, const RoundStats& round) {
  rounds.push_back(round);
  if (rounds.size() <= kRoundsKeptMax) return;
  constexpr std::size_t kMerged = kRoundsKeptMax / 2;
  for (std::size_t i = 0; i < kMerged / 2; ++i) {
    rounds[i] = sum_of(std::span(rounds).subspan(2 * i, 2));
  }
  rounds.erase(rounds.begin() + kMerged / 2, rounds.begin() + kMerged);
}

RoundStats MigrationReport::totals() const { return sum_of(rounds); }

}  // namespace sealift
