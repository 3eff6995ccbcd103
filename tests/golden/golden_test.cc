// Bytes on disk against the code of today: what was once written is still written and still read,
// and nothing damaged is ever taken for it.
#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <set>
#include <sstream>

#include "engine/destination_session.h"
#include "engine/page_map.h"
#include "tests/golden/golden_files.h"

namespace sealift::golden {
namespace {

const std::filesystem::path kGoldenDir = SEALIFT_GOLDEN_DIR;
const std::filesystem::path kWireSpec = SEALIFT_WIRE_SPEC;

Bytes read_file(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  const std::string content{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  EXPECT_FALSE(content.empty()) << path << " is missing or empty";
  const auto* first = reinterpret_cast<const std::byte*>(content.data());
  return {first, first + content.size()};
}

bool is_session(const GoldenFile& file) {
  return file.name.find("session.bin") != std::string::npos;
}

TEST(Golden, TheCodeStillWritesTheseBytes) {
  for (const GoldenFile& file : golden_files()) {
    EXPECT_TRUE(read_file(kGoldenDir / file.name) == file.bytes) << file.name;
  }
  for (const BrokenFile& file : broken_files()) {
    EXPECT_TRUE(read_file(kGoldenDir / file.name) == file.bytes) << file.name;
  }
}

TEST(Golden, TheCodeStillReadsTheseBytes) {
  for (const GoldenFile& file : golden_files()) {
    auto records = read_stream(read_file(kGoldenDir / file.name), is_session(file));
    ASSERT_TRUE(records.has_value()) << file.name << ": " << records.error().detail;
    EXPECT_TRUE(*records == file.records) << file.name;
  }
}

TEST(Golden, EveryFileIsNamedHere) {
  std::set<std::string> known;
  for (const GoldenFile& file : golden_files()) known.insert(file.name);
  for (const BrokenFile& file : broken_files()) known.insert(file.name);
  for (const auto& entry : std::filesystem::recursive_directory_iterator(kGoldenDir)) {
    if (entry.path().extension() != ".bin") continue;
    const std::string name = std::filesystem::relative(entry.path(), kGoldenDir).string();
    EXPECT_TRUE(known.contains(name)) << name << " is not made by golden_writer";
  }
}

TEST(Golden, EachBrokenStreamIsRefusedWithItsMessage) {
  std::set<std::string> messages;
  for (const BrokenFile& file : broken_files()) {
    auto records = read_stream(read_file(kGoldenDir / file.name), false);
    ASSERT_FALSE(records.has_value()) << file.name;
    EXPECT_EQ(records.error().cls, ErrorClass::kMalformed) << file.name;
    EXPECT_EQ(records.error().detail.substr(0, file.message.size()), file.message) << file.name;
    EXPECT_TRUE(messages.insert(file.message).second)
        << file.name << ": the message is not its own";
  }
}

TEST(Golden, EveryTruncationIsAnError) {
  for (const GoldenFile& file : golden_files()) {
    if (!is_session(file)) continue;
    const Bytes bytes = read_file(kGoldenDir / file.name);
    for (std::size_t size = 0; size < bytes.size(); ++size) {
      auto records = read_stream(ByteView(bytes).first(size), true);
      ASSERT_FALSE(records.has_value()) << file.name << " cut to " << size << " bytes";
    }
  }
}

TEST(Golden, EveryTruncationOfASingleFrameIsMalformed) {
  for (const GoldenFile& file : golden_files()) {
    if (is_session(file) || file.records.size() > 1) continue;
    const Bytes bytes = read_file(kGoldenDir / file.name);
    for (std::size_t size = 1; size < bytes.size(); ++size) {
      auto records = read_stream(ByteView(bytes).first(size), false);
      ASSERT_FALSE(records.has_value()) << file.name << " cut to " << size << " bytes";
      ASSERT_EQ(records.error().cls, ErrorClass::kMalformed);
    }
  }
}

// The records without the only bytes that no checksum covers, and how many those are.
std::pair<std::vector<Record>, std::size_t> without_live_bodies(std::vector<Record> records) {
  std::size_t bytes = 0;
  for (Record& record : records) {
    if (auto* pages = std::get_if<LivePages>(&record)) {
      bytes += pages->body.size();
      pages->body.clear();
    }
  }
  return {std::move(records), bytes};
}

TEST(Golden, EveryFlippedBitIsMalformed) {
  for (const GoldenFile& file : golden_files()) {
    Bytes bytes = read_file(kGoldenDir / file.name);
    std::size_t unnoticed = 0;
    for (std::size_t bit = 0; bit < bytes.size() * 8; ++bit) {
      bytes[bit / 8] ^= std::byte{1} << (bit % 8);
      auto records = read_stream(bytes, is_session(file));
      bytes[bit / 8] ^= std::byte{1} << (bit % 8);
      if (records) {
        ++unnoticed;
        ASSERT_TRUE(without_live_bodies(*records) == without_live_bodies(file.records))
            << file.name << " with bit " << bit << " flipped";
        ASSERT_FALSE(*records == file.records);
      } else {
        ASSERT_EQ(records.error().cls, ErrorClass::kMalformed);
      }
    }
    EXPECT_EQ(unnoticed, without_live_bodies(file.records).second * 8) << file.name;
  }
}

// A host on which everything succeeds, and what the session did with it.
struct DestinationWorld {
  std::vector<Record> sent;
  std::optional<destination::End> end;
  Bytes identity;

  std::optional<destination::Event> react(destination::Action& action) {
    using namespace destination;
    if (auto* send = std::get_if<Send>(&action)) sent.push_back(std::move(send->record));
    if (auto* ended = std::get_if<End>(&action)) end = std::move(*ended);
    if (std::holds_alternative<GetIdentity>(action)) return Identity{identity};
    if (std::holds_alternative<BeginPlatform>(action)) return PlatformBegun{};
    if (std::holds_alternative<EndEpoch>(action)) return EpochEnded{};
    if (std::holds_alternative<CheckAndLoad>(action)) return Loaded{1'500'000, 250'000};
    if (std::holds_alternative<destination::Run>(action)) return Ran{90'000};
    return std::nullopt;
  }
};

const GoldenFile& named(const std::vector<GoldenFile>& files, const std::string& name) {
  return *std::find_if(files.begin(), files.end(),
                       [&](const GoldenFile& file) { return file.name == name; });
}

// The two golden sessions are one migration: the engine's destination, fed with the source's
// direction, says the other.
TEST(Golden, TheDestinationSessionAnswersOneStreamWithTheOther) {
  const std::vector<GoldenFile> files = golden_files();
  const GoldenFile& theirs = named(files, "wire-v1/source_session.bin");
  const GoldenFile& ours = named(files, "wire-v1/destination_session.bin");
  const auto& local = std::get<Hello>(ours.records[0]);
  auto layout = MemoryLayout::make(local.memory);
  ASSERT_TRUE(layout.has_value());
  DestinationSession session(local, *layout);
  DestinationWorld world{{}, {}, std::get<SessionAccept>(ours.records[1]).identity};
  for (const Record& record : theirs.records) {
    std::deque<destination::Event> events;
    if (const auto* pages = std::get_if<LivePages>(&record)) {  // what stream 1's thread does
      EXPECT_TRUE(session.admission().admit(*pages).has_value());
    } else if (const auto* end = std::get_if<EpochEnd>(&record);
               end != nullptr && end->stream == 1) {
      EXPECT_TRUE(session.admission().end(*end).has_value());
      events.emplace_back(destination::StreamEnded{*end});
    } else if (const auto* join = std::get_if<StreamJoin>(&record); !join || join->stream == 0) {
      events.emplace_back(destination::Received{record});
    }
    for (; !events.empty(); events.pop_front()) {
      std::vector<destination::Action> actions;
      session.step(std::move(events.front()), actions);
      for (destination::Action& action : actions) {
        if (auto answer = world.react(action)) events.push_back(std::move(*answer));
      }
    }
  }
  ASSERT_TRUE(world.end.has_value());
  EXPECT_EQ(world.end->outcome, DestinationOutcome::kRuns)
      << (world.end->error ? world.end->error->detail : "");
  EXPECT_TRUE(world.sent == ours.records);
}

// The rules of "Epochs" that the receiver of single records cannot see.
class OrderOfPages {
 public:
  void operator()(const Conversions& conversions) {
    EXPECT_EQ(conversions.epoch, epoch_ == 1 ? 0 : epoch_);
    EXPECT_FALSE(pages_came_) << "Conversions of epoch " << epoch_ << " after pages of it";
    for (GfnRange range : conversions.to_shared) convert(range, PageClass::kShared);
    for (GfnRange range : conversions.to_private) convert(range, PageClass::kPrivate);
  }
  void operator()(const EpochBegin& begin) {
    EXPECT_EQ(begin.epoch, epoch_);
    begun_ = true;
  }
  void operator()(const LivePages& pages) {
    for (const auto* ranges : {&pages.zero, &pages.raw}) {
      for (GfnRange range : *ranges) {
        for (std::uint64_t i = 0; i < range.pages; ++i) {
          expect_page(range.first + i, pages.stream, PageClass::kShared);
        }
      }
    }
  }
  void operator()(const PrivateBatch& batch) {
    for (std::size_t i = 0; i < batch.gfns.size(); ++i) {
      if (is_page(batch.ops[i])) expect_page(batch.gfns[i], batch.stream, PageClass::kPrivate);
      if (batch.ops[i] != PrivateOp::kCancel) continue;
      EXPECT_EQ(batch.stream, 0);
      cancelled_ = true;
      ++cancellations_;
    }
  }
  void operator()(const EpochEnd&) {
    if (++ended_ < kStreams) return;
    ended_ = 0;
    ++epoch_;
    pages_came_ = cancelled_ = begun_ = false;
    converted_.clear();
  }
  template <class Other>
  void operator()(const Other&) {}

  int cancellations() const { return cancellations_; }
  int pages_that_changed_class() const { return changed_; }

 private:
  static constexpr unsigned kStreams = 2;

  void convert(GfnRange range, PageClass cls) {
    map_.convert(range, cls);
    for (std::uint64_t i = 0; i < range.pages; ++i) converted_.insert(range.first + i);
  }
  void expect_page(Gfn gfn, std::uint8_t stream, PageClass cls) {
    pages_came_ = true;
    EXPECT_TRUE(begun_) << "gfn " << value(gfn) << " before the epoch began";
    EXPECT_EQ(map_.class_of(gfn), cls) << "gfn " << value(gfn) << " in epoch " << epoch_;
    EXPECT_FALSE(cancelled_ && stream == 0) << "gfn " << value(gfn) << " after cancellations";
    if (converted_.contains(gfn)) ++changed_;
  }

  PageMap map_{0x1000};
  std::set<Gfn> converted_;  // in this epoch
  std::uint32_t epoch_ = 1;
  unsigned ended_ = 0;       // streams, of this epoch
  bool begun_ = false;       // its Conversions are over
  bool pages_came_ = false;  // in this epoch
  bool cancelled_ = false;
  int cancellations_ = 0;
  int changed_ = 0;
};

TEST(Golden, PagesTravelByTheClassThatWasAnnounced) {
  const std::vector<GoldenFile> files = golden_files();
  OrderOfPages order;
  for (const Record& record : named(files, "wire-v1/source_session.bin").records) {
    std::visit(order, record);
  }
  EXPECT_EQ(order.cancellations(), 1);
  EXPECT_EQ(order.pages_that_changed_class(), 5);
}

// The hex block "```example" of docs/spec/wire.md: lines of an offset, a colon and bytes.
TEST(Golden, TheWorkedExampleOfTheSpecificationIsTrue) {
  std::ifstream spec(kWireSpec);
  Bytes bytes;
  bool inside = false;
  for (std::string line; std::getline(spec, line);) {
    if (line.rfind("```", 0) == 0) {
      inside = line == "```example";
      continue;
    }
    if (!inside) continue;
    std::istringstream words(line.substr(line.find(':') + 1));
    for (unsigned int byte = 0; words >> std::hex >> byte;) {
      bytes.push_back(static_cast<std::byte>(byte));
    }
  }
  EXPECT_TRUE(bytes == example_frame()) << bytes.size() << " bytes in the specification";
}

}  // namespace
}  // namespace sealift::golden
