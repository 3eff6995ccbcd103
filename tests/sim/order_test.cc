// The order of harvest, classification and reading, against a guest that runs between any two steps
// of the sender. The sender is the production one; the planted bugs live in the fake guest's port,
// where the wrong order would be.
#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <mutex>
#include <variant>
#include <vector>

#include "tests/support/sim_guest.h"
#include "tools/agent/progress.h"
#include "tools/agent/round_sender.h"

namespace sealift::test {
namespace {

constexpr std::uint64_t kPages = 200;
constexpr std::uint64_t kSeeds = 200;

// Applies each record to the destination the moment it is sent.
class DirectChannel : public RecordChannel {
 public:
  DirectChannel(SimGuest& source, SimGuest& destination)
      : source_(source), destination_(destination), importer_(destination) {}

  Result<void> send(Record record) override {
    const std::lock_guard lock(mutex_);
    source_.interleave();  // the guest runs while a record leaves
    if (const auto* batch = std::get_if<SharedBatch>(&record)) return apply(*batch);
    if (const auto* batch = std::get_if<PrivateBatch>(&record))
      return importer_.import_batch(*batch);
    if (const auto* conversions = std::get_if<Conversions>(&record)) apply(*conversions);
    return {};
  }
  Result<Record> receive() override { return fail(ErrorClass::kDisconnected, "one way"); }
  void drain() override {}
  void shutdown() override {}

 private:
  Result<void> apply(const SharedBatch& batch) {
    static constexpr std::array<std::byte, kPageBytes> kZero{};
    ByteView body = batch.body;
    for (std::size_t i = 0; i < batch.gfns.size(); ++i) {
      if (batch.encodings[i] == PageEncoding::kZero) {
        SEALIFT_CHECK(destination_.write_plain(batch.gfns[i], kZero));
        continue;
      }
      SEALIFT_CHECK(destination_.write_plain(
          batch.gfns[i], std::span<const std::byte, kPageBytes>(body.first(kPageBytes))));
      body = body.subspan(kPageBytes);
    }
    return {};
  }
  void apply(const Conversions& conversions) {
    for (GfnRange range : conversions.to_shared)
      destination_.page_map().convert(range, PageClass::kShared);
    for (GfnRange range : conversions.to_private)
      destination_.page_map().convert(range, PageClass::kPrivate);
  }

  std::mutex mutex_;
  SimGuest& source_;
  SimGuest& destination_;
  SimImporter importer_;
};

enum class Rounds { kWhole, kSlices };  // slices: one batch of private pages each

// Pages that are wrong at the destination after three live rounds and a paused one.
std::vector<Gfn> migrate(std::uint64_t seed, Plant plant, unsigned retry_every = 0,
                         Rounds rounds = Rounds::kWhole) {
  SimGuest source(kPages, 0x1234, seed, plant);
  SimGuest destination(kPages, 0x9876, seed + 1);
  destination.await_migration();
  SimExporter exporter(source);
  exporter.retry_every = retry_every;
  DirectChannel channel(source, destination);
  Progress progress;
  RoundSender sender(source, &exporter, channel, progress);
  sender.set_batch_pages_max(16);
  if (rounds == Rounds::kSlices) sender.set_slice_ns(1);
  EXPECT_TRUE(source.start_dirty_tracking());
  for (std::uint32_t epoch = 1; epoch <= 3; ++epoch) {
    const auto stats = sender.send_round({epoch, false});
    EXPECT_TRUE(stats) << stats.error().detail;
  }
  EXPECT_TRUE(source.pause());
  const auto last = sender.send_round({4, true});
  EXPECT_TRUE(last) << last.error().detail;
  destination.take_guest_view(source);
  return source.differences(destination);
}

std::uint64_t seeds_that_lose_a_page(Plant plant, Rounds rounds = Rounds::kWhole) {
  std::uint64_t caught = 0;
  for (std::uint64_t seed = 1; seed <= kSeeds; ++seed)
    if (!migrate(seed, plant, 0, rounds).empty()) ++caught;
  std::printf("seeds that lost a page: %llu of %llu\n", static_cast<unsigned long long>(caught),
              static_cast<unsigned long long>(kSeeds));
  return caught;
}

TEST(HarvestOrder, LosesNoPageWhateverTheGuestDoesInBetween) {
  for (std::uint64_t seed = 1; seed <= kSeeds; ++seed) {
    const auto wrong = migrate(seed, Plant::kNone);
    EXPECT_TRUE(wrong.empty()) << "seed " << seed << ": " << wrong.size() << " pages, first gfn "
                               << value(wrong.front());
  }
}

TEST(HarvestOrder, PagesThatThePlatformPutsBackStillArrive) {
  for (std::uint64_t seed = 1; seed <= 50; ++seed) {
    EXPECT_TRUE(migrate(seed, Plant::kNone, 5).empty()) << "seed " << seed;
  }
}

TEST(HarvestOrder, LosesNoPageThatASliceHadNoTimeFor) {
  for (std::uint64_t seed = 1; seed <= kSeeds; ++seed) {
    const unsigned retry_every = seed % 2 == 0 ? 5 : 0;
    EXPECT_TRUE(migrate(seed, Plant::kNone, retry_every, Rounds::kSlices).empty()) << seed;
  }
}

TEST(PlantedBug, ClassifyBeforeClearingDirtyIsCaught) {
  EXPECT_GT(seeds_that_lose_a_page(Plant::kClassifyBeforeClearing), kSeeds / 20);
  EXPECT_GT(seeds_that_lose_a_page(Plant::kClassifyBeforeClearing, Rounds::kSlices), kSeeds / 20);
}

TEST(PlantedBug, ClearDirtyAfterCopyingIsCaught) {
  EXPECT_GT(seeds_that_lose_a_page(Plant::kClearAfterCopying), kSeeds / 20);
}

TEST(PlantedBug, NoRedirtyOnConversionIsCaught) {
  EXPECT_GT(seeds_that_lose_a_page(Plant::kNoRedirtyOnConversion), kSeeds / 20);
}

}  // namespace
}  // namespace sealift::test
