// Certificates for tests: the real ones of tests/sev-certs, and a chain of our own down from a root
// that nobody knows. Plain test code: one thread, failures are gtest's.
#pragma once

#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "vmm_glue/sev/chain.h"

namespace sealift::sev {

inline Bytes real_file(const std::string& name) {
  std::ifstream file(std::string(SEALIFT_SEV_CERTS) + "/" + name, std::ios::binary);
  EXPECT_TRUE(file.good()) << name;
  const std::vector<char> text{std::istreambuf_iterator<char>(file), {}};
  Bytes out;
  for (const char c : text) out.push_back(static_cast<std::byte>(c));
  return out;
}

inline Bytes joined(std::initializer_list<Bytes> parts) {
  Bytes out;
  for (const Bytes& part : parts) out.insert(out.end(), part.begin(), part.end());
  return out;
}
inline Bytes bytes_of(const SevCertificate& certificate) {
  const CertificateBytes bytes = certificate.encode();
  return {bytes.begin(), bytes.end()};
}

// One RSA key pair of each size for the whole run: making them is slow.
inline const RsaKey& test_rsa_key(std::size_t bits, int which) {
  static const RsaKey keys[] = {RsaKey::generate(kRsaSmallBits), RsaKey::generate(kRsaSmallBits),
                                RsaKey::generate(kRsaLargeBits)};
  return bits == kRsaLargeBits ? keys[2] : keys[which];
}

struct MadeChain {
  static constexpr KeyId kArkId{std::byte{0xa0}};
  static constexpr KeyId kAskId{std::byte{0xa5}};

  explicit MadeChain(std::uint8_t pek_minor = 24, std::uint8_t pdh_minor = 24) {
    const RsaKey& ark_key = test_rsa_key(kRsaSmallBits, 0);
    const RsaKey& ask_key = test_rsa_key(kRsaSmallBits, 1);
    ark = unsigned_amd_certificate(KeyUsage::kArk, ark_key.public_key(), kArkId, kArkId);
    sign_certificate(ark, ark_key);
    ask = unsigned_amd_certificate(KeyUsage::kAsk, ask_key.public_key(), kAskId, kArkId);
    sign_certificate(ask, ark_key);
    cek = unsigned_certificate(KeyUsage::kCek, cek_key.public_key(), 0, 14);
    sign_certificate(cek, 0, ask_key);
    own(oca_key, pek_minor, pdh_minor);
  }
  // Makes the owner's part anew, with this OCA key.
  void own(const EcKey& owner, std::uint8_t pek_minor = 24, std::uint8_t pdh_minor = 24) {
    oca = unsigned_certificate(KeyUsage::kOca, owner.public_key(), 0, 24);
    sign_certificate(oca, 0, KeyUsage::kOca, owner);
    pek = unsigned_certificate(KeyUsage::kPek, pek_key.public_key(), 0, pek_minor);
    sign_certificate(pek, 0, KeyUsage::kOca, owner);
    sign_certificate(pek, 1, KeyUsage::kCek, cek_key);
    pdh = unsigned_certificate(KeyUsage::kPdh, pdh_key.public_key(), 0, pdh_minor);
    sign_certificate(pdh, 0, KeyUsage::kPek, pek_key);
  }
  SevChain chain() const { return {ark, ask, cek, pek, oca, pdh}; }
  Bytes pdh_bytes() const { return bytes_of(pdh); }
  Bytes platform_bytes() const { return joined({bytes_of(pek), bytes_of(oca), bytes_of(cek)}); }
  Bytes amd_bytes() const { return joined({ask.encode(), ark.encode()}); }

  SystemRandom random;
  EcKey oca_key = EcKey::generate(random);
  EcKey cek_key = EcKey::generate(random);
  EcKey pek_key = EcKey::generate(random);
  EcKey pdh_key = EcKey::generate(random);
  AmdCertificate ark;
  AmdCertificate ask;
  SevCertificate cek;
  SevCertificate pek;
  SevCertificate oca;
  SevCertificate pdh;
};

}  // namespace sealift::sev
