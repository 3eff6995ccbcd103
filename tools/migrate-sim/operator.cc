#include "tools/migrate-sim/operator.h"

#include "tools/migrate-sim/world.h"

namespace sealift::sim {
namespace {

constexpr int kNobody = -1;
constexpr std::uint32_t kTells = 100;  // the stage

bool has_good_copy(World& world, int host) {
  const SimAgent* process = world.host(host).process.get();
  const GuestCopy* copy = process != nullptr ? process->copy() : nullptr;
  return copy != nullptr && copy->viable() && copy->equals(world.history());
}

// What a person who has seen both hosts would say; empty: nothing can be done.
std::optional<Settle> human_wish(World& world, const Recovery& found, int source, int destination) {
  if (!world.chooser().healed() && world.reachable(source) && world.reachable(destination)) {
    return std::nullopt;  // no reason to decide yet
  }
  const int runner = world.runner_host();
  if (runner == source) return Settle::kRunSource;
  if (runner == destination) return Settle::kRunDestination;
  const bool source_dead = !world.reachable(source);
  const bool destination_dead = !world.reachable(destination);
  if (destination_dead && has_good_copy(world, source)) return Settle::kRunSource;
  if (source_dead && has_good_copy(world, destination)) return Settle::kRunDestination;
  if (!world.excused().empty() && found.source && !found.source->has_copy) return Settle::kForget;
  return std::nullopt;
}

}  // namespace

void Operator::ask(World& world, int host, std::optional<SideAnswer>& answer) {
  ++stage;
  answer.reset();
  Chooser& chooser = world.chooser();
  const bool unheard = !chooser.enumerates() && !chooser.healed() && chooser.pick(8) == 0;
  if (!world.reachable(host) || unheard) {
    world.say(kNobody, "operator: {} cannot be asked", world.host(host).name);
    return;
  }
  std::optional<MigrationId> migration;
  if (recovery) migration = recovery->right.migration;
  auto said = world.host(host).process->right(migration);
  if (!said) {
    world.say(host, "operator: {} has no answer: {}", world.host(host).name, said.error().detail);
    return;
  }
  answer = std::move(*said);
  world.say(host, "operator: {} says {}{}", world.host(host).name,
            answer->last ? name_of(answer->last->last) : "nothing",
            answer->has_copy ? ", has a copy" : "");
}

bool Operator::spoke_of_another(const std::optional<SideAnswer>& answer) const {
  return answer && (!answer->last || answer->last->right.migration != recovery->right.migration);
}

void Operator::decide(World& world) {
  auto found = recovery_of(first_answer, second_answer);
  done = !found;
  if (done) return;
  const bool is_known = recovery.has_value();  // and both were asked about it
  recovery = std::move(*found);
  if (!is_known) {
    ++stage;
    if (spoke_of_another(first_answer)) return ask(world, first, first_answer);
    if (spoke_of_another(second_answer)) return ask(world, 1 - first, second_answer);
  }
  stage = kTells;
  const int source = recovery->first_is_source ? first : 1 - first;
  Verdict verdict = recovery->settlement.verdict;
  if (world.planted(Plant::kHumanGuesses) && verdict == Verdict::kNeedsHuman) {
    if (!recovery->destination && recovery->source->has_copy) verdict = Verdict::kRunSource;
    if (!recovery->source && recovery->destination->has_copy) verdict = Verdict::kRunDestination;
  }
  std::optional<Settle> wish;
  if (verdict == Verdict::kRunSource) wish = Settle::kRunSource;
  if (verdict == Verdict::kRunDestination) wish = Settle::kRunDestination;
  if (!wish && decides) {
    wish = human_wish(world, *recovery, source, 1 - source);
    if (wish) world.human_decided();
  }
  world.say(kNobody, "operator: {} and {}: {}", name_of(recovery->source_standing),
            name_of(recovery->destination_standing), wish ? name_of(*wish) : "needs a human");
  if (wish) plan = tellings(*recovery, *wish);
  if (plan.empty()) done = true;
}

void Operator::tell(World& world) {
  const Telling& telling = plan[told];
  const bool to_source = telling.side == JournalSide::kSource;
  const int host = recovery->first_is_source == to_source ? first : 1 - first;
  ++told;
  done = true;  // unless all goes well
  if (!world.reachable(host)) return;
  const auto settled =
      world.host(host).process->settle_right(recovery->right.migration, telling.wish, telling.said);
  world.say(host, "operator: {} is told '{}': {}", world.host(host).name, name_of(telling.wish),
            settled ? "done" : settled.error().detail);
  if (!settled || world.chooser().strikes()) return;  // or its answer is lost
  done = told == plan.size();
}

void Operator::step(World& world) {
  switch (command) {
    case Command::kMigrate: {
      done = true;
      SimAgent* process = world.host(first).process.get();
      if (process == nullptr || process->state() != AgentState::kRunning) return;
      Link* link = world.connect(first, 1 - first);
      if (link == nullptr) return;
      const auto begun = process->start_migration(*link);
      world.say(first, "operator: {} is told to migrate: {}", world.host(first).name,
                begun ? "it begins" : begun.error().detail);
      if (!begun) world.close(*link, Link::kClient);
      return;
    }
    case Command::kCancel:
      done = true;
      if (!world.reachable(first)) return;
      world.say(first, "operator: {} is told to cancel: {}", world.host(first).name,
                world.host(first).process->cancel() ? "it tries" : "refused");
      return;
    case Command::kRecover:
      if (stage == 0) return ask(world, first, first_answer);
      if (stage == 1) return ask(world, 1 - first, second_answer);
      if (stage < kTells) return decide(world);
      return tell(world);
  }
}

}  // namespace sealift::sim
