// What both sides write down of the right to run, when, and what happens when it cannot be written.
#include <gtest/gtest.h>

#include <algorithm>
#include <mutex>
#include <optional>

#include "tests/sim/rig.h"

namespace sealift::test {
namespace {

// One trace of both sides: the notes that became durable and the records that left.
class Trace {
 public:
  void add(std::string what) {
    const std::lock_guard lock(mutex_);
    words_.push_back(std::move(what));
  }
  std::ptrdiff_t at(const std::string& what) {
    const std::lock_guard lock(mutex_);
    const auto found = std::find(words_.begin(), words_.end(), what);
    return found == words_.end() ? -1 : found - words_.begin();
  }

 private:
  std::mutex mutex_;
  std::vector<std::string> words_;
};

struct TracedNotes : RightNotes {
  TracedNotes(Trace& trace, const SimGuest& guest) : trace_(trace), guest_(guest) {}
  Result<void> note(RightStep step, const RightFacts& facts) override {
    if (step == fails) return fail(fails_as, "no space left");
    EXPECT_EQ(facts.guest, "guest");
    EXPECT_EQ(facts.claim.generation, 7u);
    if (step == RightStep::kTaken) {
      EXPECT_FALSE(guest_.running());
    }
    trace_.add(name_of(step));
    return {};
  }
  std::optional<RightStep> fails;
  ErrorClass fails_as = ErrorClass::kLocalFault;

 private:
  Trace& trace_;
  const SimGuest& guest_;
};

struct NotedRig : Rig {
  NotedRig() : Rig(1) {
    source_config.claim = Claim{{std::byte{1}}, 7};
    source_config.hello.features |= kFeatureJournal;
    destination_hello.features |= kFeatureJournal;
    source_notes = &at_source;
    destination_notes = &at_destination;
    source_end->on_send = [this](Record& record) { sends(*source_end, record); };
    destination_end->on_send = [this](Record& record) { sends(*destination_end, record); };
  }
  void sends(MemoryChannel& end, Record& record) {
    const std::string name = name_of(record);
    if (name == cut_at) return end.shutdown();  // it does not arrive
    trace.add("send " + name);
  }
  bool noted(const char* what) { return trace.at(what) >= 0; }

