// Who may receive a guest: SEND_START for every policy, and every link of the chain broken once.
#include <gtest/gtest.h>

#include "vmm_glue/model/sev/firmware_test_support.h"

namespace sealift::sev {
namespace {

using enum MailboxCommand;

// The owner of both platforms, of which the sender is given its own copy.
struct Pair {
  explicit Pair(bool same_owner = true, FirmwareVersion receiver_version = {1, 55, 19})
      : owner(key()),
        other(key()),
        sender({.owner_key = owner, .fused_ark_sha256 = test_amd_root().ark_sha256()}),
        receiver({.version = receiver_version, .owner_key = same_owner ? owner : other}) {
    sender.init();
    receiver.init();
    certificates = receiver.certificates(test_amd_root());
    amd = test_amd_root().ask_ark();
  }
  static std::shared_ptr<const EcKey> key() {
    SystemRandom random;
    return std::make_shared<const EcKey>(EcKey::generate(random));
  }
  Status send(std::uint32_t policy) { return send_as(sender.guest({.policy = policy})); }
  Status send_as(std::uint32_t handle) {
    MailboxSendStart start = sender.send_start_to(certificates.pdh, handle);
    start.plat_address = sender.kernel(certificates.chain);
    start.plat_len = static_cast<std::uint32_t>(certificates.chain.size());
    start.amd_address = sender.kernel(amd);
    start.amd_len = static_cast<std::uint32_t>(amd.size());
    return sender.run(kSendStart, start);
  }

