#include "fence/right_rules.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "fence/test_locks.h"

namespace sealift {
namespace {

constexpr std::uint64_t kTtl_ns = 10'000'000'000;
const std::string kMove = "00112233445566778899aabbccddeeff";
const std::string kOther = "ffeeddccbbaa99887766554433221100";

// Two hosts and their moves, each carried out against one lock manager.
class RightRulesTest : public ::testing::Test {
 protected:
  LockSelf host(const std::string& name) {
    auto lease = locks_.grant(kTtl_ns);
    return LockSelf{name, lease->id};
  }
  RightTaken does(const LockSelf& self, const RightRule& rule) {
    auto done = carry_out(locks_, "web-1", self, rule);
    EXPECT_TRUE(done) << (done ? "" : done.error().detail);
    return done ? *done : RightTaken{};
  }
  RightTaken launch(const LockSelf& self, std::uint64_t min = 0, bool take_over = false) {
    return does(self, [=](const auto& seen, const auto& who) {
      return to_launch(seen, who, min, take_over);
    });
  }
  RightTaken offer(const LockSelf& self, std::uint64_t generation, const std::string& to) {
    return does(self, [=](const auto& seen, const auto& who) {
      return to_offer(seen, who, generation, to, kMove);
    });
  }
  RightTaken keep(const LockSelf& self, std::uint64_t generation) {
    return does(self, [=](const auto& seen, const auto& who) {
      return to_keep(seen, who, generation, kMove);
    });
  }
  RightTaken accept(const LockSelf& self, std::uint64_t generation, bool ceded = false,
                    const std::string& move = kMove) {
    return does(self, [=](const auto& seen, const auto& who) {
      return to_accept(seen, who, generation, "A", move, ceded);
    });
  }
  RightTaken retake(const LockSelf& self, std::uint64_t generation) {
    return does(
        self, [=](const auto& seen, const auto& who) { return to_retake(seen, who, generation); });
  }
  void expect(const RightTaken& done, RightVerdict verdict, const std::string& words = {}) {
    EXPECT_EQ(done.verdict, verdict) << done.why;
    EXPECT_NE(done.why.find(words), std::string::npos) << done.why;
  }
  GuestRight now() { return locks_.read("web-1")->right.value_or(GuestRight{}); }

