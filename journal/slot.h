// The bytes of a journal record: one slot of 4096 bytes, so that no write touches the sectors of
// another record.
//
// Spec:       docs/spec/journal.md, "Slots".
// Threads:    plain functions.
// Failure:    a decoder says what is wrong with a slot; it never looks outside it.
// Invariants: a record that encode_slot() took is given back by decode_record() as it was.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

#include "engine/result.h"
#include "engine/types.h"
#include "journal/record.h"

namespace sealift {

// The first slot of a file.
struct JournalHeader {
  std::string guest;
  std::uint64_t first_sequence = 0;  // of the record in slot 1: how many were dropped before it
  friend bool operator==(const JournalHeader&, const JournalHeader&) = default;
};

inline constexpr std::size_t kSlotBytes = 4096;
static_assert(160 + kGuestNameBytesMax + 2 * kHostIdentityBytesMax + kReasonBytesMax <=
              kSlotBytes - 8);

using Slot = std::array<std::byte, kSlotBytes>;

// What ties a slot to its place: the checksum of the slot before it, and its number.
struct SlotPlace {
  std::uint64_t previous_checksum = 0;
  std::uint64_t sequence = 0;
};

// REQUIRES: check_right(record.right). A reason that is too long is cut between characters: no
// record fails because of it.
Slot encode_slot(const JournalRecord& record, SlotPlace place);
// REQUIRES: 0 < header.guest.size() <= kGuestNameBytesMax.
Slot encode_slot(const JournalHeader& header);

std::uint64_t checksum_of(const Slot& slot);  // as it stands in the slot
bool is_whole(ByteView slot);                 // kSlotBytes that carry their own checksum
bool all_zero(ByteView bytes);

// REQUIRES: is_whole(slot). Errors: kLocalFault.
Result<JournalRecord> decode_record(ByteView slot, SlotPlace place);
Result<JournalHeader> decode_header_slot(ByteView slot);

}  // namespace sealift
