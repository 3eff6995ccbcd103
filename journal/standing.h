// What a side's records say about each migration, and what two sides together mean. Pure.
//
// Spec:       docs/spec/journal.md, "Order of records", "Standings", "Settling".
// Threads:    plain values.
// Failure:    kRefused for a record that may not follow, with both kinds named.
// Invariants: at most one migration is open (begun or offered, and not settled). No right is begun
//             or offered that is older than what this side knows.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "engine/result.h"
#include "journal/record.h"

namespace sealift {

enum class SourceStanding : std::uint8_t {
  kUnknown,   // the side cannot be asked
  kNone,      // its journal is sound and does not know the migration
  kOwns,      // Begun: the right is here
  kInDoubt,   // Committing: the destination may have it
  kReleased,  // the destination has it, and said so
  kKept,      // the migration is over, and the right is here
  kCeded,     // given away because the copy here is lost
};
inline constexpr std::size_t kSourceStandings = 7;
const char* name_of(SourceStanding standing);

enum class DestinationStanding : std::uint8_t {
  kUnknown,     // the side cannot be asked
  kNone,        // its journal is sound and does not know the migration
  kIncomplete,  // Offered: what it has cannot run
  kComplete,    // Ready: a complete copy, without the right
  kHasRight,    // Taken
  kDiscarded,   // never ran, and never will
};
inline constexpr std::size_t kDestinationStandings = 6;
const char* name_of(DestinationStanding standing);

// One migration as one side's journal knows it.
struct JournalEntry {
  RightToRun right;
  JournalKind last = JournalKind::kBegun;
  std::uint64_t records = 0;
  std::optional<JournalKind> proven = {};  // the last record that has a MAC
  Digest32 mac{};                          // that one's
};
SourceStanding source_standing(const JournalEntry* entry);            // nullptr: kNone
DestinationStanding destination_standing(const JournalEntry* entry);  // nullptr: kNone
bool is_settled(JournalKind last);                                    // no record may follow
bool may_follow(JournalKind from, JournalKind to);                    // within one migration
bool moves_right(JournalKind kind);  // the guest is of the next generation from here on

class Standings {
 public:
  Result<void> check(const JournalRecord& record) const;  // may it follow?
  Result<void> add(const JournalRecord& record);          // check(), and take it in

  const std::vector<JournalEntry>& entries() const { return entries_; }  // in order of beginning
  const JournalEntry* find(const MigrationId& migration) const;
  const JournalEntry* open() const;  // nullptr: everything is settled
  // What a migration that begins or is offered now must have at least. After Taken it is the
  // generation of the guest here.
  std::uint64_t generation_min() const { return generation_min_; }

 private:
  std::vector<JournalEntry> entries_;
  std::uint64_t generation_min_ = 0;
};

enum class Verdict : std::uint8_t { kRunSource, kRunDestination, kNeedsHuman };
const char* name_of(Verdict verdict);

struct Settlement {
  Verdict verdict = Verdict::kNeedsHuman;
  std::string_view reason;  // one sentence
};

// Who may run the guest. `…_has_copy`: the side's process still has the guest in its memory; of no
// meaning for a side that is kUnknown. A verdict is carried out by records first ("Settling"). Once
// the other side can be asked it may turn into kNeedsHuman, but never into its opposite.
// `same_guest`: false when both sides' digests are known and differ (digests_agree()).
// REQUIRES: the migration is the guest's last: an older one says nothing about who runs it now.
Settlement settle(SourceStanding source, bool source_has_copy, DestinationStanding destination,
                  bool destination_has_copy, bool same_guest = true);
// Digests that one side does not know agree with everything.
bool digests_agree(const RightToRun& source, const RightToRun& destination);

}  // namespace sealift
