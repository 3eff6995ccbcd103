#include "engine/downtime.h"

#include <algorithm>

namespace sealift {
namespace {

// Takes up to `wanted_ns` out of an interval.
std::uint64_t take(std::uint64_t wanted_ns, std::uint64_t& interval_ns) {
  const std::uint64_t taken = std::min(wanted_ns, interval_ns);
  interval_ns -= taken;
  return taken;
}

}  // namespace

std::array<DowntimePart, 8> DowntimeAccount::parts() const {
  return {{{"pause", pause_ns},
           {"last harvest", last_harvest_ns},
           {"last pages", last_pages_ns},
           {"vCPU and device state", state_ns},
           {"firmware finish", firmware_finish_ns},
           {"hand-over", handover_ns},
           {"resume", resume_ns},
           {"link and waiting", waiting_ns}}};
}

DowntimeAccount account_of(const DowntimeMarks& marks) {
  std::uint64_t round = marks.round_ns, finish = marks.finish_ns, handover = marks.handover_ns;
  DowntimeAccount account;
  account.pause_ns = marks.pause_ns;
  account.last_harvest_ns = take(marks.harvest_ns, round);
  account.last_pages_ns = round;
  account.firmware_finish_ns = take(marks.source_seal_ns, finish);
  account.state_ns = marks.save_ns + take(marks.load_ns, finish);
  account.firmware_finish_ns += take(marks.destination_seal_ns, finish);
  account.handover_ns = take(marks.commit_ns, handover);
  account.resume_ns = take(marks.resume_ns, handover);
  account.waiting_ns = finish + handover;
  account.total_ns =
      marks.pause_ns + marks.round_ns + marks.save_ns + marks.finish_ns + marks.handover_ns;
  account.release_ns = marks.release_ns;
  return account;
}

}  // namespace sealift
