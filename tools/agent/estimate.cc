#include "tools/agent/estimate.h"

#include <fmt/format.h>
#include <poll.h>

#include <algorithm>
#include <array>
#include <optional>
#include <utility>

#include "engine/observation.h"
#include "tools/agent/clock.h"

namespace sealift {
namespace {

constexpr std::uint64_t kInterval_ns = 100'000'000;  // as often as a migration harvests
constexpr std::uint64_t kZeroSamples = 4096;
// AMD's firmware on SEV hardware, as measured by others: 350 to 450.
constexpr double kAmdPages_per_s = 400;

// Tracking that ends with its scope, whatever happens in it.
class Tracking {
 public:
  explicit Tracking(GuestPort& guest) : guest_(guest) {}
  Tracking(const Tracking&) = delete;
  Tracking& operator=(const Tracking&) = delete;
  ~Tracking() { (void)stop(); }

  Result<void> start() {
    on_ = true;
    return guest_.start_dirty_tracking();
  }
  Result<void> stop() {
    if (!std::exchange(on_, false)) return {};
    auto stopped = guest_.stop_dirty_tracking();
    (void)guest_.dirty().drain();
    return stopped;
  }

 private:
  GuestPort& guest_;
  bool on_ = false;
};

Result<void> wait(std::uint64_t ns, const CancelToken& stop) {
  pollfd cancelled{stop.fd(), POLLIN, 0};
  (void)poll(&cancelled, 1, static_cast<int>(ns / 1'000'000));
  if (stop.cancelled()) return fail(ErrorClass::kCancelled, "the agent is ending");
  return {};
}

// Of the shared pages, by a sample that is spread evenly over them.
Result<double> zero_share(GuestPort& guest) {
  const PageMap& map = guest.page_map();
  const std::uint64_t every = std::max<std::uint64_t>(1, map.shared_pages() / kZeroSamples);
  std::array<std::byte, kPageBytes> page{};
  std::uint64_t at = 0, sampled = 0, zero = 0;
  for (GfnRange range : map.shared_ranges()) {
    for (; at < range.pages; at += every) {
      SEALIFT_CHECK(guest.read_plain(Gfn{value(range.first) + at}, page));
      ++sampled;
      const bool is_zero = std::all_of(page.begin(), page.end(),
                                       [](std::byte byte) { return byte == std::byte{0}; });
      zero += is_zero ? 1 : 0;
    }
    at -= range.pages;
  }
  return sampled == 0 ? 0.0 : static_cast<double>(zero) / static_cast<double>(sampled);
}

}  // namespace

Result<GuestObservation> observe(GuestPort& guest, std::uint64_t observe_ns, bool live_export,
                                 const CancelToken& stop) {
  GuestObservation seen;
  Observation writes;
  Tracking tracking(guest);
  SEALIFT_CHECK(tracking.start());
  // A first harvest may report every page, which says nothing of the guest's writes.
  SEALIFT_CHECK(guest.harvest_dirty());
  (void)guest.dirty().drain();
  const auto intervals = static_cast<std::uint32_t>(
      std::clamp<std::uint64_t>(observe_ns / kInterval_ns, 1, Observation::kIntervalsMax));
  Stopwatch since_harvest;
  std::uint64_t harvests_ns = 0, shared = 0, priv = 0;
  for (std::uint32_t i = 0; i < intervals; ++i) {
    SEALIFT_CHECK(wait(kInterval_ns, stop));
    if (GuestHealth health = guest.health(); !health.ended.empty()) {
      return fail(ErrorClass::kRefused, "the guest terminated: {}", health.ended);
    }
    Stopwatch harvest;
    SEALIFT_CHECK(guest.harvest_dirty());
    harvests_ns += harvest.elapsed_ns();
    const DirtyCounts counts = guest.dirty().count_by_class(guest.page_map());
    shared += counts.shared_pages;
    priv += counts.private_pages;
    writes.add(guest.dirty().drain(), static_cast<double>(since_harvest.lap()) / 1e9);
  }
  SEALIFT_CHECK(tracking.stop());
  seen.seconds = writes.seconds();
  seen.harvest_s = static_cast<double>(harvests_ns) / intervals / 1e9;
  seen.shared_pages = guest.page_map().shared_pages();
  seen.private_pages = guest.layout().pages() - seen.shared_pages;
  seen.shared_written_per_s = static_cast<double>(shared) / seen.seconds;
  seen.private_written_per_s = live_export ? static_cast<double>(priv) / seen.seconds : 0;
  seen.guest.groups = writes.groups(guest.layout(), guest.page_map());
  SEALIFT_TRY(seen.guest.zero_share, zero_share(guest));
  return seen;
}

bool Estimate::converges() const {
  return forecast.end == Step::kSwitchover &&
         forecast.downtime_s * 1e9 <= static_cast<double>(goals.downtime_max_ns);
}

std::string Estimate::verdict() const {
  if (converges()) {
    return fmt::format("it converges: {:.1f} s in all, downtime {:.0f} ms, because {}",
                       forecast.total_s, forecast.downtime_s * 1e3, forecast.reason);
  }
  return fmt::format("it cannot converge because {}", forecast.reason);
}

Result<Estimate> estimate(const EstimateOptions& options, GuestObservation seen,
                          const PrivateExporter* exporter, const Rates& measured) {
  Estimate out;
  out.path.plain_pages_per_s = options.plain_pages_per_s;
  out.plain_from = "as given";
  if (options.plain_pages_per_s <= 0) {
    if (measured.plain_pages_per_s <= 0) {
      return fail(ErrorClass::kUsage,
                  "the speed of the link is not known, since nothing was migrated from here yet: "
                  "give it");
    }
    out.path.plain_pages_per_s = measured.plain_pages_per_s;
    out.plain_from = "as the last migration from here had it";
  }
  const PrivateTraits traits = exporter != nullptr ? exporter->traits() : PrivateTraits{};
  out.path.live_export = traits.live_export;
  if (options.firmware_pages_per_s > 0) {
    out.path.firmware_pages_per_s = options.firmware_pages_per_s;
    out.firmware_from = "as given";
  } else if (measured.firmware_pages_per_s > 0) {
    out.path.firmware_pages_per_s = measured.firmware_pages_per_s;
    out.firmware_from = "as the last migration from here had it";
  } else if (traits.pages_per_s_hint > 0) {
    out.path.firmware_pages_per_s = traits.pages_per_s_hint;
    out.firmware_from = "as the platform expects";
  } else if (traits.platform == Platform::kSev || traits.platform == Platform::kSevEs) {
    out.path.firmware_pages_per_s = kAmdPages_per_s;
    out.firmware_from = "as others measured AMD's firmware";
  } else if (seen.private_pages > 0) {
    return fail(ErrorClass::kUsage,
                "how many private pages a second leave this platform is not known: give it");
  }
  out.path.round_trip_s = static_cast<double>(options.round_trip_ns) / 1e9;
  out.path.harvest_s = seen.harvest_s;
  out.goals = options.goals;
  out.goals.firmware_pages_per_s_hint = out.path.firmware_pages_per_s;
  out.seen = std::move(seen);
  out.forecast = forecast(out.seen.guest, out.path, out.goals);
  return out;
}

}  // namespace sealift
