#include "tools/migrate-dump/dump_journal.h"

#include <algorithm>
#include <chrono>
#include <ctime>

#include "journal/replay.h"
#include "journal/standing.h"
#include "schemas/wire_text.h"

namespace sealift {
namespace {

std::string utc_text(std::uint64_t unix_ns) {
  const auto seconds = static_cast<std::time_t>(unix_ns / 1'000'000'000);
  std::tm utc{};
  if (::gmtime_r(&seconds, &utc) == nullptr) return fmt::format("{} ns", unix_ns);
  return fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z", utc.tm_year + 1900,
                     utc.tm_mon + 1, utc.tm_mday, utc.tm_hour, utc.tm_min, utc.tm_sec,
                     unix_ns / 1'000'000 % 1000);
}

std::string known(const char* what, const Digest32& digest) {
  const bool zeros =
      std::all_of(digest.begin(), digest.end(), [](std::byte b) { return b == std::byte{0}; });
  return zeros ? "" : fmt::format(", {} {}", what, hex_text(digest));
}

std::string line_of(const JournalRecord& record, std::size_t offset, std::uint64_t sequence) {
  const RightToRun& right = record.right;
  std::string line = fmt::format(
      "{:>10} {:<10} sequence {:<5} {} migration {} generation {} from \"{}\" to \"{}\"", offset,
      name_of(record.kind), sequence, utc_text(record.written_unix_ns), hex_text(right.migration),
      right.generation, to_wire_text(right.source), to_wire_text(right.destination));
  line += known("page map", right.page_map_sha256) + known("memory", right.memory_sha256) +
          known("MAC", record.mac);
  if (!record.reason.empty()) line += fmt::format(": {}", to_wire_text(record.reason));
  return line;
}

std::string standing_of(const JournalEntry& entry) {
  const JournalSide side = side_of(entry.last);
  return fmt::format("migration {}, generation {}: {} {}{}", hex_text(entry.right.migration),
                     entry.right.generation, name_of(side),
                     side == JournalSide::kSource ? name_of(source_standing(&entry))
                                                  : name_of(destination_standing(&entry)),
                     is_settled(entry.last) ? "" : " (open)");
}

}  // namespace

bool looks_like_journal(ByteView file) {
  constexpr std::string_view kMagic = "SLJR";
  return file.size() >= kMagic.size() &&
         std::equal(kMagic.begin(), kMagic.end(), file.begin(),
                    [](char c, std::byte b) { return std::byte(c) == b; });
}

JournalDump dump_journal(ByteView file, const std::function<void(std::string_view)>& print) {
  const Replay replayed = replay(file);
  JournalDump result;
  if (!replayed.header.guest.empty()) {
    print(fmt::format("journal of guest \"{}\", first sequence {}",
                      to_wire_text(replayed.header.guest), replayed.header.first_sequence));
  }
  Standings standings;
  for (const JournalRecord& record : replayed.records) {
    const std::size_t slot = 1 + result.records;
    print(line_of(record, slot * kSlotBytes, replayed.header.first_sequence + result.records));
    ++result.records;
    if (result.error) continue;
    if (auto added = standings.add(record); !added) result.error = added.error();
  }
  if (!replayed.torn.empty()) print(replayed.torn);
  if (replayed.damage) result.error = replayed.damage;
  if (result.error) return result;  // what it says cannot be trusted
  for (const JournalEntry& entry : standings.entries()) print(standing_of(entry));
  print(fmt::format("a migration of this guest here has at least generation {}",
                    standings.generation_min()));
  return result;
}

}  // namespace sealift
