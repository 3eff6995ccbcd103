#include "journal/replay.h"

#include <algorithm>
#include <utility>

namespace sealift {
namespace {

ByteView slot_at(ByteView file, std::size_t index) {
  const std::size_t offset = std::min(index * kSlotBytes, file.size());
  return file.subspan(offset, std::min(kSlotBytes, file.size() - offset));
}

Error damage_at(std::size_t index, std::string_view what) {
  return Error{
      ErrorClass::kLocalFault,
      fmt::format("the journal is damaged at offset {} (slot {}): {}; nothing after it can "
                  "be trusted, and a person has to decide",
                  index * kSlotBytes, index, what)};
}

std::uint64_t stored_checksum(ByteView slot) {
  Slot copy{};
  std::copy(slot.begin(), slot.end(), copy.begin());
  return checksum_of(copy);
}

// REQUIRES: `slot` is slot `index` of `file`, and not whole.
void end_at(Replay& result, ByteView file, std::size_t index, ByteView slot) {
  const bool last = all_zero(file.subspan(index * kSlotBytes + slot.size()));
  if (all_zero(slot) && last) return;
  if (!last) {
    result.damage = damage_at(index, all_zero(slot) ? "a record is missing, and others follow"
                                                    : "the checksum is wrong, and others follow");
    return;
  }
  result.torn = fmt::format(
      "the last record, {} at offset {}, is not whole: its writing was cut off before it counted",
      result.next.sequence, index * kSlotBytes);
}

}  // namespace

Replay replay(ByteView file) {
  Replay result;
  if (file.size() > kJournalBytesMax) {
    result.damage = damage_at(kJournalSlotsMax, "the file is longer than a journal can be");
    return result;
  }
  // The header was whole before the file got its name, so a bad one is never a torn one.
  const ByteView first = slot_at(file, 0);
  if (!is_whole(first)) {
    result.damage = damage_at(0, "the header's checksum is wrong");
    return result;
  }
  auto header = decode_header_slot(first);
  if (!header) {
    result.damage = damage_at(0, header.error().detail);
    return result;
  }
  result.header = std::move(*header);
  result.next = {stored_checksum(first), result.header.first_sequence};
  for (std::size_t index = 1; index * kSlotBytes < file.size(); ++index) {
    const ByteView slot = slot_at(file, index);
    if (!is_whole(slot)) {
      end_at(result, file, index, slot);
      return result;
    }
    auto record = decode_record(slot, result.next);
    if (record && record->right.guest != result.header.guest) {
      record = fail(ErrorClass::kLocalFault, "it is about guest \"{}\" in the journal of \"{}\"",
                    record->right.guest, result.header.guest);
    }
    if (!record) {
      result.damage = damage_at(index, record.error().detail);
      return result;
    }
    result.next = {stored_checksum(slot), result.next.sequence + 1};
    result.records.push_back(std::move(*record));
  }
  return result;
}

}  // namespace sealift
