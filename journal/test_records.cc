#include "journal/test_records.h"

#include <fmt/core.h>

namespace sealift::test {

RightToRun right_of(std::uint8_t number, std::uint64_t generation) {
  RightToRun right;
  right.migration.fill(std::byte{number});
  right.generation = generation;
  right.guest = "web-1";
  right.source = "alder";
  right.destination = "birch";
  return right;
}

JournalRecord record_of(JournalKind kind, std::uint8_t number, std::uint64_t generation) {
  JournalRecord record;
  record.kind = kind;
  record.right = right_of(number, generation);
  record.written_unix_ns = 1'760'000'000'000'000'000U + number;
  record.reason = fmt::format("{} of migration {}", name_of(kind), number);
  if (kind != JournalKind::kBegun && kind != JournalKind::kOffered) {
    record.right.page_map_sha256.fill(std::byte{0x5a});
    record.right.memory_sha256.fill(std::byte{0xa5});
    record.mac.fill(std::byte{0xc3});
  }
  return record;
}

std::vector<JournalRecord> life_of_a_guest() {
  using K = JournalKind;
  return {
      record_of(K::kBegun, 1, 0),   record_of(K::kCommitting, 1, 0), record_of(K::kReleased, 1, 0),
      record_of(K::kOffered, 2, 4), record_of(K::kReady, 2, 4),      record_of(K::kTaken, 2, 4),
      record_of(K::kBegun, 3, 5),   record_of(K::kDiscarded, 4, 9),  record_of(K::kKept, 3, 5),
      record_of(K::kBegun, 5, 5),   record_of(K::kCommitting, 5, 5), record_of(K::kCeded, 5, 5),
      record_of(K::kOffered, 6, 6), record_of(K::kDiscarded, 6, 6)};
}

std::vector<JournalRecord> kept_migrations(std::uint8_t count) {
  std::vector<JournalRecord> records;
  for (std::uint8_t i = 0; i < count; ++i) {
    records.push_back(record_of(JournalKind::kBegun, static_cast<std::uint8_t>(100 + i), 7));
    records.push_back(record_of(JournalKind::kKept, static_cast<std::uint8_t>(100 + i), 7));
  }
  return records;
}

}  // namespace sealift::test
