// RSA keys of AMD's roots: RSA-PSS with the exponent 65537 and 2048 or 4096 bits.
//
// Spec:    the ten ARK and ASK certificates that AMD publishes (virtee/sev): PSS, MGF1 with the
//          hash of the message, a salt as long as the hash; SHA-256 for 2048 bits, SHA-384 for
//          4096.
// Owner:   values; a private key is erased by OpenSSL when its last copy goes.
// Threads: const methods may run beside each other.
// Failure: bytes of others give std::nullopt or false; OpenSSL out of memory asserts.
// Note:    keys and salts come from OpenSSL's generator, not from a RandomSource.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>

#include "engine/types.h"

struct evp_pkey_st;

namespace sealift::sev {

inline constexpr std::size_t kRsaSmallBits = 2048;
inline constexpr std::size_t kRsaLargeBits = 4096;
inline constexpr std::uint32_t kRsaExponent = 65537;

class RsaPublicKey {
 public:
  // `modulus`: big endian, 256 or 512 bytes. Empty for another length, a leading zero bit or an
  // even number.
  static std::optional<RsaPublicKey> from_modulus(ByteView modulus);
  const Bytes& modulus() const { return modulus_; }
  std::size_t bits() const { return modulus_.size() * 8; }
  // `signature`: big endian, as long as the modulus.
  bool verify_pss(ByteView message, ByteView signature) const;

 private:
  friend class RsaKey;
  RsaPublicKey(Bytes modulus, std::shared_ptr<evp_pkey_st> key);
  Bytes modulus_;
  std::shared_ptr<evp_pkey_st> key_;
};

class RsaKey {
 public:
  // REQUIRES: kRsaSmallBits (about 0.1 s) or kRsaLargeBits (about 1 s).
  static RsaKey generate(std::size_t bits);
  const RsaPublicKey& public_key() const { return public_; }
  Bytes sign_pss(ByteView message) const;  // big endian, as long as the modulus

 private:
  explicit RsaKey(RsaPublicKey public_key) : public_(std::move(public_key)) {}
  RsaPublicKey public_;  // its key_ holds the private half too
};

}  // namespace sealift::sev
