#include "tools/migrate-sim/explore.h"

#include <unordered_set>

namespace sealift::sim {
namespace {

using Path = std::vector<PathChooser::Answer>;

// The next path in order; empty: that was the last.
Path next_path(Path path) {
  while (!path.empty() && path.back().chosen + 1 == path.back().of) path.pop_back();
  if (!path.empty()) ++path.back().chosen;
  return path;
}

class Explorer {
 public:
  explicit Explorer(const ExploreOptions& options) : options_(options) {}

  ExploreResult run() {
    Path path;
    do {
      path = next_path(run_path(std::move(path), false));
    } while (!path.empty() && result_.runs < options_.runs_max);
    result_.complete = path.empty();
    result_.states = seen_.size();
    return std::move(result_);
  }

 private:
  WorldConfig config(bool keep_trace) const {
    WorldConfig config;
    config.platform = options_.platform;
    config.pages = 2;
    config.rounds_max = 1;
    config.plant = options_.plant;
    config.guest_steps_max = 2;
    config.keep_trace = keep_trace;
    return config;
  }

  // False: it has been here before.
  bool is_new(const World& world, const PathChooser& chooser) {
    if (chooser.on_path()) return true;
    return seen_.insert(world.state_hash() * 2 + chooser.strikes_left()).second;
  }

  Path run_path(Path path, bool keep_trace) {
    const Path replayed = keep_trace ? path : Path{};
    PathChooser chooser(std::move(path), options_.failures_max);
    World world(config(keep_trace), chooser);
    Operator migrate;
    migrate.command = Operator::Command::kMigrate;
    world.add_operator(migrate);
    const bool ended = live(world, chooser, keep_trace);
    if (keep_trace) {
      result_.first_trace = world.trace();
      return {};
    }
    ++result_.runs;
    result_.steps += world.counts().steps;
    if (ended) {
      const End end = end_of(world);
      ++result_.ends[static_cast<std::size_t>(end)];
      result_.counts.add(world.counts());
    }
    Path taken = chooser.take_path();
    if (world.violation()) {
      ++result_.violations;
      if (result_.first_violation.empty()) {
        result_.first_violation = *world.violation();
        run_path(taken, true);
      }
    }
    return taken;
  }

  // False: cut short because the rest is known.
  bool live(World& world, PathChooser& chooser, bool replays) {
    for (std::uint32_t recovers = 0; recovers <= kRecoversMax; ++recovers) {
      while (!world.violation()) {
        if (!replays && !is_new(world, chooser)) return false;
        if (!world.step()) break;
      }
      if (world.violation() || world.unsettled().empty()) break;
      chooser.heal();
      Operator recover;
      recover.first = static_cast<int>(recovers % 2);
      recover.decides = recovers >= kRecoversByThemselves;
      world.add_operator(recover);
    }
    world.demand_end();
    return true;
  }

  static constexpr std::uint32_t kRecoversMax = 6;
  static constexpr std::uint32_t kRecoversByThemselves = 3;
  ExploreOptions const options_;
  std::unordered_set<std::uint64_t> seen_;
  ExploreResult result_;
};

}  // namespace

ExploreResult explore(const ExploreOptions& options) { return Explorer(options).run(); }

}  // namespace sealift::sim
