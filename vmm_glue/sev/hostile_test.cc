// Bytes of a hostile peer: refused before a page is touched, or by the packet's MAC.

#include <gtest/gtest.h>

#include <algorithm>

#include "vmm_glue/sev/blobs.h"
#include "vmm_glue/sev/test_support.h"

namespace sealift::sev {
namespace {

class Hostile : public testing::Test {
 protected:
  Hostile() : source(source_host, 4), target(target_host, 4) {
    source.launch_with_pattern(0);
    target.prepare();
    identity = must(importer.identity());
    start = must(exporter.begin(identity));
    good = must(exporter.export_batch(0, 1, source.gfns())).batch;
  }

  // Refused, and no command of the firmware was issued for any page of it.
  void expect_refused(const PrivateBatch& batch, const char* words) {
    const auto received = target_host.commands_issued(MailboxCommand::kReceiveUpdateData);
    const auto imported = importer.import_batch(batch);
    ASSERT_FALSE(imported.has_value()) << words;
    EXPECT_EQ(imported.error().cls, ErrorClass::kMalformed);
    EXPECT_NE(imported.error().detail.find(words), std::string::npos) << imported.error().detail;
    EXPECT_EQ(target_host.commands_issued(MailboxCommand::kReceiveUpdateData), received) << words;
  }

  PrivateBatch with(const std::function<void(PrivateBatch&)>& change) const {
    PrivateBatch batch = good;
    change(batch);
    return batch;
  }

