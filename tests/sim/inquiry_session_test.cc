// The destination's session when it is asked what became of a migration, instead of being sent one.
#include <gtest/gtest.h>

#include "engine/destination_session.h"
#include "tests/sim/rig.h"

namespace sealift::test {
namespace {

using Actions = std::vector<destination::Action>;

Hello asking(std::uint64_t features) {
  Hello asker = hello("A");
  asker.features = features;
  return asker;
}

struct Asked {
  explicit Asked(std::uint64_t ours = kFeatureJournal | kFeatureInquiry,
                 std::uint64_t theirs = kFeatureJournal | kFeatureInquiry)
      : session(asking(ours), *MemoryLayout::make(hello("B").memory)) {
    step(destination::Received{asking(theirs)});
  }
  Actions step(destination::Event event) {
    Actions actions;
    session.step(std::move(event), actions);
    return actions;
  }
  // The record that ends the session after it was discarded, whatever else is done.
  std::optional<Abort> refusal(Record record) {
    step(destination::Received{std::move(record)});
    for (destination::Action& action : step(destination::Discarded{})) {
      auto* send = std::get_if<destination::Send>(&action);
      if (send != nullptr && std::holds_alternative<Abort>(send->record)) {
        return std::get<Abort>(send->record);
      }
    }
    return std::nullopt;
  }
  DestinationSession session;
};

Inquiry question() {
  Inquiry inquiry;
  inquiry.word.guest = "guest";
  inquiry.word.record = 4;
  return inquiry;
}

TEST(InquirySession, IsAnsweredAndOver) {
  Asked asked;
  const Actions actions = asked.step(destination::Received{question()});
  ASSERT_EQ(actions.size(), 1U);
  ASSERT_TRUE(std::holds_alternative<destination::AnswerInquiry>(actions[0]));
  EXPECT_EQ(std::get<destination::AnswerInquiry>(actions[0]).inquiry, question());
  Answer answer;
  answer.word.record = 5;
  const Actions end = asked.step(destination::Answered{answer});
  ASSERT_EQ(end.size(), 2U);
  EXPECT_EQ(std::get<Answer>(std::get<destination::Send>(end[0]).record), answer);
  EXPECT_EQ(std::get<destination::End>(end[1]).outcome, DestinationOutcome::kAnswered);
  EXPECT_TRUE(asked.step(destination::Received{question()}).empty());
}

TEST(InquirySession, WhatCannotBeAnsweredIsAborted) {
  Asked asked;
  asked.step(destination::Received{question()});
  asked.step(destination::Failed{Error{ErrorClass::kRefused, "not now"}});
  const Actions end = asked.step(destination::Discarded{});
  ASSERT_EQ(end.size(), 2U);
  EXPECT_EQ(std::get<Abort>(std::get<destination::Send>(end[0]).record).detail, "not now");
}

TEST(InquirySession, OnlyWhereBothSidesOfferIt) {
  for (auto [ours, theirs] : {std::pair{kFeatureInquiry, std::uint64_t{0}},
                              std::pair{std::uint64_t{0}, kFeatureInquiry}}) {
    const auto abort = Asked(ours, theirs).refusal(question());
    ASSERT_TRUE(abort);
    EXPECT_EQ(abort->cls, ErrorClass::kMalformed);
    EXPECT_EQ(abort->detail, "unexpected record Inquiry while waiting for SessionStart");
  }
}

TEST(InquirySession, NotBesideAMigration) {
  Asked claimed;
  claimed.step(destination::Received{Claim{}});
  EXPECT_TRUE(claimed.refusal(question()));
  Asked started;
  started.step(destination::Received{Claim{}});
  started.step(destination::Received{SessionStart{"guest", 1, false}});
  EXPECT_TRUE(started.refusal(question()));
  Asked asked;
  asked.step(destination::Received{question()});
  EXPECT_TRUE(asked.refusal(SessionStart{"guest", 1, false}));
  Asked answered;
  EXPECT_TRUE(answered.refusal(Answer{}));  // only a destination sends it
}

}  // namespace
}  // namespace sealift::test
