// Statistics of a migration as plain structs. Times in nanoseconds from the caller's monotonic
// clock, sizes in the unit that ends the name. Filled by the runners, read by policy, reports and
// metrics. Plain values.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/dirty_set.h"
#include "engine/downtime.h"
#include "engine/platform_check.h"
#include "engine/result.h"

namespace sealift {

// What one round sent, or a few neighbouring ones together.
struct RoundStats {
  std::uint32_t epoch = 0;          // the last one of them
  std::uint32_t epochs = 1;         // how many
  std::uint32_t passes = 1;         // of them, those that sent all that was dirty and not too hot
  bool guest_paused = false;        // the final round
  std::uint64_t shared_pages = 0;   // sent raw
  std::uint64_t zero_pages = 0;     // shared pages sent as "all zero"
  std::uint64_t private_pages = 0;  // sent through the firmware
  std::uint64_t skipped_pages = 0;  // taken but not sent: already dirty again, or nothing to export
  std::uint64_t left_private_pages = 0;  // dirty when it began, and no time or too hot to export
  std::uint64_t shared_bytes = 0;        // bytes of bodies
  std::uint64_t private_bytes = 0;       // ciphertext and packet headers
  std::uint64_t firmware_commands = 0;
  std::uint64_t harvest_ns = 0;        // the fetch of the dirty log it began with
  std::uint64_t plain_ns = 0;          // time spent reading and sending shared pages
  std::uint64_t firmware_ns = 0;       // time spent exporting and sending private pages
  std::uint64_t total_ns = 0;          // until the destination acknowledged the epoch
  std::uint64_t ack_ns = 0;            // of it, after all was sent
  std::uint32_t throttle_percent = 0;  // of the guest's vCPUs, while it was sent
  DirtyCounts dirty_after = {};        // dirty when the round was over

  std::uint64_t sent_pages() const { return shared_pages + zero_pages + private_pages; }
};

// What was expected, to be held against the outcome. ns; UINT64_MAX: unknown.
struct Prediction {
  std::uint64_t downtime_ns = 0;    // when the pause was decided on
  std::uint64_t total_low_ns = 0;   // of the whole migration, after the first round
  std::uint64_t total_high_ns = 0;  // UINT64_MAX: it was not converging then
  std::string why;                  // the decision to pause
};

// How a migration ended, seen from the source. The right to run follows from it.
enum class Outcome : std::uint8_t {
  kUnfinished = 0,
  kDone,        // the guest runs at the destination
  kSourceRuns,  // failed; the guest runs at the source
  kCancelled,   // the operator asked; the guest runs at the source
  kRefused,     // a check said no before anything moved
  kPolicy,      // attestation, certificates or guest policy said no
  kTimedOut,    // the operator's limit passed; the guest runs at the source
  kInDoubt,     // the link died after the hand-over was sent: neither side resumes by itself
  kGuestLost,   // paused at the source and cannot be resumed there; the detail says why
  kGuestEnded,  // it terminated by itself while it was being migrated: there is nothing to run
};
const char* name_of(Outcome outcome);

// Appends a round; beyond kRoundsKeptMax the older half is merged two by two, so that a migration
// of any length is reported and decided on in bounded memory. Sums stay exact.
void append_round(std::vector<RoundStats>& rounds, const RoundStats& round);
inline constexpr std::size_t kRoundsKeptMax = 256;
RoundStats sum_of(std::span<const RoundStats> rounds);

struct MigrationReport {
  Outcome outcome = Outcome::kUnfinished;
  std::optional<Error> error = {};
  std::optional<Error> recovery_error =
      {};                          // returning to the source's guest left something undone
  PlatformFindings findings = {};  // about the destination's platform; empty: it sent no card
  std::vector<RoundStats> rounds = {};
  DowntimeAccount downtime = {};
  std::optional<Prediction> prediction = {};  // once the pause was decided on
  std::uint64_t setup_ns = 0;                 // connection, negotiation, platform start
  std::uint8_t data_streams = 0;  // beside the control's; 0: everything went on that one
  std::uint64_t total_ns = 0;

  RoundStats totals() const;  // sums over all rounds
};

}  // namespace sealift
