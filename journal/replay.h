// What a journal file says: its bytes checked slot by slot. Pure; the agent and migrate-dump read
// with it.
//
// Spec:    docs/spec/journal.md, "Reading".
// Threads: plain values.
// Failure: damage is a value, so that what is before it can be shown; only a torn last record is
//          no damage.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "engine/result.h"
#include "engine/types.h"
#include "journal/record.h"
#include "journal/slot.h"

namespace sealift {

inline constexpr std::size_t kJournalSlotsMax = 256;  // header and records: a file of 1 MiB
inline constexpr std::size_t kJournalBytesMax = kJournalSlotsMax * kSlotBytes;

struct Replay {
  JournalHeader header;
  std::vector<JournalRecord> records;  // whole, in order, up to the end or the damage
  SlotPlace next;                      // of the slot after them
  std::string torn;             // what was found in that slot when it is a torn record, in words
  std::optional<Error> damage;  // kLocalFault with the offset: the file must not be used
};

Replay replay(ByteView file);

}  // namespace sealift
