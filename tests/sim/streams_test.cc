// A migration over several streams: both runners, with the senders and receivers between them.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <string>
#include <vector>

#include "tests/sim/stream_rig.h"

namespace sealift::test {
namespace {

using namespace std::chrono_literals;

class Streams : public testing::TestWithParam<int> {};

TEST_P(Streams, EveryPageArrives) {
  for (std::uint64_t seed = 1; seed <= 5; ++seed) {
    StreamRig rig(seed, static_cast<std::uint8_t>(GetParam()));
    rig.run();
    ASSERT_EQ(rig.report.outcome, Outcome::kDone) << rig.text();
    EXPECT_TRUE(rig.destination_runs()) << rig.text();
    EXPECT_EQ(rig.report.data_streams, GetParam());
    rig.destination.take_guest_view(rig.source);
    EXPECT_TRUE(rig.source.differences(rig.destination).empty());
    const RoundStats totals = rig.report.totals();
    std::uint64_t arrived = 0;
    for (std::uint64_t pages : rig.report_destination.stream_pages) arrived += pages;
    EXPECT_EQ(arrived, totals.shared_pages + totals.zero_pages);
    EXPECT_EQ(rig.report_destination.stream_pages.size(), static_cast<std::size_t>(GetParam()));
    EXPECT_GT(totals.shared_pages, 0U);
    EXPECT_GT(totals.private_pages, 0U);
  }
}

INSTANTIATE_TEST_SUITE_P(Of, Streams, testing::Values(1, 2, 8, 64));

// A destination that is older offers no streams: everything goes on the first connection.
TEST(StreamsOf, AnOlderPeerGetsNone) {
  for (const bool has_bit : {false, true}) {
    StreamRig rig(3, 4);
    rig.destination_hello.streams_max = has_bit ? 1 : limits::kStreamsMax;
    if (!has_bit) rig.destination_hello.features &= ~kFeatureStreams;
    rig.run();
    EXPECT_EQ(rig.report.outcome, Outcome::kDone) << rig.text();
    EXPECT_EQ(rig.report.data_streams, 0);
    rig.destination.take_guest_view(rig.source);
    EXPECT_TRUE(rig.source.differences(rig.destination).empty());
  }
}

// Counts the writes of all streams; at the nth one it cuts its own.
class CutAt : public Stream {
 public:
  CutAt(std::unique_ptr<Stream> stream, std::atomic<int>& writes, int at)
      : stream_(std::move(stream)), writes_(writes), at_(at) {}
  Result<std::size_t> read_some(MutableBytes out) override { return stream_->read_some(out); }
  Result<void> write_parts(std::span<const ByteView> parts) override {
    if (++writes_ == at_) stream_->shutdown();
    return stream_->write_parts(parts);
  }
  Result<void> end_writes() override { return stream_->end_writes(); }
  std::optional<SharedSecret> shared_secret(const std::string& label) override {
    return stream_->shared_secret(label);
  }
  void shutdown() override { stream_->shutdown(); }
  std::string peer() const override { return stream_->peer(); }

 private:
  std::unique_ptr<Stream> stream_;
  std::atomic<int>& writes_;
  int const at_;
};

TEST(StreamsOf, OneThatDiesLeavesTheGuestAtItsSource) {
  int at = 1;
  for (bool was_cut = true; was_cut; at += 1 + at / 8) {
    StreamRig rig(9, 3);
    rig.hooks.join_max = 200ms;
    std::atomic<int> writes{0};
    rig.wrap = [&](std::uint8_t, std::unique_ptr<Stream> stream) {
      return std::make_unique<CutAt>(std::move(stream), writes, at);
    };
    const auto began = std::chrono::steady_clock::now();
    rig.run();
    EXPECT_LT(std::chrono::steady_clock::now() - began, 20s);
    was_cut = writes >= at;
    if (!was_cut) break;
    EXPECT_EQ(rig.report.outcome, Outcome::kSourceRuns) << "cut at " << at << ": " << rig.text();
    EXPECT_EQ(rig.report_destination.outcome, DestinationOutcome::kDiscarded) << rig.text();
    EXPECT_TRUE(rig.source.running()) << rig.text();
    EXPECT_FALSE(rig.destination.running()) << rig.text();
  }
  EXPECT_GT(at, 20) << "hardly a write was cut";
}

TEST(StreamsOf, OneThatNeverJoinsEndsTheMigration) {
  for (const bool wrong_secret : {false, true}) {
    StreamRig rig(4, 2);
    rig.hooks.join_max = 100ms;
    std::unique_ptr<Stream> kept;
    rig.stream_links.open = [&](std::uint8_t number,
                                const CancelToken& cancel) -> Result<std::unique_ptr<Stream>> {
      auto [ours, theirs] = stream_pair(cancel);
      if (wrong_secret) {
        StreamJoin join{number, {}};
        join.secret[0] =
            std::byte{1};  // the right one is random, but this with one chance in 2^128
        EXPECT_FALSE(rig.desk.join(join, std::move(theirs)).has_value());
      } else if (number == 2) {
        kept = std::move(theirs);
      }
      return std::move(ours);
    };
    rig.run();
    EXPECT_EQ(rig.report.outcome, Outcome::kSourceRuns) << rig.text();
    EXPECT_EQ(rig.report_destination.outcome, DestinationOutcome::kDiscarded) << rig.text();
    EXPECT_TRUE(rig.source.running());
  }
}

// Connections that never come to the session: neither side waits for them once it is over.
TEST(StreamsOf, CancelEndsTheWaitForThem) {
  StreamRig rig(5, 2);
  rig.hooks.join_max = 60s;
  std::mutex mutex;
  std::vector<std::unique_ptr<Stream>> lost;
  std::atomic<int> opened{0};
  rig.stream_links.open = [&](std::uint8_t,
                              const CancelToken& cancel) -> Result<std::unique_ptr<Stream>> {
    auto [ours, theirs] = stream_pair(cancel);
    const std::lock_guard lock(mutex);
    lost.push_back(std::move(theirs));
    ++opened;
    return std::move(ours);
  };
  std::jthread operator_thread([&] {
    while (opened < 2 || rig.source_runner == nullptr) std::this_thread::yield();
    rig.source_runner.load()->cancel();
  });
  const auto began = std::chrono::steady_clock::now();
  rig.run();
  EXPECT_LT(std::chrono::steady_clock::now() - began, 10s);
  EXPECT_EQ(rig.report.outcome, Outcome::kCancelled) << rig.text();
  EXPECT_TRUE(rig.source.running());
}

}  // namespace
}  // namespace sealift::test
