#include "tools/migrate-dump/dump_journal.h"

#include <gtest/gtest.h>
#include <sys/wait.h>

#include <array>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "journal/replay.h"

namespace sealift {
namespace {

const std::string kGolden = SEALIFT_GOLDEN_DIR "/journal-v1/guest.journal";

std::string golden() {
  std::ifstream file(kGolden, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

std::vector<std::string> lines_of(const std::string& file, JournalDump& result) {
  std::vector<std::string> lines;
  result = dump_journal(std::as_bytes(std::span(file)),
                        [&](std::string_view line) { lines.emplace_back(line); });
  return lines;
}

std::string repeat(const char* two, int times) {
  std::string text;
  for (int i = 0; i < times; ++i) text += two;
  return text;
}

TEST(DumpJournal, ALineForEachRecordAndTheStandings) {
  JournalDump result;
  const auto lines = lines_of(golden(), result);
  ASSERT_FALSE(result.error.has_value()) << result.error->detail;
  ASSERT_EQ(result.records, 14U);
  ASSERT_EQ(lines.size(), 1U + 14 + 6 + 1);
  EXPECT_EQ(lines[0], "journal of guest \"web-1\", first sequence 40");
  EXPECT_EQ(
      lines[1],
      fmt::format("      4096 Begun      sequence 40    2025-10-09T08:53:20.000Z migration {} "
                  "generation 0 from \"alder\" to \"birch\": Begun of migration 1",
                  repeat("01", 16)));
  EXPECT_EQ(
      lines[6],
      fmt::format("     24576 Taken      sequence 45    2025-10-09T08:53:20.000Z migration {} "
                  "generation 4 from \"alder\" to \"birch\", page map {}, memory {}, MAC {}: "
                  "Taken of migration 2",
                  repeat("02", 16), repeat("5a", 32), repeat("a5", 32), repeat("c3", 32)));
  constexpr std::pair<const char*, const char*> kStandings[] = {
      {"01", "generation 0: source released"}, {"02", "generation 4: destination has the right"},
      {"03", "generation 5: source kept"},     {"04", "generation 9: destination discarded"},
      {"05", "generation 5: source ceded"},    {"06", "generation 6: destination discarded"}};
  for (std::size_t i = 0; i < std::size(kStandings); ++i) {
    EXPECT_EQ(lines[15 + i], fmt::format("migration {}, {}", repeat(kStandings[i].first, 16),
                                         kStandings[i].second));
  }
  EXPECT_EQ(lines.back(), "a migration of this guest here has at least generation 6");
}

TEST(DumpJournal, SaysThatTheEndIsTornAndWhatIsOpen) {
  JournalDump result;
  const auto lines = lines_of(golden().substr(0, 3 * kSlotBytes + 100), result);
  EXPECT_FALSE(result.error.has_value());
  ASSERT_EQ(lines.size(), 6U);
  EXPECT_EQ(lines[3],
            "the last record, 42 at offset 12288, is not whole: its writing was cut off before it "
            "counted");
  EXPECT_EQ(lines[4],
            fmt::format("migration {}, generation 0: source in doubt (open)", repeat("01", 16)));
}

TEST(DumpJournal, ShowsWhatIsBeforeTheDamageAndNoStanding) {
  std::string file = golden();
  file[4 * kSlotBytes + 100] ^= 1;
  JournalDump result;
  const auto lines = lines_of(file, result);
  ASSERT_TRUE(result.error.has_value());
  EXPECT_EQ(result.error->detail.find("the journal is damaged at offset 16384 (slot 4): the"), 0U);
  EXPECT_EQ(lines.size(), 1U + 3);
}

TEST(DumpJournal, TextsOfARecordReachNoTerminalAsTheyAre) {
  JournalRecord record;
  record.right.guest = "g\x1b[2J";
  record.right.source = "\x1b]0;";
  record.right.destination = "birch";
  record.reason = "one\ntwo";
  const Slot header = encode_slot(JournalHeader{record.right.guest, 0});
  const Slot slot = encode_slot(record, {checksum_of(header), 0});
  std::string file(reinterpret_cast<const char*>(header.data()), header.size());
  file.append(reinterpret_cast<const char*>(slot.data()), slot.size());
  JournalDump result;
  const auto lines = lines_of(file, result);
  ASSERT_EQ(result.records, 1U);
  for (const std::string& line : lines) {
    EXPECT_EQ(line.find_first_of("\x1b\n"), std::string::npos) << line;
  }
  EXPECT_NE(lines[1].find("from \"?]0;\" to \"birch\": one two"), std::string::npos) << lines[1];
}

std::pair<int, std::string> run_tool(const std::string& path) {
  const std::string command = std::string(SEALIFT_MIGRATE_DUMP) + " " + path + " 2>&1";
  std::FILE* pipe = ::popen(command.c_str(), "r");
  if (pipe == nullptr) return {-1, {}};
  std::string output;
  std::array<char, 4096> buffer{};
  for (std::size_t n = 0; (n = std::fread(buffer.data(), 1, buffer.size(), pipe)) > 0;) {
    output.append(buffer.data(), n);
  }
  const int status = ::pclose(pipe);
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, output};
}

TEST(DumpJournal, TheToolTellsAJournalFromAStream) {
  const auto [status, output] = run_tool(kGolden);
  EXPECT_EQ(status, 0) << output;
  EXPECT_EQ(output.rfind("journal of guest \"web-1\"", 0), 0U) << output;
  EXPECT_NE(output.find("\n14 records, 65536 bytes\n"), std::string::npos) << output;

  std::string damaged = golden();
  damaged[10] ^= 1;
  const std::string path = ::testing::TempDir() + "/damaged.journal";
  std::ofstream(path, std::ios::binary) << damaged;
  const auto [bad_status, bad_output] = run_tool(path);
  EXPECT_EQ(bad_status, 1);
  EXPECT_NE(bad_output.find("migrate-dump: the journal is damaged at offset 0 (slot 0)"),
            std::string::npos)
      << bad_output;
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace sealift
