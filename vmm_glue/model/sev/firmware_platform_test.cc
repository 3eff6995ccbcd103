// The platform's owner, its keys, its ASIDs and its end.
#include <gtest/gtest.h>

#include <set>

#include "vmm_glue/model/sev/firmware_test_support.h"

namespace sealift::sev {
namespace {

using enum MailboxCommand;

SevCertificate certificate_in(ByteView chain, std::size_t index) {
  return must(SevCertificate::parse(chain.subspan(index * kCertificateBytes, kCertificateBytes)));
}

MailboxPlatformStatus status_of(FirmwareBench& bench) {
  MailboxPlatformStatus out;
  EXPECT_EQ(bench.run(kPlatformStatus, out), Status::kSuccess);
  return out;
}

// PDH <- PEK <- OCA and CEK, whoever owns the platform.
void expect_consistent(FirmwareBench& bench) {
  const auto certificates = bench.certificates();
  const SevCertificate pdh = must(SevCertificate::parse(certificates.pdh));
  const SevCertificate pek = certificate_in(certificates.chain, 0);
  const SevCertificate oca = certificate_in(certificates.chain, 1);
  const SevCertificate cek = certificate_in(certificates.chain, 2);
  EXPECT_EQ(check_signature(pdh, pek), SignatureVerdict::kGood);
  EXPECT_EQ(check_signature(pek, oca), SignatureVerdict::kGood);
  EXPECT_EQ(check_signature(pek, cek), SignatureVerdict::kGood);
  EXPECT_EQ(check_signature(oca, oca), SignatureVerdict::kGood);
  EXPECT_EQ(cek.slots[0], SignatureSlot{});
  EXPECT_EQ(cek.slots[1], SignatureSlot{});
}

// An owner, and what it does with a PEK_CSR.
struct Owner {
  SystemRandom random;
  EcKey key = EcKey::generate(random);
  SevCertificate oca = unsigned_certificate(KeyUsage::kOca, key.public_key(), 1, 55);
  Owner() { sign_certificate(oca, 0, KeyUsage::kOca, key); }
  SevCertificate sign(SevCertificate pek, std::size_t slot) const {
    sign_certificate(pek, slot, KeyUsage::kOca, key);
    return pek;
  }
};

SevCertificate csr_of(FirmwareBench& bench) {
  MailboxBlob csr = blob_at(bench.room(kCertificateBytes), kCertificateBytes);
  EXPECT_EQ(bench.run(kPekCsr, csr), Status::kSuccess);
  return must(SevCertificate::parse(FirmwareBench::kernel_bytes(csr.address, csr.len)));
}

Status import(FirmwareBench& bench, const SevCertificate& pek, const SevCertificate& oca) {
  return bench.run(kPekCertImport, MailboxPekCertImport{.pek_address = bench.kernel(pek.encode()),
                                                        .pek_len = kCertificateBytes,
                                                        .oca_address = bench.kernel(oca.encode()),
                                                        .oca_len = kCertificateBytes});
}

TEST(SevFirmwarePlatform, AnOwnerImportsItsPek) {
  for (const std::size_t slot : {0u, 1u}) {
    FirmwareBench bench;
    bench.init();
    const Owner owner;
    const auto before = bench.certificates();
    const SevCertificate csr = csr_of(bench);
    EXPECT_EQ(csr.key, certificate_in(before.chain, 0).key);
    EXPECT_EQ(csr.slots[0], SignatureSlot{});
    EXPECT_EQ(csr.slots[1], SignatureSlot{});
    EXPECT_EQ(status_of(bench).flags, 0);
    ASSERT_EQ(import(bench, owner.sign(csr, slot), owner.oca), Status::kSuccess);
    EXPECT_EQ(status_of(bench).flags, 1);
    expect_consistent(bench);
    const auto after = bench.certificates();
    EXPECT_EQ(certificate_in(after.chain, 1), owner.oca);
    EXPECT_EQ(certificate_in(after.chain, 0).key, csr.key);
    EXPECT_EQ(certificate_in(after.chain, 2), certificate_in(before.chain, 2));
    EXPECT_NE(after.pdh, before.pdh);
    EXPECT_EQ(import(bench, owner.sign(csr, slot), owner.oca), Status::kAlreadyOwned);
    // PEK_GEN makes it its own again.
    ASSERT_EQ(bench.run(kPekGen), Status::kSuccess);
    EXPECT_EQ(status_of(bench).flags, 0);
    EXPECT_NE(certificate_in(bench.certificates().chain, 1), owner.oca);
    expect_consistent(bench);
  }
}

TEST(SevFirmwarePlatform, ImportsThatAreRefused) {
  FirmwareBench bench;
  bench.init();
  const Owner owner;
  const Owner other;
  const SevCertificate csr = csr_of(bench);
  const SevCertificate foreign = unsigned_certificate(KeyUsage::kPek, other.key.public_key(), 1, 1);
  EXPECT_EQ(import(bench, owner.sign(foreign, 0), owner.oca), Status::kInvalidCertificate);
  EXPECT_EQ(import(bench, csr, owner.oca), Status::kInvalidCertificate);  // unsigned
  EXPECT_EQ(import(bench, owner.sign(csr, 0), other.oca), Status::kBadSignature);
  EXPECT_EQ(import(bench, owner.sign(csr, 0), owner.sign(csr, 0)), Status::kInvalidCertificate);
  EXPECT_EQ(import(bench, owner.oca, owner.oca), Status::kInvalidCertificate);
  SevCertificate tampered = owner.oca;
  tampered.api_minor ^= 1;
  EXPECT_EQ(import(bench, owner.sign(csr, 0), tampered), Status::kBadSignature);
}

TEST(SevFirmwarePlatform, WhichKeysEachCommandRenews) {
  struct Row {
    MailboxCommand id;
    bool pdh, pek, oca, cek;
  };
  for (const Row& row :
       {Row{kPdhGen, true, false, false, false}, Row{kPekGen, true, true, true, false},
        Row{kPlatformReset, true, true, true, false}}) {
    FirmwareBench bench;
    bench.init();
    const auto before = bench.certificates();
    const bool resets = row.id == kPlatformReset;
    if (resets) {
      ASSERT_EQ(bench.run(kShutdown), Status::kSuccess);
    }
    ASSERT_EQ(bench.run(row.id), Status::kSuccess);
    if (resets) bench.init();
    const auto after = bench.certificates();
    const auto changed = [&](std::size_t index) {
      return certificate_in(before.chain, index).key != certificate_in(after.chain, index).key;
    };
    EXPECT_EQ(before.pdh != after.pdh, row.pdh);
    EXPECT_EQ(changed(0), row.pek);
    EXPECT_EQ(changed(1), row.oca);
    EXPECT_EQ(changed(2), row.cek);
    expect_consistent(bench);
  }
}

TEST(SevFirmwarePlatform, AnOwnerFromTheStart) {
  SystemRandom random;
  const auto owner = std::make_shared<const EcKey>(EcKey::generate(random));
  FirmwareBench bench({.owner_key = owner});
  bench.init();
  EXPECT_EQ(status_of(bench).flags, 1);
  EXPECT_EQ(certificate_in(bench.certificates().chain, 1).key, owner->public_key().point());
  expect_consistent(bench);
}

TEST(SevFirmwarePlatform, TheChipsIdStaysAndIsItsOwn) {
  std::set<Bytes> ids;
  for (int chip = 0; chip < 2; ++chip) {
    FirmwareBench bench;
    for (int time = 0; time < 2; ++time) {
      MailboxBlob id = blob_at(bench.room(kChipIdBytes), 4096);
      ASSERT_EQ(bench.run(kGetId, id), Status::kSuccess);
      EXPECT_EQ(id.len, 64u);
      ids.insert(FirmwareBench::kernel_bytes(id.address, kChipIdBytes));
      ASSERT_EQ(bench.run(kPlatformReset), Status::kSuccess);
    }
  }
  EXPECT_EQ(ids.size(), 2u);
  FirmwareBench bench;
  MailboxBlob query;
  EXPECT_EQ(bench.run(kGetId, query), Status::kInvalidLength);
  EXPECT_EQ(query.len, 64u);
  bench.init();
  query = {};
  EXPECT_EQ(bench.run(kPekCsr, query), Status::kInvalidLength);
  EXPECT_EQ(query.len, kCertificateBytes);
  MailboxPdhCertExport lengths{.pdh_len = kCertificateBytes};
  EXPECT_EQ(bench.run(kPdhCertExport, lengths), Status::kInvalidLength);
  EXPECT_EQ(lengths.pdh_len, 2084u);
  EXPECT_EQ(lengths.chain_len, 6252u);
}

TEST(SevFirmwarePlatform, StatusSaysVersionEsAndGuests) {
  FirmwareBench bench({.version = {.api_major = 1, .api_minor = 49, .build = 7}});
  EXPECT_EQ(status_of(bench).state, 0);
  bench.init(true);
  bench.guest({.state = GuestState::kLaunchUpdate});
  bench.guest({.policy = kPolicyEs});
  const MailboxPlatformStatus status = status_of(bench);
  EXPECT_EQ(status.api_major, 1);
  EXPECT_EQ(status.api_minor, 49);
  EXPECT_EQ(status.build, 7);
  EXPECT_EQ(status.state, 2);
  EXPECT_EQ(status.config, 1);
  EXPECT_EQ(status.guest_count, 2u);
  FirmwareBench plain;
  plain.init();
  EXPECT_EQ(status_of(plain).config, 0);
}

TEST(SevFirmwarePlatform, AnAsidIsFlushedBeforeItIsUsedAgain) {
  FirmwareBench bench;
  bench.init();
  const std::uint32_t first = bench.guest({.bound = false});
  const std::uint32_t second = bench.guest({.bound = false});
  ASSERT_EQ(bench.activate(first, 200), Status::kSuccess);
  EXPECT_EQ(bench.run(kDfFlush), Status::kSuccess);  // nothing to wait for
  ASSERT_EQ(bench.on(kDeactivate, first), Status::kSuccess);
  EXPECT_EQ(bench.activate(second, 200), Status::kDfFlushRequired);
  EXPECT_EQ(bench.activate(first, 200), Status::kDfFlushRequired);
  EXPECT_EQ(bench.run(kDfFlush), Status::kWbinvdRequired);
  bench.firmware.wbinvd();
  EXPECT_EQ(bench.activate(second, 200), Status::kDfFlushRequired);
  ASSERT_EQ(bench.activate(first, 201), Status::kSuccess);
  ASSERT_EQ(bench.on(kDeactivate, first), Status::kSuccess);
  EXPECT_EQ(bench.run(kDfFlush), Status::kWbinvdRequired);  // 201 came after the WBINVD
  bench.firmware.wbinvd();
  ASSERT_EQ(bench.run(kDfFlush), Status::kSuccess);
  EXPECT_EQ(bench.activate(second, 200), Status::kSuccess);
  EXPECT_EQ(bench.activate(first, 201), Status::kSuccess);
}

TEST(SevFirmwarePlatform, SevEsGuestsHaveTheLowAsids) {
  FirmwareBench bench({.asids = 20, .sev_asid_min = 10});
  bench.init(true);
  struct Row {
    std::uint32_t policy, asid;
    Status status;
  };
  for (const Row& row : {Row{0, 0, Status::kInvalidAsid}, Row{0, 9, Status::kInvalidAsid},
                         Row{0, 10, Status::kSuccess}, Row{0, 20, Status::kSuccess},
                         Row{0, 21, Status::kInvalidAsid}, Row{kPolicyEs, 0, Status::kInvalidAsid},
                         Row{kPolicyEs, 1, Status::kSuccess}, Row{kPolicyEs, 9, Status::kSuccess},
                         Row{kPolicyEs, 10, Status::kInvalidAsid}}) {
    const std::uint32_t handle = bench.guest({.policy = row.policy, .bound = false});
    EXPECT_EQ(bench.activate(handle, row.asid), row.status) << row.policy << " " << row.asid;
  }
  const std::uint32_t owned = bench.guest({.bound = false});
  EXPECT_EQ(bench.activate(owned, 10), Status::kAsidOwned);
}

TEST(SevFirmwarePlatform, ShutdownLosesGuestsAndKeysButNoFlush) {
  FirmwareBench bench;
  bench.init();
  const std::uint32_t handle = bench.guest({});  // ASID 100
  ASSERT_EQ(bench.run(kShutdown), Status::kSuccess);
  EXPECT_EQ(bench.firmware.find(handle), nullptr);
  EXPECT_EQ(status_of(bench).guest_count, 0u);
  const auto read_with_its_key = [&] {
    Bytes out(16);
    bench.memory.load(100, bench.ram.page(0).data(), out);
  };
  EXPECT_DEATH(read_with_its_key(), "");
  bench.init();
  const std::uint32_t next = bench.guest({.bound = false});
  EXPECT_GT(next, handle);
  EXPECT_EQ(bench.activate(next, 100), Status::kDfFlushRequired);
  bench.firmware.wbinvd();
  ASSERT_EQ(bench.run(kDfFlush), Status::kSuccess);
  EXPECT_EQ(bench.activate(next, 100), Status::kSuccess);
}

TEST(SevFirmwarePlatform, DecommissionWantsDeactivateFirst) {
  FirmwareBench bench;
  bench.init();
  const std::uint32_t handle = bench.guest({});
  EXPECT_EQ(bench.on(kDecommission, handle), Status::kActive);
  ASSERT_EQ(bench.on(kDeactivate, handle), Status::kSuccess);
  EXPECT_EQ(bench.on(kDeactivate, handle), Status::kInactive);
  ASSERT_EQ(bench.on(kDecommission, handle), Status::kSuccess);
  EXPECT_EQ(bench.firmware.state(), PlatformState::kInit);
}

TEST(SevFirmwarePlatform, AFirmwareWithoutSevEs) {
  FirmwareBench bench({.es_capable = false});
  EXPECT_EQ(bench.run(kInit, MailboxInit{.flags = 1}), Status::kUnsupported);
  bench.init();
  EXPECT_EQ(bench.run(kLaunchStart, MailboxStart{.policy = kPolicyEs}), Status::kUnsupported);
  MailboxStart start = bench.start_with_session(bench.peer, kPolicyEs);
  EXPECT_EQ(bench.run(kReceiveStart, start), Status::kUnsupported);
}

}  // namespace
}  // namespace sealift::sev