  TestLocks locks_;
  LockSelf a_ = host("A");
  LockSelf b_ = host("B");
};

TEST_F(RightRulesTest, AHandOverMovesTheRightAndTheGeneration) {
  expect(launch(a_, 7), RightVerdict::kAlready);
  EXPECT_EQ(now(), (GuestRight{7, "A", "", ""}));
  expect(accept(b_, 7), RightVerdict::kWait, "A has not offered it");
  expect(offer(a_, 7, "B"), RightVerdict::kAlready);
  expect(accept(b_, 7, false, kOther), RightVerdict::kNever);  // under another migration
  expect(accept(host("C"), 7), RightVerdict::kNever);
  expect(accept(b_, 7), RightVerdict::kAlready);
  EXPECT_EQ(now(), (GuestRight{8, "B", "", kMove}));
  expect(accept(b_, 7), RightVerdict::kAlready);  // twice is once
  expect(keep(a_, 7), RightVerdict::kNever, "B, generation 8");
  expect(retake(a_, 7), RightVerdict::kNever, "B, generation 8");
  expect(offer(a_, 7, "C"), RightVerdict::kNever);
  expect(launch(a_), RightVerdict::kWait, "under a lease that lives");
}

TEST_F(RightRulesTest, AnOfferTakenBackIsVoid) {
  launch(a_);
  offer(a_, 0, "B");
  expect(retake(a_, 0), RightVerdict::kNever, "offered to B");
  expect(keep(a_, 0), RightVerdict::kAlready);
  EXPECT_EQ(now(), (GuestRight{1, "A", "", kMove}));
  expect(accept(b_, 0), RightVerdict::kNever, "A, generation 1");
  locks_.pass(kTtl_ns);  // nor when the source has died since
  b_ = host("B");
  expect(accept(b_, 0), RightVerdict::kNever);
  expect(accept(b_, 0, true), RightVerdict::kNever);
}

TEST_F(RightRulesTest, ACopyThatWasNotOfferedNeedsMoreThanTheEndOfTheLease) {
  launch(a_);
  locks_.pass(kTtl_ns);
  b_ = host("B");
  expect(accept(b_, 0), RightVerdict::kWait, "has not offered it");
  expect(accept(b_, 0, true), RightVerdict::kAlready);
  EXPECT_EQ(now(), (GuestRight{1, "B", "", kMove}));
}

TEST_F(RightRulesTest, WhatIsCededStillWaitsForTheLease) {
  launch(a_);
  expect(accept(b_, 0, true), RightVerdict::kWait, "a lease that lives");
  offer(a_, 0, "B");  // a source that has lost its copy can say so before its lease ends
  expect(accept(b_, 0, true), RightVerdict::kAlready);
}

TEST_F(RightRulesTest, TheSameRightUnderANewLease) {
  launch(a_);
  locks_.pass(kTtl_ns);
  EXPECT_EQ(locks_.read("web-1")->holder, "");
  a_ = host("A");
  expect(retake(a_, 0), RightVerdict::kAlready);
  EXPECT_EQ(now().generation, 0U);
  EXPECT_EQ(locks_.read("web-1")->holder, a_.lease);
}

TEST_F(RightRulesTest, WhoMayLaunch) {
  expect(launch(a_), RightVerdict::kAlready);
  expect(launch(b_), RightVerdict::kWait, "A, generation 0 has it under a lease that lives");
  expect(launch(b_, 0, true), RightVerdict::kWait);  // a lease that lives stops a person too
  locks_.pass(kTtl_ns);
  b_ = host("B");
  expect(launch(b_), RightVerdict::kNever, "--lock-take-over");
  expect(launch(b_, 0, true), RightVerdict::kAlready);
  EXPECT_EQ(now(), (GuestRight{1, "B", "", ""}));
  locks_.pass(kTtl_ns);
  b_ = host("B");
  expect(launch(b_), RightVerdict::kAlready);  // restarted: its own, and a generation of its own
  EXPECT_EQ(now().generation, 2U);
  expect(does(b_, [](const auto& s, const auto& w) { return to_give_up(s, w, 2); }),
         RightVerdict::kAlready);
  expect(launch(host("A"), 9), RightVerdict::kAlready);  // given up: anybody's
  EXPECT_EQ(now(), (GuestRight{9, "A", "", ""}));
}

TEST_F(RightRulesTest, AnOfferedGuestIsNotLaunchedAnewByItsOwner) {
  launch(a_);
  offer(a_, 0, "B");
  locks_.pass(kTtl_ns);
  a_ = host("A");
  expect(launch(a_), RightVerdict::kNever, "offered to B");
  expect(does(a_, [](const auto& s, const auto& w) { return to_give_up(s, w, 0); }),
         RightVerdict::kNever);
}

TEST_F(RightRulesTest, WhatWasTakenAndNotRunGoesBack) {
  launch(a_);
  offer(a_, 0, "B");
  accept(b_, 0);
  const auto give_back = [](const auto& s, const auto& w) {
    return to_return(s, w, 0, "A", kMove);
  };
  expect(does(b_, give_back), RightVerdict::kAlready);
  expect(accept(b_, 0), RightVerdict::kNever);
  expect(does(b_, give_back), RightVerdict::kAlready);
  expect(keep(a_, 0), RightVerdict::kAlready);
  EXPECT_EQ(now(), (GuestRight{2, "A", "", kMove}));
  expect(keep(a_, 0), RightVerdict::kAlready);
  EXPECT_EQ(now().generation, 2U);
}

TEST_F(RightRulesTest, AnUnknownGuestIsNobodys) {
  expect(offer(a_, 0, "B"), RightVerdict::kNever, "does not know the guest");
  expect(accept(b_, 0, true), RightVerdict::kNever);
  expect(keep(a_, 0), RightVerdict::kNever);
  expect(retake(a_, 0), RightVerdict::kNever);
}

// Each message of each move is lost on its way there, or back, or arrives late; the move is tried
// again, and whatever the other side does in between, the right never forks.
TEST_F(RightRulesTest, ALostMessageIsNeverGuessed) {
  for (const LockFault fault :
       {LockFault::kRequestLost, LockFault::kReplyLost, LockFault::kArrivesLate}) {
    for (std::size_t nth = 0; nth < 4; ++nth) {
      SCOPED_TRACE(fmt::format("fault {} at message {}", static_cast<int>(fault), nth));
      locks_ = TestLocks();
      a_ = host("A");
      b_ = host("B");
      launch(a_);
      offer(a_, 0, "B");
      std::vector<LockFault> faults(nth, LockFault::kNone);
      faults.push_back(fault);
      locks_.plan(faults);
      const auto kept = carry_out(locks_, "web-1", a_, [](const auto& s, const auto& w) {
        return to_keep(s, w, 0, kMove);
      });
      locks_.plan({});
      const RightTaken taken = accept(b_, 0);
      locks_.deliver_late();
      const bool a_has = kept && kept->verdict == RightVerdict::kAlready;
      const bool b_has = taken.verdict == RightVerdict::kAlready;
      EXPECT_FALSE(a_has && b_has);
      EXPECT_EQ(now().owner, b_has ? "B" : "A");
      if (!kept) expect(keep(a_, 0), b_has ? RightVerdict::kNever : RightVerdict::kAlready);
      EXPECT_EQ(now().generation, 1U);
    }
  }
}

// Writes that race: whoever comes second sees that the state has changed.
TEST_F(RightRulesTest, OnlyOneOfTwoWritersWins) {
  launch(a_);
  offer(a_, 0, "B");
  const LockState seen = *locks_.read("web-1");
  const RightMove back = to_keep(seen, a_, 0, kMove);
  const RightMove forth = to_accept(seen, b_, 0, "A", kMove, false);
  ASSERT_EQ(back.verdict, RightVerdict::kWrite);
  ASSERT_EQ(forth.verdict, RightVerdict::kWrite);
  EXPECT_EQ(*locks_.write("web-1", seen, forth.next, b_.lease), Written::kDone);
  EXPECT_EQ(*locks_.write("web-1", seen, back.next, a_.lease), Written::kChanged);
}

TEST_F(RightRulesTest, AMoveUnderALeaseThatEndedIsNotMade) {
  launch(a_);
  locks_.pass(kTtl_ns);
  const auto late = carry_out(locks_, "web-1", a_,
                              [](const auto& s, const auto& w) { return to_retake(s, w, 0); });
  ASSERT_FALSE(late);
  EXPECT_EQ(late.error().cls, ErrorClass::kTimedOut);
  EXPECT_NE(late.error().detail.find("the lease ended"), std::string::npos);
}

}  // namespace
}  // namespace sealift
