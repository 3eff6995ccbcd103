// What a hostile peer sends, what a hostile VMM asks the program for, and what a hostile guest
// leaves in the mailbox.
#include <algorithm>

#include "vmm_glue/inguest/test_support.h"

namespace sealift::inguest {
namespace {

using namespace test;

class Hostile : public OnEachHelper {
 protected:
  void SetUp() override {
    OnEachHelper::SetUp();
    if (IsSkipped()) return;
    pair = std::make_unique<Pair>(GetParam());
    must(pair->open());
    batch = must(pair->exporter.export_batch(0, 2, gfns)).batch;
  }
  // Imports the batch after `spoil`; expects a refusal that wrote nothing of the page at `index`
  // and ends the session for good.
  std::string refusal(std::size_t index, const std::function<void(PrivateBatch&)>& spoil) {
    PrivateBatch bad = batch;
    spoil(bad);
    const Bytes before = all_of(pair->to.ram);
    const auto imported = pair->importer.import_batch(bad);
    if (imported) return "imported";
    EXPECT_EQ(imported.error().cls, ErrorClass::kMalformed);
    const Bytes after = all_of(pair->to.ram);
    for (const Gfn gfn : pair->to.ram.gfns()) {
      const auto at = static_cast<std::size_t>(pair->to.ram.at(gfn) - pair->to.ram.all().data());
      const bool changed = std::memcmp(before.data() + at, after.data() + at, kPageBytes) != 0;
      const auto found = std::find(gfns.begin(), gfns.end(), gfn) - gfns.begin();
      EXPECT_EQ(changed, static_cast<std::size_t>(found) < index) << "gfn " << value(gfn);
    }
    return imported.error().detail;
  }
  void expect_over() {
    EXPECT_EQ(why(pair->importer.import_batch(batch)),
              "In-guest import_batch came while the import was failed instead of receiving.");
  }
  static Bytes all_of(TestRam& ram) { return Bytes(ram.all().begin(), ram.all().end()); }

