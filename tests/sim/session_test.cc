// Both runners, joined by a link in memory that can be cut at any record, with a port that can fail
// at any call, and a cancel that can come at any moment. Whatever happens, exactly one side ends up
// with a running guest.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <thread>

#include "tests/sim/rig.h"

namespace sealift::test {
namespace {

TEST(Session, MovesTheGuestExactly) {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    Rig rig(seed);
    rig.run();
    ASSERT_EQ(rig.report.outcome, Outcome::kDone) << rig.text();
    EXPECT_TRUE(rig.destination_runs());
    EXPECT_FALSE(rig.source.running());
    EXPECT_TRUE(rig.destination.running());
    EXPECT_TRUE(rig.exporter.released);
    EXPECT_TRUE(rig.importer.sealed);
    EXPECT_TRUE(rig.importer.committed);
    rig.destination.take_guest_view(rig.source);
    EXPECT_TRUE(rig.source.differences(rig.destination).empty()) << "seed " << seed;
    ASSERT_EQ(rig.destination.loaded_state().size(), 1u);
    EXPECT_EQ(rig.report.rounds.size(), 5u);  // four live and the last
    EXPECT_GT(rig.report.downtime.total_ns, 0u);
    std::uint64_t parts_ns = 0;
    for (const DowntimePart& part : rig.report.downtime.parts()) parts_ns += part.ns;
    EXPECT_EQ(parts_ns, rig.report.downtime.total_ns);
    EXPECT_GT(rig.report.downtime.last_harvest_ns, 0u);
    EXPECT_LT(rig.report.downtime.total_ns, rig.report.total_ns);
    ASSERT_TRUE(rig.report.prediction);
    EXPECT_FALSE(rig.report.prediction->why.empty());
  }
}

TEST(Session, CheckMovesNothing) {
  Rig rig(1);
  rig.source_config.check_only = true;
  rig.run();
  EXPECT_EQ(rig.report.outcome, Outcome::kDone) << rig.text();
  EXPECT_EQ(rig.report_destination.outcome, DestinationOutcome::kChecked);
  EXPECT_TRUE(rig.source.running());
  EXPECT_FALSE(rig.exporter.begun);
}

TEST(Session, RefusesWhatDoesNotFitWithBothValues) {
  struct Case {
    const char* name;
    std::function<void(Hello&)> change;
    const char* text;
  };
  const Case cases[] = {
      {"version", [](Hello& h) { h.version_min = h.version_max = 7; },
       "no common protocol version: B speaks 7 to 7, A speaks 1 to 1"},
      {"platform", [](Hello& h) { h.platform = Platform::kTdx; },
       "platforms differ: B has tdx, A has sev"},
      {"backend", [](Hello& h) { h.backend = "kvm"; },
       "back-ends differ: B runs guests on kvm, A on model"},
      {"page size", [](Hello& h) { h.page_bytes = 16384; },
       "page sizes differ: B uses 16384 bytes, A uses 4096"},
      {"layout", [](Hello& h) { h.memory = {GfnRange{Gfn{0}, 512}}; },
       "guest memory layouts differ: B has 0x0-0x1fffff (2 MiB), A has 0x0-0x12bfff (1200 KiB)"},
      {"vcpus", [](Hello& h) { h.vcpus = 2; }, "vCPU counts differ: B has 2, A has 1"},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    Rig rig(1);
    c.change(rig.destination_hello);
    rig.run();
    EXPECT_EQ(rig.report.outcome, Outcome::kRefused) << rig.text();
    ASSERT_TRUE(rig.report.error && rig.report_destination.error);
    EXPECT_NE(rig.report.error->detail.find(c.text), std::string::npos) << rig.text();
    EXPECT_NE(rig.report_destination.error->detail.find(c.text), std::string::npos) << rig.text();
    EXPECT_TRUE(rig.source.running());
    EXPECT_FALSE(rig.destination_runs());
  }
}

// Cuts the link before the nth record in either direction, for every n.
void cut_at_every_record(bool from_source) {
  for (unsigned n = 0;; ++n) {
    SCOPED_TRACE(n);
    Rig rig(n + 1);
    unsigned sent = 0;
    bool cut = false;
    bool handover_sent = false;
    rig.source_end->on_send = [&](Record& record) {
      if (from_source && sent++ == n) {
        cut = true;
        rig.source_end->shutdown();
        return;
      }
      if (std::holds_alternative<Handover>(record)) handover_sent = true;
    };
    if (!from_source) {
      rig.destination_end->on_send = [&](Record&) {
        if (sent++ != n) return;
        cut = true;
        rig.destination_end->shutdown();
      };
    }
    rig.run();
    if (!cut) {
      EXPECT_EQ(rig.report.outcome, Outcome::kDone) << rig.text();
      return;
    }
    if (rig.report.outcome == Outcome::kDone) continue;  // cut after the last word that matters
    ASSERT_TRUE(rig.report.error) << rig.text();
    if (rig.report.outcome == Outcome::kInDoubt) {
      EXPECT_FALSE(rig.source.running()) << rig.text();
      EXPECT_TRUE(handover_sent || from_source) << rig.text();
    } else {
      EXPECT_EQ(rig.report.outcome, Outcome::kSourceRuns) << rig.text();
      EXPECT_TRUE(rig.source.running()) << rig.text();
      EXPECT_FALSE(rig.destination_runs()) << rig.text();
      EXPECT_FALSE(rig.source.tracking()) << rig.text();
      EXPECT_EQ(rig.exporter.begun, rig.exporter.cancelled) << rig.text();
      EXPECT_NE(rig.report.error->detail.find("the link was cut"), std::string::npos) << rig.text();
    }
  }
}

TEST(Session, LinkCutBeforeAnySourceRecordLeavesOneGuest) { cut_at_every_record(true); }
TEST(Session, LinkCutBeforeAnyDestinationRecordLeavesOneGuest) { cut_at_every_record(false); }

// A guest port and a platform whose nth call fails.
class FaultyGuest : public SimGuest {
 public:
  FaultyGuest(std::uint64_t seed, unsigned fail_at)
      : SimGuest(kPages, 11, seed), fail_at_(fail_at) {}
  bool fired() const { return fired_; }
  Result<void> start_dirty_tracking() override {
    return failing() ? oops("start_dirty_tracking") : SimGuest::start_dirty_tracking();
  }
  Result<void> harvest_dirty() override {
    return failing() ? oops("harvest_dirty") : SimGuest::harvest_dirty();
  }
  Result<void> read_plain(Gfn gfn, std::span<std::byte, kPageBytes> out) override {
    return failing() ? oops("read_plain") : SimGuest::read_plain(gfn, out);
  }
  Result<void> pause() override { return failing() ? oops("pause") : SimGuest::pause(); }
  Result<std::vector<StateBlob>> save_state() override {
    if (failing()) return sealift::fail(ErrorClass::kLocalFault, "save_state failed on purpose");
    return SimGuest::save_state();
  }

