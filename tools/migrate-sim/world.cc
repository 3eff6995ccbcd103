#include "tools/migrate-sim/world.h"

#include <algorithm>
#include <cstring>

#include "engine/assert.h"
#include "journal/replay.h"

namespace sealift::sim {
namespace {

constexpr const char* kJournalPath = "/journal/web-1.journal";

std::uint64_t mixed(std::uint64_t hash, std::uint64_t word) {
  hash ^= word + 0x9e3779b97f4a7c15ULL + (hash << 6) + (hash >> 2);
  hash *= 0xff51afd7ed558ccdULL;
  return hash ^ (hash >> 32);
}

std::uint64_t mixed(std::uint64_t hash, std::string_view text) {
  std::uint64_t fnv = 0xcbf29ce484222325ULL;
  for (const char c : text) fnv = (fnv ^ static_cast<unsigned char>(c)) * 0x100000001b3ULL;
  return mixed(hash, fnv);
}

// What power failures leave.
constexpr std::uint32_t kPowerFailures = 6;
const std::array<test::Crash, kPowerFailures>& power_failures() {
  using Data = test::Crash::Data;
  static const std::array<test::Crash, kPowerFailures> kAll{{{true, Data::kLoseAll, 0, false},
                                                             {true, Data::kLoseAll, 0, true},
                                                             {true, Data::kKeepAll, 0, true},
                                                             {true, Data::kKeepPrefix, 512, true},
                                                             {true, Data::kFlipByte, 0, true},
                                                             {true, Data::kKeepAll, 0, false}}};
  return kAll;
}

}  // namespace

void Counts::add(const Counts& other) {
  steps += other.steps;
  kills += other.kills;
  power_failures += other.power_failures;
  disk_errors += other.disk_errors;
  firmware_errors += other.firmware_errors;
  cuts += other.cuts;
  dead_directions += other.dead_directions;
  partitions += other.partitions;
  migrations += other.migrations;
  in_doubt += other.in_doubt;
  holding += other.holding;
  settled_by_recover += other.settled_by_recover;
  by_human += other.by_human;
}

World::World(WorldConfig config, Chooser& chooser)
    : config_(config), chooser_(chooser), guest_steps_left_(config.guest_steps_max) {
  history_.values.resize(config_.pages);
  history_.classes.resize(config_.pages);
  for (std::uint64_t page = 0; page < config_.pages; ++page) {
    history_.values[page] = page + 1;
    const bool is_shared = config_.platform == Platform::kNone || page % 2 == 0;
    history_.classes[page] = is_shared ? PageClass::kShared : PageClass::kPrivate;
  }
  for (int id : {0, 1}) {
    Host& host = hosts_[index(id)];
    host.id = id;
    host.name = std::string(1, id == 0 ? 'A' : 'B');
    host.disk = std::make_unique<SimDisk>([this, id] { return strike_disk(id); });
    using Lie = test::FaultyDisk::Lie;
    if (planted(Plant::kSyncLies)) host.disk->platter().lie(Lie::kFileNotSynced);
    if (planted(Plant::kDirectorySyncLies)) host.disk->platter().lie(Lie::kDirectoryNotSynced);
    host.process = std::make_unique<SimAgent>(*this, id);
  }
  hosts_[0].process->launch();
}

void World::say_line(int host, const std::string& line) {
  trace_hash_ = mixed(mixed(trace_hash_, line), static_cast<std::uint64_t>(host + 1));
  std::uint64_t& history = host < 0 ? operator_history_ : hosts_[index(host)].history;
  history = mixed(history, line);
  if (line.starts_with("operator")) operator_history_ = mixed(operator_history_, line);
  if (!config_.keep_trace) return;
  trace_.push_back(fmt::format("{:>9.3f} {} {}", static_cast<double>(now_ns_) / 1e9,
                               host < 0 ? "-" : hosts_[index(host)].name, line));
}

void World::violate(std::string what) {
  if (!violation_) {
    say(-1, "VIOLATION: {}", what);
    violation_ = std::move(what);
  }
}

void World::excuse(std::string why) {
  if (!excuse_.empty()) return;
  say(-1, "from here on the guest may be lost: {}", why);
  excuse_ = std::move(why);
}

MigrationId World::new_id() {
  MigrationId id{};
  const std::uint64_t word = ++ids_;
  std::memcpy(id.data(), &word, sizeof(word));
  return id;
}

int World::runner_host() {
  for (Host& host : hosts_) {
    if (host.process && host.process->runner() != nullptr) return host.id;
  }
  return -1;
}

void World::human_decided() {
  ++counts_.by_human;
  if (std::any_of(hosts_.begin(), hosts_.end(), [](const Host& h) { return !h.process; })) {
    human_decided_ = true;
  } else if (!human_decided_) {
    human_needed_ = true;
  }
}

// ---- The oracle.

void World::started(int host, const GuestCopy& copy, const char* why) {
  say(host, "RUNS: {}", why);
  if (!copy.equals(history_)) {
    violate(fmt::format("O2: {} starts a copy that is not the guest's history",
                        hosts_[index(host)].name));
  }
}

void World::moved(std::uint64_t generation) {
  if (generation != generation_) {
    violate(fmt::format("O4: a hand-over of generation {}, and the guest has {}", generation,
                        generation_));
  }
  ++generation_;
}

void World::check() {
  int runners = 0;
  bool whole = false;
  bool sealed = false;
  for (const Host& host : hosts_) {
    if (!host.process) continue;
    for (const GuestCopy* copy : {host.process->copy(), host.process->arriving()}) {
      if (copy == nullptr) continue;
      const bool equal = copy->equals(history_);
      if (copy->running()) ++runners;
      if (copy->running() && !equal) violate(fmt::format("O2: {} runs another guest", host.name));
      whole = whole || (equal && copy->viable());
      sealed = sealed || (equal && copy->firmware() == Firmware::kSealed);
    }
  }
  if (runners > 1) violate("O1: two copies run");
  const bool promised = config_.journals[0] && config_.journals[1];
  if (whole || !promised || !excuse_.empty()) return;
  if (sealed) return excuse("sealed for a destination that has lost it, without an abort token");
  violate("O3: no copy is left that could run");
}

// ---- Failures.

DiskStrike World::strike_disk(int host) {
  if (!chooser_.strikes()) return DiskStrike::kNone;
  constexpr DiskStrike kKinds[] = {DiskStrike::kError, DiskStrike::kNoSpace, DiskStrike::kDeath,
                                   DiskStrike::kPower};
  const DiskStrike strike = kKinds[chooser_.pick(4)];
  const bool dies = strike == DiskStrike::kDeath || strike == DiskStrike::kPower;
  if (!dies) ++counts_.disk_errors;
  say(host, "disk: operation {}", dies ? "during which it dies" : "fails");
  return strike;
}

bool World::firmware_fails() {
  if (!chooser_.strikes()) return false;
  ++counts_.firmware_errors;
  return true;
}

// After its death: what it had is gone, and what that excuses.
void World::lost_with(const SimAgent& process, int host) {
  for (const GuestCopy* copy : {process.copy(), process.arriving()}) {
    if (copy == nullptr) continue;
    if (copy->running()) return excuse("it died with the host that ran it");
    if (!copy->viable() || !copy->equals(history_)) continue;
    const Host& other = hosts_[index(1 - host)];
    bool elsewhere = false;
    for (const GuestCopy* there : {other.process ? other.process->copy() : nullptr,
                                   other.process ? other.process->arriving() : nullptr}) {
      elsewhere = elsewhere || (there != nullptr && there->viable() && there->equals(history_));
    }
    if (!elsewhere) excuse("the only copy died with its process");
  }
}

void World::kill(int host, bool power) {
  Host& dying = hosts_[index(host)];
  power ? ++counts_.power_failures : ++counts_.kills;
  test::Crash crash;
  if (power) crash = power_failures()[chooser_.pick(kPowerFailures)];
  const bool had_copy = dying.process && dying.process->copy() != nullptr;
  if (dying.process) lost_with(*dying.process, host);
  dying.process.reset();
  dying.disk->platter().restart(crash);
  dying.disk->restarted();
  say(host, "{}", power ? "loses its power" : "is killed");
  for (auto& link : links_) {
    for (std::size_t side : {0U, 1U}) {
      if (link->host[side] != host || link->closed[side]) continue;
      link->to[side].clear();
      link->tags[side].clear();
      link->closed[side] = true;
      if (!power) continue;
      link->vanished[side] = true;
      link->heard_ns[1 - side] = now_ns_;
    }
  }
  const auto& platter = dying.disk->platter();
  if (!platter.exists(kJournalPath)) return;
  const Replay replayed = replay(dying.disk->platter().content(kJournalPath));
  if (replayed.records.empty()) return;
  const JournalKind last = replayed.records.back().kind;
  if (last == JournalKind::kTaken) excuse("it died after it had taken the right");
  if (last == JournalKind::kKept && had_copy) excuse("it died after it had kept the right");
}

void World::cut(Link& link, bool loses_all) {
  if (link.cut) return;
  ++counts_.cuts;
  link.cut = true;
  for (std::size_t side : {0U, 1U}) {
    const auto size = static_cast<std::uint32_t>(link.to[side].size());
    const std::uint32_t kept = loses_all || size == 0 ? 0 : chooser_.pick(size + 1);
    link.to[side].resize(kept);
    link.tags[side].resize(kept);
  }
  say(-1, "link {} is cut, {} and {} records still arrive", link.id, link.to[0].size(),
      link.to[1].size());
}

void World::deaden(Link& link, int side) {
  const std::size_t at = static_cast<std::size_t>(side);
  if (link.dead[at]) return;
  ++counts_.dead_directions;
  link.dead[at] = true;
  link.heard_ns[at] = now_ns_;
  say(-1, "link {}: nothing arrives at {} any more", link.id, hosts_[index(link.host[at])].name);
}

void World::strike_world() {
  std::vector<Link*> open;
  for (auto& link : links_) {
    if (!link->cut && !(link->closed[0] && link->closed[1])) open.push_back(link.get());
  }
  const std::uint32_t of_hosts = 4;
  const std::uint32_t of_links = 4;
  const std::uint32_t kinds = of_hosts + (open.empty() ? 0 : of_links);
  const std::uint32_t kind = chooser_.pick(kinds);
  if (kind < of_hosts) {
    const int host = static_cast<int>(kind % 2);
    if (hosts_[index(host)].process) kill(host, kind >= 2);
    return;
  }
  Link& link = *open[chooser_.pick(static_cast<std::uint32_t>(open.size()))];
  switch (kind - of_hosts) {
    case 0:
      return cut(link, false);
    case 1:
      return deaden(link, Link::kClient);
    case 2:
      return deaden(link, Link::kServer);
    default:
      break;
  }
  if (chooser_.enumerates()) {
    deaden(link, Link::kClient);
    return deaden(link, Link::kServer);
  }
  ++counts_.partitions;
  partitioned_ = true;
  heals_at_ns_ = now_ns_ + (1 + chooser_.pick(30)) * 1'000'000'000ULL;
  for (auto& other : links_) other->heard_ns = {now_ns_, now_ns_};
  say(-1, "the network parts");
}

void World::heal() {
  chooser_.heal();
  partitioned_ = false;
  say(-1, "from here on nothing fails");
}

void World::restart(int host) {
  Host& starting = hosts_[index(host)];
  SEALIFT_ASSERT(!starting.process);
  starting.process = std::make_unique<SimAgent>(*this, host);
  say(host, "is started");
  if (planted(Plant::kRelaunch)) return starting.process->launch();
  auto read = starting.process->read_journals();
  if (read) return;
  say(host, "cannot start: {}", read.error().detail);
  starting.process.reset();
}

// ---- The network.

Link* World::connect(int from, int to) {
  if (partitioned_ || !reachable(to)) return nullptr;
  auto link = std::make_unique<Link>();
  link->id = static_cast<int>(links_.size());
  link->host = {from, to};
  hosts_[index(to)].process->accept(*link);
  say(from, "connects to {}", hosts_[index(to)].name);
  say(to, "is connected to by {}", hosts_[index(from)].name);
  links_.push_back(std::move(link));
  return links_.back().get();
}

bool World::send(Link& link, int from, Record record) {
  const std::size_t to = static_cast<std::size_t>(1 - from);
  if (link.cut) return false;
  if (link.closed[to] || link.dead[to]) return true;  // nobody says that it does not arrive
  link.tags[to].push_back(hosts_[index(link.host[1 - to])].history);
  link.to[to].push_back(std::move(record));
  return true;
}

void World::close(Link& link, int side) { link.closed[static_cast<std::size_t>(side)] = true; }

}  // namespace sealift::sim
