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

RoundStats MigrationReport::totals() const {
  RoundStats sum;
  for (const RoundStats& round : rounds) {
    sum.epoch = round.epoch;
    sum.shared_pages += round.shared_pages;
    sum.zero_pages += round.zero_pages;
    sum.private_pages += round.private_pages;
    sum.skipped_pages += round.skipped_pages;
    sum.shared_bytes += round.shared_bytes;
    sum.private_bytes += round.private_bytes;
    sum.firmware_commands += round.firmware_commands;
    sum.plain_ns += round.plain_ns;
    sum.firmware_ns += round.firmware_ns;
    sum.total_ns += round.total_ns;
    sum.throttle_percent = std::max(sum.throttle_percent, round.throttle_percent);
    sum.dirty_after = round.dirty_after;
  }
  return sum;
}

}  // namespace sealift
