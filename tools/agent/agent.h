// Agent: one host's end of migrations. Holds at most one guest, sends it away when told, takes one
// when it comes.
//
// Owner:   main(); everything it makes is joined and closed by its destructor.
// Threads: the public calls may come from any thread (the control API's); one thread accepts
// migrations, one each
//          drives an outgoing migration and every incoming connection.
// Failure: as Result says; a migration's end is in status().report or status().incoming.
// Invariant: the guest of this agent runs only in states kRunning and kMigrating (until its pause).
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "engine/stats.h"
#include "journal/recovery.h"
#include "tools/agent/agent_state.h"
#include "tools/agent/destination_runner.h"
#include "tools/agent/estimate.h"
#include "tools/agent/guest_digest.h"
#include "tools/agent/guest_spec.h"
#include "tools/agent/inquirer.h"
#include "tools/agent/lock_config.h"
#include "tools/agent/machine.h"
#include "tools/agent/progress.h"
#include "tools/agent/right_keeper.h"
#include "tools/agent/right_lock.h"
#include "tools/agent/right_resources.h"
#include "tools/agent/source_runner.h"
#include "tools/agent/wire_channel.h"
#include "transport/connect.h"
#include "transport/rate_limit.h"
#include "transport/tls.h"

namespace sealift {

struct AgentConfig {
  std::string name = "agent";
  bool has_guest = false;  // role source: launch the guest; otherwise wait for it
  GuestSpec guest;
  std::optional<Address> listen;  // where guests may arrive
  std::string certs_dir;          // ca.pem, host.pem, host.key; empty: none
  std::string capture_path;  // the frames an outgoing migration sends are written here; empty: not
  std::string journal_dir;   // of the right to run (docs/spec/journal.md); empty: none is kept
  bool inquiry = true;       // with a journal: ask and answer about migrations that are not settled
  std::string secrets_path;  // of a test: what opens a captured stream is written here; empty: not
  std::uint16_t version_min = kProtocolVersionMin;  // offered to peers
  std::uint16_t version_max = kProtocolVersionMax;
  std::unique_ptr<RightResources> resources;  // what moves with the right; null: nothing
  bool allow_plain_tcp = false;               // tcp without TLS, for tests on a trusted link
  LockConfig lock;
};

struct MigrateOptions {
  Address to;
  bool check_only = false;
  bool verify = true;
  bool ignore_readiness = false;  // migrate a guest that says it is not ready
  std::uint8_t streams = 0;       // connections for shared pages beside the control's
  Goals goals;
  std::uint64_t timeout_ns = 0;  // 0: none
  std::uint64_t bandwidth_bytes_per_s = kUnlimited;
  std::uint8_t dscp = 0;  // of the connections to the destination
};

struct AgentStatus {
  std::string name;
  AgentState state = AgentState::kEmpty;
  BackendDecision backend;
  std::string platform;  // what is real and what is modelled
  GuestSpec guest;
  bool launched_here = false;  // otherwise workload and seed are what its source said, not ours
  std::optional<VmStatus> vm;
  std::optional<LockStatus> lock;
  std::uint64_t bandwidth_bytes_per_s = kUnlimited;  // of the migration under way or the last one
  std::optional<ProgressSnapshot> progress;          // while migrating or receiving
  std::optional<MigrationReport> report;             // of the last outgoing migration or check
  std::optional<DestinationReport> incoming;         // of the last incoming one
  std::optional<ResourcesStatus> resources;          // if it was told of any
  std::vector<InquiryStatus> inquiries;              // what is being asked elsewhere
};

enum class DigestAt : std::uint8_t { kAuto, kNow, kHandover };
struct DigestAnswer {
  GuestDigest digest;
  bool covers_private = true;  // false: only the guest can read its private pages
  bool at_handover = false;
};

// What `migrate recover` asks.
struct RightAnswer {
  std::string agent;
  AgentState state = AgentState::kEmpty;
  std::string guest;
  bool has_copy = false;  // of the guest, in this process's memory, able to run
  std::optional<JournalEntry>
      last;               // the guest's open or last migration here, or the one asked for
  bool is_latest = true;  // and none came after it
};

class Agent {
 public:
  using Log = std::function<void(const std::string&)>;
  // Launches the guest if it has one, and listens if it is to.
  static Result<std::unique_ptr<Agent>> start(AgentConfig config, Log log);
  ~Agent();

  std::optional<Address> listen_address() const;
  const BackendDecision& backend() const { return backend_; }
  AgentStatus status() const;
  // Returns once the migration is under way; status() tells the rest.
  Result<void> start_migration(const MigrateOptions& options);
  // kRefused when there is nothing to cancel (any more).
  Result<void> cancel();
  // Of the migration under way, at once; kRefused when there is none. REQUIRES: as RateLimit.
  Result<void> set_bandwidth(std::uint64_t bytes_per_s);
  Result<DigestAnswer> digest(DigestAt at);
  Result<SelfCheck> self_check();
  // Watches the running guest for a while, and says what a migration would take; none can begin
  // meanwhile.
  Result<Estimate> estimate(const EstimateOptions& options);
  // kRefused without a journal. `guest` empty: the one that is or was here last. About `migration`,
  // if it is given and known here.
  Result<RightAnswer> right(const std::string& guest = {},
                            std::optional<MigrationId> migration = {});
  // Carries out what was decided of the guest's last migration, if it is not settled here. `said`:
  // the record that the decision was made from.
  Result<void> settle_right(const MigrationId& migration, Settle wish,
                            std::optional<JournalKind> said = {});

