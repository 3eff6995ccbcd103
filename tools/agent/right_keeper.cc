#include "tools/agent/right_keeper.h"

#include <openssl/rand.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "engine/assert.h"
#include "journal/posix_disk.h"
#include "tools/agent/fault_point.h"

namespace sealift {
namespace {

JournalKind kind_of(RightStep step) {
  switch (step) {
    case RightStep::kBegun:
      return JournalKind::kBegun;
    case RightStep::kOffered:
      return JournalKind::kOffered;
    case RightStep::kReady:
      return JournalKind::kReady;
    case RightStep::kCommitting:
      return JournalKind::kCommitting;
    case RightStep::kTaken:
      return JournalKind::kTaken;
    case RightStep::kReleased:
      return JournalKind::kReleased;
    case RightStep::kKept:
      return JournalKind::kKept;
    case RightStep::kDiscarded:
      return JournalKind::kDiscarded;
  }
  assert_failed("a known step", __FILE__, __LINE__);
}

std::uint64_t wall_clock_ns() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return static_cast<std::uint64_t>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(now).count());
}

MigrationId random_id() {
  MigrationId id{};
  const int ok =
      RAND_bytes(reinterpret_cast<unsigned char*>(id.data()), static_cast<int>(id.size()));
  SEALIFT_ASSERT(ok == 1);
  return id;
}

}  // namespace

KeeperWorld KeeperWorld::real() {
  return KeeperWorld{std::make_shared<PosixDisk>(), random_id, wall_clock_ns};
}

RightKeeper::RightKeeper(std::string directory, std::string host, KeeperWorld world,
                         std::vector<RightFollower*> followers)
    : directory_(std::move(directory)),
      host_(std::move(host)),
      world_(std::move(world)),
      followers_(std::move(followers)) {}

Result<Journal*> RightKeeper::use(const std::string& guest) {
  if (const auto found = journals_.find(guest); found != journals_.end()) return &found->second;
  SEALIFT_FAULT_POINT("journal.open.before");
  SEALIFT_TRY(Journal journal, Journal::open(*world_.disk, directory_, guest));
  SEALIFT_FAULT_POINT("journal.open.after");
  std::erase_if(journals_,
                [](const auto& other) { return other.second.standings().open() == nullptr; });
  return &journals_.emplace(guest, std::move(journal)).first->second;
}

Result<Claim> RightKeeper::next_claim(const std::string& guest) {
  const std::lock_guard lock(mutex_);
  SEALIFT_TRY(const Journal* journal, use(guest));
  Claim claim;
  claim.generation = journal->standings().generation_min();
  claim.migration = world_.new_id();
  return claim;
}

Result<std::uint64_t> RightKeeper::generation_min(const std::string& guest) {
  const std::lock_guard lock(mutex_);
  SEALIFT_TRY(const Journal* journal, use(guest));
  return journal->standings().generation_min();
}

// A question makes no journal.
Result<const Journal*> RightKeeper::look_at(const std::string& guest) {
  SEALIFT_TRY(const auto known, guests_with_journal(*world_.disk, directory_));
  const Journal* none = nullptr;
  if (std::find(known.begin(), known.end(), guest) == known.end()) return none;
  SEALIFT_TRY(const Journal* journal, use(guest));
  return journal;
}

Result<std::optional<JournalEntry>> RightKeeper::last(const std::string& guest) {
  const std::lock_guard lock(mutex_);
  SEALIFT_TRY(const Journal* journal, look_at(guest));
  if (journal == nullptr || journal->standings().entries().empty()) return std::nullopt;
  if (const JournalEntry* open = journal->standings().open(); open != nullptr) return *open;
  return journal->standings().entries().back();
}

Result<std::optional<JournalEntry>> RightKeeper::find(const std::string& guest,
                                                      const MigrationId& migration) {
  const std::lock_guard lock(mutex_);
  SEALIFT_TRY(const Journal* journal, look_at(guest));
  const JournalEntry* entry = journal == nullptr ? nullptr : journal->standings().find(migration);
  return entry == nullptr ? std::nullopt : std::optional(*entry);
}

Result<std::optional<std::string>> RightKeeper::guest_of(const MigrationId& migration) {
  const std::lock_guard lock(mutex_);
  SEALIFT_TRY(const std::vector<std::string> guests, guests_with_journal(*world_.disk, directory_));
  for (const std::string& guest : guests) {
    SEALIFT_TRY(const Journal* journal, use(guest));
    if (journal->standings().find(migration) != nullptr) return guest;
  }
  return std::nullopt;
}

