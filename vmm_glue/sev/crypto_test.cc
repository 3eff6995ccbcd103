#include "vmm_glue/sev/crypto.h"

#include <gtest/gtest.h>

#include "vmm_glue/sev/ec_key.h"
#include "vmm_glue/sev/test_support.h"

namespace sealift::sev {
namespace {

constexpr std::uint32_t kPolicy = 0x33010001;  // NODBG, API 1.51

TransportKeys keys_of_vectors() { return {.tek = counting(0x10), .tik = counting(0x20)}; }

EcKey key_of(int byte) {
  EcNumber scalar{};
  scalar.fill(static_cast<std::byte>(byte));
  return *EcKey::from_scalar(scalar);
}

Bytes plain_of_vectors() {
  Bytes out(4096);
  for (std::size_t i = 0; i < out.size(); ++i) out[i] = std::byte((i * 7 + 3) & 0xff);
  return out;
}

Digest sha256(ByteView bytes) {
  Sha256 digest;
  digest.add(bytes);
  return digest.finish();
}

// The same expected values are in the unit tests of virtee/sev, which derived them on its own.
TEST(SevCrypto, AllZeroSession) {
  const Bytes secret(16);
  const Block zero{};
  const WrapKeys wrap = derive_wrap_keys(secret, zero);
  EXPECT_EQ(to_hex(wrap.master), "ab4d269fcc62bedb4511d56c386ce706");
  EXPECT_EQ(to_hex(wrap.kek), "b6abfbfb75ea1ea74ed8750b8afdb973");
  EXPECT_EQ(to_hex(wrap.kik), "53b524bf5669a363f365c864acba8572");
  const SessionBytes session = make_session(secret, {}, {}, 0);
  const ByteView bytes(session);
  EXPECT_EQ(to_hex(bytes.subspan(16, 32)),
            "2137bc7f9bb8bd7c3e55a576a15d3454b3856b8ba27afadf46dcfee9f02c02c4");
  EXPECT_EQ(to_hex(bytes.subspan(64, 32)),
            "3176c0752738bd9d5e86689534020f528c088f16238826b000b327dee6aeed7d");
  EXPECT_EQ(to_hex(bytes.subspan(96, 32)),
            "aa7855e13839dd767cd5da7c1ff5036540c9264b7a803029315e55375287b4af");
}

TEST(SevCrypto, SessionOverEcdh) {
  const EcKey a = key_of(1);
  const EcKey b = key_of(2);
  EXPECT_EQ(to_hex(a.public_key().point().x),
            "43e3af2a0db9086750976877650f426d2157a45e10de646ff857198b226df0d4"
            "b2243408e03ba711d9c34c51cb344413");
  EXPECT_EQ(to_hex(a.public_key().point().y),
            "dd12e3cea20d5112f06b0831d2ea139ba34061f8310e9744fd18d915ef34f6f2"
            "c670e34c63eeb80bcc613ecb91f2c196");
  EXPECT_EQ(to_hex(b.public_key().point().x),
            "316140c268c8841cddd1dcbb51a11d516d285cdda6979f1db9230b9a9436f07e"
            "a3bacb8f4200e382634338484d19cdf4");
  EXPECT_EQ(to_hex(b.public_key().point().y),
            "94a1a457df42b3e7e22a255300495305b5d6f0208f2aada1741af1a9baaa73c3"
            "9db971ef06d180d9524e1a2a4d33dfa0");
  const EcNumber secret = a.shared_secret(b.public_key());
  EXPECT_EQ(secret, b.shared_secret(a.public_key()));
  EXPECT_EQ(to_hex(secret),
            "49ca5424673f106fc1968da5deb509bb51af15f9a4ffda8f0a41dd2528a086e7"
            "a9f0f24b9b2ac7f90577c5363ce9a445");
  const WrapKeys wrap = derive_wrap_keys(secret, counting(0));
  EXPECT_EQ(to_hex(wrap.master), "d511ce6de72453f8eca3a826b45d7bd7");
  EXPECT_EQ(to_hex(wrap.kek), "fbe86af9ac04763da2837c2274818161");
  EXPECT_EQ(to_hex(wrap.kik), "cd69d1e2f4e9cf0e815125489cc8fccf");
  const SessionSeed seed{.nonce = counting(0), .wrap_iv = counting(0xf0)};
  const SessionBytes session = make_session(secret, seed, keys_of_vectors(), kPolicy);
  const ByteView bytes(session);
  EXPECT_EQ(to_hex(bytes.subspan(16, 32)),
            "37454008e9bbe4f17aa4cd78491497eec5e444dcb29072a08d7155e5f5041fe0");
  EXPECT_EQ(to_hex(bytes.subspan(64, 32)),
            "9e854a38477abc65f8a8cb8343977b82c690399cdf32cec4dbfcb33f10301207");
  EXPECT_EQ(to_hex(bytes.subspan(96, 32)),
            "7564ee74f842ee4193b2a149d4043c77bd05b1766d78c961e9a60dcdc53746fd");
  EXPECT_EQ(to_hex(sha256(session)),
            "b0149722724337877f47b80dca0c2e553f99745e7ef2dfbb877b4d9be865d7e8");

  const auto opened = unwrap_session(secret, session, kPolicy);
  ASSERT_TRUE(opened.has_value());
  EXPECT_EQ(opened->tek, counting(0x10));
  EXPECT_EQ(opened->tik, counting(0x20));
}

TEST(SevCrypto, SessionOpensOnlyUnchangedForItsPolicyAndSecret) {
  const Bytes secret(48, std::byte{7});
  const SessionSeed seed{.nonce = counting(1), .wrap_iv = counting(2)};
  const SessionBytes good = make_session(secret, seed, keys_of_vectors(), kPolicy);
  EXPECT_TRUE(unwrap_session(secret, good, kPolicy));
  EXPECT_FALSE(unwrap_session(secret, good, kPolicy ^ 1));
  EXPECT_FALSE(unwrap_session(Bytes(48, std::byte{8}), good, kPolicy));
  for (std::size_t at = 0; at < good.size(); ++at) {
    SessionBytes bad = good;
    bad[at] ^= std::byte{1};
    // The IV is under no MAC: another one gives other keys, which the policy's MAC then refuses.
    EXPECT_FALSE(unwrap_session(secret, bad, kPolicy)) << "byte " << at;
  }
}

TEST(SevCrypto, Packet) {
  const Bytes plain = plain_of_vectors();
  ASSERT_EQ(to_hex(sha256(plain)),
            "7486da8f1e13943fae21a0b043f1e99640d7d8ebafb25266478b5cddae1272b5");
  PacketCipher cipher(keys_of_vectors());
  Bytes data(plain.size());
  cipher.crypt(counting(0x40), plain, data);
  EXPECT_EQ(to_hex(ByteView(data).first(32)),
            "4141c8a8f2e2c39dd7fbd872bc39552e4c2e62bb74119b16a72223d17d30cbc5");
  EXPECT_EQ(to_hex(ByteView(data).last(16)), "99d0baee44b90260e1dcec67b923e957");
  EXPECT_EQ(to_hex(sha256(data)),
            "d2cbec03dfaf53ea17c734bbe1eb6cf7c731123039d3dbdda2de890682f27c4f");

  PacketHeader header{.flags = 0, .iv = counting(0x40), .mac = {}};
  EXPECT_EQ(to_hex(cipher.mac(PacketContext::kVmsa, 0, header.iv, data)),
            "d3bbca7e000d6198e36202a1318cfe33cbfb98d341e1f617c1ca7a490c81a816");
  header.mac = cipher.mac(PacketContext::kData, 0, header.iv, data);
  std::array<std::byte, kPacketHeaderBytes> bytes{};
  write_packet_header(header, bytes);
  EXPECT_EQ(to_hex(bytes),
            "00000000404142434445464748494a4b4c4d4e4f"
            "ec4628c644018a8936734c7a9396a24afe570130b32554319a942eeea70a9c4c");
  EXPECT_TRUE(cipher.authentic(PacketContext::kData, parse_packet_header(bytes), data));
  EXPECT_FALSE(cipher.authentic(PacketContext::kVmsa, parse_packet_header(bytes), data));

  Bytes back(data.size());
  cipher.crypt(header.iv, data, back);
  EXPECT_EQ(back, plain);
}

TEST(SevCrypto, CounterWrapsAt128Bits) {
  PacketCipher cipher(keys_of_vectors());
  Block iv{};
  iv.fill(std::byte{0xff});
  Bytes data(48);
  cipher.crypt(iv, data, data);
  EXPECT_EQ(to_hex(data),
            "fa402fd4076ea9638f88ebaff4639a90eda330f90eecd16c003e5fb09bcff358"
            "1b94b57e0718d6b563b170a063d1847d");
}

TEST(SevCrypto, LaunchMeasureAndSecret) {
  const Digest measure = launch_measure(counting(0x20), {1, 55, 0x13}, kPolicy,
                                        sha256(plain_of_vectors()), counting(0));
  EXPECT_EQ(to_hex(measure), "1f369806faf9c573c379179763c197544ee13e80b4a722b31b7621517a940a96");
  PacketCipher cipher(keys_of_vectors());
  Bytes data = plain_of_vectors();
  cipher.crypt(counting(0x40), data, data);
  PacketHeader header{.flags = 0, .iv = counting(0x40), .mac = {}};
  header.mac = cipher.mac(PacketContext::kSecret, 0, header.iv, data, measure);
  EXPECT_EQ(to_hex(header.mac), "91d8639eaf88cf3e1dfa96e303e185cc3da3910f25e702594eb356969390a041");
  EXPECT_TRUE(cipher.authentic(PacketContext::kSecret, header, data, measure));
  EXPECT_FALSE(cipher.authentic(PacketContext::kSecret, header, data));
  // From a unit test of virtee/sev.
  Block tik{};
  Block nonce{};
  const Bytes tik_bytes = from_hex("66320db73158a35a255d051758e95ed4");
  const Bytes nonce_bytes = from_hex("4fbe0bedbad6c86ae8f68971d103e554");
  std::copy(tik_bytes.begin(), tik_bytes.end(), tik.begin());
  std::copy(nonce_bytes.begin(), nonce_bytes.end(), nonce.begin());
  EXPECT_EQ(to_hex(launch_measure(tik, {0, 18, 15}, 0, sha256({}), nonce)),
            "6faab2daae389bcd3405a05d6cafe33c0414f7bedd0bae19ba5f38b7fd1664ea");
}

TEST(SevCrypto, AKeyGivesItsScalarBack) {
  EcNumber scalar{};
  scalar.fill(std::byte{1});
  scalar[0] = std::byte{0};  // leading zeros are kept
  EXPECT_EQ(EcKey::from_scalar(scalar)->scalar_for_tests(), scalar);
}

TEST(SevCrypto, ScalarsOutsideTheGroupAreRefused) {
  EcNumber scalar{};
  EXPECT_FALSE(EcKey::from_scalar(scalar));
  scalar.fill(std::byte{0xff});
  EXPECT_FALSE(EcKey::from_scalar(scalar));
}

}  // namespace
}  // namespace sealift::sev
