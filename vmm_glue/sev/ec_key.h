// P-384 keys: ECDH of the PDH, ECDSA over SHA-256 of OCA, PEK and CEK.
//
// Spec:    the certificates of two real platforms (virtee/sev tests, Naples and Rome) use P-384 for
//          every EC key and plain ECDSA over SHA-256; the shared secret is the X coordinate, 48
//          bytes big endian with its leading zeros (sev-tool, virtee/sev).
// Owner:   values; a private key is erased by OpenSSL when its last copy goes.
// Threads: const methods may run beside each other.
// Failure: bytes of others give std::nullopt or false; OpenSSL out of memory asserts.
// Note:    ECDSA draws its per-signature secret from OpenSSL's generator, not from a RandomSource.
#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <optional>

#include "engine/types.h"
#include "vmm_glue/sev/random.h"

struct evp_pkey_st;

namespace sealift::sev {

inline constexpr std::size_t kEcBytes = 48;
using EcNumber = std::array<std::byte, kEcBytes>;  // big endian

struct EcPoint {
  EcNumber x{};
  EcNumber y{};
  friend bool operator==(const EcPoint&, const EcPoint&) = default;
};

struct EcSignature {
  EcNumber r{};
  EcNumber s{};
};

class EcPublicKey {
 public:
  // Empty when the point is not on the curve.
  static std::optional<EcPublicKey> from_point(const EcPoint& point);
  const EcPoint& point() const { return point_; }
  bool verify(ByteView message, const EcSignature& signature) const;

 private:
  friend class EcKey;
  EcPublicKey(const EcPoint& point, std::shared_ptr<evp_pkey_st> key);
  EcPoint point_;
  std::shared_ptr<evp_pkey_st> key_;
};

class EcKey {
 public:
  static EcKey generate(RandomSource& random);
  // Empty when `scalar` is 0 or not below the group's order.
  static std::optional<EcKey> from_scalar(const EcNumber& scalar);

  const EcPublicKey& public_key() const { return public_; }
  // The private half, for a test's own checker. The caller erases it.
  EcNumber scalar_for_tests() const;
  EcSignature sign(ByteView message) const;
  // ECDH: the X coordinate of scalar * peer.
  EcNumber shared_secret(const EcPublicKey& peer) const;

 private:
  explicit EcKey(EcPublicKey public_key) : public_(std::move(public_key)) {}
  EcPublicKey public_;  // its key_ holds the private half too
};

}  // namespace sealift::sev