  std::shared_ptr<const EcKey> owner;
  std::shared_ptr<const EcKey> other;
  FirmwareBench sender;
  FirmwareBench receiver;
  FirmwareBench::Certificates certificates;
  Bytes amd;
};

constexpr std::uint32_t kBoth = kPolicyDomain | kPolicySev;

// What the receiver may be for each of the eight policies of NOSEND, DOMAIN and SEV.
TEST(SevFirmwareChain, EveryPolicyAgainstEveryReceiver) {
  constexpr auto kForbidden = Status::kPolicyFailure;
  constexpr auto kGood = Status::kSuccess;
  constexpr auto kForm = Status::kInvalidCertificate;
  struct Row {
    std::uint32_t policy;
    Status same_owner, stranger, unsigned_cek;
  };
  for (const Row& row : {Row{0, kGood, kGood, kGood}, Row{kPolicyDomain, kGood, kForbidden, kGood},
                         Row{kPolicySev, kGood, kGood, kForm}, Row{kBoth, kGood, kForbidden, kForm},
                         Row{kPolicyNoSend, kForbidden, kForbidden, kForbidden},
                         Row{kPolicyNoSend | kPolicyDomain, kForbidden, kForbidden, kForbidden},
                         Row{kPolicyNoSend | kPolicySev, kForbidden, kForbidden, kForbidden},
                         Row{kPolicyNoSend | kBoth, kForbidden, kForbidden, kForbidden}}) {
    // A guest with NOSEND is refused whatever is shown; the others judge what they ask for.
    EXPECT_EQ(Pair().send(row.policy), row.same_owner) << row.policy;
    EXPECT_EQ(Pair(false).send(row.policy), row.stranger) << row.policy;
    Pair plain;
    plain.certificates = plain.receiver.certificates();  // as PDH_CERT_EXPORT gives it
    EXPECT_EQ(plain.send(row.policy), row.unsigned_cek) << row.policy;
  }
}

// Each certificate with one bit changed in each kind of field. A: the form is wrong, B: what is
// signed changed, C: the signature did.
TEST(SevFirmwareChain, EveryLinkBrokenOnce) {
  constexpr std::size_t kPek = 0;
  constexpr std::size_t kOca = kCertificateBytes;
  constexpr std::size_t kCek = 2 * kCertificateBytes;
  struct Field {
    const char* name;
    std::size_t at;
    Status status;
  };
  const Field fields[] = {
      {"version", 0, Status::kInvalidCertificate},
      {"api_major", 4, Status::kBadSignature},
      {"api_minor", 5, Status::kBadSignature},
      {"reserved", 6, Status::kInvalidCertificate},
      {"usage", 8, Status::kInvalidCertificate},
      {"algorithm", 12, Status::kInvalidCertificate},
      {"curve", 16, Status::kInvalidCertificate},
      {"Qx", 20, Status::kInvalidCertificate},
      {"Qx padding", 20 + 48, Status::kInvalidCertificate},
      {"Qy", 92, Status::kInvalidCertificate},
      {"key padding", 500, Status::kInvalidCertificate},
      {"slot 1 usage", 1044, Status::kInvalidCertificate},
      {"slot 1 algorithm", 1048, Status::kInvalidCertificate},
      {"slot 1 r or RSA", 1052, Status::kBadSignature},
  };
  Pair pair;
  const std::uint32_t handle = pair.sender.guest({.policy = kBoth});
  const auto good = pair.certificates;
  for (const Field& field : fields) {
    for (const std::size_t base : {kPek, kOca, kCek}) {
      pair.certificates = good;
      pair.certificates.chain[base + field.at] ^= std::byte{1};
      EXPECT_EQ(describe(pair.send_as(handle)), describe(field.status))
          << field.name << " of certificate " << base / kCertificateBytes;
    }
    pair.certificates = good;
    pair.certificates.pdh[field.at] ^= std::byte{1};
    EXPECT_EQ(describe(pair.send_as(handle)), describe(field.status)) << field.name << " of PDH";
  }
  // The PEK's second slot is the CEK's.
  for (const auto& [at, status] :
       {std::pair{1564u, Status::kInvalidCertificate}, std::pair{1572u, Status::kBadSignature}}) {
    pair.certificates = good;
    pair.certificates.chain[at] ^= std::byte{1};
    EXPECT_EQ(describe(pair.send_as(handle)), describe(status));
  }
  pair.certificates = good;
  EXPECT_EQ(pair.send_as(handle), Status::kSuccess);
}

// A wrong form is said before a wrong signature, whichever link has it.
TEST(SevFirmwareChain, FormBeforeSignatureAcrossLinks) {
  constexpr std::size_t kPekSlotOfCek = 1564;
  constexpr std::size_t kOcaSlot = kCertificateBytes + 1044;
  constexpr std::size_t kCekSlot = 2 * kCertificateBytes + 1044;
  struct Row {
    std::uint32_t policy;
    std::size_t bad_form;
  };
  for (const Row& row : {Row{kPolicySev, kPekSlotOfCek}, Row{kPolicySev, kCekSlot},
                         Row{kPolicyDomain, kOcaSlot}, Row{kBoth, kCekSlot}}) {
    Pair pair;
    const std::uint32_t handle = pair.sender.guest({.policy = row.policy});
    pair.certificates.pdh[1052] ^= std::byte{1};  // its signature
    EXPECT_EQ(pair.send_as(handle), Status::kBadSignature);
    pair.certificates.chain[row.bad_form] ^= std::byte{1};
    EXPECT_EQ(pair.send_as(handle), Status::kInvalidCertificate) << row.bad_form;
  }
}

TEST(SevFirmwareChain, AmdsCertificatesBrokenOnce) {
  Pair pair;
  const std::uint32_t handle = pair.sender.guest({.policy = kPolicySev});
  const Bytes good = pair.amd;
  const std::size_t half = good.size() / 2;
  // Any byte of the ARK is under the fused hash; of the ASK, each field has its own verdict.
  for (std::size_t at = half; at < good.size(); at += 31) {
    pair.amd = good;
    pair.amd[at] ^= std::byte{1};
    EXPECT_EQ(pair.send_as(handle), Status::kInvalidCertificate) << "ARK byte " << at - half;
  }
  for (const auto& [at, status] : {std::pair{0u, Status::kInvalidCertificate},       // version
                                   std::pair{4u, Status::kBadSignature},             // key id
                                   std::pair{20u, Status::kInvalidCertificate},      // its parent's
                                   std::pair{36u, Status::kInvalidCertificate},      // usage
                                   std::pair{70u, Status::kInvalidCertificate},      // exponent
                                   std::pair{64u + 512u, Status::kBadSignature}}) {  // signature
    pair.amd = good;
    pair.amd[at] ^= std::byte{1};
    EXPECT_EQ(describe(pair.send_as(handle)), describe(status)) << "ASK byte " << at;
  }
  // Another AMD, all of whose signatures are good.
  SystemRandom random;
  const AmdRoot impostor(random);
  pair.certificates = pair.receiver.certificates(impostor);
  pair.amd = impostor.ask_ark();
  EXPECT_EQ(pair.send_as(handle), Status::kInvalidCertificate);
  // The right AMD, and a CEK that the other signed.
  pair.amd = good;
  EXPECT_EQ(pair.send_as(handle), Status::kBadSignature);
}

TEST(SevFirmwareChain, LengthsOfTheChains) {
  Pair pair;
  const std::uint32_t handle = pair.sender.guest({.policy = kPolicySev});
  const auto good = pair.certificates;
  const Bytes amd = pair.amd;
  pair.certificates.chain.resize(kChainBytes - kCertificateBytes);
  EXPECT_EQ(pair.send_as(handle), Status::kInvalidLength);
  pair.certificates = good;
  for (const std::size_t bytes : {0u, 832u, 1663u, 1665u, 3201u}) {
    pair.amd.resize(bytes);
    EXPECT_EQ(pair.send_as(handle), Status::kInvalidLength) << bytes;
  }
  pair.amd.resize(2 * kAmdLargeBytes);  // a length there is, but not of this ARK
  EXPECT_EQ(pair.send_as(handle), Status::kInvalidCertificate);
  // DOMAIN asks for no AMD.
  pair.amd.clear();
  EXPECT_EQ(pair.send(kPolicyDomain), Status::kSuccess);
}

// From Rome on, keys of 4096 bits.
TEST(SevFirmwareChain, LargeAmdKeys) {
  SystemRandom random;
  const AmdRoot root(random, kRsaLargeBits);
  FirmwareBench bench({.fused_ark_sha256 = root.ark_sha256()});
  bench.init();
  const auto certificates = bench.certificates(root);
  const Bytes amd = root.ask_ark();
  ASSERT_EQ(amd.size(), 3200u);
  MailboxSendStart start =
      bench.send_start_to(certificates.pdh, bench.guest({.policy = kPolicySev}));
  start.plat_address = bench.kernel(certificates.chain);
  start.plat_len = kChainBytes;
  start.amd_address = bench.kernel(amd);
  start.amd_len = static_cast<std::uint32_t>(amd.size());
  EXPECT_EQ(bench.run(kSendStart, start), Status::kSuccess);
}

TEST(SevFirmwareChain, WithoutAFusedArkNobodyIsGenuine) {
  FirmwareBench bench;
  bench.init();
  const std::uint32_t handle = bench.guest({.policy = kPolicySev});
  EXPECT_EQ(bench.run(kSendStart, MailboxSendStart{.handle = handle}), Status::kUnsupported);
}

// The receiver's API is what its certificates say.
TEST(SevFirmwareChain, AReceiverOlderThanThePolicyAllows) {
  constexpr std::uint32_t kApi151 = 0x33010000;
  struct Row {
    FirmwareVersion version;
    std::uint32_t policy;
    Status status;
  };
  for (const Row& row : {Row{{1, 51, 0}, kPolicyDomain | kApi151, Status::kSuccess},
                         Row{{1, 50, 0}, kPolicyDomain | kApi151, Status::kPolicyFailure},
                         Row{{0, 99, 0}, kPolicySev | kApi151, Status::kPolicyFailure},
                         Row{{2, 0, 0}, kBoth | kApi151, Status::kSuccess},
                         Row{{1, 50, 0}, kApi151, Status::kSuccess}}) {
    EXPECT_EQ(Pair(true, row.version).send(row.policy), row.status)
        << int{row.version.api_major} << "." << int{row.version.api_minor};
  }
}

// A PEK keeps the version of the firmware that made it; the lower one of PEK and PDH counts.
TEST(SevFirmwareChain, TheOlderOfPekAndPdhCounts) {
  constexpr std::uint32_t kApi155 = 0x37010000;
  struct Row {
    std::uint8_t pdh_minor, pek_minor;
    Status status;
  };
  for (const Row& row : {Row{55, 54, Status::kPolicyFailure}, Row{54, 56, Status::kPolicyFailure},
                         Row{55, 56, Status::kSuccess}, Row{56, 55, Status::kSuccess}}) {
    Pair pair;
    FirmwareBench old({.version = {1, row.pdh_minor, 0}});
    old.init();
    MailboxBlob csr = blob_at(old.room(kCertificateBytes), kCertificateBytes);
    ASSERT_EQ(old.run(kPekCsr, csr), Status::kSuccess);
    SevCertificate pek =
        must(SevCertificate::parse(FirmwareBench::kernel_bytes(csr.address, csr.len)));
    pek.api_minor = row.pek_minor;
    sign_certificate(pek, 0, KeyUsage::kOca, *pair.owner);
    SevCertificate oca = unsigned_certificate(KeyUsage::kOca, pair.owner->public_key(), 1, 55);
    sign_certificate(oca, 0, KeyUsage::kOca, *pair.owner);
    ASSERT_EQ(old.run(kPekCertImport, MailboxPekCertImport{.pek_address = old.kernel(pek.encode()),
                                                           .pek_len = kCertificateBytes,
                                                           .oca_address = old.kernel(oca.encode()),
                                                           .oca_len = kCertificateBytes}),
              Status::kSuccess);
    pair.certificates = old.certificates(test_amd_root());
    EXPECT_EQ(pair.send(kBoth | kApi155), row.status) << int{row.pdh_minor};
  }
}

TEST(SevFirmwareChain, ThePdhAloneHasToBeWellFormed) {
  Pair pair;
  const std::uint32_t handle = pair.sender.guest({});
  const Bytes good = pair.certificates.pdh;
  pair.certificates.pdh = Bytes(pair.certificates.chain.begin(),
                                pair.certificates.chain.begin() + kCertificateBytes);  // a PEK
  EXPECT_EQ(pair.send_as(handle), Status::kInvalidCertificate);
  pair.certificates.pdh = good;
  pair.certificates.pdh[1100] ^= std::byte{1};  // its signature is nobody's business
  EXPECT_EQ(pair.send_as(handle), Status::kSuccess);
}

}  // namespace
}  // namespace sealift::sev
