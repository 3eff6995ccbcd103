// What the destination's platform says of itself is judged before anything moves.
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/sim/rig.h"

namespace sealift::test {
namespace {

using Level = PlatformFinding::Level;

// A rig whose destination sends the card, and what its source's driver was given to judge.
struct CardRig : Rig {
  explicit CardRig(Bytes sent) : Rig(1) {
    card = std::move(sent);
    destination_hello.features |= kFeaturePlatformCard;
    source_config.hello.features |= kFeaturePlatformCard;
    exporter.opinion = [this](ByteView bytes) -> Result<PlatformFindings> {
      judged.assign(bytes.begin(), bytes.end());
      return verdict;
    };
    destination_end->on_send = [this](Record& record) { sent_names.push_back(name_of(record)); };
  }
  bool destination_began() const {
    return std::find(sent_names.begin(), sent_names.end(), "SessionAccept") != sent_names.end();
  }
  PlatformFindings verdict = {{Level::kOk, "chain", "the chain is complete"}};
  Bytes judged;
  std::vector<std::string> sent_names;
};

TEST(PlatformCard, IsJudgedAndReportedByAMigration) {
  CardRig rig(Bytes(5, std::byte{7}));
  rig.verdict.push_back({Level::kWarning, "modelled", "the firmware is a model"});
  rig.run();
  EXPECT_EQ(rig.report.outcome, Outcome::kDone) << rig.text();
  EXPECT_EQ(rig.judged, rig.card);
  EXPECT_EQ(rig.report.findings, rig.verdict);
  ASSERT_GE(rig.sent_names.size(), 2u);
  EXPECT_EQ(rig.sent_names[1], "PlatformCard");
}

TEST(PlatformCard, ARefusalEndsTheMigrationBeforeTheDestinationMakesAGuest) {
  CardRig rig(Bytes(5, std::byte{7}));
  rig.verdict = {{Level::kRefuse, "c-bit", "C-bit 51 here, 47 there"},
                 {Level::kOk, "chain", "good"},
                 {Level::kRefuse, "memlock", "limit too low"}};
  rig.run();
  EXPECT_EQ(rig.report.outcome, Outcome::kRefused) << rig.text();
  ASSERT_TRUE(rig.report.error);
  EXPECT_EQ(rig.report.error->detail, "C-bit 51 here, 47 there; limit too low");
  EXPECT_EQ(rig.report.findings, rig.verdict);
  EXPECT_FALSE(rig.destination_began());
  EXPECT_FALSE(rig.source.tracking());
  EXPECT_TRUE(rig.source.running());
  ASSERT_TRUE(rig.report_destination.error);
  EXPECT_NE(rig.report_destination.error->detail.find("C-bit 51 here"), std::string::npos)
      << rig.text();
}

TEST(PlatformCard, ACheckAnswersFromItWithoutASession) {
  for (const bool refuses : {false, true}) {
    CardRig rig(Bytes(5, std::byte{7}));
    rig.source_config.check_only = true;
    if (refuses) rig.verdict = {{Level::kRefuse, "nosend", "the guest's policy forbids sending"}};
    rig.run();
    EXPECT_EQ(rig.report.outcome, refuses ? Outcome::kRefused : Outcome::kDone) << rig.text();
    EXPECT_EQ(rig.report.findings, rig.verdict);
    EXPECT_EQ(rig.report_destination.outcome, DestinationOutcome::kChecked) << rig.text();
    EXPECT_TRUE(rig.source.running());
  }
}

TEST(PlatformCard, ACardThatCannotBeReadEndsTheMigration) {
  CardRig rig(Bytes(5, std::byte{7}));
  rig.exporter.opinion = [](ByteView) -> Result<PlatformFindings> {
    return fail(ErrorClass::kMalformed, "the card has version 7");
  };
  rig.run();
  EXPECT_NE(rig.report.outcome, Outcome::kDone);
  EXPECT_FALSE(rig.destination_began());
  EXPECT_TRUE(rig.source.running());
}

TEST(PlatformCard, WithoutOneTheReportSaysSo) {
  Rig rig(1);
  rig.run();
  EXPECT_EQ(rig.report.outcome, Outcome::kDone) << rig.text();
  ASSERT_EQ(rig.report.findings.size(), 1u);
  EXPECT_EQ(rig.report.findings[0].level, Level::kWarning);
  EXPECT_EQ(rig.report.findings[0].name, "card");
}

TEST(PlatformCard, OutOfTurnIsMalformed) {
  CardRig rig(Bytes(5, std::byte{7}));
  rig.destination_end->on_send = [&](Record& record) {
    if (std::holds_alternative<SessionAccept>(record)) record = PlatformCard{};
  };
  rig.run();
  EXPECT_NE(rig.report.outcome, Outcome::kDone);
  ASSERT_TRUE(rig.report.error);
  EXPECT_EQ(rig.report.error->cls, ErrorClass::kMalformed) << rig.text();
}

}  // namespace
}  // namespace sealift::test
