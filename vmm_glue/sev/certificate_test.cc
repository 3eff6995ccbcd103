#include "vmm_glue/sev/certificate.h"

#include <gtest/gtest.h>

#include "vmm_glue/sev/blobs.h"
#include "vmm_glue/sev/test_support.h"

namespace sealift::sev {
namespace {

struct Chain {
  SystemRandom random;
  EcKey oca_key = EcKey::generate(random);
  EcKey cek_key = EcKey::generate(random);
  EcKey pek_key = EcKey::generate(random);
  EcKey pdh_key = EcKey::generate(random);
  SevCertificate oca = unsigned_certificate(KeyUsage::kOca, oca_key.public_key(), 1, 55);
  SevCertificate cek = unsigned_certificate(KeyUsage::kCek, cek_key.public_key(), 1, 55);
  SevCertificate pek = unsigned_certificate(KeyUsage::kPek, pek_key.public_key(), 1, 55);
  SevCertificate pdh = unsigned_certificate(KeyUsage::kPdh, pdh_key.public_key(), 1, 55);
  Chain() {
    sign_certificate(oca, 0, KeyUsage::kOca, oca_key);
    sign_certificate(pek, 0, KeyUsage::kOca, oca_key);
    sign_certificate(pek, 1, KeyUsage::kCek, cek_key);
    sign_certificate(pdh, 0, KeyUsage::kPek, pek_key);
  }
};

TEST(SevCertificate, RoundTrip) {
  const Chain chain;
  for (const SevCertificate& certificate : {chain.oca, chain.cek, chain.pek, chain.pdh}) {
    const CertificateBytes bytes = certificate.encode();
    EXPECT_EQ(must(SevCertificate::parse(bytes)), certificate);
  }
}

TEST(SevCertificate, ChainVerifies) {
  const Chain chain;
  EXPECT_EQ(check_signature(chain.oca, chain.oca), SignatureVerdict::kGood);
  EXPECT_EQ(check_signature(chain.pek, chain.oca), SignatureVerdict::kGood);
  EXPECT_EQ(check_signature(chain.pek, chain.cek), SignatureVerdict::kGood);
  EXPECT_EQ(check_signature(chain.pdh, chain.pek), SignatureVerdict::kGood);
}

TEST(SevCertificate, WrongParents) {
  const Chain chain;
  const Chain other;
  EXPECT_EQ(check_signature(chain.pdh, chain.oca), SignatureVerdict::kBadForm);
  EXPECT_EQ(check_signature(chain.oca, chain.pek), SignatureVerdict::kBadForm);
  EXPECT_EQ(check_signature(chain.cek, chain.oca), SignatureVerdict::kBadForm);
  EXPECT_EQ(check_signature(chain.pdh, other.pek), SignatureVerdict::kBadSignature);
  EXPECT_EQ(check_signature(chain.pek, other.oca), SignatureVerdict::kBadSignature);
}

// Every signed byte, one flipped bit at a time: refused as a body, or the signature no longer
// holds.
TEST(SevCertificate, EverySignedByteCounts) {
  const Chain chain;
  const CertificateBytes good = chain.pdh.encode();
  for (std::size_t at = 0; at < kSignedBytes; ++at) {
    CertificateBytes bytes = good;
    bytes[at] ^= std::byte{1};
    const auto parsed = SevCertificate::parse(bytes);
    if (!parsed) {
      EXPECT_EQ(parsed.error().cls, ErrorClass::kPolicy);
      continue;
    }
    EXPECT_NE(check_signature(*parsed, chain.pek), SignatureVerdict::kGood) << "byte " << at;
  }
}

TEST(SevCertificate, EverySignatureByteCounts) {
  const Chain chain;
  const CertificateBytes good = chain.pdh.encode();
  for (std::size_t at = kSignedBytes; at < kCertificateBytes; ++at) {
    CertificateBytes bytes = good;
    bytes[at] ^= std::byte{1};
    const auto parsed = SevCertificate::parse(bytes);
    ASSERT_TRUE(parsed.has_value());
    EXPECT_NE(check_signature(*parsed, chain.pek), SignatureVerdict::kGood) << "byte " << at;
  }
}

TEST(SevCertificate, PointOffTheCurveIsRefusedInWords) {
  SevCertificate pdh = Chain().pdh;
  pdh.key.y[47] ^= std::byte{1};
  const auto parsed = SevCertificate::parse(pdh.encode());
  ASSERT_FALSE(parsed.has_value());
  EXPECT_EQ(parsed.error().detail, "The PDH certificate's key is not a point on P-384.");
}

TEST(SevCertificate, WrongLengthIsRefused) {
  const CertificateBytes good = Chain().pdh.encode();
  EXPECT_FALSE(SevCertificate::parse({}));
  EXPECT_FALSE(SevCertificate::parse(ByteView(good).first(kCertificateBytes - 1)));
}

TEST(SevBlobs, EveryTruncationAndLengthIsRefused) {
  const IdentityBlob identity{
      .pdh = Bytes(kCertificateBytes), .chain = Bytes(kChainBytes), .amd_certs = Bytes(1664)};
  const StartBlob start{
      .policy = 5, .pdh = Bytes(kCertificateBytes), .session = Bytes(kSessionBytes)};
  const Bytes identity_bytes = encode(identity);
  const Bytes start_bytes = encode(start);
  EXPECT_EQ(must(decode_identity(identity_bytes)), identity);
  EXPECT_EQ(must(decode_start(start_bytes)), start);
  for (std::size_t size = 0; size < identity_bytes.size(); ++size) {
    const auto bad = decode_identity(ByteView(identity_bytes).first(size));
    ASSERT_FALSE(bad.has_value()) << size;
    EXPECT_EQ(bad.error().cls, ErrorClass::kMalformed);
  }
  for (std::size_t size = 0; size < start_bytes.size(); ++size) {
    ASSERT_FALSE(decode_start(ByteView(start_bytes).first(size))) << size;
  }
  for (const std::size_t at : {0u, 4u, 8u, 12u}) {  // version and lengths
    Bytes bad = identity_bytes;
    bad[at] ^= std::byte{1};
    EXPECT_FALSE(decode_identity(bad)) << at;
  }
  for (const std::size_t at : {0u, 8u, 12u}) {
    Bytes bad = start_bytes;
    bad[at + 3] ^= std::byte{0x80};
    EXPECT_FALSE(decode_start(bad)) << at;
  }
  Bytes longer = start_bytes;
  longer.push_back(std::byte{0});
  EXPECT_FALSE(decode_start(longer));
}

}  // namespace
}  // namespace sealift::sev
