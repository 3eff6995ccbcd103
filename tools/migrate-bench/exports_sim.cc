#include "tools/migrate-bench/exports_sim.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <utility>
#include <vector>

#include "engine/assert.h"
#include "engine/dirty_set.h"
#include "engine/heat.h"
#include "engine/page_map.h"
#include "engine/round.h"

namespace sealift::bench {
namespace {

constexpr std::uint64_t kSecond = 1'000'000'000;
constexpr std::uint64_t kExportLeast_ns = kSecond / 450;
constexpr std::uint64_t kExportMost_ns = kSecond / 350;
constexpr std::uint64_t kPause_ns = kSecond / 50;
constexpr std::uint64_t kPlain_ns = kSecond / 250'000;  // 1 GB/s
constexpr std::uint64_t kHarvest_ns = kSecond / 10;
constexpr std::uint64_t kSlice_ns = kSecond;
constexpr std::uint64_t kRoundTrip_ns = kSecond / 1000;
constexpr std::uint32_t kBatchPages = 80;   // a fifth of a second
constexpr std::uint64_t kSharedShare = 50;  // one page in so many is shared with the host
constexpr double kSharedWrites_per_s = 1000;
constexpr double kPopulatedShare = 0.6;
constexpr std::uint64_t kExtentPages = 128;  // populated or not as a whole
constexpr double kHotShare = 0.05;
constexpr double kHotWrites = 0.95;
constexpr std::uint64_t kLive_sMax = 3600;

using Random = std::mt19937_64;

double uniform(Random& random) { return static_cast<double>(random() >> 11) * 0x1p-53; }

template <class T>
void shuffle(std::vector<T>& list, Random& random) {  // the same with every library
  for (std::size_t i = list.size(); i > 1; --i) std::swap(list[i - 1], list[random() % i]);
}

// Which private page is written next.
class Pattern {
 public:
  Pattern(Writes writes, std::vector<Gfn> populated, Random& random)
      : writes_(writes), pages_(std::move(populated)), random_(random) {
    if (writes != Writes::kSweep && writes != Writes::kZipfInOrder) shuffle(pages_, random_);
    double sum = 0;
    for (std::size_t rank = 1; rank <= pages_.size(); ++rank) {
      zipf_.push_back(sum += 1 / static_cast<double>(rank));
    }
  }

  Gfn next() {
    const double size = static_cast<double>(pages_.size());
    const auto at = [&](double share) { return pages_[static_cast<std::size_t>(share * size)]; };
    switch (writes_) {
      case Writes::kSweep:
        return pages_[swept_++ % pages_.size()];
      case Writes::kIdle:
      case Writes::kRandom:
        return at(uniform(random_));
      case Writes::kHotset:
        return uniform(random_) < kHotWrites ? at(kHotShare * uniform(random_))
                                             : at(uniform(random_));
      default: {
        const double wanted = uniform(random_) * zipf_.back();
        const auto rank = std::lower_bound(zipf_.begin(), zipf_.end(), wanted);
        return pages_[static_cast<std::size_t>(rank - zipf_.begin())];
      }
    }
  }

  // Those that are written most often first, where the pattern has such.
  const std::vector<Gfn>& by_rank() const { return pages_; }

 private:
  Writes const writes_;
  std::vector<Gfn> pages_;    // by rank
  std::vector<double> zipf_;  // sums of 1 / rank
  std::size_t swept_ = 0;
  Random& random_;
};

class Simulation {
 public:
  Simulation(const ExportsCase& which, Order order, const Goals& goals)
      : order_(order),
        goals_(goals),
        span_(which.guest_pages),
        random_(which.seed),
        map_(span_),
        dirty_(span_),
        populated_(span_),
        exported_(span_),
        pattern_(which.writes, populate(), random_),
        private_gap_ns_(1e9 / which.writes_per_s),
        log_((span_ + 63) / 64),
        shared_since_ns_(span_) {
    goals_.guest_pages = span_;
    dirty_.mark(GfnRange{Gfn{0}, span_});
    heat_ = &dirty_.watch_heat(map_);
    next_private_ns_ = gap(private_gap_ns_);
    next_shared_ns_ = gap(1e9 / kSharedWrites_per_s);
  }

