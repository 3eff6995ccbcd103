#include "journal/slot.h"

#include <xxhash.h>

#include <algorithm>
#include <cstring>

#include "engine/assert.h"

namespace sealift {
namespace {

constexpr std::array<std::byte, 4> kMagic = {std::byte{'S'}, std::byte{'L'}, std::byte{'J'},
                                             std::byte{'R'}};
constexpr std::byte kVersion{1};
constexpr std::uint8_t kHeaderKind = 0;

// Offsets in a slot (docs/spec/journal.md, "Slots").
constexpr std::size_t kVersionAt = 4;
constexpr std::size_t kKindAt = 5;
constexpr std::size_t kReservedAt = 6;
constexpr std::size_t kPreviousAt = 8;
constexpr std::size_t kSequenceAt = 16;
constexpr std::size_t kWrittenAt = 24;
constexpr std::size_t kMigrationAt = 32;
constexpr std::size_t kGenerationAt = 48;
constexpr std::size_t kPageMapAt = 56;
constexpr std::size_t kMemoryAt = 88;
constexpr std::size_t kMacAt = 120;
constexpr std::size_t kTextSizesAt = 152;  // guest, source, destination, reason: two bytes each
constexpr std::size_t kTextsAt = 160;
constexpr std::size_t kChecksumAt = kSlotBytes - 8;

void put(MutableBytes out, std::uint64_t number) {
  for (std::byte& b : out) {
    b = static_cast<std::byte>(number & 0xff);
    number >>= 8;
  }
}

std::uint64_t get(ByteView in) {
  std::uint64_t number = 0;
  for (std::size_t i = in.size(); i-- > 0;) number = number << 8 | std::to_integer<unsigned>(in[i]);
  return number;
}

void copy(MutableBytes out, ByteView from) { std::copy(from.begin(), from.end(), out.begin()); }

ByteView bytes_of(std::string_view text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

std::uint64_t computed_checksum(ByteView slot) { return XXH3_64bits(slot.data(), kChecksumAt); }

Slot finish(std::uint8_t kind, Slot slot, std::array<std::string_view, 4> texts) {
  const MutableBytes bytes(slot);
  copy(bytes, kMagic);
  slot[kVersionAt] = kVersion;
  slot[kKindAt] = std::byte{kind};
  std::size_t end = kTextsAt;
  for (std::size_t i = 0; i < texts.size(); ++i) {
    put(bytes.subspan(kTextSizesAt + 2 * i, 2), texts[i].size());
    SEALIFT_ASSERT(end + texts[i].size() <= kChecksumAt);
    copy(bytes.subspan(end), bytes_of(texts[i]));
    end += texts[i].size();
  }
  put(bytes.subspan(kChecksumAt), computed_checksum(slot));
  return slot;
}

std::string_view cut(std::string_view text, std::size_t bytes_max) {
  if (text.size() <= bytes_max) return text;
  std::size_t end = bytes_max;
  const auto continues = [&](std::size_t at) {
    return (static_cast<unsigned char>(text[at]) & 0xc0) == 0x80;
  };
  while (end > 0 && continues(end)) --end;
  return text.substr(0, end);
}

// Checks everything that a header and a record have in common, and takes the texts out.
Result<void> take_texts(ByteView slot, std::array<std::string, 4>& texts) {
  constexpr std::size_t kMax[] = {kGuestNameBytesMax, kHostIdentityBytesMax, kHostIdentityBytesMax,
                                  kReasonBytesMax};
  if (!std::equal(kMagic.begin(), kMagic.end(), slot.begin())) {
    return fail(ErrorClass::kLocalFault, "it does not begin with SLJR");
  }
  if (slot[kVersionAt] != kVersion) {
    return fail(ErrorClass::kLocalFault, "it is of version {}, and this program knows version 1",
                std::to_integer<unsigned>(slot[kVersionAt]));
  }
  std::size_t end = kTextsAt;
  for (std::size_t i = 0; i < texts.size(); ++i) {
    const std::uint64_t size = get(slot.subspan(kTextSizesAt + 2 * i, 2));
    if (size > kMax[i]) {
      return fail(ErrorClass::kLocalFault, "text {} has {} bytes, more than {}", i, size, kMax[i]);
    }
    texts[i].resize(size);
    std::memcpy(texts[i].data(), slot.data() + end, size);
    end += size;
  }
  if (!all_zero(slot.subspan(end, kChecksumAt - end)) || !all_zero(slot.subspan(kReservedAt, 2))) {
    return fail(ErrorClass::kLocalFault, "bytes that must be zero are not");
  }
  return {};
}

}  // namespace

Slot encode_slot(const JournalRecord& record, SlotPlace place) {
  Slot slot{};
  const MutableBytes bytes(slot);
  put(bytes.subspan(kPreviousAt, 8), place.previous_checksum);
  put(bytes.subspan(kSequenceAt, 8), place.sequence);
  put(bytes.subspan(kWrittenAt, 8), record.written_unix_ns);
  copy(bytes.subspan(kMigrationAt), record.right.migration);
  put(bytes.subspan(kGenerationAt, 8), record.right.generation);
  copy(bytes.subspan(kPageMapAt), record.right.page_map_sha256);
  copy(bytes.subspan(kMemoryAt), record.right.memory_sha256);
  copy(bytes.subspan(kMacAt), record.mac);
  return finish(static_cast<std::uint8_t>(record.kind), slot,
                {record.right.guest, record.right.source, record.right.destination,
                 cut(record.reason, kReasonBytesMax)});
}

Slot encode_slot(const JournalHeader& header) {
  Slot slot{};
  put(MutableBytes(slot).subspan(kSequenceAt, 8), header.first_sequence);
  return finish(kHeaderKind, slot, {header.guest, "", "", ""});
}

std::uint64_t checksum_of(const Slot& slot) { return get(ByteView(slot).subspan(kChecksumAt)); }

bool is_whole(ByteView slot) {
  return slot.size() == kSlotBytes && get(slot.subspan(kChecksumAt)) == computed_checksum(slot);
}

bool all_zero(ByteView bytes) {
  return std::all_of(bytes.begin(), bytes.end(), [](std::byte b) { return b == std::byte{0}; });
}

Result<JournalRecord> decode_record(ByteView slot, SlotPlace place) {
  SEALIFT_ASSERT(is_whole(slot));
  std::array<std::string, 4> texts;
  SEALIFT_CHECK(take_texts(slot, texts));
  const auto kind = std::to_integer<std::uint8_t>(slot[kKindAt]);
  if (kind < static_cast<std::uint8_t>(JournalKind::kBegun) ||
      kind > static_cast<std::uint8_t>(JournalKind::kCeded)) {
    return fail(ErrorClass::kLocalFault, "kind {} is none", kind);
  }
  const std::uint64_t sequence = get(slot.subspan(kSequenceAt, 8));
  if (sequence != place.sequence) {
    return fail(ErrorClass::kLocalFault, "its sequence is {} where {} is due", sequence,
                place.sequence);
  }
  if (get(slot.subspan(kPreviousAt, 8)) != place.previous_checksum) {
    return fail(ErrorClass::kLocalFault, "it does not follow the record before it: a record of {}",
                "another file or place");
  }
  JournalRecord record;
  record.kind = static_cast<JournalKind>(kind);
  record.written_unix_ns = get(slot.subspan(kWrittenAt, 8));
  copy(record.right.migration, slot.subspan(kMigrationAt, record.right.migration.size()));
  record.right.generation = get(slot.subspan(kGenerationAt, 8));
  copy(record.right.page_map_sha256, slot.subspan(kPageMapAt, 32));
  copy(record.right.memory_sha256, slot.subspan(kMemoryAt, 32));
  copy(record.mac, slot.subspan(kMacAt, 32));
  record.right.guest = std::move(texts[0]);
  record.right.source = std::move(texts[1]);
  record.right.destination = std::move(texts[2]);
  record.reason = std::move(texts[3]);
  if (auto checked = check_right(record.right); !checked) {
    return fail(ErrorClass::kLocalFault, "{}", checked.error().detail);
  }
  return record;
}

Result<JournalHeader> decode_header_slot(ByteView slot) {
  SEALIFT_ASSERT(is_whole(slot));
  std::array<std::string, 4> texts;
  SEALIFT_CHECK(take_texts(slot, texts));
  JournalHeader header{std::move(texts[0]), get(slot.subspan(kSequenceAt, 8))};
  // Whatever else is in it is not allowed: the header's own encoding is the only one.
  if (header.guest.empty() || checksum_of(encode_slot(header)) != get(slot.subspan(kChecksumAt))) {
    return fail(ErrorClass::kLocalFault, "it is not the header of a journal");
  }
  return header;
}

}  // namespace sealift
