// The downtime account: where the guest's pause went, in parts that add up to its whole.
//
// All of it is on the source's clock. The destination reports durations, not moments (Ready and
// Running, docs/spec/wire.md), and each lies inside an interval the source measured: a figure above
// that interval is cut down to it, so no peer can make the sum wrong. What no part names (the link
// and the queues on both hosts, the journal of the destination, pages that it still applies) is the
// remainder.
//
// Plain values.
#pragma once

#include <array>
#include <cstdint>

namespace sealift {

// As measured. The first five follow each other without a gap.
struct DowntimeMarks {
  std::uint64_t pause_ns = 0;     // stop the vCPUs, complete pending exits, tell the platform
  std::uint64_t round_ns = 0;     // the last round
  std::uint64_t save_ns = 0;      // vCPU and device state out
  std::uint64_t finish_ns = 0;    // until the destination was ready
  std::uint64_t handover_ns = 0;  // until "the guest runs" arrived

  std::uint64_t harvest_ns = 0;      // in round_ns: the last fetch of the dirty log
  std::uint64_t source_seal_ns = 0;  // in finish_ns: the platform's last word, digest of the map
  std::uint64_t load_ns = 0;         // in finish_ns, at the destination
  std::uint64_t destination_seal_ns = 0;  // in finish_ns, at the destination
  std::uint64_t commit_ns = 0;            // in handover_ns: journal and Handover at the source
  std::uint64_t resume_ns = 0;            // in handover_ns, at the destination
  std::uint64_t release_ns = 0;  // after the pause: the platform's last command at the source
};

struct DowntimePart {
  const char* name;
  std::uint64_t ns = 0;
};

struct DowntimeAccount {
  std::uint64_t pause_ns = 0;
  std::uint64_t last_harvest_ns = 0;
  std::uint64_t last_pages_ns = 0;
  std::uint64_t state_ns = 0;            // both sides
  std::uint64_t firmware_finish_ns = 0;  // both sides
  std::uint64_t handover_ns = 0;         // the source's journal and the record
  std::uint64_t resume_ns = 0;
  std::uint64_t waiting_ns = 0;  // link and waiting: whatever is in none of the others
  std::uint64_t total_ns = 0;
  std::uint64_t release_ns = 0;  // no part: the guest runs at the destination meanwhile

  // In the order of time; their sum is total_ns.
  std::array<DowntimePart, 8> parts() const;
};

DowntimeAccount account_of(const DowntimeMarks& marks);

}  // namespace sealift
