// A firmware that exports few pages beside a fast plain path, with both runners in memory. Times
// are those of AMD's firmware made 20 times shorter: 8000 pages/s and slices of 50 ms stand for 400
// pages/s and slices of a second.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <thread>
#include <variant>
#include <vector>

#include "tests/support/memory_channel.h"
#include "tests/support/sim_guest.h"
#include "tools/agent/destination_runner.h"
#include "tools/agent/round_sender.h"
#include "tools/agent/source_runner.h"

namespace sealift::test {
namespace {

constexpr std::uint64_t kPages = 3000;
constexpr std::uint64_t kSlice_ns = 50'000'000;
constexpr auto kExport = std::chrono::microseconds(125);

// Takes its time for each page; stays one call at a time.
class SlowExporter : public SimExporter {
 public:
  using SimExporter::SimExporter;
  Result<ExportResult> export_batch(std::uint8_t stream, std::uint32_t epoch,
                                    std::span<const Gfn> gfns) override {
    std::unique_lock lock(mutex_);
    ++calls;
    for (Gfn gfn : gfns) exported.push_back(gfn);
    if (fail_after != 0 && exported.size() > fail_after) {
      return fail(ErrorClass::kLocalFault, "the firmware failed on purpose");
    }
    never_.wait_for(lock, gfns.size() * kExport, [] { return false; });
    return SimExporter::export_batch(stream, epoch, gfns);
  }
  std::vector<Gfn> exported;
  std::atomic<std::size_t> calls{0};
  std::size_t fail_after = 0;

 private:
  std::mutex mutex_;
  std::condition_variable never_;
};

// Applies nothing; keeps what was sent when.
class Recorder : public RecordChannel {
 public:
  explicit Recorder(std::function<void(const Record&)> seen = {}) : seen_(std::move(seen)) {}
  Result<void> send(Record record) override {
    const std::lock_guard lock(mutex_);
    if (seen_) seen_(record);
    if (fail_shared && std::holds_alternative<SharedBatch>(record)) {
      return fail(ErrorClass::kDisconnected, "the link failed on purpose");
    }
    if (const auto* batch = std::get_if<SharedBatch>(&record)) add(batch->epoch, batch->gfns);
    if (const auto* batch = std::get_if<PrivateBatch>(&record)) add(batch->epoch, batch->gfns);
    return {};
  }
  Result<Record> receive() override { return fail(ErrorClass::kDisconnected, "one way"); }
  void drain() override {}
  void shutdown() override {}
  bool fail_shared = false;
  std::map<std::uint32_t, std::set<Gfn>> sent;  // by epoch
  std::uint64_t twice = 0;                      // pages that came again within an epoch

 private:
  void add(std::uint32_t epoch, const std::vector<Gfn>& gfns) {
    for (Gfn gfn : gfns) {
      if (!sent[epoch].insert(gfn).second) ++twice;
    }
  }
  std::mutex mutex_;
  std::function<void(const Record&)> seen_;
};

class SlowFirmware : public ::testing::Test {
 protected:
  void SetUp() override {
    guest_.await_migration();  // it takes no steps by itself
    guest_.page_map().convert(GfnRange{Gfn{0}, kShared}, PageClass::kShared);
  }
  RoundSender& sender(RecordChannel& channel) {
    sender_ = std::make_unique<RoundSender>(guest_, &exporter_, channel, progress_);
    sender_->set_batch_pages_max(64);
    sender_->set_slice_ns(kSlice_ns);
    return *sender_;
  }

