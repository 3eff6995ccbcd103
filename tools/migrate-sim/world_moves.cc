// What can happen next in the World, and that it happens.
#include <algorithm>

#include "engine/assert.h"
#include "tools/migrate-sim/world.h"

namespace sealift::sim {
namespace {

constexpr std::uint64_t kStep_ns = 1'000'000;

}  // namespace

struct World::Move {
  enum class Kind : std::uint8_t {
    kAct,
    kRound,
    kDeliver,
    kLinkEnds,
    kGuest,
    kOperator,
    kRestart,
    kNetworkHeals,
    kWait
  };
  Kind kind;
  int who = 0;  // host, link or operator
  int side = 0;
};

void World::add_link_moves(std::vector<Move>& moves) {
  for (const auto& link : links_) {
    for (int side : {Link::kClient, Link::kServer}) {
      const std::size_t at = static_cast<std::size_t>(side);
      const SimAgent* process = hosts_[index(link->host[at])].process.get();
      if (link->closed[at] || process == nullptr || !process->takes_event(*link)) continue;
      const bool waited = chooser_.enumerates() || now_ns_ - link->heard_ns[at] >= kSilenceMax_ns;
      if (partitioned_) {
        if (waited) moves.push_back({Move::Kind::kLinkEnds, link->id, side});
        continue;
      }
      if (!link->to[at].empty() && !link->dead[at]) {
        moves.push_back({Move::Kind::kDeliver, link->id, side});
      } else if (link->ends_at(side, waited)) {
        moves.push_back({Move::Kind::kLinkEnds, link->id, side});
      }
    }
  }
}

std::vector<World::Move> World::moves() {
  std::vector<Move> moves;
  if (chooser_.enumerates()) {  // what one process does commutes with what the other does
    for (const Host& host : hosts_) {
      if (host.process && host.process->can_act()) return {{Move::Kind::kAct, host.id}};
    }
  }
  for (const Host& host : hosts_) {
    if (!host.process) {
      moves.push_back({Move::Kind::kRestart, host.id});
      continue;
    }
    if (host.process->can_act()) moves.push_back({Move::Kind::kAct, host.id});
    if (host.process->round_runs()) moves.push_back({Move::Kind::kRound, host.id});
    if (guest_steps_left_ > 0 && host.process->runner() != nullptr) {
      moves.push_back({Move::Kind::kGuest, host.id});
    }
  }
  add_link_moves(moves);
  for (std::size_t i = 0; i < operators_.size(); ++i) {
    if (!operators_[i].done) moves.push_back({Move::Kind::kOperator, static_cast<int>(i)});
  }
  if (partitioned_ && now_ns_ >= heals_at_ns_) moves.push_back({Move::Kind::kNetworkHeals});
  if (!chooser_.enumerates()) {
    const auto is_silent = [&](const auto& link) {
      for (std::size_t side : {0U, 1U}) {
        const bool nothing = partitioned_ || link->dead[side] || link->vanished[1 - side];
        if (nothing && !link->closed[side] && now_ns_ - link->heard_ns[side] < kSilenceMax_ns) {
          return true;
        }
      }
      return false;
    };
    const bool timers = (partitioned_ && now_ns_ < heals_at_ns_) ||
                        std::any_of(links_.begin(), links_.end(), is_silent);
    if (timers) moves.push_back({Move::Kind::kWait});
  }
  return moves;
}

// To the next moment at which something is due.
void World::wait() {
  std::uint64_t until = ~std::uint64_t{0};
  if (partitioned_) until = heals_at_ns_;
  for (const auto& link : links_) {
    for (std::size_t side : {0U, 1U}) {
      const std::uint64_t due = link->heard_ns[side] + kSilenceMax_ns;
      const bool nothing = partitioned_ || link->dead[side] || link->vanished[1 - side];
      if (nothing && !link->closed[side] && due > now_ns_) until = std::min(until, due);
    }
  }
  if (until != ~std::uint64_t{0}) now_ns_ = std::max(now_ns_, until);
}

void World::guest_step(int host) {
  --guest_steps_left_;
  GuestCopy& copy = *hosts_[index(host)].process->runner();
  std::uint64_t page = history_.steps % config_.pages;
  bool converts = history_.steps % 2 == 1;
  if (!chooser_.enumerates()) {
    page = chooser_.pick(static_cast<std::uint32_t>(config_.pages));
    converts = chooser_.pick(4) == 0;
  }
  converts = converts && config_.platform != Platform::kNone;
  copy.step(history_, page, converts, !planted(Plant::kConversionNotDirty));
  say(host, "guest: {} page {}", converts ? "converts" : "writes", page);
}

void World::perform(const Move& move) {
  using Kind = Move::Kind;
  const std::size_t who = static_cast<std::size_t>(move.who);
  const std::size_t side = static_cast<std::size_t>(move.side);
  switch (move.kind) {
    case Kind::kAct:
      return hosts_[who].process->act();
    case Kind::kRound:
      return hosts_[who].process->run_round();
    case Kind::kGuest:
      return guest_step(move.who);
    case Kind::kOperator:
      return operators_[who].step(*this);
    case Kind::kRestart:
      return restart(move.who);
    case Kind::kNetworkHeals:
      partitioned_ = false;
      return say(-1, "the network heals");
    case Kind::kWait:
      return wait();
    case Kind::kDeliver: {
      Link& link = *links_[who];
      const int at = link.host[side];
      Record record = std::move(link.to[side].front());
      say(at, "receives {} ({:x})", name_of(record), link.tags[side].front());
      link.to[side].pop_front();
      link.tags[side].pop_front();
      return hosts_[index(at)].process->receive(link, std::move(record));
    }
    case Kind::kLinkEnds: {
      Link& link = *links_[who];
      const int at = link.host[side];
      say(at, "loses link {}", link.id);
      return hosts_[index(at)].process->link_lost(
          link, Error{ErrorClass::kDisconnected, "the link ended"});
    }
  }
}

// A step that says nothing is a step all the same: two states are equal only after equal ones.
void World::remember(const Move& move) {
  using Kind = Move::Kind;
  const auto mix = [&](std::uint64_t& hash) {
    hash = (hash ^ (static_cast<std::uint64_t>(move.kind) + 1)) * 0x9e3779b97f4a7c15ULL;
  };
  switch (move.kind) {
    case Kind::kOperator:
      return mix(operator_history_);
    case Kind::kDeliver:
    case Kind::kLinkEnds: {
      const Link& link = *links_[index(move.who)];
      return mix(hosts_[index(link.host[static_cast<std::size_t>(move.side)])].history);
    }
    case Kind::kNetworkHeals:
    case Kind::kWait:
      return;
    default:
      return mix(hosts_[index(move.who)].history);
  }
}

bool World::step() {
  ++counts_.steps;
  if (!chooser_.enumerates()) now_ns_ += kStep_ns;
  if (chooser_.strikes()) {
    strike_world();
    check();
    return true;
  }
  const std::vector<Move> possible = moves();
  if (possible.empty()) return false;
  const Move move = possible[chooser_.pick(static_cast<std::uint32_t>(possible.size()))];
  remember(move);
  try {
    perform(move);
  } catch (const test::Crashed&) {
    for (const Host& host : hosts_) {
      const DiskStrike death = host.disk->death();
      if (death != DiskStrike::kNone) kill(host.id, death == DiskStrike::kPower);
    }
  }
  check();
  return true;
}

bool World::quiet() const {
  for (const Host& host : hosts_) {
    if (!host.process || !host.process->at_rest()) return false;
  }
  return operators_done();
}

Operator& World::add_operator(Operator op) {
  operators_.push_back(std::move(op));
  return operators_.back();
}

bool World::operators_done() const {
  return std::all_of(operators_.begin(), operators_.end(),
                     [](const Operator& op) { return op.done; });
}

std::string World::unsettled() {
  if (!excuse_.empty()) return "";
  if (runner_host() < 0) return "the guest does not run";
  for (Host& host : hosts_) {
    if (!host.process) return fmt::format("{} does not start", host.name);
    const AgentState state = host.process->state();
    const bool settled = state == AgentState::kRunning || state == AgentState::kEmpty ||
                         state == AgentState::kHandedOver;
    if (!host.process->at_rest() || !settled)
      return fmt::format("{} is {}", host.name, name_of(state));
    if (!config_.journals[index(host.id)]) continue;
    const auto answer = host.process->right();
    if (!answer || (answer->last && !is_settled(answer->last->last))) {
      return fmt::format("the journal of {} has something open", host.name);
    }
  }
  return "";
}

void World::demand_end() {
  if (violation_) return;
  if (const std::string why = unsettled(); !why.empty()) {
    return violate("O5: nothing fails any more, and " + why);
  }
  if (human_needed_ && excuse_.empty()) {
    violate("O5: a person was needed although nothing was lost");
  }
}

std::uint64_t World::state_hash() const {
  std::uint64_t hash = operator_history_;
  const auto mix = [&hash](std::uint64_t word) {
    hash ^= word + 0x9e3779b97f4a7c15ULL + (hash << 6) + (hash >> 2);
    hash *= 0xff51afd7ed558ccdULL;
    hash ^= hash >> 32;
  };
  for (const Host& host : hosts_) mix(host.history);
  for (const auto& link : links_) {
    for (std::size_t side : {0U, 1U}) {
      mix(link->tags[side].size());
      for (const std::uint64_t tag : link->tags[side]) mix(tag);
      mix((link->dead[side] ? 1U : 0U) | (link->closed[side] ? 2U : 0U) |
          (link->vanished[side] ? 4U : 0U) | (link->cut ? 8U : 0U));
    }
  }
  mix(guest_steps_left_);
  mix(history_.steps);
  mix(chooser_.healed() ? 1 : 0);
  return hash;
}

}  // namespace sealift::sim
