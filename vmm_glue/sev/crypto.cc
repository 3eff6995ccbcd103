#include "vmm_glue/sev/crypto.h"

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/params.h>

#include <algorithm>

#include "engine/assert.h"

namespace sealift::sev {
namespace {

constexpr std::size_t kWrapKeyAt = 16;
constexpr std::size_t kWrapIvAt = 48;
constexpr std::size_t kWrapMacAt = 64;
constexpr std::size_t kPolicyMacAt = 96;
constexpr std::size_t kHeaderIvAt = 4;
constexpr std::size_t kHeaderMacAt = 20;

unsigned char* writable(MutableBytes bytes) {
  return reinterpret_cast<unsigned char*>(bytes.data());
}
const unsigned char* octets(ByteView bytes) {
  return reinterpret_cast<const unsigned char*>(bytes.data());
}

std::array<std::byte, 4> le32(std::uint32_t number) {
  return {std::byte(number & 0xff), std::byte(number >> 8 & 0xff), std::byte(number >> 16 & 0xff),
          std::byte(number >> 24 & 0xff)};
}

void put(ByteView from, MutableBytes to) {
  SEALIFT_ASSERT(from.size() == to.size());
  std::copy(from.begin(), from.end(), to.begin());
}

template <std::size_t N>
std::array<std::byte, N> take(ByteView from) {
  SEALIFT_ASSERT(from.size() == N);
  std::array<std::byte, N> out{};
  std::copy(from.begin(), from.end(), out.begin());
  return out;
}

OpensslPtr<evp_cipher_ctx_st> new_ctr(const Block& key) {
  OpensslPtr<evp_cipher_ctx_st> context(EVP_CIPHER_CTX_new());
  SEALIFT_ASSERT(context != nullptr);
  SEALIFT_ASSERT(
      EVP_EncryptInit_ex2(context.get(), EVP_aes_128_ctr(), octets(key), nullptr, nullptr) == 1);
  return context;
}

void crypt_with(evp_cipher_ctx_st* context, const Block& iv, ByteView in, MutableBytes out) {
  SEALIFT_ASSERT(in.size() == out.size());
  int written = 0;
  SEALIFT_ASSERT(EVP_EncryptInit_ex2(context, nullptr, nullptr, octets(iv), nullptr) == 1);
  SEALIFT_ASSERT(EVP_EncryptUpdate(context, writable(out), &written, octets(in),
                                   static_cast<int>(in.size())) == 1);
  SEALIFT_ASSERT(static_cast<std::size_t>(written) == in.size());
}

bool same_secret(ByteView a, ByteView b) {
  SEALIFT_ASSERT(a.size() == b.size());
  return CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

}  // namespace

void erase_secret(MutableBytes secret) { OPENSSL_cleanse(secret.data(), secret.size()); }

Hmac::Hmac(ByteView key) {
  EVP_MAC* mac = EVP_MAC_fetch(nullptr, "HMAC", nullptr);
  SEALIFT_ASSERT(mac != nullptr);
  context_.reset(EVP_MAC_CTX_new(mac));
  EVP_MAC_free(mac);  // the context holds its own reference
  SEALIFT_ASSERT(context_ != nullptr);
  char digest[] = "SHA256";
  const std::array<OSSL_PARAM, 2> params = {
      OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, digest, 0),
      OSSL_PARAM_construct_end()};
  SEALIFT_ASSERT(EVP_MAC_init(context_.get(), octets(key), key.size(), params.data()) == 1);
}

void Hmac::begin() { SEALIFT_ASSERT(EVP_MAC_init(context_.get(), nullptr, 0, nullptr) == 1); }

void Hmac::add(ByteView data) {
  SEALIFT_ASSERT(EVP_MAC_update(context_.get(), octets(data), data.size()) == 1);
}

Digest Hmac::finish() {
  Digest out{};
  std::size_t written = 0;
  SEALIFT_ASSERT(EVP_MAC_final(context_.get(), writable(out), &written, out.size()) == 1);
  SEALIFT_ASSERT(written == out.size());
  return out;
}

Digest Hmac::of(ByteView data) {
  begin();
  add(data);
  return finish();
}

Sha256::Sha256() : context_(EVP_MD_CTX_new()) {
  SEALIFT_ASSERT(context_ != nullptr);
  SEALIFT_ASSERT(EVP_DigestInit_ex2(context_.get(), EVP_sha256(), nullptr) == 1);
}

void Sha256::add(ByteView data) {
  SEALIFT_ASSERT(EVP_DigestUpdate(context_.get(), data.data(), data.size()) == 1);
}

Digest Sha256::finish() {
  Digest out{};
  unsigned int written = 0;
  SEALIFT_ASSERT(EVP_DigestFinal_ex(context_.get(), writable(out), &written) == 1);
  SEALIFT_ASSERT(written == out.size());
  return out;
}

Block derive_key(ByteView key, std::string_view label, ByteView context) {
  constexpr std::uint32_t kOutputBits = 8 * sizeof(Block);
  Hmac hmac(key);
  hmac.begin();
  hmac.add(le32(1));  // block counter
  hmac.add(std::as_bytes(std::span(label)));
  hmac.add(std::array{std::byte{0}});
  hmac.add(context);
  hmac.add(le32(kOutputBits));
  return take<sizeof(Block)>(ByteView(hmac.finish()).first<sizeof(Block)>());
}

WrapKeys derive_wrap_keys(ByteView shared_secret, const Block& nonce) {
  WrapKeys keys;
  keys.master = derive_key(shared_secret, "sev-master-secret", nonce);
  keys.kek = derive_key(keys.master, "sev-kek", {});
  keys.kik = derive_key(keys.master, "sev-kik", {});
  return keys;
}

SessionBytes make_session(ByteView shared_secret, const SessionSeed& seed,
                          const TransportKeys& keys, std::uint32_t policy) {
  WrapKeys wrap = derive_wrap_keys(shared_secret, seed.nonce);
  std::array<std::byte, 2 * sizeof(Block)> both{};
  put(keys.tek, std::span(both).first<16>());
  put(keys.tik, std::span(both).last<16>());

  SessionBytes out{};
  const MutableBytes session(out);
  const MutableBytes wrapped = session.subspan(kWrapKeyAt, both.size());
  put(seed.nonce, session.first(sizeof(Block)));
  crypt_with(new_ctr(wrap.kek).get(), seed.wrap_iv, both, wrapped);
  put(seed.wrap_iv, session.subspan(kWrapIvAt, sizeof(Block)));
  put(Hmac(wrap.kik).of(wrapped), session.subspan(kWrapMacAt, sizeof(Digest)));
  put(Hmac(keys.tik).of(le32(policy)), session.subspan(kPolicyMacAt, sizeof(Digest)));
  erase_secret(both);
  erase_secret(std::as_writable_bytes(std::span(&wrap, 1)));
  return out;
}

std::optional<TransportKeys> unwrap_session(ByteView shared_secret,
                                            std::span<const std::byte, kSessionBytes> session,
                                            std::uint32_t policy) {
  const auto nonce = take<16>(session.first<16>());
  const ByteView wrapped = session.subspan<kWrapKeyAt, 32>();
  WrapKeys wrap = derive_wrap_keys(shared_secret, nonce);
  std::optional<TransportKeys> keys;
  if (same_secret(Hmac(wrap.kik).of(wrapped), session.subspan<kWrapMacAt, 32>())) {
    std::array<std::byte, 2 * sizeof(Block)> both{};
    crypt_with(new_ctr(wrap.kek).get(), take<16>(session.subspan<kWrapIvAt, 16>()), wrapped, both);
    keys = TransportKeys{.tek = take<16>(ByteView(both).first(16)),
                         .tik = take<16>(ByteView(both).last(16))};
    erase_secret(both);
    // The policy is the sender's word until TIK, which only the sender could wrap, vouches for it.
    if (!same_secret(Hmac(keys->tik).of(le32(policy)), session.subspan<kPolicyMacAt, 32>())) {
      erase_secret(std::as_writable_bytes(std::span(&*keys, 1)));
      keys.reset();
    }
  }
  erase_secret(std::as_writable_bytes(std::span(&wrap, 1)));
  return keys;
}

PacketHeader parse_packet_header(std::span<const std::byte, kPacketHeaderBytes> bytes) {
  PacketHeader header;
  for (std::size_t i = 0; i < 4; ++i) {
    header.flags |= std::to_integer<std::uint32_t>(bytes[i]) << (8 * i);
  }
  header.iv = take<16>(bytes.subspan<kHeaderIvAt, 16>());
  header.mac = take<32>(bytes.subspan<kHeaderMacAt, 32>());
  return header;
}

void write_packet_header(const PacketHeader& header, std::span<std::byte, kPacketHeaderBytes> out) {
  put(le32(header.flags), out.first<4>());
  put(header.iv, out.subspan<kHeaderIvAt, 16>());
  put(header.mac, out.subspan<kHeaderMacAt, 32>());
}

PacketCipher::PacketCipher(const TransportKeys& keys) : ctr_(new_ctr(keys.tek)), hmac_(keys.tik) {}

void PacketCipher::crypt(const Block& iv, ByteView in, MutableBytes out) {
  crypt_with(ctr_.get(), iv, in, out);
}

Digest PacketCipher::mac(PacketContext context, std::uint32_t flags, const Block& iv, ByteView data,
                         ByteView extra) {
  // 0 context | 1 flags | 5 IV | 21 guest_len | 25 trans_len
  std::array<std::byte, 29> head{};
  const MutableBytes fields(head);
  const auto length = le32(static_cast<std::uint32_t>(data.size()));
  head[0] = std::byte{static_cast<std::uint8_t>(context)};
  put(le32(flags), fields.subspan(1, 4));
  put(iv, fields.subspan(5, 16));
  put(length, fields.subspan(21, 4));
  put(length, fields.subspan(25, 4));
  hmac_.begin();
  hmac_.add(head);
  hmac_.add(data);
  if (!extra.empty()) hmac_.add(extra);
  return hmac_.finish();
}

bool PacketCipher::authentic(PacketContext context, const PacketHeader& header, ByteView data,
                             ByteView extra) {
  return same_secret(mac(context, header.flags, header.iv, data, extra), header.mac);
}

Digest launch_measure(const Block& tik, FirmwareVersion version, std::uint32_t policy,
                      const Digest& launch_digest, const Block& nonce) {
  Hmac hmac(tik);
  hmac.begin();
  hmac.add(std::array{std::byte{4}, std::byte{version.api_major}, std::byte{version.api_minor},
                      std::byte{version.build}});
  hmac.add(le32(policy));
  hmac.add(launch_digest);
  hmac.add(nonce);
  return hmac.finish();
}

}  // namespace sealift::sev