 private:
  Agent(AgentConfig config, BackendDecision backend, Log log);
  Result<void> open(bool has_guest);
  Hello hello() const;
  std::string capture_of(unsigned stream) const;  // the file; stream is not 0
  std::string guest_name() const;

  void run_migration(const MigrateOptions& options);
  struct Sent {
    MigrationReport report;
    bool ask = false;  // the destination may have a complete copy, and answers inquiries
  };
  Sent migrate(const MigrateOptions& options);
  void settle(const MigrateOptions& options, Sent sent);
  void end_migration(const MigrateOptions& options, MigrationReport report,
                     const std::string& text);

  void accept_connections();
  void serve_connection(Incoming connection);
  void serve_session(WireChannel& channel);
  void serve_stream(const StreamJoin& join, WireChannel& channel);
  Result<IncomingGuest> open_incoming();
  void freeze_arrival(bool digested);
  void adopt_arrival(const std::string& guest);
  void settle_incoming(DestinationReport report, bool owned, const std::string& guest);

  // agent_inquiry.cc
  void start_inquirer();
  void inquire(const std::string& guest);
  Result<Answer> ask(const Address& to, const Inquiry& inquiry);
  Result<RightWord> right_word(const RightToRun& right);
  Result<bool> believes(const RightWord& word);
  Result<Answer> answer_inquiry(const Inquiry& inquiry);
  bool holds(const MigrationId& migration) const;
  Result<void> carry_out(const RightWord& own, AnswerStep step, bool waits, const std::string& why);

  // agent_lock.cc
  Result<void> open_lock();
  Result<void> launch();
  Result<void> govern(const std::shared_ptr<Machine>& machine);
  void settle_by_lock();
  Result<void> settle_now(const std::string& guest, bool runs, std::uint64_t waited_ns);
  Result<void> place_claim(Claim& claim) const;
  std::vector<RightFollower*> followers() const;

  // agent_right.cc
  Result<void> read_journals();
  // REQUIRES: guest_work_ is held. `why`: for the journal.
  Result<void> settle_locked(const MigrationId& migration, Settle wish,
                             std::optional<JournalKind> said, const std::string& why);
  Result<void> perform(SettleStep::Act act, const std::string& guest);
  Result<bool> may_launch();

  Result<DigestAnswer> digest_now();
  Result<DigestAnswer> digest_handover();

  AgentConfig const config_;
  BackendDecision const backend_;
  Log const log_;
  std::unique_ptr<PlatformHost> platform_;
  std::shared_ptr<RateLimit> const bandwidth_ = std::make_shared<RateLimit>();
  RightResources* const resources_;  // config_'s
  CancelToken lock_stop_;
  std::unique_ptr<LockManager> locks_;  // null: none, as the next
  std::unique_ptr<RightLock> right_lock_;
  std::unique_ptr<RightKeeper> keeper_;  // null: no journal
  MemoryLayout layout_;
  std::optional<TlsContext> tls_client_;
  std::optional<TlsContext> tls_server_;

  mutable std::mutex
      mutex_;  // guards all down to the blank line; never held across I/O or a guest's work
  AgentState state_ = AgentState::kEmpty;
  std::string
      guest_name_;  // of the guest that is or was here last: its source's word if it arrived
  std::shared_ptr<Machine> machine_;
  std::shared_ptr<Machine> arriving_;       // while kReceiving
  std::shared_ptr<ArrivalDigest> arrival_;  // page digests of the hand-over at this destination
  std::optional<GuestDigest> arrival_map_;  // its page map's part
  SourceRunner* source_runner_ = nullptr;
  DestinationRunner* destination_runner_ = nullptr;
  std::optional<MigrationId> arriving_by_;  // of the session of destination_runner_
  std::optional<MigrationId> arrived_by_;   // by which machine_ came here; empty: otherwise
  std::shared_ptr<Progress> progress_ = std::make_shared<Progress>();  // of the migration under way
  std::optional<CancelToken> connecting_;
  std::optional<MigrationReport> report_;
  std::optional<DestinationReport> incoming_report_;

  std::mutex guest_work_;  // one of digest, self-check and the start of a migration at a time
  CancelToken stopping_;
  std::optional<Listener> listener_;
  std::jthread migration_thread_;
  std::jthread settle_thread_;  // with a lock manager
  std::mutex desks_mutex_;
  std::map<std::uint64_t, StreamDesk*> desks_;  // by session, while it runs
  struct Connection {
    std::jthread thread;
    std::shared_ptr<std::atomic<bool>> done;
  };
  std::list<Connection> connections_;  // accept thread only
  std::jthread accept_thread_;
  std::unique_ptr<Inquirer> inquirer_;  // null: this agent does not ask
};

}  // namespace sealift