  SoftSevHost source_host;
  SoftSevHost target_host;
  TestGuest source;
  TestGuest target;
  SevExporter exporter{source.vm, source.ram.lookup(), {}};
  SevImporter importer{target.vm, target.ram.lookup(), {}};
  Bytes identity;
  Bytes start;
  PrivateBatch good;
};

constexpr const char* kNotOfThisSession = "is not as the source of this session made it";

TEST_F(Hostile, BatchesThatDoNotAddUp) {
  must(importer.begin(start));
  expect_refused(with([](auto& b) { b.gfns.push_back(Gfn{0}); }), "4 operations");
  expect_refused(with([](auto& b) { b.ops.pop_back(); }), "3 operations");
  expect_refused(with([](auto& b) { b.batch_auth.resize(48); }), "48 bytes of batch auth");
  expect_refused(with([](auto& b) { b.batch_auth.clear(); }), "0 bytes of batch auth");
  expect_refused(with([](auto& b) { b.page_auth_bytes = 24; }), "24-byte headers");
  expect_refused(with([](auto& b) { b.page_auth_bytes = 0; }), "0-byte headers");
  expect_refused(with([](auto& b) { b.page_body_bytes = 8192; }), "8192-byte bodies");
  expect_refused(with([](auto& b) { b.page_auth.pop_back(); }), "207 bytes of headers");
  expect_refused(with([](auto& b) { b.body.pop_back(); }), "16383 bytes of bodies");
  expect_refused(with([](auto& b) { b.body.clear(); }), "0 bytes of bodies");
  expect_refused(with([](auto& b) { b.ops[3] = PrivateOp::kCancel; }), "operation 2 on gfn 0x3");
  expect_refused(with([](auto& b) { b.ops[0] = PrivateOp::kMetadata; }), "operation 3");
  expect_refused(with([](auto& b) { b.gfns[3] = Gfn{4}; }), "gfn 0x4, which is no RAM");
  expect_refused(with([](auto& b) { b.gfns[3] = Gfn{~0ULL}; }), "which is no RAM");
  PrivateBatch huge;
  huge.gfns.resize(513);
  huge.ops.assign(513, PrivateOp::kImport);
  huge.page_auth_bytes = kPacketHeaderBytes;
  huge.page_auth.resize(513 * kPacketHeaderBytes);
  huge.page_body_bytes = kPageBytes;
  huge.body.resize(513 * kPageBytes);
  expect_refused(huge, "513 pages (at most 512)");
  must(importer.import_batch(good));
}

TEST_F(Hostile, EveryTruncationAndBitOfTheAuthenticationCounts) {
  must(importer.begin(start));
  for (std::size_t size = 0; size < kBatchAuthBytes; ++size) {
    expect_refused(with([&](auto& b) { b.batch_auth.resize(size); }), "bytes of batch auth");
  }
  for (std::size_t bit = 0; bit < kBatchAuthBytes * 8; ++bit) {
    expect_refused(with([&](auto& b) { b.batch_auth[bit / 8] ^= std::byte(1u << bit % 8); }),
                   bit < 64 ? "came where batch 0 was due" : kNotOfThisSession);
  }
  for (std::size_t bit = 0; bit < good.page_auth.size() * 8; ++bit) {
    expect_refused(with([&](auto& b) { b.page_auth[bit / 8] ^= std::byte(1u << bit % 8); }),
                   kNotOfThisSession);
  }
  must(importer.import_batch(good));
}

// Said of the firmware's own MAC: it knows the content.
TEST_F(Hostile, AChangedBodyFailsThePacketsMacAndTheImportIsOver) {
  for (const std::size_t at : {0u, 1u, 2047u, 4095u}) {
    TestGuest fresh(target_host, 4);
    fresh.prepare();
    SevImporter other(fresh.vm, fresh.ram.lookup(), {});
    must(exporter.cancel(std::nullopt));
    must(other.begin(must(exporter.begin(must(other.identity())))));
    PrivateBatch batch = must(exporter.export_batch(0, 1, source.gfns())).batch;
    batch.body[at] ^= std::byte{1};
    const Bytes before = fresh.host_sees();
    const auto imported = other.import_batch(batch);
    ASSERT_FALSE(imported.has_value());
    EXPECT_EQ(imported.error().cls, ErrorClass::kMalformed);
    EXPECT_NE(imported.error().detail.find("0x000b BAD_MEASUREMENT"), std::string::npos);
    EXPECT_EQ(fresh.host_sees(), before);
    // The batch was counted: only the phase says that a page of it is missing.
    EXPECT_FALSE(other.seal(must(exporter.seal())).has_value());
    EXPECT_EQ(fresh.state(), GuestState::kReceiveUpdate);
  }
}

TEST_F(Hostile, ReplayedReorderedDroppedAndReaddressedBatches) {
  must(importer.begin(start));
  const std::vector<Gfn> one{Gfn{2}};
  const PrivateBatch second = must(exporter.export_batch(0, 1, one)).batch;
  const PrivateBatch third = must(exporter.export_batch(0, 2, one)).batch;
  expect_refused(second, "batch 1 came where batch 0 was due");  // reordered, or one was dropped
  must(importer.import_batch(good));
  expect_refused(good, "batch 0 came where batch 1 was due");  // replayed
  expect_refused(third, "batch 2 came where batch 1 was due");
  const auto changed = [](PrivateBatch batch, const std::function<void(PrivateBatch&)>& change) {
    change(batch);
    return batch;
  };
  for (const std::function<void(PrivateBatch&)>& change :
       std::vector<std::function<void(PrivateBatch&)>>{
           [](PrivateBatch& b) { b.gfns[0] = Gfn{3}; },  // another page
           [](PrivateBatch& b) { b.epoch = 2; },         // another epoch
           [](PrivateBatch& b) { b.stream = 1; },
           [&](PrivateBatch& b) { b.page_auth = third.page_auth; },  // an older or newer content
           [](PrivateBatch& b) {
             b.gfns.clear(), b.ops.clear(), b.page_auth.clear(), b.body.clear();
           },
       }) {
    expect_refused(changed(second, change), kNotOfThisSession);
  }
  must(importer.import_batch(second));
  // Its number made to fit, it is still another batch.
  expect_refused(changed(good, [](auto& b) { b.batch_auth[0] = std::byte{2}; }), kNotOfThisSession);
  expect_refused(changed(second, [](auto& b) { b.batch_auth[0] = std::byte{2}; }),
                 kNotOfThisSession);
  must(importer.import_batch(third));
}

TEST_F(Hostile, PagesOfOneBatchChangedPlaces) {
  must(importer.begin(start));
  expect_refused(with([](auto& b) { std::swap(b.gfns[0], b.gfns[1]); }), kNotOfThisSession);
  expect_refused(with([](auto& b) {  // header and body together, as whole packets
                   std::swap_ranges(b.page_auth.begin(), b.page_auth.begin() + kPacketHeaderBytes,
                                    b.page_auth.begin() + kPacketHeaderBytes);
                   std::swap_ranges(b.body.begin(), b.body.begin() + kPageBytes,
                                    b.body.begin() + kPageBytes);
                 }),
                 kNotOfThisSession);
  expect_refused(with([](auto& b) {  // the last page left out
                   b.gfns.pop_back();
                   b.ops.pop_back();
                   b.page_auth.resize(3 * kPacketHeaderBytes);
                   b.body.resize(3 * kPageBytes);
                 }),
                 kNotOfThisSession);
  must(importer.import_batch(good));
  EXPECT_EQ(target.guest_sees(), source.plain);
}

// Two guests of one source and one destination at the same time: the firmware's keys differ, and so
// do the drivers'.
TEST_F(Hostile, ABatchOfAnotherSessionIsRefused) {
  must(importer.begin(start));
  TestGuest source2(source_host, 4);
  source2.launch_with_pattern(0);
  TestGuest target2(target_host, 4);
  target2.prepare();
  SevExporter exporter2(source2.vm, source2.ram.lookup(), {});
  SevImporter importer2(target2.vm, target2.ram.lookup(), {});
  must(importer2.begin(must(exporter2.begin(must(importer2.identity())))));
  expect_refused(must(exporter2.export_batch(0, 1, source2.gfns())).batch, kNotOfThisSession);
  must(importer.import_batch(good));
}

TEST_F(Hostile, AMissingTailIsFoundByTheSeal) {
  must(importer.begin(start));
  must(importer.import_batch(good));
  must(importer.end_epoch(1, must(exporter.end_epoch(1))));
  (void)must(exporter.export_batch(0, 2, source.gfns()));  // never arrives
  (void)must(exporter.end_epoch(2));
  Bytes seal = must(exporter.seal());
  const auto sealed = importer.seal(seal);
  ASSERT_FALSE(sealed.has_value());
  EXPECT_EQ(sealed.error().cls, ErrorClass::kMalformed);
  EXPECT_EQ(
      sealed.error().detail,
      "The SEV seal does not fit what came: 1 batches with 4 pages, 0 vCPU states, last epoch "
      "1.");
  EXPECT_EQ(target.state(), GuestState::kReceiveUpdate);
}

TEST_F(Hostile, EveryByteOfTheSealCountsAndTheLastEpochToo) {
  must(importer.begin(start));
  must(importer.import_batch(good));
  (void)must(exporter.end_epoch(1));
  const Bytes seal = must(exporter.seal());
  EXPECT_FALSE(importer.seal(seal).has_value());  // epoch 1 has not ended here
  must(importer.end_epoch(1, {}));
  for (std::size_t at = 0; at < seal.size(); ++at) {
    Bytes bad = seal;
    bad[at] ^= std::byte{0x10};
    EXPECT_EQ(importer.seal(bad).error().cls, ErrorClass::kMalformed) << at;
    EXPECT_FALSE(importer.seal(ByteView(seal).first(at)).has_value()) << at;
  }
  EXPECT_EQ(target_host.commands_issued(MailboxCommand::kReceiveFinish), 0u);
  must(importer.seal(seal));
  EXPECT_EQ(target.state(), GuestState::kRunning);
}

// Whoever changes either blob on its way gets two drivers that do not agree, at the first batch.
TEST_F(Hostile, EveryByteOfBothBlobsIsBound) {
  const auto session_with = [&](const Bytes& sent_identity, const auto& tamper) {
    TestGuest fresh(target_host, 4);
    fresh.prepare();
    SevImporter other(fresh.vm, fresh.ram.lookup(), {});
    Bytes own_identity = must(other.identity());
    if (!sent_identity.empty()) own_identity = sent_identity;
    tamper(own_identity, true);
    must(exporter.cancel(std::nullopt));
    auto begun = exporter.begin(own_identity);
    if (!begun) return begun.error().cls;
    tamper(*begun, false);
    if (auto taken = other.begin(*begun); !taken) return taken.error().cls;
    const auto batch = must(exporter.export_batch(0, 1, source.gfns())).batch;
    const auto received = target_host.commands_issued(MailboxCommand::kReceiveUpdateData);
    const auto imported = other.import_batch(batch);
    EXPECT_EQ(target_host.commands_issued(MailboxCommand::kReceiveUpdateData),
              received + (imported ? 4 : 0));
    return imported ? ErrorClass{} : imported.error().cls;
  };
  const auto flip = [](bool wanted, std::size_t at) {
    return [=](Bytes& blob, bool is_identity) {
      if (wanted == is_identity) blob[at] ^= std::byte{1};
    };
  };
  EXPECT_EQ(session_with({}, [](Bytes&, bool) {}), ErrorClass{});
  EXPECT_EQ(session_with(identity, [](Bytes&, bool) {}), ErrorClass::kMalformed);  // an older one
  // identity: key, chain (the policy asks for none, so the firmware looks at none of it), its end
  for (const std::size_t at : {16u, 47u, 2132u, 8000u, 8383u}) {
    EXPECT_EQ(session_with({}, flip(true, at)), ErrorClass::kMalformed) << at;
  }
  // start: key, nonce, the API version in the PDH, its unused end
  for (const std::size_t at : {16u, 47u, 48u, 79u, 85u, 2163u}) {
    EXPECT_NE(session_with({}, flip(false, at)), ErrorClass{}) << at;
  }
}

TEST_F(Hostile, KeysOfSmallOrderAreRefusedBeforeTheFirmware) {
  must(exporter.cancel(std::nullopt));
  const auto sent = source_host.commands_issued(MailboxCommand::kSendStart);
  for (const int order : {0, 1}) {  // the points 0 and 1
    BindingPublicKey weak{};
    weak[0] = std::byte(order);
    Bytes bad = identity;
    std::copy(weak.begin(), weak.end(), bad.begin() + 16);
    const auto begun = exporter.begin(bad);
    ASSERT_FALSE(begun.has_value());
    EXPECT_EQ(begun.error().detail,
              "The peer's binding key is of small order: every secret with it is zero.");
    bad = start;
    std::copy(weak.begin(), weak.end(), bad.begin() + 16);
    EXPECT_EQ(importer.begin(bad).error().cls, ErrorClass::kMalformed);
  }
  EXPECT_EQ(source_host.commands_issued(MailboxCommand::kSendStart), sent);
  EXPECT_EQ(target_host.commands_issued(MailboxCommand::kReceiveStart), 0u);
}

TEST_F(Hostile, StartBlobsThatWereChanged) {
  struct Case {
    std::size_t at;
    ErrorClass cls;
    const char* words;
  };
  // version, policy, PDH length, session length, PDH version, PDH key, session, with 0B for all
  // that changes keys or the policy's MAC
  for (const Case& row :
       {Case{0, ErrorClass::kMalformed, "version 3"}, Case{4, ErrorClass::kMalformed, "0x000b"},
        Case{8, ErrorClass::kMalformed, "PDH 2085"},
        Case{12, ErrorClass::kMalformed, "session 129"}, Case{80, ErrorClass::kPolicy, "version 0"},
        Case{80 + 20, ErrorClass::kPolicy, "not a point"},
        Case{2164, ErrorClass::kMalformed, "0x000b"},
        Case{2291, ErrorClass::kMalformed, "0x000b"}}) {
    TestGuest fresh(target_host, 1);
    fresh.prepare();
    SevImporter other(fresh.vm, fresh.ram.lookup(), {});
    (void)must(other.identity());
    Bytes bad = start;
    bad[row.at] ^= std::byte{1};
    const auto begun = other.begin(bad);
    ASSERT_FALSE(begun.has_value()) << row.at;
    EXPECT_EQ(begun.error().cls, row.cls) << begun.error().detail;
    EXPECT_NE(begun.error().detail.find(row.words), std::string::npos) << begun.error().detail;
    EXPECT_EQ(fresh.state(), GuestState::kUninit);
  }
}

TEST_F(Hostile, IdentityThatIsNoPdhIsRefusedBeforeTheFirmware) {
  must(exporter.cancel(std::nullopt));
  const auto sent = source_host.commands_issued(MailboxCommand::kSendStart);
  Bytes bad = identity;
  std::copy_n(identity.begin() + 2132, kCertificateBytes, bad.begin() + 48);  // a PEK for a PDH
  const auto begun = exporter.begin(bad);
  ASSERT_FALSE(begun.has_value());
  EXPECT_EQ(begun.error().detail, "The peer's PDH certificate is a PEK certificate.");
  EXPECT_EQ(source_host.commands_issued(MailboxCommand::kSendStart), sent);
}

TEST_F(Hostile, TokensAreRefused) {
  must(importer.begin(start));
  const Bytes token(8);
  EXPECT_EQ(importer.end_epoch(1, token).error().cls, ErrorClass::kMalformed);
  EXPECT_EQ(importer.seal(token).error().cls, ErrorClass::kMalformed);
  EXPECT_EQ(target.state(), GuestState::kReceiveUpdate);
}

TEST_F(Hostile, NothingBeforeBeginOrAfterSeal) {
  EXPECT_FALSE(importer.import_batch(good).has_value());
  EXPECT_FALSE(importer.seal({}).has_value());
  EXPECT_FALSE(importer.commit().has_value());
  SevImporter hasty(target.vm, target.ram.lookup(), {});
  EXPECT_EQ(hasty.begin(start).error().detail, "SEV begin came before identity.");
  must(importer.begin(start));
  EXPECT_FALSE(importer.begin(start).has_value());
  must(importer.import_batch(good));
  must(importer.seal(must(exporter.seal())));
  EXPECT_FALSE(importer.import_batch(good).has_value());
  EXPECT_FALSE(exporter.export_batch(0, 1, source.gfns()).has_value());
  must(importer.commit());
}

TEST_F(Hostile, AGuestOfTheOtherKindIsRefusedBeforeTheFirmware) {
  Bytes es = start;
  es[4] |= std::byte{kPolicyEs};
  const auto begun = importer.begin(es);
  ASSERT_FALSE(begun.has_value());
  EXPECT_EQ(begun.error().cls, ErrorClass::kRefused);
  EXPECT_EQ(begun.error().detail,
            "The guest's SEV policy 0x00000004 says SEV-ES yes, this side was set up for SEV.");
  EXPECT_EQ(target_host.commands_issued(MailboxCommand::kReceiveStart), 0u);
}

TEST_F(Hostile, AnotherPolicyThanExpectedIsRefused) {
  SevImporter strict(target.vm, target.ram.lookup(), {.policy = kPolicyNoDebug});
  (void)must(strict.identity());
  EXPECT_EQ(strict.begin(start).error().cls, ErrorClass::kPolicy);
  must(exporter.cancel(std::nullopt));
  SevExporter picky(source.vm, source.ram.lookup(), {.policy = kPolicyNoDebug});
  EXPECT_EQ(picky.begin(identity).error().cls, ErrorClass::kPolicy);
  must(picky.cancel(std::nullopt));
  EXPECT_EQ(source.state(), GuestState::kRunning);
}

}  // namespace
}  // namespace sealift::sev
