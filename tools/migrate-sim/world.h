// World: two hosts, the network between them, operators, and the oracle that looks at all of them
// after every step.
//
// Oracle, after every step:
//   O1  At most one copy of the guest runs.
//   O2  A copy that runs, or is started, is the guest's whole history: every page, every class,
//       every step it ever took, wherever it ran.
//   O3  Some process has a complete copy that its platform lets run, unless the only one went with
//       the process that had it, or a platform refused to give it back (`excuse`). Promised with
//       journals on both sides only.
//   O4  A hand-over moves the generation by exactly one, and starts from the present one.
// At the end, when nothing fails any more and operators settle:
//   O5  If nothing excuses it, exactly one copy runs, no journal has anything open, and no person
//       was needed.
//
// Owner: one run. Threads: one. Failure: a violation is a value; the run ends with it.
#pragma once

#include <fmt/format.h>

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tools/migrate-sim/chooser.h"
#include "tools/migrate-sim/guest_copy.h"
#include "tools/migrate-sim/link.h"
#include "tools/migrate-sim/operator.h"
#include "tools/migrate-sim/plants.h"
#include "tools/migrate-sim/sim_agent.h"
#include "tools/migrate-sim/sim_disk.h"

namespace sealift::sim {

struct WorldConfig {
  Platform platform = Platform::kNone;
  std::uint64_t pages = 4;
  std::uint32_t rounds_max = 2;  // live rounds; 1: the first is the last
  std::array<bool, 2> journals{true, true};
  Plant plant = Plant::kNone;
  bool keep_trace = false;
  std::uint32_t guest_steps_max = 60;
};

// Counted over runs.
struct Counts {
  std::uint64_t steps = 0;
  std::uint64_t kills = 0;
  std::uint64_t power_failures = 0;
  std::uint64_t disk_errors = 0;
  std::uint64_t firmware_errors = 0;
  std::uint64_t cuts = 0;
  std::uint64_t dead_directions = 0;
  std::uint64_t partitions = 0;
  std::uint64_t migrations = 0;
  std::uint64_t in_doubt = 0;
  std::uint64_t holding = 0;
  std::uint64_t settled_by_recover = 0;
  std::uint64_t by_human = 0;
  void add(const Counts& other);
};

struct Host {
  int id = 0;
  std::string name;
  std::unique_ptr<SimDisk> disk;
  std::unique_ptr<SimAgent> process;  // null: it is down
  std::uint64_t history = 0;          // hash of all that happened to its processes and its disk
};

class World {
 public:
  World(WorldConfig config, Chooser& chooser);

  // One step of anything. False: nothing is left to happen without a new idea of an operator.
  bool step();
  void check();
  // Whether a migration or its settling is under way anywhere.
  bool quiet() const;

  // What operators and explorers do.
  Operator& add_operator(Operator op);
  bool operators_done() const;
  void kill(int host, bool power);
  void cut(Link& link, bool loses_all);
  void deaden(Link& link, int side);
  void heal();
  void restart(int host);
  // Why O5 does not hold (yet); empty: it does, or something excuses it.
  std::string unsettled();
  void demand_end();  // O5

  // For agents.
  Chooser& chooser() { return chooser_; }
  const WorldConfig& config() const { return config_; }
  bool planted(Plant plant) const { return config_.plant == plant; }
  History& history() { return history_; }
  std::uint64_t now_ns() const { return now_ns_; }
  std::uint64_t generation() const { return generation_; }
  Counts& counts() { return counts_; }
  Disk& disk(int host) { return *hosts_[index(host)].disk; }
  MigrationId new_id();
  Host& host(int id) { return hosts_[index(id)]; }
  bool send(Link& link, int from, Record record);
  void close(Link& link, int side);
  bool firmware_fails();
  // A copy is about to run: O2, O4.
  void started(int host, const GuestCopy& copy, const char* why);
  void moved(std::uint64_t generation);
  void excuse(std::string why);
  void violate(std::string what);
  void human_decided();

  template <class... Args>
  void say(int host, fmt::format_string<Args...> text, Args&&... args) {
    std::string line = fmt::format(text, std::forward<Args>(args)...);
    say_line(host, line);
  }

  const std::optional<std::string>& violation() const { return violation_; }
  const std::string& excused() const { return excuse_; }
  std::uint64_t trace_hash() const { return trace_hash_; }
  const std::vector<std::string>& trace() const { return trace_; }
  std::uint64_t state_hash() const;
  std::vector<std::unique_ptr<Link>>& links() { return links_; }
  Link* connect(int from, int to);  // null: it cannot be
  bool reachable(int host) const { return hosts_[index(host)].process != nullptr; }
  int runner_host();  // -1: none

 private:
  struct Move;
  static std::size_t index(int host) { return static_cast<std::size_t>(host); }
  void say_line(int host, const std::string& line);
  DiskStrike strike_disk(int host);
  std::vector<Move> moves();
  void add_link_moves(std::vector<Move>& moves);
  void perform(const Move& move);
  void remember(const Move& move);
  void strike_world();
  void wait();
  void guest_step(int host);
  void lost_with(const SimAgent& process, int host);

  WorldConfig const config_;
  Chooser& chooser_;
  History history_;
  std::array<Host, 2> hosts_;
  std::vector<std::unique_ptr<Link>> links_;
  std::vector<Operator> operators_;
  std::uint64_t now_ns_ = 0;
  std::uint64_t generation_ = 0;
  std::uint64_t ids_ = 0;
  std::uint64_t heals_at_ns_ = 0;  // of the partition
  std::uint32_t guest_steps_left_ = 0;
  bool partitioned_ = false;
  bool human_needed_ = false;   // where nothing was lost and no host was dead
  bool human_decided_ = false;  // about a host that was dead then
  std::string excuse_;
  std::optional<std::string> violation_;
  Counts counts_;
  std::uint64_t trace_hash_ = 0;
  std::uint64_t operator_history_ = 0;
  std::vector<std::string> trace_;
};

}  // namespace sealift::sim
