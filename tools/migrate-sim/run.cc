#include "tools/migrate-sim/run.h"

namespace sealift::sim {
namespace {

constexpr std::uint32_t kChaosSteps = 500;
constexpr std::uint32_t kOperatorsMax = 10;
constexpr std::uint32_t kStepsToQuiet = 3000;
constexpr std::uint32_t kRecoversMax = 8;
constexpr std::uint32_t kRecoversByThemselves = 4;  // then a person decides what they do not
constexpr std::uint64_t kEndMax_ns = 120'000'000'000;
constexpr std::uint32_t kStrikesMax = 4;

Platform drawn_platform(Chooser& chooser) {
  constexpr Platform kAll[] = {Platform::kNone, Platform::kSev, Platform::kTdx};
  return kAll[chooser.pick(3)];
}

void new_idea(World& world, Chooser& chooser) {
  Operator op;
  const int runner = world.runner_host();
  const std::uint32_t idea = chooser.pick(8);
  if (idea < 4 && runner >= 0) {
    op.command = Operator::Command::kMigrate;
    op.first = runner;
  } else if (idea == 4) {
    op.command = Operator::Command::kCancel;
    op.first = static_cast<int>(chooser.pick(2));
  } else {
    op.first = static_cast<int>(chooser.pick(2));
    op.decides = chooser.pick(4) == 0;
  }
  world.add_operator(op);
}

void chaos(World& world, Chooser& chooser, Mode mode) {
  Operator first;
  first.command = Operator::Command::kMigrate;
  world.add_operator(first);
  std::uint32_t operators_left = kOperatorsMax;
  const std::uint32_t steps = mode == Mode::kSafety ? 2 * kChaosSteps : kChaosSteps;
  for (std::uint32_t i = 0; i < steps && !world.violation(); ++i) {
    if (operators_left > 0 && (world.quiet() || chooser.pick(40) == 0)) {
      --operators_left;
      new_idea(world, chooser);
    }
    if (!world.step() && operators_left == 0) return;
  }
}

}  // namespace

const char* name_of(End end) {
  switch (end) {
    case End::kRunsAtSource:
      return "runs at the source";
    case End::kRunsAtDestination:
      return "runs at the destination";
    case End::kLost:
      return "lost with a process";
    case End::kOpen:
      return "open";
    case End::kViolation:
      return "violation";
  }
  return "invalid end";
}

End end_of(World& world) {
  if (world.violation()) return End::kViolation;
  const int runner = world.runner_host();
  if (runner >= 0) return runner == 0 ? End::kRunsAtSource : End::kRunsAtDestination;
  return world.excused().empty() ? End::kOpen : End::kLost;
}

void settle_world(World& world) {
  const std::uint64_t healed_ns = world.now_ns();
  for (std::uint32_t round = 0; round <= kRecoversMax && !world.violation(); ++round) {
    std::uint32_t steps = 0;
    while (!world.violation() && world.step()) {
      if (world.quiet() && world.unsettled().empty()) break;
      if (++steps == kStepsToQuiet) return world.violate("O5: no end in bounded steps");
    }
    if (world.unsettled().empty()) break;
    Operator recover;
    recover.first = static_cast<int>(round % 2);
    recover.decides = round >= kRecoversByThemselves;
    world.add_operator(recover);
  }
  if (world.now_ns() - healed_ns > kEndMax_ns) return world.violate("O5: no end in bounded time");
  world.demand_end();
}

RunResult run_seed(const RunOptions& options) {
  SeededChooser chooser(options.seed,
                        options.mode == Mode::kSafety ? 2 * kStrikesMax : kStrikesMax);
  WorldConfig config;
  config.platform = options.platform ? *options.platform : drawn_platform(chooser);
  config.rounds_max = 1 + chooser.pick(3);
  config.plant = options.plant;
  config.keep_trace = options.keep_trace;
  if (options.mode == Mode::kSafety && chooser.pick(8) == 0) {
    config.journals = {chooser.pick(2) == 0, false};
  }
  World world(config, chooser);
  chaos(world, chooser, options.mode);
  if (options.mode == Mode::kLiveness && !world.violation()) {
    world.heal();
    settle_world(world);
  }
  RunResult result;
  result.end = end_of(world);
  result.violation = world.violation().value_or("");
  result.excuse = world.excused();
  result.trace_hash = world.trace_hash();
  result.counts = world.counts();
  result.trace = world.trace();
  return result;
}

}  // namespace sealift::sim