Result<std::vector<JournalEntry>> RightKeeper::settle_after_restart() {
  const std::lock_guard lock(mutex_);
  std::vector<JournalEntry> to_ask;
  SEALIFT_TRY(const std::vector<std::string> guests, guests_with_journal(*world_.disk, directory_));
  for (const std::string& guest : guests) {
    SEALIFT_TRY(const Journal* journal, use(guest));
    const auto& entries = journal->standings().entries();
    const JournalEntry* open = journal->standings().open();
    if (!entries.empty()) {
      for (RightFollower* follower : followers_) follower->found(entries.back());
    }
    if (open == nullptr) {
      if (!entries.empty() && entries.back().last == JournalKind::kCeded) {
        to_ask.push_back(entries.back());
      }
      continue;
    }
    const JournalEntry entry = *open;
    if (side_of(entry.last) == JournalSide::kSource) {
      to_ask.push_back(entry);
      continue;
    }
    SEALIFT_CHECK(append(JournalKind::kDiscarded, entry.right,
                         "the agent was restarted: the copy went with the process"));
  }
  return to_ask;
}

Result<RightKeeper::Known> RightKeeper::known(const std::string& guest,
                                              const MigrationId& migration) {
  const std::lock_guard lock(mutex_);
  Known known;
  SEALIFT_TRY(const Journal* journal, look_at(guest));
  if (journal == nullptr) return known;
  for (const JournalEntry& entry : journal->standings().entries()) {
    if (known.entry && moves_right(entry.last) && side_of(entry.last) == JournalSide::kSource) {
      known.went_on = true;
    }
    if (entry.right.migration == migration) known.entry = entry;
  }
  if (const auto key = keys_.find(migration); key != keys_.end()) known.key = key->second;
  return known;
}

Result<void> RightKeeper::note(RightStep step, const RightFacts& facts,
                               const SessionFacts& session) {
  const std::lock_guard lock(mutex_);
  const JournalKind kind = kind_of(step);
  RightToRun right;
  right.migration = facts.claim.migration;
  right.generation = facts.claim.generation;
  right.guest = facts.guest;
  const bool at_source = side_of(kind) == JournalSide::kSource;
  right.source = at_source ? host_ : facts.peer;
  right.destination = at_source ? identity_at(facts.peer, session.reached_at) : host_;
  right.page_map_sha256 = facts.page_map_digest;
  if (session.key) keys_.insert_or_assign(right.migration, *session.key);
  return append(kind, std::move(right), facts.reason);
}

Result<void> RightKeeper::note_settled(const RightToRun& right, JournalKind kind,
                                       std::string reason) {
  const std::lock_guard lock(mutex_);
  return append(kind, right, std::move(reason));
}

Result<void> RightKeeper::append(JournalKind kind, RightToRun right, std::string reason) {
  SEALIFT_TRY(Journal * journal, use(right.guest));
  JournalRecord record;
  record.kind = kind;
  record.right = std::move(right);
  record.written_unix_ns = world_.unix_ns();
  record.reason = std::move(reason);
  const auto key = keys_.find(record.right.migration);
  if (key != keys_.end()) record.mac = record_mac(key->second, kind, record.right);
  for (RightFollower* follower : followers_) SEALIFT_CHECK(follower->before(kind, record.right));
  const std::string guest = record.right.guest;
  SEALIFT_FAULT_POINT("journal", name_of(kind), "before");
  auto appended = journal->append(record);
  if (!appended && journal->failed()) {
    journals_.erase(guest);
    // It may be on the disk all the same, and then it counts: opening has made it durable.
    if (auto anew = use(guest); anew) {
      const JournalEntry* entry = (*anew)->standings().find(record.right.migration);
      if (entry != nullptr && entry->last == kind) appended = {};
    }
  }
  SEALIFT_FAULT_POINT("journal", name_of(kind), "after");
  if (!appended) return appended;
  if (is_settled(kind)) keys_.erase(record.right.migration);
  for (auto it = followers_.rbegin(); it != followers_.rend(); ++it) {
    auto told = (*it)->after(record);
    if (!told && appended) appended = std::move(told);  // the first error stands; all are told
  }
  return appended;
}

std::string identity_at(const std::string& name, const std::string& address) {
  return address.empty() ? name : name + " " + address;
}

namespace {

// Of the space before the address; npos: there is none.
std::size_t address_at(const std::string& identity) {
  std::size_t at = std::string::npos;
  for (const char* kind : {" tcp:", " unix:"}) {
    const std::size_t found = identity.rfind(kind);
    if (found != std::string::npos && (at == std::string::npos || found > at)) at = found;
  }
  return at;
}

}  // namespace

std::string name_in(const std::string& identity) {
  return identity.substr(0, address_at(identity));
}

std::optional<Address> address_in(const std::string& identity) {
  const std::size_t at = address_at(identity);
  if (at == std::string::npos) return std::nullopt;
  auto address = parse_address(std::string_view(identity).substr(at + 1));
  return address ? std::optional(std::move(*address)) : std::nullopt;
}

}  // namespace sealift
