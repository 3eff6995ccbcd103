// The cryptography of SEV migration, to the byte: session data, packets, launch measurement.
//
// Spec:    AMD SEV API 55766 as read in AMD sev-tool and virtee/sev, and as a third-party tool
//          decrypts a stream of real Naples machines (PSPReverse/amd-sev-migration-attack).
//          Little-endian integers, counter and length of the KDF included; HMAC-SHA-256 with whole
//          tags; AES-128-CTR with the IV as first counter block, counted as one 128-bit big-endian
//          number; encrypt, then MAC.
// Owner:   values, and one PacketCipher for each session and side.
// Threads: functions: any. A PacketCipher: one caller at a time (it reuses its contexts for speed).
// Failure: a MAC that does not match is a result; OpenSSL out of memory asserts.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "engine/types.h"
#include "vmm_glue/abi/sev_abi.h"
#include "vmm_glue/sev/openssl_ptr.h"

namespace sealift::sev {

using Block = std::array<std::byte, 16>;   // AES key, IV, nonce
using Digest = std::array<std::byte, 32>;  // SHA-256, HMAC-SHA-256
using SessionBytes = std::array<std::byte, kSessionBytes>;

// Overwrites a secret; the compiler may not drop it.
void erase_secret(MutableBytes secret);

// NIST SP 800-108 in counter mode, one block of HMAC-SHA-256:
// HMAC(key; LE32(1) || label || 00 || context || LE32(128)), the first 16 bytes.
Block derive_key(ByteView key, std::string_view label, ByteView context);

struct WrapKeys {
  Block master{};  // from the ECDH secret and the session's nonce
  Block kek{};     // encrypts TEK and TIK
  Block kik{};     // authenticates them
};
WrapKeys derive_wrap_keys(ByteView shared_secret, const Block& nonce);

struct TransportKeys {
  Block tek{};  // encrypts packets
  Block tik{};  // authenticates packets and the policy
};

// Session data, 128 bytes: 0 nonce[16] | 16 wrap_tk[32] | 48 wrap_iv[16] | 64 wrap_mac[32] |
// 96 policy_mac[32]. wrap_tk = CTR(KEK, wrap_iv; TEK || TIK), wrap_mac = HMAC(KIK; wrap_tk) without
// IV and nonce, policy_mac = HMAC(TIK; LE32(policy)).
struct SessionSeed {
  Block nonce{};
  Block wrap_iv{};
};
SessionBytes make_session(ByteView shared_secret, const SessionSeed& seed,
                          const TransportKeys& keys, std::uint32_t policy);
// Empty when wrap_mac or policy_mac does not match.
std::optional<TransportKeys> unwrap_session(ByteView shared_secret,
                                            std::span<const std::byte, kSessionBytes> session,
                                            std::uint32_t policy);

// First byte under a packet's MAC. kVmsa is from one reading of 55766 only, unconfirmed on
// hardware.
enum class PacketContext : std::uint8_t { kSecret = 1, kData = 2, kVmsa = 3 };

// Packet header, 52 bytes: 0 flags (LE32, bit 0 compressed) | 4 IV[16] | 20 MAC[32].
struct PacketHeader {
  std::uint32_t flags = 0;
  Block iv{};
  Digest mac{};
};
PacketHeader parse_packet_header(std::span<const std::byte, kPacketHeaderBytes> bytes);
void write_packet_header(const PacketHeader& header, std::span<std::byte, kPacketHeaderBytes> out);

// HMAC-SHA-256 with one key, again and again.
class Hmac {
 public:
  explicit Hmac(ByteView key);
  void begin();
  void add(ByteView data);
  Digest finish();
  Digest of(ByteView data);

 private:
  OpensslPtr<evp_mac_ctx_st> context_;
};

// SHA-256 of data that arrives in pieces.
class Sha256 {
 public:
  Sha256();
  void add(ByteView data);
  Digest finish();  // no add() after it

 private:
  OpensslPtr<evp_md_ctx_st> context_;
};

class PacketCipher {
 public:
  explicit PacketCipher(const TransportKeys& keys);

  // AES-128-CTR both ways. REQUIRES: out.size() == in.size(); the two may be the same memory.
  void crypt(const Block& iv, ByteView in, MutableBytes out);
  // HMAC(TIK; context || LE32(flags) || IV || LE32(guest_len) || LE32(trans_len) || data || extra),
  // where data is ciphertext and both lengths are its length (nothing compresses). `extra` is the
  // launch measure under LAUNCH_SECRET, from API 0.17 on.
  Digest mac(PacketContext context, std::uint32_t flags, const Block& iv, ByteView data,
             ByteView extra = {});
  // True when the header's MAC is that of `data`; takes the same time whatever differs.
  bool authentic(PacketContext context, const PacketHeader& header, ByteView data,
                 ByteView extra = {});

 private:
  OpensslPtr<evp_cipher_ctx_st> ctr_;
  Hmac hmac_;
};

// LAUNCH_MEASURE: HMAC(TIK; 04 || api_major || api_minor || build || LE32(policy) || digest ||
// nonce).
struct FirmwareVersion {
  std::uint8_t api_major = 0;
  std::uint8_t api_minor = 0;
  std::uint8_t build = 0;
};
Digest launch_measure(const Block& tik, FirmwareVersion version, std::uint32_t policy,
                      const Digest& launch_digest, const Block& nonce);

}  // namespace sealift::sev
