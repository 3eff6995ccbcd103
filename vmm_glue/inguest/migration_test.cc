// Whole exports and imports, with the program in this process and on a real KVM; every entry into
// the helper failing once; calls out of order.
#include "vmm_glue/inguest/test_support.h"

namespace sealift::inguest {
namespace {

using namespace test;

class InGuest : public OnEachHelper {};

TEST_P(InGuest, EveryPageArrivesWithItsContent) {
  Pair pair(GetParam());
  ASSERT_FALSE(pair.same());
  must(pair.whole());
  EXPECT_TRUE(pair.same());
}

TEST_P(InGuest, ALaterEpochCarriesNewerContent) {
  Pair pair(GetParam());
  must(pair.open());
  must(pair.move(1, pair.from.ram.gfns()));
  const std::vector<Gfn> some = {Gfn{0}, Gfn{0x9f}, Gfn{0x100}, Gfn{0x10001f}};
  for (const Gfn gfn : some) std::memset(pair.from.ram.at(gfn), 0x5a, kPageBytes);
  EXPECT_FALSE(pair.same());
  must(pair.move(3, some));
  must(pair.close());
  EXPECT_TRUE(pair.same());
}

TEST_P(InGuest, TheBatchHasWhatTheWireSays) {
  Pair pair(GetParam());
  must(pair.open());
  const std::vector<Gfn> gfns = pair.from.ram.gfns();
  const auto exported = must(pair.exporter.export_batch(0, 7, gfns));
  const PrivateBatch& batch = exported.batch;
  EXPECT_EQ(batch.epoch, 7u);
  EXPECT_EQ(batch.gfns, gfns);
  EXPECT_EQ(batch.ops, std::vector<PrivateOp>(gfns.size(), PrivateOp::kImport));
  EXPECT_TRUE(batch.batch_auth.empty());
  EXPECT_EQ(batch.page_auth_bytes, 24u);
  EXPECT_EQ(batch.page_auth.size(), gfns.size() * 24);
  EXPECT_EQ(batch.page_body_bytes, kPageBytes);
  EXPECT_EQ(batch.body.size(), gfns.size() * kPageBytes);
  EXPECT_EQ(exported.firmware_commands, (gfns.size() + kEntriesMax - 1) / kEntriesMax);
  for (std::size_t i = 0; i < gfns.size(); ++i) {
    std::uint64_t sequence = 0;
    std::memcpy(&sequence, batch.page_auth.data() + i * 24, 8);
    EXPECT_EQ(sequence, i);
  }
}

// Nothing that the VMM can see has a plain page in it, and the same content twice looks different.
TEST_P(InGuest, TheVmmSeesCiphertextOnly) {
  Pair pair(GetParam());
  std::memset(pair.from.ram.at(Gfn{5}), 0, kPageBytes);
  std::memset(pair.from.ram.at(Gfn{6}), 0, kPageBytes);
  const Bytes plain = pair.from.ram.page(Gfn{9});
  const ByteView word(plain.data() + 64, 8);
  must(pair.open());
  const std::vector<Gfn> gfns = {Gfn{5}, Gfn{6}, Gfn{9}};
  const auto batch = must(pair.exporter.export_batch(0, 1, gfns)).batch;
  const ByteView body(batch.body);
  EXPECT_NE(Bytes(body.begin(), body.begin() + kPageBytes),
            Bytes(body.begin() + kPageBytes, body.begin() + 2 * kPageBytes));
  const auto has_word = [&](ByteView bytes) {
    return std::search(bytes.begin(), bytes.end(), word.begin(), word.end()) != bytes.end();
  };
  EXPECT_FALSE(has_word(batch.body));
  EXPECT_FALSE(has_word(pair.from.helper().shared()));
  must(pair.importer.import_batch(batch));
  EXPECT_FALSE(has_word(pair.to.helper().shared()));
  EXPECT_EQ(pair.to.ram.page(Gfn{9}), plain);
}

TEST_P(InGuest, EveryEntryFailingOnceEndsInAnErrorAndAGuestThatCanGo) {
  for (const bool at_source : {true, false}) {
    for (const auto when : {FaultyHelper::When::kBefore, FaultyHelper::When::kAfter}) {
      std::uint64_t nth = 0;
      for (bool fired = true; fired; ++nth) {
        Pair pair(GetParam());
        FaultyHelper& line = at_source ? pair.line_from : pair.line_to;
        line.fail_at(nth, when);
        const auto done = pair.whole();
        fired = line.fired();
        EXPECT_EQ(done.has_value(), !fired) << nth << ": " << why(done);
        if (!fired) break;
        EXPECT_NE(why(done).find("planted"), std::string::npos) << why(done);
        EXPECT_EQ(done.error().cls, ErrorClass::kLocalFault);
        must(pair.exporter.cancel(std::nullopt));
        must(pair.importer.abort());
        // The source can go elsewhere.
        InGuestImporter other(pair.to.helper(), pair.to.ram.layout());
        const Bytes start = must(pair.exporter.begin(must(other.identity())));
        must(other.begin(start));
        must(pair.exporter.guest_paused());
        const std::vector<Gfn> one = {Gfn{3}};
        must(other.import_batch(must(pair.exporter.export_batch(0, 1, one)).batch));
        must(other.seal(must(pair.exporter.seal())));
        EXPECT_EQ(pair.to.ram.page(Gfn{3}), pair.from.ram.page(Gfn{3}));
      }
      EXPECT_GE(nth, 4u) << "the loop ended before it had failed every entry";
    }
  }
}

TEST_P(InGuest, NothingLeavesBeforeTheGuestIsPaused) {
  Pair pair(GetParam());
  must(pair.exporter.begin(must(pair.importer.identity())));
  const std::vector<Gfn> one = {Gfn{3}};
  const auto early = pair.exporter.export_batch(0, 1, one);
  EXPECT_EQ(why(early),
            "In-guest export_batch came while the export was begun with a running guest instead "
            "of exporting.");
  must(pair.exporter.guest_paused());
  EXPECT_TRUE(pair.exporter.export_batch(0, 1, one).has_value());
}

TEST_P(InGuest, CallsOutOfOrderAreRefused) {
  Pair pair(GetParam());
  const std::vector<Gfn> one = {Gfn{3}};
  EXPECT_FALSE(pair.exporter.export_batch(0, 1, one).has_value());
  EXPECT_FALSE(pair.exporter.seal().has_value());
  EXPECT_FALSE(pair.exporter.release().has_value());
  EXPECT_FALSE(pair.exporter.guest_paused().has_value());
  EXPECT_FALSE(pair.importer.begin(Bytes(104)).has_value());
  EXPECT_FALSE(pair.importer.import_batch({}).has_value());
  EXPECT_FALSE(pair.importer.commit().has_value());
  must(pair.open());
  EXPECT_FALSE(pair.exporter.begin(Bytes(40)).has_value());
  EXPECT_FALSE(pair.importer.identity().has_value());
  EXPECT_FALSE(pair.exporter.release().has_value());
  EXPECT_FALSE(pair.exporter.fault_back(Gfn{1}).has_value());
  EXPECT_EQ(pair.importer.load_state({StateBlob{}}).error().cls, ErrorClass::kMalformed);
  EXPECT_EQ(pair.importer.end_epoch(1, Bytes(1)).error().cls, ErrorClass::kMalformed);
  must(pair.move(1, one));
  must(pair.close());
  EXPECT_FALSE(pair.exporter.export_batch(0, 1, one).has_value());
  must(pair.exporter.release());
  EXPECT_EQ(pair.exporter.cancel(std::nullopt).error().detail,
            "The in-guest export was released: the guest runs at the destination.");
}

TEST_P(InGuest, CancelAfterTheSealLetsANewSessionBegin) {
  Pair pair(GetParam());
  must(pair.open());
  const std::vector<Gfn> one = {Gfn{3}};
  must(pair.move(1, one));
  (void)must(pair.exporter.seal());
  must(pair.exporter.cancel(std::nullopt));
  must(pair.importer.abort());
  EXPECT_EQ(pair.importer.import_batch({}).error().cls, ErrorClass::kCancelled);
  InGuestImporter other(pair.to.helper(), pair.to.ram.layout());
  EXPECT_TRUE(pair.exporter.begin(must(other.identity())).has_value());
}

// A helper that is beyond use costs the source nothing but this migration.
TEST_P(InGuest, ADeadHelperDoesNotKeepTheGuest) {
  Pair pair(GetParam());
  must(pair.open());
  pair.line_from.die();
  pair.line_to.die();
  EXPECT_FALSE(pair.exporter.seal().has_value());
  EXPECT_TRUE(pair.exporter.cancel(std::nullopt).has_value());
  EXPECT_TRUE(pair.importer.abort().has_value());
}

TEST_P(InGuest, EachSessionHasItsOwnKeys) {
  Pair pair(GetParam());
  const Bytes first = must(pair.importer.identity());
  const Bytes second = must(pair.importer.identity());
  EXPECT_NE(first, second);
  const Bytes start = must(pair.exporter.begin(second));
  must(pair.exporter.cancel(std::nullopt));
  const Bytes again = must(pair.exporter.begin(second));
  for (std::size_t field = 8; field < start.size(); field += 32) {
    EXPECT_NE(std::memcmp(start.data() + field, again.data() + field, 32), 0) << field;
  }
  EXPECT_EQ(start.size(), 104u);
  EXPECT_EQ(first.size(), 40u);
}

INSTANTIATE_TEST_SUITE_P(All, InGuest, testing::Values(Runs::kInProcess, Runs::kOnKvm),
                         name_of_runs);

TEST(InGuestRandom, AProcessorWithoutEntropyIsAnError) {
  Pair pair(Runs::kInProcess);
  pair.to.local->set_entropy(false);
  EXPECT_EQ(pair.importer.identity().error().detail,
            "The in-guest helper refused identify: the processor gives no random numbers (RDRAND) "
            "(status 6).");
  pair.to.local->set_entropy(true);
  pair.from.local->set_entropy(false);
  const auto begun = pair.exporter.begin(must(pair.importer.identity()));
  EXPECT_EQ(begun.error().cls, ErrorClass::kLocalFault);
  EXPECT_NE(why(begun).find("RDRAND"), std::string::npos) << why(begun);
}

}  // namespace
}  // namespace sealift::inguest