  Trace trace;
  TracedNotes at_source{trace, source};
  TracedNotes at_destination{trace, destination};
  std::string cut_at;
};

TEST(RightNotes, EachIsDurableBeforeWhatDependsOnIt) {
  NotedRig rig;
  rig.run();
  ASSERT_EQ(rig.report.outcome, Outcome::kDone) << rig.text();
  const std::pair<const char*, const char*> order[] = {
      {"Begun", "send Claim"},           {"send Claim", "send SessionStart"},
      {"Offered", "send SessionAccept"}, {"Ready", "send Ready"},
      {"Committing", "send Handover"},   {"Taken", "send Running"},
      {"send Running", "Released"}};
  for (const auto& [first, second] : order) {
    ASSERT_TRUE(rig.noted(first) && rig.noted(second)) << first << ", " << second;
    EXPECT_LT(rig.trace.at(first), rig.trace.at(second)) << first << ", " << second;
  }
  EXPECT_FALSE(rig.noted("Kept"));
  EXPECT_FALSE(rig.noted("Discarded"));
}

TEST(RightNotes, WithoutAJournalOnBothSidesNothingIsClaimed) {
  NotedRig rig;
  rig.destination_hello.features &= ~kFeatureJournal;
  rig.run();
  EXPECT_EQ(rig.report.outcome, Outcome::kDone) << rig.text();
  EXPECT_TRUE(rig.noted("Committing"));  // the source's own
  EXPECT_FALSE(rig.noted("send Claim"));
  EXPECT_FALSE(rig.noted("Taken"));
}

TEST(RightNotes, ASessionThatHidesItsClaimIsMalformed) {
  NotedRig rig;
  rig.source_end->on_send = [&](Record& record) {
    if (std::holds_alternative<Claim>(record)) record = KeepAlive{};
  };
  rig.run();
  EXPECT_EQ(rig.report.outcome, Outcome::kSourceRuns) << rig.text();
  EXPECT_FALSE(rig.noted("Offered"));
}

struct Case {
  RightStep step;
  Outcome outcome;
  DestinationOutcome destination;
  const char* not_sent;  // what depended on the note
};

class NoteFails : public ::testing::TestWithParam<Case> {};
TEST_P(NoteFails, AsIfTheSideHadDiedBeforeTheStep) {
  NotedRig rig;
  rig.at_source.fails = GetParam().step;
  rig.at_destination.fails = GetParam().step;
  rig.run();
  EXPECT_EQ(rig.report.outcome, GetParam().outcome) << rig.text();
  EXPECT_EQ(rig.report_destination.outcome, GetParam().destination) << rig.text();
  EXPECT_FALSE(rig.noted(GetParam().not_sent));
  const int runners = rig.source.running() + rig.destination.running();
  EXPECT_EQ(runners, GetParam().outcome == Outcome::kInDoubt ? 0 : 1) << rig.text();
  if (GetParam().outcome != Outcome::kDone) {
    EXPECT_FALSE(rig.exporter.released);
  }
}
INSTANTIATE_TEST_SUITE_P(
    All, NoteFails,
    ::testing::Values(
        Case{RightStep::kBegun, Outcome::kRefused, DestinationOutcome::kDiscarded,
             "send SessionStart"},
        Case{RightStep::kOffered, Outcome::kSourceRuns, DestinationOutcome::kDiscarded,
             "send SessionAccept"},
        Case{RightStep::kReady, Outcome::kSourceRuns, DestinationOutcome::kDiscarded, "send Ready"},
        Case{RightStep::kCommitting, Outcome::kSourceRuns, DestinationOutcome::kDiscarded,
             "send Handover"},
        Case{RightStep::kTaken, Outcome::kInDoubt, DestinationOutcome::kHolds, "send Running"},
        Case{RightStep::kReleased, Outcome::kDone, DestinationOutcome::kRuns, "Kept"}),
    [](const auto& row) { return std::string(name_of(row.param.step)); });

// Nothing was written of Taken, since what it needs is not there: the guest goes back.
TEST(RightNotes, ADestinationThatIsRefusedGivesTheGuestBack) {
  NotedRig rig;
  rig.at_destination.fails = RightStep::kTaken;
  rig.at_destination.fails_as = ErrorClass::kRefused;
  rig.run();
  EXPECT_EQ(rig.report_destination.outcome, DestinationOutcome::kDiscarded) << rig.text();
  EXPECT_EQ(rig.report.outcome, Outcome::kSourceRuns) << rig.text();
  EXPECT_FALSE(rig.destination.running());
  EXPECT_TRUE(rig.source.running());
  EXPECT_LT(rig.trace.at("Discarded"), rig.trace.at("send Abort"));
  EXPECT_LT(rig.trace.at("send Abort"), rig.trace.at("Kept"));
  EXPECT_FALSE(rig.exporter.released);
  EXPECT_NE(rig.report.error->detail.find("nothing was written of"), std::string::npos)
      << rig.report.error->detail;
}

TEST(RightNotes, ADestinationWithoutAJournalIsRefusedWhereOneIsNeeded) {
  for (const bool check_only : {false, true}) {
    NotedRig rig;
    rig.source_config.needs_peer_journal = true;
    rig.source_config.check_only = check_only;
    rig.destination_hello.features &= ~kFeatureJournal;
    rig.run();
    EXPECT_EQ(rig.report.outcome, Outcome::kRefused) << rig.text();
    EXPECT_FALSE(rig.noted("Begun"));
    EXPECT_TRUE(rig.source.running());
  }
}

TEST(RightNotes, ACompleteCopyIsHeldWhenTheLinkIsLost) {
  for (const char* record : {"Ready", "Handover"}) {
    NotedRig rig;
    rig.cut_at = record;
    rig.run();
    EXPECT_EQ(rig.report_destination.outcome, DestinationOutcome::kHolds) << rig.text();
    EXPECT_FALSE(rig.destination.running());
    EXPECT_TRUE(rig.noted("Ready"));
    EXPECT_FALSE(rig.noted("Discarded"));
    const bool committed = std::string(record) == "Handover";
    EXPECT_EQ(rig.report.outcome, committed ? Outcome::kInDoubt : Outcome::kSourceRuns)
        << rig.text();
    EXPECT_EQ(rig.source.running(), !committed);
    EXPECT_EQ(rig.noted("Kept"), !committed);
  }
}

TEST(RightNotes, AnIncompleteCopyIsDiscardedAndSaidSo) {
  NotedRig rig;
  rig.cut_at = "Finish";
  rig.run();
  EXPECT_EQ(rig.report_destination.outcome, DestinationOutcome::kDiscarded) << rig.text();
  EXPECT_TRUE(rig.noted("Discarded"));
  EXPECT_TRUE(rig.noted("Kept"));
  EXPECT_TRUE(rig.source.running());
}

// Nobody is told, and the session ends all the same.
TEST(RightNotes, ADestinationThatCannotWriteDiscardedSaysNothingAndEnds) {
  NotedRig rig;
  rig.at_destination.fails = RightStep::kDiscarded;
  rig.cut_at = "Finish";
  rig.run();
  EXPECT_EQ(rig.report_destination.outcome, DestinationOutcome::kDiscarded) << rig.text();
  EXPECT_NE(rig.report_destination.error->detail.find("did not take Discarded"), std::string::npos);
  EXPECT_FALSE(rig.noted("send Abort"));
  EXPECT_TRUE(rig.source.running());
}

// Taken says that no other copy may run: the one that has it is kept until it can be started.
TEST(RightNotes, ACopyThatDoesNotStartAfterTakenIsHeld) {
  struct Stuck : SimImporter {
    using SimImporter::SimImporter;
    Result<void> commit() override { return fail(ErrorClass::kLocalFault, "not now"); }
  };
  NotedRig rig;
  Stuck importer(rig.destination);
  rig.hooks.open_guest = [&]() -> Result<IncomingGuest> {
    return IncomingGuest{&rig.destination, &importer};
  };
  rig.run();
  EXPECT_EQ(rig.report_destination.outcome, DestinationOutcome::kHolds) << rig.text();
  EXPECT_EQ(rig.report.outcome, Outcome::kInDoubt) << rig.text();
  EXPECT_TRUE(rig.noted("Taken"));
  EXPECT_FALSE(rig.noted("Discarded"));
  EXPECT_FALSE(importer.aborted);
}

// After Handover the guest may run here again only once that is durable.
TEST(RightNotes, ASourceThatCannotWriteKeptAfterHandoverStaysInDoubt) {
  NotedRig rig;
  rig.at_source.fails = RightStep::kKept;
  rig.destination_end->on_send = [&](Record& record) {
    if (std::holds_alternative<Running>(record)) record = Abort{ErrorClass::kLocalFault, "no", {}};
  };
  rig.run();
  EXPECT_EQ(rig.report.outcome, Outcome::kInDoubt) << rig.text();
  EXPECT_FALSE(rig.source.running());
}

TEST(RightNotes, ASourceThatCannotWriteKeptBeforeHandoverRunsAllTheSame) {
  NotedRig rig;
  rig.at_source.fails = RightStep::kKept;
  rig.cut_at = "Finish";
  rig.run();
  EXPECT_EQ(rig.report.outcome, Outcome::kSourceRuns) << rig.text();
  EXPECT_TRUE(rig.source.running());
}

}  // namespace
}  // namespace sealift::test