 private:
  bool failing() {
    const bool now = calls_++ == fail_at_;
    fired_ = fired_ || now;
    return now;
  }
  static Result<void> oops(const char* what) {
    return sealift::fail(ErrorClass::kLocalFault, "{} failed on purpose", what);
  }
  unsigned fail_at_;
  unsigned calls_ = 0;
  bool fired_ = false;
};

TEST(Session, AnyFailingCallOfTheSourceLeavesItsGuestRunning) {
  for (unsigned n = 0;; n += n < 10 ? 1 : 17) {
    SCOPED_TRACE(n);
    Rig rig(n + 1);
    FaultyGuest guest(n + 1, n);
    SimExporter exporter(guest);
    SourceRunner runner(rig.source_config, guest, &exporter, *rig.source_end, rig.progress);
    Progress progress;
    DestinationRunner incoming(rig.destination_hello, rig.destination.layout(),
                               *rig.destination_end, rig.hooks, progress);
    DestinationReport destination;
    std::jthread thread([&] { destination = incoming.run(); });
    const MigrationReport report = runner.run();
    thread.join();
    if (!guest.fired()) {
      EXPECT_EQ(report.outcome, Outcome::kDone);
      return;
    }
    EXPECT_EQ(report.outcome, Outcome::kSourceRuns);
    ASSERT_TRUE(report.error);
    EXPECT_NE(report.error->detail.find("failed on purpose"), std::string::npos)
        << report.error->detail;
    EXPECT_TRUE(guest.running());
    EXPECT_EQ(exporter.begun, exporter.cancelled);
    EXPECT_EQ(destination.outcome, DestinationOutcome::kDiscarded);
    // The destination says whose failure it was and why.
    ASSERT_TRUE(destination.error);
    EXPECT_NE(destination.error->detail.find("failed on purpose"), std::string::npos)
        << destination.error->detail;
  }
}

TEST(Session, CancelAtAnyRecordEndsWithinASecond) {
  for (unsigned n = 0; n < 80; ++n) {
    SCOPED_TRACE(n);
    Rig rig(n + 1);
    unsigned sent = 0;
    std::chrono::steady_clock::time_point asked;
    rig.source_end->on_send = [&](Record&) {
      if (sent++ != n) return;
      asked = std::chrono::steady_clock::now();
      rig.source_runner.load()->cancel();
    };
    rig.run();
    if (rig.report.outcome == Outcome::kDone) continue;  // it came after the hand-over
    EXPECT_EQ(rig.report.outcome, Outcome::kCancelled) << rig.text();
    EXPECT_LT(std::chrono::steady_clock::now() - asked, std::chrono::seconds(1)) << rig.text();
    EXPECT_TRUE(rig.source.running());
    EXPECT_FALSE(rig.destination_runs());
    EXPECT_FALSE(rig.source.tracking());
  }
}

TEST(Session, CancelWorksWhileThePeerHasStoppedReading) {
  Rig rig(3);
  SourceRunner runner(rig.source_config, rig.source, &rig.exporter, *rig.source_end, rig.progress);
  // A destination that answers up to SessionReady and then never reads again.
  std::jthread mute([&] {
    DestinationSession session(rig.destination_hello, rig.destination.layout());
    ASSERT_TRUE(rig.destination_end->receive());
    ASSERT_TRUE(rig.destination_end->send(rig.destination_hello));
    ASSERT_TRUE(rig.destination_end->receive());
    ASSERT_TRUE(rig.destination_end->send(SessionAccept{Bytes(4, std::byte{1})}));
    ASSERT_TRUE(rig.destination_end->receive());
    ASSERT_TRUE(rig.destination_end->send(SessionReady{}));
  });
  MigrationReport report;
  std::jthread source([&] { report = runner.run(); });
  mute.join();
  while (rig.progress.read().round.sent_pages() == 0) std::this_thread::yield();
  const auto asked = std::chrono::steady_clock::now();
  runner.cancel();
  source.join();
  EXPECT_LT(std::chrono::steady_clock::now() - asked, std::chrono::milliseconds(1500));
  EXPECT_EQ(report.outcome, Outcome::kCancelled);
  EXPECT_TRUE(rig.source.running());
}

TEST(Session, TheTimeLimitCancelsWithItsOwnOutcome) {
  Rig rig(4);
  rig.source_config.deadline_ns = 1;  // passed long ago
  rig.source_config.goals.on_timeout = OnTimeout::kForce;  // there is nothing to pause for yet
  rig.run();
  EXPECT_EQ(rig.report.outcome, Outcome::kTimedOut) << rig.text();
  EXPECT_TRUE(rig.source.running());
}

TEST(Session, GivesUpWhenToldSoAndItDoesNotConverge) {
  Rig rig(5);
  rig.source_config.goals.on_stall = OnStall::kCancel;
  rig.run();
  EXPECT_EQ(rig.report.outcome, Outcome::kSourceRuns) << rig.text();
  EXPECT_NE(rig.report.error->detail.find("round limit reached after 4 rounds"), std::string::npos)
      << rig.text();
}

TEST(Session, TotalsThatDoNotAddUpAreRefused) {
  Rig rig(6);
  rig.source_end->on_send = [](Record& record) {
    if (auto* marker = std::get_if<EpochEnd>(&record)) marker->shared_pages += 1;
  };
  rig.run();
  EXPECT_EQ(rig.report.outcome, Outcome::kSourceRuns) << rig.text();
  EXPECT_NE(rig.report.error->detail.find("announces"), std::string::npos) << rig.text();
}

TEST(Session, APageMapThatDiffersIsRefused) {
  Rig rig(7);
  rig.source_end->on_send = [](Record& record) {
    if (auto* finish = std::get_if<Finish>(&record)) finish->page_map_digest[3] ^= std::byte{1};
  };
  rig.run();
  EXPECT_EQ(rig.report.outcome, Outcome::kSourceRuns) << rig.text();
  EXPECT_NE(rig.report.error->detail.find("the page map here"), std::string::npos) << rig.text();
  EXPECT_TRUE(rig.source.running());
}

TEST(Session, APageOfAnotherClassThanAnnouncedIsRefused) {
  Rig rig(7);
  rig.source_end->on_send = [](Record& record) {
    if (auto* conversions = std::get_if<Conversions>(&record)) conversions->to_shared.clear();
  };
  rig.run();
  EXPECT_EQ(rig.report.outcome, Outcome::kSourceRuns) << rig.text();
  EXPECT_NE(rig.report.error->detail.find("came as shared but was announced as the other class"),
            std::string::npos)
      << rig.text();
}

// What SNP and TDX need beyond pages: entries that are no pages, and state only the firmware can
// read.
TEST(Session, CarriesThePlatformsOwnEntriesAndState) {
  Rig rig(9);
  rig.exporter.extras_per_epoch = 7;
  StateBlob blob;
  blob.kind = StateBlob::Kind::kPlatform;
  blob.name = "vmsa";
  blob.bytes.resize(100, std::byte{5});
  rig.exporter.platform_state = {blob};
  rig.run();
  ASSERT_EQ(rig.report.outcome, Outcome::kDone) << rig.text();
  EXPECT_TRUE(rig.exporter.guest_is_paused);
  EXPECT_EQ(rig.importer.metadata_entries, 7 * rig.report.rounds.size());
  EXPECT_EQ(rig.importer.platform_state, rig.exporter.platform_state);
  EXPECT_EQ(rig.destination.loaded_state().size(), 1u);  // the guest's own, without the platform's
}

// SNP's swap takes pages away, so they leave only while the guest is paused; shared pages go
// before.
TEST(Session, APlatformWithoutLiveExportSendsPrivatePagesInTheLastRoundOnly) {
  Rig rig(10);
  rig.exporter.own_traits.live_export = false;
  rig.run();
  ASSERT_EQ(rig.report.outcome, Outcome::kDone) << rig.text();
  for (const RoundStats& round : rig.report.rounds) {
    EXPECT_EQ(round.private_pages > 0, round.guest_paused) << round.epoch;
  }
  rig.destination.take_guest_view(rig.source);
  EXPECT_TRUE(rig.source.differences(rig.destination).empty());
}

TEST(Session, AWindowOfPagesIsPreparedBeforeAnyOfItIsExported) {
  Rig rig(11);
  class Preparing : public SimExporter {
   public:
    using SimExporter::SimExporter;
    Result<void> prepare(std::uint32_t, std::span<const Gfn> gfns) override {
      largest_window = std::max(largest_window, gfns.size());
      prepared.insert(gfns.begin(), gfns.end());
      return {};
    }
    Result<ExportResult> export_batch(std::uint8_t stream, std::uint32_t epoch,
                                      std::span<const Gfn> gfns) override {
      for (Gfn gfn : gfns) {
        if (prepared.erase(gfn) == 0) return fail(ErrorClass::kLocalFault, "not prepared");
      }
      return SimExporter::export_batch(stream, epoch, gfns);
    }
    std::size_t largest_window = 0;
    std::set<Gfn> prepared;
  } exporter(rig.source);
  exporter.own_traits.prepare_window_pages = 100;
  exporter.own_traits.batch_pages_max = 10;
  Progress progress;
  SourceRunner runner(rig.source_config, rig.source, &exporter, *rig.source_end, rig.progress);
  DestinationRunner incoming(rig.destination_hello, rig.destination.layout(), *rig.destination_end,
                             rig.hooks, progress);
  std::jthread thread([&] { rig.report_destination = incoming.run(); });
  rig.report = runner.run();
  thread.join();
  EXPECT_EQ(rig.report.outcome, Outcome::kDone) << rig.text();
  EXPECT_GT(exporter.largest_window, 10u);
  EXPECT_LE(exporter.largest_window, 100u);
}

TEST(Session, AnAbortAfterTheHandoverBringsTheGuestBack) {
  Rig rig(8);
  rig.hooks.about_to_run = [&] {};
  class CannotCommit : public SimImporter {
   public:
    using SimImporter::SimImporter;
    Result<void> commit() override {
      return fail(ErrorClass::kLocalFault, "commit failed on purpose");
    }
  } importer(rig.destination);
  rig.hooks.open_guest = [&]() -> Result<IncomingGuest> {
    return IncomingGuest{&rig.destination, &importer};
  };
  rig.run();
  EXPECT_EQ(rig.report.outcome, Outcome::kSourceRuns) << rig.text();
  EXPECT_TRUE(rig.source.running());
  EXPECT_NE(rig.report.error->detail.find("commit failed on purpose"), std::string::npos);
}

}  // namespace
}  // namespace sealift::test
