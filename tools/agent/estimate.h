// What a migration of a running guest would take, from watching its writes for a few seconds.
// Nothing moves, and nothing is left behind: the dirty log is off again afterwards.
//
// Owner:   the agent. Threads: observe() blocks its caller beside the guest's vCPUs; one at a time,
//          and never beside a migration, since both use the guest's dirty set.
// Failure: kRefused without a rate that is needed, kCancelled when `stop` came, else the guest
//          port's.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engine/forecast.h"
#include "engine/guest_port.h"
#include "engine/private_path.h"
#include "engine/rates.h"
#include "transport/cancel.h"

namespace sealift {

struct EstimateOptions {
  std::uint64_t observe_ns = 3'000'000'000;
  double plain_pages_per_s = 0;     // of the link; 0: as the last migration of this agent had it
  double firmware_pages_per_s = 0;  // 0: the same, or what is known of the platform
  std::uint64_t round_trip_ns = 1'000'000;
  Goals goals;
};
inline constexpr std::uint64_t kObserveMax_ns = 25'000'000'000;

struct GuestObservation {
  GuestModel guest;
  double seconds = 0;
  double harvest_s = 0;  // what one took, on average
  std::uint64_t shared_pages = 0;
  std::uint64_t private_pages = 0;
  double shared_written_per_s = 0;  // distinct pages in each interval
  double private_written_per_s = 0;
};

// `live_export`: of the platform; without it nobody sees the writes to private pages.
Result<GuestObservation> observe(GuestPort& guest, std::uint64_t observe_ns, bool live_export,
                                 const CancelToken& stop);

struct Estimate {
  GuestObservation seen;
  PathModel path;
  std::string plain_from;  // where the rates come from, for people
  std::string firmware_from;
  Goals goals;
  Forecast forecast;

  bool converges() const;
  std::string verdict() const;  // one sentence
};

// `exporter` null: no platform. `measured`: of the last migration, 0 where there was none.
Result<Estimate> estimate(const EstimateOptions& options, GuestObservation seen,
                          const PrivateExporter* exporter, const Rates& measured);

}  // namespace sealift
