// RightKeeper: the agent's journals: one for each guest it has, sends or receives.
//
// Spec:    docs/spec/handover.md, docs/spec/journal.md.
// Owner:   the agent. Threads: any; one call at a time is inside.
// Failure: as Journal; kRefused where the follower did not let a record be written. A journal is
//          opened when its guest is first spoken of, and stays locked
//          until all its migrations are settled and another guest comes, or the agent ends. One
//          that failed is closed, and opened anew when it is next needed: what failed for a moment
//          can be tried again, and only opening says what of it is there.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "engine/right_notes.h"
#include "journal/journal.h"
#include "journal/mac.h"
#include "transport/address.h"

namespace sealift {

// What a keeper takes from the machine it is on.
struct KeeperWorld {
  std::shared_ptr<Disk> disk;
  std::function<MigrationId()> new_id;     // drawn at random
  std::function<std::uint64_t()> unix_ns;  // for people
  static KeeperWorld real();
};

// What moves with the right, or says where it is: told of each record around the moment it becomes
// durable.
// Threads: one call at a time, on the threads of RightKeeper's callers.
class RightFollower {
 public:
  virtual ~RightFollower() = default;
  // What a restarted agent finds as a guest's last migration, before it writes anything.
  virtual void found(const JournalEntry& last) = 0;
  // The record is to be written. An error refuses it, and then nothing is written. kRefused: surely
  // nothing was done; any other class: what the follower does elsewhere may have happened.
  virtual Result<void> before(JournalKind kind, const RightToRun& right) = 0;
  // It is durable. An error: the step that it stands for has failed all the same.
  virtual Result<void> after(const JournalRecord& record) = 0;
};

// What the records of one session have besides what the session itself says.
struct SessionFacts {
  std::optional<SessionKey> key = {};  // only the two agents have it; empty without TLS
  std::string reached_at = {};         // source: the destination's address, for inquiries
};

class RightKeeper final : public RightNotes {
 public:
  // `host` is what this agent calls itself to its peers. The followers outlive this; they are asked
  // in order, and told in the opposite order.
  RightKeeper(std::string directory, std::string host, KeeperWorld world = KeeperWorld::real(),
              std::vector<RightFollower*> followers = {});

  // For the next migration of a guest that is here.
  Result<Claim> next_claim(const std::string& guest);
  // What a guest that is launched here must have at least.
  Result<std::uint64_t> generation_min(const std::string& guest);
  // The guest's migration that is open here, or else its last; empty: none that is known.
  Result<std::optional<JournalEntry>> last(const std::string& guest);
  // The guest that the migration is about; empty: no journal here knows it.
  Result<std::optional<std::string>> guest_of(const MigrationId& migration);
  // A certain one, whatever came after it.
  Result<std::optional<JournalEntry>> find(const std::string& guest, const MigrationId& migration);
  // What a restarted source has to ask about: migrations that are unsettled, and copies that it
  // ceded last. Before that, Discarded is written for copies that were never taken: those are gone
  // with the process that held them.
  Result<std::vector<JournalEntry>> settle_after_restart();

  struct Known {
    std::optional<JournalEntry> entry;  // empty: not in the journal
    bool went_on = false;               // the guest has left for a third host since
    std::optional<SessionKey> key;      // of its session, until it is settled
  };
  Result<Known> known(const std::string& guest, const MigrationId& migration);

  // Of a session without keys.
  Result<void> note(RightStep step, const RightFacts& facts) override {
    return note(step, facts, SessionFacts{});
  }
  Result<void> note(RightStep step, const RightFacts& facts, const SessionFacts& session);
  // What an operator or an inquiry decided. `right`: as the journal has it, if it has it.
  Result<void> note_settled(const RightToRun& right, JournalKind kind, std::string reason);

 private:
  Result<Journal*> use(const std::string& guest);
  Result<const Journal*> look_at(const std::string& guest);  // null: there is none
  Result<void> append(JournalKind kind, RightToRun right, std::string reason);

  std::string const directory_;
  std::string const host_;
  KeeperWorld const world_;
  std::vector<RightFollower*> const followers_;
  std::mutex mutex_;
  std::map<std::string, Journal> journals_;  // by guest, guarded by mutex_
  std::map<MigrationId, SessionKey> keys_;   // of what is not settled, guarded by mutex_
};

// One session's way to the journals. Owner: whoever drives the session.
class SessionNotes final : public RightNotes {
 public:
  SessionNotes(RightKeeper& keeper, SessionFacts session)
      : keeper_(keeper), session_(std::move(session)) {}
  Result<void> note(RightStep step, const RightFacts& facts) override {
    return keeper_.note(step, facts, session_);
  }

 private:
  RightKeeper& keeper_;
  SessionFacts const session_;
};

// The destination as its source's journal names it: "NAME ADDRESS", and what is in that. A name
// without an address is itself.
std::string identity_at(const std::string& name, const std::string& address);
std::string name_in(const std::string& identity);
std::optional<Address> address_in(const std::string& identity);

}  // namespace sealift
