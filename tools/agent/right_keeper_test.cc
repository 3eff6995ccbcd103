// RightKeeper: MACs, what is known of a migration to answer about it, and what a restarted source
// asks.
#include "tools/agent/right_keeper.h"

#include <gtest/gtest.h>

#include "journal/inquiry.h"
#include "journal/test_disk.h"

namespace sealift::test {
namespace {

using K = JournalKind;

constexpr const char* kDirectory = "/journal";

SessionKey key() {
  SessionKey key{};
  key[0] = std::byte{7};
  return key;
}

struct Host {
  std::shared_ptr<FaultyDisk> disk = std::make_shared<FaultyDisk>();
  std::uint8_t ids = 0;

  RightKeeper restarted(const std::string& name) {
    return RightKeeper(kDirectory, name,
                       KeeperWorld{.disk = disk,
                                   .new_id =
                                       [this] {
                                         MigrationId id{};
                                         id[0] = std::byte{++ids};
                                         return id;
                                       },
                                   .unix_ns = [] { return std::uint64_t{1}; }});
  }
};

RightFacts facts(const Claim& claim, const std::string& peer) {
  return RightFacts{
      .claim = claim, .guest = "web-1", .peer = peer, .reason = {}, .page_map_digest = {}};
}

void must(const Result<void>& result) { ASSERT_TRUE(result) << result.error().detail; }

TEST(RightKeeper, RecordsOfASessionWithAKeyHaveAMac) {
  Host host;
  RightKeeper keeper = host.restarted("A");
  const Claim claim = *keeper.next_claim("web-1");
  const SessionFacts session{key(), "tcp:192.0.2.2:7000"};
  must(keeper.note(RightStep::kBegun, facts(claim, "B"), session));
  RightFacts sealed = facts(claim, "B");
  sealed.page_map_digest[0] = std::byte{9};
  must(keeper.note(RightStep::kCommitting, sealed, session));
  auto known = keeper.known("web-1", claim.migration);
  ASSERT_TRUE(known && known->entry);
  EXPECT_EQ(known->entry->right.destination, "B tcp:192.0.2.2:7000");
  EXPECT_EQ(known->entry->right.page_map_sha256, sealed.page_map_digest);
  EXPECT_EQ(known->key, key());
  EXPECT_TRUE(is_proven(key(), word_of(known->entry->right, &*known->entry, true)));

  must(keeper.note_settled(known->entry->right, K::kReleased, "asked"));
  known = keeper.known("web-1", claim.migration);
  EXPECT_EQ(known->entry->proven, K::kReleased);
  EXPECT_FALSE(known->key) << "nothing is left that it could prove";
}

TEST(RightKeeper, WithoutAKeyThereIsNoMac) {
  Host host;
  RightKeeper keeper = host.restarted("A");
  const Claim claim = *keeper.next_claim("web-1");
  must(keeper.note(RightStep::kBegun, facts(claim, "B")));
  const auto known = keeper.known("web-1", claim.migration);
  EXPECT_FALSE(known->entry->proven);
  EXPECT_EQ(known->entry->mac, Digest32{});
  EXPECT_EQ(known->entry->right.destination, "B");
}

TEST(RightKeeper, ARestartedSourceProvesItselfByItsJournalAndAsksUntilTheOtherSideKnows) {
  Host host;
  Claim claim;
  {
    RightKeeper keeper = host.restarted("A");
    claim = *keeper.next_claim("web-1");
    must(keeper.note(RightStep::kBegun, facts(claim, "B"), {key(), "tcp:192.0.2.2:7000"}));
  }
  {
    RightKeeper keeper = host.restarted("A");
    const auto to_ask = keeper.settle_after_restart();
    ASSERT_TRUE(to_ask && to_ask->size() == 1);
    EXPECT_EQ(to_ask->front().last, K::kBegun);
    must(keeper.note_settled(to_ask->front().right, K::kCeded, "asked"));
    const auto known = keeper.known("web-1", claim.migration);
    EXPECT_EQ(known->entry->last, K::kCeded);
    EXPECT_EQ(known->entry->proven, K::kBegun);
    EXPECT_TRUE(is_proven(key(), word_of(known->entry->right, &*known->entry, false)));
  }
  RightKeeper keeper = host.restarted("A");
  const auto to_ask = keeper.settle_after_restart();
  ASSERT_TRUE(to_ask && to_ask->size() == 1);
  EXPECT_EQ(to_ask->front().last, K::kCeded);
}

TEST(RightKeeper, ARestartedDestinationProvesItsDiscarded) {
  Host host;
  const Claim claim{{std::byte{1}}, 0};
  {
    RightKeeper keeper = host.restarted("B");
    must(keeper.note(RightStep::kOffered, facts(claim, "A"), {key(), {}}));
    must(keeper.note(RightStep::kReady, facts(claim, "A"), {key(), {}}));
  }
  RightKeeper keeper = host.restarted("B");
  EXPECT_TRUE(keeper.settle_after_restart()->empty());
  const auto known = keeper.known("web-1", claim.migration);
  EXPECT_EQ(known->entry->last, K::kDiscarded);
  EXPECT_TRUE(is_proven(key(), word_of(known->entry->right, &*known->entry, false)));
}

TEST(RightKeeper, AGuestThatWentOnToAThirdHostIsNotLost) {
  Host host;
  RightKeeper keeper = host.restarted("B");
  const Claim came{{std::byte{0xaa}}, 0};
  for (const RightStep step : {RightStep::kOffered, RightStep::kReady, RightStep::kTaken}) {
    must(keeper.note(step, facts(came, "A")));
  }
  EXPECT_FALSE(keeper.known("web-1", came.migration)->went_on);
  const Claim goes = *keeper.next_claim("web-1");
  EXPECT_EQ(goes.generation, 1U);
  for (const RightStep step : {RightStep::kBegun, RightStep::kCommitting}) {
    must(keeper.note(step, facts(goes, "C")));
  }
  EXPECT_FALSE(keeper.known("web-1", came.migration)->went_on);
  must(keeper.note(RightStep::kReleased, facts(goes, "C")));
  EXPECT_TRUE(keeper.known("web-1", came.migration)->went_on);
  EXPECT_FALSE(keeper.known("web-1", goes.migration)->went_on);
}

TEST(RightKeeper, AQuestionMakesNoJournal) {
  Host host;
  RightKeeper keeper = host.restarted("B");
  EXPECT_FALSE(keeper.known("web-1", MigrationId{})->entry);
  EXPECT_TRUE(guests_with_journal(*host.disk, kDirectory)->empty());
}

TEST(Identity, NameAndAddress) {
  for (const char* address : {"tcp:192.0.2.2:7000", "tcp:[::1]:7000", "unix:/run/a b.sock"}) {
    for (const char* name : {"B", "rack 2 node 7", "B tcp:192.0.2.9:1"}) {
      const std::string identity = identity_at(name, address);
      EXPECT_EQ(name_in(identity), name);
      ASSERT_TRUE(address_in(identity));
      EXPECT_EQ(to_string(*address_in(identity)), address);
    }
  }
  EXPECT_EQ(identity_at("B", ""), "B");
  EXPECT_EQ(name_in("B"), "B");
  EXPECT_FALSE(address_in("B"));
  EXPECT_FALSE(address_in("B tcp:nonsense"));
}

}  // namespace
}  // namespace sealift::test