  ExportsOutcome run() {
    if (order_ == Order::kAllKnowing) forget_unpopulated();
    std::vector<RoundStats> rounds;
    Decision decision;
    for (std::uint32_t epoch = 1; decision.step == Step::kAnotherRound; ++epoch) {
      RoundStats stats = send_round(decision.leave_hottest_pages);
      stats.epoch = epoch;
      harvest();
      stats.dirty_after = dirty_.count_by_class(map_);
      append_round(rounds, stats);
      decision = decide(rounds, goals_, heat_->estimate());
      if (now_ns_ > kLive_sMax * kSecond) break;
    }
    out_.reason = decision.reason;
    out_.predicted_ms = static_cast<double>(decision.predicted_downtime_ns) / 1e6;
    out_.live_s = static_cast<double>(now_ns_) / 1e9;
    out_.heat_bytes = heat_->memory_bytes();
    pause();
    return out_;
  }

 private:
  // The first pages are shared; the others are populated in extents.
  std::vector<Gfn> populate() {
    const std::uint64_t shared = span_ / kSharedShare;
    map_.convert(GfnRange{Gfn{0}, shared}, PageClass::kShared);
    std::vector<Gfn> pages;
    for (std::uint64_t at = shared; at < span_;) {
      const std::uint64_t end = std::min(span_, (at / kExtentPages + 1) * kExtentPages);
      const bool there = uniform(random_) < kPopulatedShare;
      for (; at < end; ++at) {
        populated_[at] = there;
        if (there) pages.push_back(Gfn{at});
      }
    }
    out_.populated_pages = pages.size();
    return pages;
  }

  void forget_unpopulated() {
    for (std::uint64_t page = span_ / kSharedShare; page < span_; ++page) {
      if (!populated_[page]) dirty_.take(page / 64, 1ULL << (page % 64));
    }
  }

  std::uint64_t gap(double mean_ns) {
    return static_cast<std::uint64_t>(-std::log(1 - uniform(random_)) * mean_ns);
  }

  void log(Gfn gfn) { log_[value(gfn) / 64] |= 1ULL << (value(gfn) % 64); }

  // Lets the guest run, and its log be harvested, until `end_ns`.
  void run_until(std::uint64_t end_ns) {
    while (now_ns_ < end_ns) {
      const std::uint64_t next_ns =
          std::min({end_ns, next_harvest_ns_, next_private_ns_, next_shared_ns_});
      heat_->guest_ran(static_cast<double>(next_ns - now_ns_) / 1e9);
      now_ns_ = next_ns;
      if (now_ns_ == next_private_ns_) {
        log(pattern_.next());
        next_private_ns_ += 1 + gap(private_gap_ns_);
      }
      if (now_ns_ == next_shared_ns_) {
        const std::uint64_t page = random_() % (span_ / kSharedShare);
        log(Gfn{page});
        if (shared_since_ns_[page] == 0) shared_since_ns_[page] = now_ns_;
        next_shared_ns_ += 1 + gap(1e9 / kSharedWrites_per_s);
      }
      if (now_ns_ == next_harvest_ns_) harvest();
    }
  }

  void harvest() {
    for (std::uint64_t word = 0; word < log_.size(); ++word) {
      if (log_[word] != 0) dirty_.merge_word(word, std::exchange(log_[word], 0));
    }
    next_harvest_ns_ = now_ns_ + kHarvest_ns;
  }

  // What of `gfns` took the firmware's time.
  struct Exported {
    std::uint64_t pages = 0;
    std::uint64_t took_ns = 0;
  };
  Exported export_pages(const std::vector<Gfn>& gfns) {
    Exported exported;
    for (Gfn gfn : gfns) {
      if (!populated_[value(gfn)]) continue;
      exported_[value(gfn)] = true;
      ++exported.pages;
      exported.took_ns += kExportLeast_ns + firmware_() % (kExportMost_ns - kExportLeast_ns);
    }
    out_.exports += exported.pages;
    return exported;
  }

  std::uint64_t send_shared(Round& round) {
    std::uint64_t sent = 0;
    for (;;) {
      const std::vector<Gfn> gfns = round.next_shared(map_, kBatchPages, true);
      if (gfns.empty()) return sent;
      for (Gfn gfn : gfns) {
        std::uint64_t& since_ns = shared_since_ns_[value(gfn)];
        if (since_ns != 0) {
          out_.shared_late_max_ns = std::max(out_.shared_late_max_ns, now_ns_ - since_ns);
        }
        since_ns = 0;
      }
      sent += gfns.size();
    }
  }

  // The next dirty private pages by address, from where the last ones were.
  std::vector<Gfn> next_in_turn() {
    std::vector<Gfn> gfns;
    for (std::uint64_t seen = 0; seen < span_ && gfns.size() < kBatchPages; ++seen) {
      const Gfn gfn{cursor_};
      cursor_ = (cursor_ + 1) % span_;
      if (map_.class_of(gfn) == PageClass::kShared || !dirty_.is_marked(gfn)) continue;
      dirty_.take(value(gfn) / 64, 1ULL << (value(gfn) % 64));
      gfns.push_back(gfn);
    }
    return gfns;
  }

