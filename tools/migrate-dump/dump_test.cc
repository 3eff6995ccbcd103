// The tool itself, run on the golden files.
#include "tools/migrate-dump/dump.h"

#include <gtest/gtest.h>
#include <sys/wait.h>

#include <array>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>

#include "tests/golden/golden_files.h"

namespace sealift {
namespace {

struct ToolRun {
  int status = -1;
  std::string output;  // both streams
};

ToolRun run(const std::string& arguments) {
  ToolRun result;
  const std::string command = std::string(SEALIFT_MIGRATE_DUMP) + " " + arguments + " 2>&1";
  std::FILE* pipe = ::popen(command.c_str(), "r");
  if (pipe == nullptr) return result;
  std::array<char, 4096> buffer{};
  for (std::size_t n = 0; (n = std::fread(buffer.data(), 1, buffer.size(), pipe)) > 0;) {
    result.output.append(buffer.data(), n);
  }
  const int status = ::pclose(pipe);
  if (WIFEXITED(status)) result.status = WEXITSTATUS(status);
  return result;
}

std::string golden(const std::string& name) { return std::string(SEALIFT_GOLDEN_DIR) + "/" + name; }

TEST(MigrateDump, PrintsEveryGoldenFile) {
  for (const golden::GoldenFile& file : golden::golden_files()) {
    const ToolRun result = run(golden(file.name));
    EXPECT_EQ(result.status, 0) << result.output;
    for (const Record& record : file.records) {
      EXPECT_NE(result.output.find(name_of(record)), std::string::npos) << file.name;
      EXPECT_NE(result.output.find(describe(record)), std::string::npos) << file.name;
    }
  }
}

TEST(MigrateDump, SaysWhereAndWhyABrokenStreamStops) {
  for (const golden::BrokenFile& file : golden::broken_files()) {
    const ToolRun result = run(golden(file.name));
    EXPECT_EQ(result.status, 1) << file.name;
    EXPECT_NE(result.output.find("the stream is malformed " + file.message), std::string::npos)
        << result.output;
  }
  const ToolRun gap = run(golden("broken/sequence_gap.bin"));
  EXPECT_NE(gap.output.find("EpochAck      stream 0  sequence 0"), std::string::npos) << gap.output;
  EXPECT_NE(gap.output.find("1 frames, 144 bytes"), std::string::npos) << gap.output;
}

TEST(MigrateDump, ExitStatusForUsage) {
  EXPECT_EQ(run("").status, 2);
  EXPECT_EQ(run("--unknown").status, 2);
  EXPECT_EQ(run("one two").status, 2);
  const ToolRun missing = run("/nonexistent/stream");
  EXPECT_EQ(missing.status, 2);
  EXPECT_NE(missing.output.find("cannot open /nonexistent/stream: No such file"),
            std::string::npos);
  EXPECT_EQ(run("/").status, 2);
  const ToolRun help = run("--help");
  EXPECT_EQ(help.status, 0);
  EXPECT_EQ(help.output.rfind("usage: migrate-dump FILE", 0), 0U);
}

TEST(MigrateDump, AnEmptyCaptureHasNoFrames) {
  const std::string path = ::testing::TempDir() + "/empty_capture.bin";
  std::ofstream{path};
  const ToolRun result = run(path);
  EXPECT_EQ(result.status, 0);
  EXPECT_EQ(result.output, "0 frames, 0 bytes\n");
  std::filesystem::remove(path);
}

TEST(Describe, NamesRunsOfPagesAndStopsAfterAFew) {
  SharedBatch batch;
  batch.epoch = 4;
  batch.gfns = {Gfn{0x10}, Gfn{0x11}, Gfn{0x12}, Gfn{0x20}};
  batch.encodings.assign(4, PageEncoding::kZero);
  EXPECT_EQ(describe(batch), "epoch 4, 4 pages (4 zero): gfn 0x10-0x12, 0x20");
  for (std::uint64_t i = 0; i < 10; ++i) batch.gfns.push_back(Gfn{0x100 + 2 * i});
  batch.encodings.assign(14, PageEncoding::kRaw);
  EXPECT_EQ(describe(batch),
            "epoch 4, 14 pages (0 zero): gfn 0x10-0x12, 0x20, 0x100, 0x102, 0x104, 0x106, 0x108, "
            "0x10a and 4 more runs");
}

TEST(Describe, CountsTheOperationsOfABatchAndNamesTheKindOfState) {
  PrivateBatch batch;
  batch.epoch = 2;
  batch.ops = {PrivateOp::kImport, PrivateOp::kImportEmpty, PrivateOp::kMetadata,
               PrivateOp::kNothing, PrivateOp::kCancel};
  for (std::uint64_t i = 0; i < 5; ++i) batch.gfns.push_back(Gfn{0x40 + i});
  EXPECT_EQ(describe(batch),
            "epoch 2, 5 entries (1 import, 1 cancel, 1 metadata, 1 nothing, 1 import empty): gfn "
            "0x40-0x44");
  batch.gfns.resize(2);
  batch.ops = {PrivateOp::kCancel, PrivateOp::kCancel};
  EXPECT_EQ(describe(batch), "epoch 2, 2 entries (2 cancel): gfn 0x40-0x41");
  EXPECT_EQ(describe(StateBlob{StateBlob::Kind::kPlatform, 3, "vmsa", 1, Bytes(7)}),
            "platform 3, \"vmsa\" version 1, 7 bytes");
}

}  // namespace
}  // namespace sealift
