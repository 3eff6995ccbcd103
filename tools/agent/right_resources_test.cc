// Locks and hooks around the records of the right to run: held exactly where the guest may run.
#include "tools/agent/right_resources.h"

#include <gmock/gmock.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

namespace sealift::test {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using K = JournalKind;

class RightResourcesTest : public ::testing::Test {
 protected:
  RightResourcesTest() {
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directory(folder_);
    std::filesystem::permissions(folder_, std::filesystem::perms::owner_all);
    for (const char* name : {"/disk", "/other"}) std::ofstream(folder_ + name) << "x";
    std::ofstream(hook_) << "#!/bin/sh\necho $1 $SEALIFT_PEER $SEALIFT_AGAIN >> " << folder_
                         << "/told-$SEALIFT_GUEST\n";
    std::filesystem::permissions(hook_, std::filesystem::perms::owner_all);
  }
  ~RightResourcesTest() override { std::filesystem::remove_all(folder_); }

  std::unique_ptr<RightResources> make(const std::string& launches = {}) {
    ResourcesConfig config;
    config.disks = {folder_ + "/disk", folder_ + "/other"};
    for (const char* event :
         {"guest-runs-here", "guest-left", "guest-kept", "in-doubt", "discarded", "lost"}) {
      config.hooks.push_back(*parse_hook(fmt::format("{}={}", event, hook_)));
    }
    return std::make_unique<RightResources>(std::move(config), launches, [](const auto&) {});
  }
  RightToRun right(int number = 1) const {
    RightToRun right{.guest = "guest", .source = "A", .destination = "B"};
    right.migration[0] = static_cast<std::byte>(number);
    return right;
  }
  // As RightKeeper writes one that its journal takes.
  Result<void> write(RightResources& resources, K kind, int number = 1) {
    SEALIFT_CHECK(resources.before(kind, right(number)));
    JournalRecord record;
    record.kind = kind;
    record.right = right(number);
    SEALIFT_CHECK(resources.after(record));
    return {};
  }
  bool free(const char* name = "/disk") const {
    DiskLocks locks({folder_ + name});
    return locks.acquire().has_value();
  }
  std::vector<std::string> told() const {
    std::vector<std::string> out;
    std::ifstream file(folder_ + "/told-guest");
    for (std::string line; std::getline(file, line);) out.push_back(line);
    return out;
  }

