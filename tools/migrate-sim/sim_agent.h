// SimAgent: one agent process: shipped sessions, journals and decisions, around a tiny guest. What
// Agent and the two runners do with threads, sockets and KVM is done here by steps.
//
// Spec:    docs/spec/handover.md.
// Owner:   its Host; its death is its destruction. Threads: one.
// Failure: as Agent; test::Crashed is thrown where the process or its host dies.
#pragma once

#include <deque>
#include <list>
#include <memory>
#include <optional>
#include <string>

#include "engine/destination_session.h"
#include "engine/source_session.h"
#include "tools/agent/agent_state.h"
#include "tools/agent/right_keeper.h"
#include "tools/migrate-sim/guest_copy.h"
#include "tools/migrate-sim/link.h"

namespace sealift::sim {

class World;

inline constexpr const char* kGuestName = "web-1";

// A round of the source, a batch at a time.
struct RoundTask {
  source::RunRound order;
  std::vector<Gfn> pages;
  std::size_t next = 0;
  std::vector<GfnRange> announced;
  RoundStats stats;
  bool begun = false;
};

// The next event for a session whose actions are all done.
template <class Event>
std::optional<Event> next_event(std::deque<Event>& replies, std::deque<Event>& inbox) {
  std::deque<Event>& from = replies.empty() ? inbox : replies;
  if (from.empty()) return std::nullopt;
  std::optional<Event> event(std::move(from.front()));
  from.pop_front();
  return event;
}

struct SourceDriver {
  SourceDriver(SourceConfig config, Link& to, std::uint64_t pages)
      : claim(config.claim), session(std::move(config)), link(to), announced_map(pages) {}
  std::optional<Claim> claim;
  SourceSession session;
  Link& link;
  PageMap announced_map;
  std::deque<source::Event> replies;  // to actions of this step: before anything else
  std::deque<source::Event> inbox;
  std::deque<source::Action> pending;
  std::optional<RoundTask> round;
  std::vector<GfnRange> announced;
  bool stop_round = false;
  bool link_lost = false;
  bool ended = false;
};

struct DestinationDriver {
  DestinationDriver(Hello local, MemoryLayout layout, Link& from)
      : session(std::move(local), std::move(layout)), link(from) {}
  DestinationSession session;
  Link& link;
  std::deque<destination::Event> replies;  // as the source's
  std::deque<destination::Event> inbox;
  std::deque<destination::Action> pending;
  bool owns_place = false;
  bool link_lost = false;
  bool ended = false;
};

class SimAgent {
 public:
  SimAgent(World& world, int host);

  // As a process does when it starts. It fails when its journals cannot be read.
  Result<void> read_journals();
  void launch();

  Result<void> start_migration(Link& link);
  Result<void> cancel();
  Result<SideAnswer> right(std::optional<MigrationId> migration = {});
  Result<void> settle_right(const MigrationId& migration, Settle wish,
                            std::optional<JournalKind> said);

  void accept(Link& link);
  // What can be done next, a step each.
  bool can_act() const;
  void act();
  bool round_runs() const { return source_ && source_->round.has_value(); }
  void run_round();
  bool takes_event(const Link& link) const;
  void receive(Link& link, Record record);
  void link_lost(Link& link, Error error);

  AgentState state() const { return state_; }
  const GuestCopy* copy() const { return copy_.get(); }
  const GuestCopy* arriving() const { return arriving_.get(); }
  GuestCopy* runner();  // null: none runs here
  bool at_rest() const { return !source_ && incoming_.empty(); }

 private:
  using Act = SettleStep::Act;

  Hello hello() const;
  Result<void> note(RightStep step, const RightFacts& facts);
  Result<void> perform(Act act);
  Result<void> start_copy(GuestCopy& copy, const char* why);
  Result<void> firmware(const char* call);

  // sim_source.cc
  void step(SourceDriver& driver);
  void perform(SourceDriver& driver, source::Action& action);
  void send(SourceDriver& driver, Record record);
  void perform_note(SourceDriver& driver, source::Note& note);
  void begin_round(SourceDriver& driver, RoundTask& round);
  void send_batch(SourceDriver& driver, RoundTask& round);
  void recover(SourceDriver& driver, source::Recover& action);
  void end(SourceDriver& driver, source::End& action);
  Bytes export_page(Gfn gfn, PageClass cls) const;

  // sim_destination.cc
  void step(DestinationDriver& driver);
  void perform(DestinationDriver& driver, destination::Action& action);
  void send(DestinationDriver& driver, Record record);
  void perform_note(DestinationDriver& driver, destination::Note& note);
  Result<void> open_incoming(DestinationDriver& driver);
  Result<void> apply(const Conversions& conversions);
  Result<void> apply(const SharedBatch& batch);
  Result<void> apply(const PrivateBatch& batch);
  Result<void> check_and_load(destination::CheckAndLoad& action);
  void run(DestinationDriver& driver);
  void end(DestinationDriver& driver, destination::End& action);

  World& world_;
  int const host_;
  std::unique_ptr<RightKeeper> keeper_;  // null: no journal
  AgentState state_ = AgentState::kEmpty;
  std::unique_ptr<GuestCopy> copy_;
  std::unique_ptr<GuestCopy> arriving_;
  std::unique_ptr<SourceDriver> source_;
  std::list<std::unique_ptr<DestinationDriver>> incoming_;
};

}  // namespace sealift::sim