  const std::vector<Gfn> gfns = {Gfn{1}, Gfn{2}, Gfn{0x100}, Gfn{0x100010}};
  std::unique_ptr<Pair> pair;
  PrivateBatch batch;
};

TEST_P(Hostile, AChangedBodyIsRefused) {
  const std::string why =
      refusal(2, [](PrivateBatch& b) { b.body[2 * kPageBytes + 4095] ^= std::byte{1}; });
  EXPECT_EQ(why,
            "The in-guest helper refused import of gfn 0x100: the page's tag does not match "
            "(status 10).");
  expect_over();
}

TEST_P(Hostile, AChangedTagIsRefused) {
  for (std::size_t byte = 8; byte < 24; byte += 5) {
    SetUp();
    EXPECT_NE(refusal(1, [&](PrivateBatch& b) { b.page_auth[24 + byte] ^= std::byte{0x80}; })
                  .find("tag does not match"),
              std::string::npos);
  }
  expect_over();
}

TEST_P(Hostile, APageForAnotherPlaceIsRefused) {
  EXPECT_NE(refusal(1, [](PrivateBatch& b) { b.gfns[1] = Gfn{7}; }).find("tag does not match"),
            std::string::npos);
  expect_over();
}

TEST_P(Hostile, TwoPagesSwappedAreRefused) {
  EXPECT_NE(refusal(0, [](PrivateBatch& b) { std::swap(b.gfns[0], b.gfns[1]); })
                .find("tag does not match"),
            std::string::npos);
}

TEST_P(Hostile, AnotherEpochIsRefused) {
  EXPECT_NE(refusal(0, [](PrivateBatch& b) { b.epoch = 3; }).find("tag does not match"),
            std::string::npos);
  expect_over();
}

TEST_P(Hostile, AnEarlierEpochIsRefused) {
  must(pair->importer.import_batch(batch));
  EXPECT_NE(refusal(0, [](PrivateBatch& b) { b.epoch = 1; }).find("another place in the session"),
            std::string::npos);
}

TEST_P(Hostile, AReplayIsRefused) {
  must(pair->importer.import_batch(batch));
  EXPECT_EQ(refusal(0, [](PrivateBatch&) {}),
            "The in-guest helper refused import of gfn 0x1: a page of another place in the session "
            "(replayed, moved, or one is missing) (status 9).");
  expect_over();
}

TEST_P(Hostile, AReplayWithANewNumberIsRefused) {
  must(pair->importer.import_batch(batch));
  EXPECT_NE(
      refusal(0, [](PrivateBatch& b) { b.page_auth[0] = std::byte{4}; }).find("tag does not match"),
      std::string::npos);
}

TEST_P(Hostile, AMissingPageIsRefused) {
  EXPECT_NE(refusal(1,
                    [](PrivateBatch& b) {
                      b.gfns.erase(b.gfns.begin() + 1);
                      b.ops.pop_back();
                      b.page_auth.erase(b.page_auth.begin() + 24, b.page_auth.begin() + 48);
                      b.body.erase(b.body.begin() + kPageBytes, b.body.begin() + 2 * kPageBytes);
                    })
                .find("another place in the session"),
            std::string::npos);
}

TEST_P(Hostile, ALostTailIsFoundByTheSeal) {
  must(pair->importer.import_batch(batch));
  const std::vector<Gfn> lost = {Gfn{9}};
  (void)must(pair->exporter.export_batch(0, 2, lost));
  const Bytes seal = must(pair->exporter.seal());
  EXPECT_EQ(why(pair->importer.seal(seal)),
            "The in-guest helper refused the check of the seal: the seal does not match what was "
            "imported (status 11).");
  EXPECT_FALSE(pair->importer.commit().has_value());
}

TEST_P(Hostile, ASealOfAnotherLengthOrContentIsRefused) {
  must(pair->importer.import_batch(batch));
  Bytes seal = must(pair->exporter.seal());
  EXPECT_EQ(pair->importer.seal({}).error().cls, ErrorClass::kMalformed);
  EXPECT_EQ(pair->importer.seal(Bytes(17)).error().cls, ErrorClass::kMalformed);
  seal[3] ^= std::byte{1};
  EXPECT_EQ(pair->importer.seal(seal).error().cls, ErrorClass::kMalformed);
  seal[3] ^= std::byte{1};
  EXPECT_EQ(pair->importer.seal(seal).error().cls, ErrorClass::kLocalFault);  // over
}

TEST_P(Hostile, PagesOfAnotherSessionAreRefused) {
  Pair other(GetParam());
  must(other.open());
  const auto foreign = must(other.exporter.export_batch(0, 2, gfns)).batch;
  EXPECT_NE(refusal(0, [&](PrivateBatch& b) { b = foreign; }).find("tag does not match"),
            std::string::npos);
}

TEST_P(Hostile, ABatchThatDoesNotFitIsRefusedBeforeTheHelperSeesIt) {
  const std::vector<std::function<void(PrivateBatch&)>> spoils = {
      [](PrivateBatch& b) { b.gfns[3] = Gfn{0xa0}; },
      [](PrivateBatch& b) { b.gfns[3] = Gfn{~std::uint64_t{0}}; },
      [](PrivateBatch& b) { b.ops[3] = PrivateOp::kImportEmpty; },
      [](PrivateBatch& b) { b.ops[3] = PrivateOp::kCancel; },
      [](PrivateBatch& b) { b.ops.pop_back(); },
      [](PrivateBatch& b) { b.body.pop_back(); },
      [](PrivateBatch& b) { b.page_auth.pop_back(); },
      [](PrivateBatch& b) { b.page_auth_bytes = 25; },
      [](PrivateBatch& b) { b.page_body_bytes = 0; },
      [](PrivateBatch& b) { b.batch_auth.resize(1); },
      [](PrivateBatch& b) { b.gfns.resize(513), b.ops.resize(513); },
  };
  for (const auto& spoil : spoils) refusal(0, spoil);
  must(pair->importer.import_batch(batch));  // none of them touched the session
}

// --- Blobs ---

class HostileBlobs : public OnEachHelper {};

TEST_P(HostileBlobs, EveryChangedByteOfTheStartIsRefused) {
  Pair pair(GetParam());
  const Bytes good = must(pair.exporter.begin(must(pair.importer.identity())));
  const std::size_t step = GetParam() == Runs::kOnKvm ? 13 : 1;
  for (std::size_t at = 0; at < good.size(); at += step) {
    InGuestImporter importer(pair.to.helper(), pair.to.ram.layout());
    must(pair.exporter.cancel(std::nullopt));
    Bytes bad = must(pair.exporter.begin(must(importer.identity())));
    bad[at] ^= std::byte{1};
    const auto begun = importer.begin(bad);
    ASSERT_FALSE(begun.has_value()) << at;
    EXPECT_EQ(begun.error().cls, ErrorClass::kMalformed) << at;
  }
}

TEST_P(HostileBlobs, AWrongPeerKeyIsRefused) {
  Pair pair(GetParam());
  const Bytes identity = must(pair.importer.identity());
  const Bytes start = must(pair.exporter.begin(identity));
  (void)must(pair.importer.identity());  // another key than the one the source encrypts for
  EXPECT_EQ(why(pair.importer.begin(start)),
            "The in-guest helper refused accept: the peer does not have the key that its public "
            "key promises (status 8).");
}

TEST_P(HostileBlobs, AKeyOfLowOrderIsRefused) {
  Pair pair(GetParam());
  Bytes identity = must(pair.importer.identity());
  std::fill(identity.begin() + 8, identity.end(), std::byte{0});
  EXPECT_EQ(why(pair.exporter.begin(identity)),
            "The in-guest helper refused offer: the peer's public key is not usable (status 7).");
  Bytes start(104);
  start[0] = std::byte{1};
  EXPECT_EQ(why(pair.importer.begin(start)),
            "The in-guest helper refused accept: the peer's public key is not usable (status 7).");
}

TEST_P(HostileBlobs, OtherLengthsAndVersionsAreRefused) {
  Pair pair(GetParam());
  const Bytes identity = must(pair.importer.identity());
  for (std::size_t size = 0; size < identity.size() + 2; ++size) {
    if (size == identity.size()) continue;
    Bytes bad = identity;
    bad.resize(size);
    EXPECT_EQ(pair.exporter.begin(bad).error().cls, ErrorClass::kMalformed) << size;
  }
  for (std::size_t at = 0; at < 8; ++at) {
    Bytes bad = identity;
    bad[at] ^= std::byte{2};
    EXPECT_EQ(pair.exporter.begin(bad).error().cls, ErrorClass::kMalformed) << at;
  }
  EXPECT_EQ(why(pair.exporter.begin({})), "An in-guest identity has 0 bytes instead of 40.");
  EXPECT_TRUE(pair.exporter.begin(identity).has_value());
}

// --- The mailbox ---

TEST_P(Hostile, TheProgramChecksWhatTheVmmAsksFor) {
  const std::vector<std::pair<std::function<void(Mailbox&)>, Status>> cases = {
      {[](Mailbox& m) { m.operation = 0; }, Status::kBadOperation},
      {[](Mailbox& m) { m.operation = 1; }, Status::kBadOperation},
      {[](Mailbox& m) { m.operation = ~u64{0}; }, Status::kBadOperation},
      {[](Mailbox& m) { m.operation = u64{1} << 32 | 5; }, Status::kBadOperation},
      {[](Mailbox& m) { m.count = 0; }, Status::kBadCount},
      {[](Mailbox& m) { m.count = kEntriesMax + 1; }, Status::kBadCount},
      {[](Mailbox& m) { m.count = ~u64{0}; }, Status::kBadCount},
      {[](Mailbox& m) { m.entries[0].gfn = 0xa0; }, Status::kNotRam},
      {[](Mailbox& m) { m.entries[0].gfn = 0x140; }, Status::kNotRam},
      {[](Mailbox& m) { m.entries[0].gfn = ~u64{0}; }, Status::kNotRam},
      {[](Mailbox& m) { m.entries[0].gfn = u64{1} << 52; }, Status::kNotRam},
      {[](Mailbox& m) { m.epoch = 1; }, Status::kOutOfOrder},
      {[](Mailbox& m) { m.operation = 2; }, Status::kWrongState},
      {[](Mailbox& m) { m.operation = 3; }, Status::kWrongState},
      {[](Mailbox& m) { m.operation = 4; }, Status::kWrongState},
      {[](Mailbox& m) { m.operation = 6; }, Status::kWrongState},
      {[](Mailbox& m) { m.operation = 8; }, Status::kWrongState},
  };
  for (const auto& [spoil, status] : cases) {
    SetUp();
    pair->line_from.before = spoil;
    std::uint64_t got = 0;
    pair->line_from.after = [&](Mailbox& m) { got = m.status; };
    const auto refused = pair->exporter.export_batch(0, 2, gfns);
    EXPECT_FALSE(refused.has_value());
    EXPECT_EQ(got, static_cast<std::uint64_t>(status)) << why(refused);
    pair->line_from.before = nullptr;
    // Its keys are gone: nothing more leaves in this session.
    EXPECT_FALSE(pair->exporter.export_batch(0, 2, gfns).has_value());
    EXPECT_EQ(got, static_cast<std::uint64_t>(Status::kWrongState));
  }
}

TEST_P(Hostile, BootWithImpossibleMemoryIsRefused) {
  const auto boot = [&](u64 count, RamRange range) {
    pair->line_to.before = [&, count, range](Mailbox& m) {
      m.count = count;
      std::memcpy(pair->to.helper().shared().data() + kPageBytes, &range, sizeof range);
    };
    InGuestImporter importer(pair->line_to, pair->to.ram.layout());
    return why(importer.identity());
  };
  EXPECT_NE(boot(0, {0, 1}).find("a count out of bounds"), std::string::npos);
  EXPECT_NE(boot(kRangesMax + 1, {0, 1}).find("a count out of bounds"), std::string::npos);
  EXPECT_NE(boot(1, {kWindowBytesMax / kPage, 1}).find("no RAM"), std::string::npos);
  EXPECT_NE(boot(1, {1, kWindowBytesMax / kPage}).find("no RAM"), std::string::npos);
  EXPECT_NE(boot(1, {1, ~u64{0}}).find("no RAM"), std::string::npos);
}

// A guest that can write the mailbox: the VMM must neither crash nor take the answer for good.
TEST_P(Hostile, AnswersThatMakeNoSenseAreErrors) {
  for (const u64 status : {u64{0}, u64{12}, u64{1} << 32, ~u64{0}}) {
    SetUp();
    pair->line_from.after = [&](Mailbox& m) {
      m.status = status;
      m.failed_entry = ~u64{0};
    };
    const auto exported = pair->exporter.export_batch(0, 2, gfns);
    ASSERT_FALSE(exported.has_value());
    EXPECT_EQ(exported.error().cls, ErrorClass::kLocalFault) << why(exported);
  }
  pair->line_to.after = [](Mailbox& m) { m.version = 9; };
  InGuestImporter importer(pair->line_to, pair->to.ram.layout());
  EXPECT_EQ(why(importer.identity()), "The in-guest helper has version 9 instead of 1.");
}

INSTANTIATE_TEST_SUITE_P(All, Hostile, testing::Values(Runs::kInProcess, Runs::kOnKvm),
                         name_of_runs);
INSTANTIATE_TEST_SUITE_P(All, HostileBlobs, testing::Values(Runs::kInProcess, Runs::kOnKvm),
                         name_of_runs);

}  // namespace
}  // namespace sealift::inguest