  std::string const folder_ = testing::TempDir() + "resources-" + std::to_string(::getpid());
  std::string const hook_ = folder_ + "/hook";
};

TEST_F(RightResourcesTest, ASourceLetsGoOnlyWhenCommittingIsDurable) {
  auto source = make("guest");
  ASSERT_TRUE(source->lock_to_run().has_value());
  EXPECT_FALSE(free());
  ASSERT_TRUE(write(*source, K::kBegun).has_value());
  EXPECT_FALSE(free());
  ASSERT_TRUE(source->before(K::kCommitting, right()).has_value());
  EXPECT_FALSE(free()) << "it may still run: Committing is not durable";
  ASSERT_TRUE(write(*source, K::kCommitting).has_value());
  EXPECT_TRUE(free() && free("/other"));
  ASSERT_TRUE(write(*source, K::kReleased).has_value());
  EXPECT_TRUE(free());
  source.reset();
  EXPECT_THAT(told(), ElementsAre("guest-left B 0"));
}

TEST_F(RightResourcesTest, ADestinationLocksBeforeTaken) {
  auto destination = make();
  EXPECT_TRUE(destination->check_for_arrival().has_value());
  ASSERT_TRUE(write(*destination, K::kOffered).has_value());
  ASSERT_TRUE(write(*destination, K::kReady).has_value());
  EXPECT_TRUE(free());
  ASSERT_TRUE(destination->before(K::kTaken, right()).has_value());
  EXPECT_FALSE(free()) << "before the record, so that it never says what does not hold";
  ASSERT_TRUE(write(*destination, K::kTaken).has_value());
  EXPECT_FALSE(free() || free("/other"));
  destination->guest_runs();
  destination.reset();
  EXPECT_TRUE(free());
  EXPECT_THAT(told(), ElementsAre("guest-runs-here A 0"));
}

TEST_F(RightResourcesTest, ATakenThatCannotBeLockedIsRefusedAndLeavesNothingLocked) {
  DiskLocks somebody({folder_ + "/other"});
  ASSERT_TRUE(somebody.acquire().has_value());
  auto destination = make();
  ASSERT_TRUE(write(*destination, K::kOffered).has_value());
  const auto taken = destination->before(K::kTaken, right());
  ASSERT_FALSE(taken.has_value());
  EXPECT_THAT(taken.error().detail,
              HasSubstr("/other is locked by process " + std::to_string(::getpid())));
  EXPECT_TRUE(free()) << "all or none";
  ASSERT_TRUE(write(*destination, K::kDiscarded).has_value());
  destination.reset();
  EXPECT_THAT(told(), ElementsAre("discarded A 0"));
}

TEST_F(RightResourcesTest, ASourceTakesBackBeforeKept) {
  auto source = make("guest");
  ASSERT_TRUE(source->lock_to_run().has_value());
  ASSERT_TRUE(write(*source, K::kBegun).has_value());
  ASSERT_TRUE(write(*source, K::kCommitting).has_value());
  source->guest_in_doubt("the link was lost");
  DiskLocks somebody({folder_ + "/disk"});
  ASSERT_TRUE(somebody.acquire().has_value());
  EXPECT_FALSE(source->before(K::kKept, right()).has_value());
  EXPECT_TRUE(free("/other"));
  somebody.release();
  ASSERT_TRUE(write(*source, K::kKept).has_value());
  EXPECT_FALSE(free() || free("/other"));
  source.reset();
  EXPECT_THAT(told(), ElementsAre("in-doubt B 0", "guest-kept B 0"));
}

TEST_F(RightResourcesTest, AKeptBeforeCommittingNeedsNothing) {
  auto source = make("guest");
  ASSERT_TRUE(source->lock_to_run().has_value());
  ASSERT_TRUE(write(*source, K::kBegun).has_value());
  ASSERT_TRUE(write(*source, K::kKept).has_value());
  EXPECT_FALSE(free());
}

TEST_F(RightResourcesTest, AnAnswerAboutAnotherMigrationTouchesNoLock) {
  auto agent = make();
  ASSERT_TRUE(write(*agent, K::kOffered).has_value());
  ASSERT_TRUE(write(*agent, K::kReady).has_value());
  ASSERT_TRUE(write(*agent, K::kTaken).has_value());
  agent->guest_runs();
  ASSERT_TRUE(write(*agent, K::kDiscarded, 2).has_value());
  EXPECT_FALSE(free()) << "the guest runs here";
}

// What an agent finds in its journal when it starts. A guest that it launches anew has no past.
TEST_F(RightResourcesTest, ARestartTellsAgainWhatMayNotHaveBeenTold) {
  const auto entry = [&](K last) { return JournalEntry{right(), last, 3}; };
  for (const K last : {K::kReleased, K::kCeded, K::kCommitting, K::kDiscarded, K::kTaken, K::kKept,
                       K::kBegun, K::kReady}) {
    make()->found(entry(last));
  }
  EXPECT_THAT(told(),
              ElementsAre("guest-left B 1", "guest-left B 1", "in-doubt B 1", "discarded A 1"));
  std::filesystem::remove(folder_ + "/told-guest");
  make("guest")->found(entry(K::kReleased));
  make("guest")->found(entry(K::kCommitting));  // unsettled: nothing is launched
  EXPECT_THAT(told(), ElementsAre("in-doubt B 1"));
}

TEST_F(RightResourcesTest, WhatIsGivenUpAfterARestartIsLost) {
  auto source = make();
  ASSERT_TRUE(write(*source, K::kKept).has_value());  // `recover --decide forget`
  EXPECT_TRUE(free());
  source.reset();
  EXPECT_THAT(told(), ElementsAre("lost B 0"));
}

TEST_F(RightResourcesTest, ATakenGuestThatNeverRanIsLostAndItsDisksAreFree) {
  auto destination = make();
  ASSERT_TRUE(write(*destination, K::kOffered).has_value());
  ASSERT_TRUE(write(*destination, K::kTaken).has_value());
  destination->arrival_dropped("KVM_RUN failed");
  destination->arrival_dropped("the next arrival");  // tells nothing of the one before
  EXPECT_TRUE(free());
  destination.reset();
  EXPECT_THAT(told(), ElementsAre("lost A 0"));
}

// Remembers what it was told; refuses what it is asked to.
struct Recorder : RightFollower {
  void found(const JournalEntry& last) override { words.push_back(word("found", last.last)); }
  Result<void> before(JournalKind kind, const RightToRun&) override {
    words.push_back(word("before", kind));
    if (refuses == kind) return fail(refusal, "no lock");
    return {};
  }
  Result<void> after(const JournalRecord& record) override {
    words.push_back(word("after", record.kind));
    if (fails == record.kind) return fail(ErrorClass::kDisconnected, "too late");
    return {};
  }
  static std::string word(const char* when, JournalKind kind) {
    return fmt::format("{} {}", when, name_of(kind));
  }
  std::optional<JournalKind> refuses;
  ErrorClass refusal = ErrorClass::kRefused;
  std::optional<JournalKind> fails;  // once it is durable
  std::vector<std::string> words;
};

TEST_F(RightResourcesTest, AFollowerSeesEachRecordBeforeAndOnceItIsDurable) {
  const RightFacts facts{
      .claim = Claim{{std::byte{1}}, 0}, .guest = "guest", .peer = "B", .reason = {}};
  Recorder follower;
  {
    RightKeeper keeper(folder_ + "/journal", "A", KeeperWorld::real(), {&follower});
    follower.refuses = K::kBegun;
    const auto refused = keeper.note(RightStep::kBegun, facts);
    ASSERT_FALSE(refused.has_value());
    EXPECT_EQ(refused.error().cls, ErrorClass::kRefused) << "surely not written";
    EXPECT_FALSE((*keeper.last("guest")).has_value());
    follower.refuses.reset();
    EXPECT_FALSE(keeper.note(RightStep::kCommitting, facts).has_value());  // Begun must be first
    EXPECT_TRUE(keeper.note(RightStep::kBegun, facts).has_value());
    EXPECT_TRUE(keeper.note_settled((*keeper.last("guest"))->right, K::kKept, "over").has_value());
  }
  EXPECT_THAT(follower.words, ElementsAre("before Begun", "before Committing", "before Begun",
                                          "after Begun", "before Kept", "after Kept"));
  follower.words.clear();
  RightKeeper again(folder_ + "/journal", "A", KeeperWorld::real(), {&follower});
  EXPECT_TRUE(again.settle_after_restart().has_value());
  EXPECT_THAT(follower.words, ElementsAre("found Kept"));
}

// Who is asked first is told last; a step that fails once its record is durable is an error, and
// the record stays. Why a follower refused is said as it was: only a refusal is sure.
TEST_F(RightResourcesTest, FollowersAreAskedInOrderAndToldInTheOpposite) {
  const RightFacts facts{
      .claim = Claim{{std::byte{1}}, 0}, .guest = "guest", .peer = "B", .reason = {}};
  Recorder first;
  Recorder second;
  RightKeeper keeper(folder_ + "/journal", "A", KeeperWorld::real(), {&first, &second});
  ASSERT_TRUE(keeper.note(RightStep::kBegun, facts).has_value());
  second.fails = K::kCommitting;
  const auto failed = keeper.note(RightStep::kCommitting, facts);
  ASSERT_FALSE(failed.has_value());
  EXPECT_EQ(failed.error().cls, ErrorClass::kDisconnected);
  EXPECT_EQ((*keeper.last("guest"))->last, K::kCommitting);
  EXPECT_EQ(first.words.back(), "after Committing") << "all are told";
  first.refuses = K::kKept;
  first.refusal = ErrorClass::kDisconnected;
  const auto unknown = keeper.note(RightStep::kKept, facts);
  ASSERT_FALSE(unknown.has_value());
  EXPECT_EQ(unknown.error().cls, ErrorClass::kDisconnected);
  EXPECT_EQ(second.words.back(), "after Committing") << "not asked any more";
}

TEST_F(RightResourcesTest, DisksThatAreNone) {
  const std::pair<std::string, const char*> cases[] = {
      {folder_ + "/nothing", "cannot be opened"},
      {folder_, "cannot be opened"},
      {"/dev/null", "neither a file nor a block device"}};
  for (const auto& [path, why] : cases) {
    const auto checked = DiskLocks({path}).check();
    ASSERT_FALSE(checked.has_value()) << path;
    EXPECT_THAT(checked.error().detail, HasSubstr(why));
  }
  std::filesystem::create_hard_link(folder_ + "/disk", folder_ + "/link");
  const auto twice = DiskLocks({folder_ + "/disk", folder_ + "/link"}).acquire();
  ASSERT_FALSE(twice.has_value());
  EXPECT_THAT(twice.error().detail, HasSubstr("same file"));
}

}  // namespace
}  // namespace sealift::test
