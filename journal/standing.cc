#include "journal/standing.h"

#include <algorithm>
#include <initializer_list>
#include <utility>

namespace sealift {
namespace {

struct Transition {
  JournalKind from;
  JournalKind to;
};
// What may follow within one migration. A side's first record is below. Whatever has no row as
// `from` settles the migration.
constexpr Transition kTransitions[] = {
    // source
    {JournalKind::kBegun, JournalKind::kCommitting},
    {JournalKind::kBegun, JournalKind::kKept},
    {JournalKind::kBegun, JournalKind::kCeded},
    {JournalKind::kCommitting, JournalKind::kReleased},
    {JournalKind::kCommitting, JournalKind::kKept},
    {JournalKind::kCommitting, JournalKind::kCeded},
    // destination
    {JournalKind::kOffered, JournalKind::kReady},
    {JournalKind::kOffered, JournalKind::kDiscarded},
    {JournalKind::kReady, JournalKind::kTaken},
    {JournalKind::kReady, JournalKind::kDiscarded},
};
// Discarded as the first: the migration was asked about before it was offered, and now never is.
constexpr JournalKind kFirst[] = {JournalKind::kBegun, JournalKind::kOffered,
                                  JournalKind::kDiscarded};

bool opens(JournalKind kind) {
  return kind == JournalKind::kBegun || kind == JournalKind::kOffered;
}

std::string id_text(const RightToRun& right) { return hex_text(right.migration); }

Result<void> check_same(const RightToRun& was, const RightToRun& now) {
  if (was.generation == now.generation && was.guest == now.guest && was.source == now.source &&
      was.destination == now.destination) {
    return {};
  }
  return fail(ErrorClass::kRefused,
              "migration {} is of guest \"{}\" generation {} from \"{}\" to \"{}\", and a record "
              "of it says \"{}\" generation {} from \"{}\" to \"{}\"",
              id_text(was), was.guest, was.generation, was.source, was.destination, now.guest,
              now.generation, now.source, now.destination);
}

}  // namespace

const char* name_of(SourceStanding standing) {
  constexpr const char* kNames[] = {
      "unknown", "not in the journal", "owns", "in doubt", "released", "kept", "ceded"};
  static_assert(std::size(kNames) == kSourceStandings);
  return kNames[static_cast<std::size_t>(standing)];
}

const char* name_of(DestinationStanding standing) {
  constexpr const char* kNames[] = {"unknown",       "not in the journal",
                                    "incomplete",    "a complete copy without the right",
                                    "has the right", "discarded"};
  static_assert(std::size(kNames) == kDestinationStandings);
  return kNames[static_cast<std::size_t>(standing)];
}

const char* name_of(Verdict verdict) {
  constexpr const char* kNames[] = {"run source", "run destination", "needs a human"};
  return kNames[static_cast<std::size_t>(verdict)];
}

bool is_settled(JournalKind last) {
  return std::none_of(std::begin(kTransitions), std::end(kTransitions),
                      [&](Transition t) { return t.from == last; });
}

bool may_follow(JournalKind from, JournalKind to) {
  return std::any_of(std::begin(kTransitions), std::end(kTransitions),
                     [&](Transition t) { return t.from == from && t.to == to; });
}

bool moves_right(JournalKind kind) {
  return kind == JournalKind::kTaken || kind == JournalKind::kReleased ||
         kind == JournalKind::kCeded;
}

SourceStanding source_standing(const JournalEntry* entry) {
  if (entry == nullptr) return SourceStanding::kNone;
  switch (entry->last) {
    case JournalKind::kBegun:
      return SourceStanding::kOwns;
    case JournalKind::kCommitting:
      return SourceStanding::kInDoubt;
    case JournalKind::kReleased:
      return SourceStanding::kReleased;
    case JournalKind::kKept:
      return SourceStanding::kKept;
    case JournalKind::kCeded:
      return SourceStanding::kCeded;
    case JournalKind::kOffered:
    case JournalKind::kReady:
    case JournalKind::kTaken:
    case JournalKind::kDiscarded:
      break;
  }
  return SourceStanding::kNone;
}

DestinationStanding destination_standing(const JournalEntry* entry) {
  if (entry == nullptr) return DestinationStanding::kNone;
  switch (entry->last) {
    case JournalKind::kOffered:
      return DestinationStanding::kIncomplete;
    case JournalKind::kReady:
      return DestinationStanding::kComplete;
    case JournalKind::kTaken:
      return DestinationStanding::kHasRight;
    case JournalKind::kDiscarded:
      return DestinationStanding::kDiscarded;
    case JournalKind::kBegun:
    case JournalKind::kCommitting:
    case JournalKind::kReleased:
    case JournalKind::kKept:
    case JournalKind::kCeded:
      break;
  }
  return DestinationStanding::kNone;
}

const JournalEntry* Standings::find(const MigrationId& migration) const {
  const auto found = std::find_if(entries_.begin(), entries_.end(), [&](const JournalEntry& entry) {
    return entry.right.migration == migration;
  });
  return found == entries_.end() ? nullptr : &*found;
}

const JournalEntry* Standings::open() const {
  const auto found = std::find_if(entries_.begin(), entries_.end(), [](const JournalEntry& entry) {
    return !is_settled(entry.last);
  });
  return found == entries_.end() ? nullptr : &*found;
}

Result<void> Standings::check(const JournalRecord& record) const {
  const RightToRun& right = record.right;
  if (const JournalEntry* entry = find(right.migration)) {
    if (!may_follow(entry->last, record.kind)) {
      return fail(ErrorClass::kRefused, "migration {}: {} may not follow {}", id_text(right),
                  name_of(record.kind), name_of(entry->last));
    }
    return check_same(entry->right, right);
  }
  if (std::find(std::begin(kFirst), std::end(kFirst), record.kind) == std::end(kFirst)) {
    return fail(ErrorClass::kRefused, "migration {}: {} may not be the first record",
                id_text(right), name_of(record.kind));
  }
  if (!opens(record.kind)) return {};
  if (const JournalEntry* other = open()) {
    return fail(ErrorClass::kRefused,
                "migration {}: {} while migration {} is open, whose last record is {}",
                id_text(right), name_of(record.kind), id_text(other->right), name_of(other->last));
  }
  if (right.generation < generation_min_) {
    return fail(ErrorClass::kRefused,
                "migration {}: {} of generation {}, but the guest is known here in generation {}",
                id_text(right), name_of(record.kind), right.generation, generation_min_);
  }
  return {};
}

Result<void> Standings::add(const JournalRecord& record) {
  SEALIFT_CHECK(check(record));
  const RightToRun& right = record.right;
  // Only what this side did with the right counts: a peer's word in Offered does not.
  if (record.kind == JournalKind::kBegun) {
    generation_min_ = std::max(generation_min_, right.generation);
  }
  if (moves_right(record.kind)) {
    generation_min_ = std::max(generation_min_, right.generation + 1);
  }
  const auto found = std::find_if(entries_.begin(), entries_.end(), [&](const JournalEntry& entry) {
    return entry.right.migration == right.migration;
  });
  JournalEntry& entry = found == entries_.end() ? entries_.emplace_back() : *found;
  entry.right = right;
  entry.last = record.kind;
  ++entry.records;
  if (record.mac != Digest32{}) {
    entry.proven = record.kind;
    entry.mac = record.mac;
  }
  return {};
}

}  // namespace sealift