  // The dirty pages that will be written least often, by the true chances.
  std::vector<Gfn> next_by_truth(std::uint64_t leave_hottest) {
    const std::vector<Gfn>& pages = pattern_.by_rank();
    std::vector<Gfn> gfns;
    std::uint64_t dirty = 0;
    for (Gfn gfn : pages) dirty += dirty_.is_marked(gfn) ? 1u : 0u;
    for (std::size_t i = pages.size(); i-- > 0 && dirty > leave_hottest;) {
      if (!dirty_.is_marked(pages[i])) continue;
      if (gfns.size() == kBatchPages) break;
      dirty_.take(value(pages[i]) / 64, 1ULL << (value(pages[i]) % 64));
      gfns.push_back(pages[i]);
      --dirty;
    }
    return gfns;
  }

  std::vector<Gfn> next_private(Round& round, std::uint64_t leave_hottest) {
    switch (order_) {
      case Order::kHeat:
        return round.next_private(map_, kBatchPages, true);
      case Order::kRoundRobin:
        return next_in_turn();
      default:
        return next_by_truth(leave_hottest);
    }
  }

  RoundStats send_round(std::uint64_t leave_hottest) {
    RoundStats stats;
    const std::uint64_t start_ns = now_ns_;
    harvest();
    const bool by_heat = order_ == Order::kHeat;
    const RoundLimits limits{~0ULL, by_heat ? leave_hottest : ~0ULL};
    Round round(dirty_, map_, heat_, limits);
    stats.shared_pages = send_shared(round);
    stats.plain_ns = stats.shared_pages * kPlain_ns;
    bool more = true;
    while (more && now_ns_ - start_ns < kSlice_ns) {
      const std::vector<Gfn> gfns = next_private(round, leave_hottest);
      more = !gfns.empty();
      const Exported exported = export_pages(gfns);
      stats.private_pages += exported.pages;
      stats.firmware_ns += exported.took_ns;
      run_until(now_ns_ + exported.took_ns);
    }
    const bool idle = stats.private_pages == 0;
    run_until(std::max(now_ns_, start_ns + (idle ? kSlice_ns / 4 : stats.plain_ns)));
    run_until(now_ns_ + kRoundTrip_ns);
    stats.left_private_pages = round.unasked_private_pages() + round.unlisted_private_pages();
    if (!by_heat)
      stats.left_private_pages =
          more || order_ == Order::kAllKnowing ? dirty_.count_by_class(map_).private_pages : 0;
    stats.passes = more ? 0 : 1;
    stats.total_ns = now_ns_ - start_ns;
    return stats;
  }

  void pause() {
    run_until(now_ns_ + kPause_ns);
    harvest();
    std::uint64_t export_ns = 0;
    Round last(dirty_, map_, heat_, RoundLimits{});
    const std::uint64_t shared = send_shared(last);
    for (;;) {
      const std::vector<Gfn> gfns = last.next_private(map_, kBatchPages, false);
      if (gfns.empty()) break;
      for (Gfn gfn : gfns) {
        if (populated_[value(gfn)] && exported_[value(gfn)]) ++out_.again_at_pause;
      }
      const Exported exported = export_pages(gfns);
      out_.dirty_at_pause += exported.pages;
      export_ns += exported.took_ns;
    }
    SEALIFT_ASSERT(dirty_.count() == 0);
    SEALIFT_ASSERT(populated_ == exported_);
    out_.downtime_ms = static_cast<double>(export_ns + shared * kPlain_ns) / 1e6;
  }

  Order const order_;
  Goals goals_;
  std::uint64_t const span_;
  Random random_;
  Random firmware_{7};
  PageMap map_;
  DirtySet dirty_;
  Heat* heat_ = nullptr;
  ExportsOutcome out_;
  std::vector<bool> populated_;
  std::vector<bool> exported_;
  Pattern pattern_;
  double const private_gap_ns_;
  std::vector<std::uint64_t> log_;
  std::vector<std::uint64_t> shared_since_ns_;  // written and not sent since; 0: not written
  std::uint64_t cursor_ = 0;
  std::uint64_t now_ns_ = 0;
  std::uint64_t next_harvest_ns_ = kHarvest_ns;
  std::uint64_t next_private_ns_ = 0;
  std::uint64_t next_shared_ns_ = 0;
};

}  // namespace

ExportsOutcome simulate(const ExportsCase& which, Order order, const Goals& goals) {
  return Simulation(which, order, goals).run();
}

}  // namespace sealift::bench
