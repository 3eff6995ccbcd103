// Binding: what the SEV drivers of both hosts add to the firmware's packets.
//
// The firmware's MAC of a packet covers its content, not which page it is, which packet of the
// stream, nor whether one is missing. Each session's drivers agree on a key of their own and
// authenticate exactly that.
// Spec:    docs/spec/wire.md, "SEV binding". X25519 (RFC 7748), HKDF-SHA-256 (RFC 5869),
//          HMAC-SHA-256 with whole tags. The key exchange has no names in it: the two drivers are
//          who they are by the authenticated connection that carries identity and start.
// Owner:   BindingKeyPair: one side for one session, until the keys are agreed on. Binding: one
//          side for one session. Both erase their secrets when they are destroyed.
// Threads: one caller at a time.
// Failure: what the peer sent and does not fit is kMalformed, with both numbers in the text.
// Invariants:
//   I1  Batches and vCPU states are numbered from 0 without gaps, in one row. What is accepted is
//       the next of its session, made by the holder of the key, for the pages it names.
//   I2  A refused batch or state changes nothing here.
#pragma once

#include <array>
#include <cstdint>

#include "engine/batch.h"
#include "engine/result.h"
#include "engine/types.h"
#include "vmm_glue/sev/crypto.h"
#include "vmm_glue/sev/random.h"

namespace sealift::sev {

using BindingPublicKey = std::array<std::byte, 32>;
using BindingNonce = std::array<std::byte, 32>;
inline constexpr std::size_t kBatchAuthBytes = 8 + sizeof(Digest);  // sequence, HMAC

// What X25519 gives both sides. Erased when it goes.
struct BindingSecret {
  Digest bytes{};
  ~BindingSecret() { erase_secret(bytes); }
};

class BindingKeyPair {
 public:
  explicit BindingKeyPair(RandomSource& random);  // a new one
  ~BindingKeyPair();
  BindingKeyPair(const BindingKeyPair&) = delete;
  BindingKeyPair& operator=(const BindingKeyPair&) = delete;

  const BindingPublicKey& public_key() const { return public_; }
  ByteView private_key() const { return private_; }

  // kMalformed if the secret is all zeros, which a peer forces with a key of small order.
  Result<BindingSecret> agree(const BindingPublicKey& peer) const;

 private:
  std::array<std::byte, 32> private_{};
  BindingPublicKey public_{};
};

// What the two sides said before the session's first page.
struct BindingTerms {
  BindingPublicKey source_key{};
  BindingPublicKey destination_key{};
  BindingNonce nonce{};
  Digest identity_hash{};  // SHA-256 of the whole blob, as it travelled
  Digest start_hash{};
};

class Binding {
 public:
  Binding(const BindingSecret& secret, const BindingTerms& terms);

  // Source: writes batch_auth of the session's next batch.
  void sign(PrivateBatch& batch);
  // Destination: is this the session's next batch, as the source made it? REQUIRES: page_auth has
  // kPacketHeaderBytes for each entry, and ops one for each.
  Result<void> accept(const PrivateBatch& batch);

  // A vCPU's state: the number it travels under, and the HMAC over vCPU and bytes. `bytes` includes
  // the number. REQUIRES: told in the order of travel.
  std::uint64_t next_sequence() const { return sequence_; }
  Digest state_tag(std::uint32_t vcpu, ByteView bytes);
  void count_state();

  void end_epoch(std::uint32_t epoch) { last_epoch_ = epoch; }
  // Over the numbers of batches, pages and vCPU states and the last epoch: nothing is missing.
  Digest seal_tag();
  Result<void> check_seal(ByteView token);

 private:
  Digest batch_tag(const PrivateBatch& batch, std::uint64_t sequence);

  Hmac hmac_;  // OpenSSL erases its key when it is destroyed
  std::uint64_t sequence_ = 0;
  std::uint64_t batches_ = 0;
  std::uint64_t pages_ = 0;
  std::uint32_t states_ = 0;
  std::uint32_t last_epoch_ = 0;
};

Digest sha256_of(ByteView bytes);
bool same_tag(ByteView a, ByteView b);  // takes the same time whatever differs

}  // namespace sealift::sev