  static constexpr std::uint64_t kShared = 200;
  SimGuest guest_{kPages, 1, 1};
  SlowExporter exporter_{guest_};
  Progress progress_;
  std::unique_ptr<RoundSender> sender_;
};

TEST_F(SlowFirmware, AnEpochTakesAllSharedPagesAndASliceOfThePrivateOnes) {
  Recorder channel;
  RoundSender& sends = sender(channel);
  std::uint64_t left = kPages - kShared, epochs = 0;
  for (std::uint32_t epoch = 1; left > 0; ++epoch, ++epochs) {
    ASSERT_LT(epochs, 1000u);
    for (std::uint64_t page = 0; page < 50; ++page) guest_.dirty().mark(Gfn{page});
    const auto stats = sends.send_round({epoch, false});
    ASSERT_TRUE(stats) << stats.error().detail;
    EXPECT_EQ(stats->shared_pages + stats->zero_pages, epoch == 1 ? kShared : 50);
    EXPECT_LE(stats->private_pages + stats->left_private_pages, left);
    EXPECT_EQ(stats->passes, stats->left_private_pages == 0 ? 1u : 0u);
    left -= stats->private_pages;
    EXPECT_EQ(stats->left_private_pages, left);
    EXPECT_EQ(guest_.dirty().count(), left) << "what there was no time for is still dirty";
  }
  EXPECT_GE(epochs,
            3u);  // 2800 pages at 8000 a second take seven slices when nothing is in the way
  EXPECT_EQ(channel.twice, 0u);
  EXPECT_EQ(exporter_.exported.size(), kPages - kShared);
}

// Written while the firmware is busy: they wait for the slice, not for the 350 ms that the private
// pages take.
TEST_F(SlowFirmware, SharedPagesDoNotWaitBehindPrivateOnes) {
  std::size_t exports_when_shared_left = 0;
  std::uint64_t shared_sent = 0;
  Recorder channel([&](const Record& record) {
    if (const auto* batch = std::get_if<SharedBatch>(&record)) {
      shared_sent += batch->gfns.size();
      if (shared_sent == kShared) exports_when_shared_left = exporter_.calls;
    }
  });
  RoundSender& sends = sender(channel);
  ASSERT_TRUE(sends.send_round({1, false}));
  EXPECT_EQ(shared_sent, kShared);
  EXPECT_LT(exports_when_shared_left, exporter_.calls)
      << "all shared pages left before the last export began";
  guest_.dirty().mark(Gfn{7});
  ASSERT_TRUE(sends.send_round({2, false}));
  EXPECT_TRUE(channel.sent[2].contains(Gfn{7}));
  EXPECT_GT(guest_.dirty().count(), 0u) << "private pages were left when the shared one went";
}

TEST_F(SlowFirmware, ColdPagesLeaveBeforeHotOnes) {
  Recorder channel;
  RoundSender& sends = sender(channel);
  ASSERT_TRUE(sends.send_round({1, false}));
  const std::set<Gfn> first(exporter_.exported.begin(), exporter_.exported.end());
  // The lowest addresses of what is left are written again and again.
  std::set<Gfn> hot;
  for (std::uint64_t page = kShared; page < kPages && hot.size() < 100; ++page) {
    if (!first.contains(Gfn{page})) hot.insert(Gfn{page});
  }
  for (int i = 0; i < 10; ++i) {
    for (Gfn gfn : hot) guest_.dirty().mark(gfn);
  }
  for (std::uint32_t epoch = 2; guest_.dirty().count() > 0 && epoch < 100; ++epoch) {
    ASSERT_TRUE(sends.send_round({epoch, false, guest_.dirty().count() > 100 ? 100u : 0u}));
  }
  ASSERT_EQ(exporter_.exported.size(), kPages - kShared);
  const std::set<Gfn> last(exporter_.exported.end() - 100, exporter_.exported.end());
  EXPECT_EQ(last, hot);
}

// KVM's log reports every page at first: a page is no hotter for that.
TEST_F(SlowFirmware, TheFirstHarvestHeatsNothing) {
  Recorder channel;
  RoundSender& sends = sender(channel);
  ASSERT_TRUE(sends.send_round({1, false}));  // SimGuest's log holds all pages at first
  const HeatEstimate estimate = sends.heat_estimate();
  EXPECT_EQ(estimate.classes[0].pages, kPages - kShared);
  for (const HeatClass& cls : estimate.classes) EXPECT_EQ(cls.writes_per_s, 0);
}

TEST_F(SlowFirmware, AFailureOfEitherHalfIsTheRoundsFailure) {
  Recorder channel;
  exporter_.fail_after = 100;
  auto stats = sender(channel).send_round({1, false});
  ASSERT_FALSE(stats);
  EXPECT_EQ(stats.error().detail, "the firmware failed on purpose");
  Recorder broken;
  broken.fail_shared = true;
  exporter_.fail_after = 0;
  stats = sender(broken).send_round({1, false});
  ASSERT_FALSE(stats);
  EXPECT_EQ(stats.error().detail, "the link failed on purpose");
}

TEST_F(SlowFirmware, StopEndsAnExportWithinABatch) {
  std::atomic<bool> exporting{false};
  Recorder channel([&](const Record& record) {
    if (std::holds_alternative<PrivateBatch>(record)) exporting = true;
  });
  RoundSender& sends = sender(channel);
  sends.set_slice_ns(3'600'000'000'000);  // 2800 pages take 350 ms
  std::jthread canceller([&] {
    while (!exporting) std::this_thread::yield();
    sends.stop();
  });
  const auto stats = sends.send_round({1, false});
  ASSERT_FALSE(stats);
  EXPECT_EQ(stats.error().cls, ErrorClass::kCancelled);
  EXPECT_LT(exporter_.exported.size(), kPages - kShared);
}

// Both sides, a guest that runs, and pages that the platform puts back.
TEST(SlowExporter, AWholeMigrationInSlicesLosesNothing) {
  for (std::uint64_t seed = 1; seed <= 3; ++seed) {
    SimGuest source(600, 11, seed), destination(600, 22, seed + 1);
    destination.await_migration();
    SlowExporter exporter(source);
    exporter.retry_every = 7;
    SimImporter importer(destination);
    auto [source_end, destination_end] = make_memory_channels();
    Hello hello;
    hello.platform = Platform::kSev;
    hello.backend = "model";
    hello.memory = {GfnRange{Gfn{0}, 600}};
    hello.batch_pages_max = 16;
    SourceConfig config;
    config.hello = hello;
    config.harvest_every_ns = 5'000'000;
    config.goals.downtime_max_ns = 1;
    config.goals.rounds_max = 6;
    config.slice_ns = 10'000'000;
    DestinationHooks hooks;
    hooks.open_guest = [&]() -> Result<IncomingGuest> {
      return IncomingGuest{&destination, &importer};
    };
    Progress progress, progress_destination;
    SourceRunner runner(config, source, &exporter, *source_end, progress);
    DestinationRunner incoming(hello, destination.layout(), *destination_end, hooks,
                               progress_destination);
    DestinationReport received;
    std::jthread thread([&] { received = incoming.run(); });
    const MigrationReport report = runner.run();
    thread.join();
    ASSERT_EQ(report.outcome, Outcome::kDone) << (report.error ? report.error->detail : "-");
    EXPECT_GT(report.totals().epochs, report.totals().passes) << "some epochs were slices";
    destination.take_guest_view(source);
    EXPECT_TRUE(source.differences(destination).empty()) << "seed " << seed;
  }
}

}  // namespace
}  // namespace sealift::test
