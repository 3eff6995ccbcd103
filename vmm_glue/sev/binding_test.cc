// The drivers' own binding and the blobs that carry its keys, byte for byte.
//
// Expected values come from another implementation (Python's hmac and cryptography) that follows
// docs/spec/wire.md.

#include "vmm_glue/sev/binding.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <map>

#include "vmm_glue/sev/blobs.h"
#include "vmm_glue/sev/test_support.h"

namespace sealift::sev {
namespace {

template <class Out>
Out counting_from(int first, Out out) {
  for (std::size_t i = 0; i < out.size(); ++i) out[i] = std::byte((first + int(i)) & 0xff);
  return out;
}
std::array<std::byte, 32> counting32(int first) {
  return counting_from(first, std::array<std::byte, 32>{});
}
Bytes pattern(std::size_t size, std::size_t factor, std::size_t add) {
  Bytes out(size);
  for (std::size_t i = 0; i < size; ++i) out[i] = std::byte((i * factor + add) & 0xff);
  return out;
}
ByteView text(std::string_view words) { return std::as_bytes(std::span(words)); }

// Gives the same bytes again and again.
class FixedRandom final : public RandomSource {
 public:
  explicit FixedRandom(Bytes bytes) : bytes_(std::move(bytes)) {}
  void fill(MutableBytes out) override {
    ASSERT_EQ(out.size(), bytes_.size());
    std::copy(bytes_.begin(), bytes_.end(), out.begin());
  }

 private:
  const Bytes bytes_;
};

struct Vectors {
  FixedRandom source_random{counting_from(0x01, Bytes(32))};
  FixedRandom destination_random{counting_from(0x41, Bytes(32))};
  BindingKeyPair source{source_random};
  BindingKeyPair destination{destination_random};
  BindingTerms terms{.source_key = source.public_key(),
                     .destination_key = destination.public_key(),
                     .nonce = counting32(0x80),
                     .identity_hash = sha256_of(text("identity")),
                     .start_hash = sha256_of(text("start"))};
  Binding sender{must(source.agree(destination.public_key())), terms};
  Binding receiver{must(destination.agree(source.public_key())), terms};

  static PrivateBatch batch(std::uint32_t epoch, std::uint8_t stream, std::vector<Gfn> gfns,
                            std::vector<int> headers) {
    PrivateBatch out;
    out.epoch = epoch;
    out.stream = stream;
    out.ops.assign(gfns.size(), PrivateOp::kImport);
    out.gfns = std::move(gfns);
    for (const int first : headers) {
      const Bytes header = counting_from(first, Bytes(kPacketHeaderBytes));
      out.page_auth.insert(out.page_auth.end(), header.begin(), header.end());
    }
    return out;
  }
};

TEST(SevBinding, Vectors) {
  Vectors v;
  EXPECT_EQ(to_hex(v.source.public_key()),
            "07a37cbc142093c8b755dc1b10e86cb426374ad16aa853ed0bdfc0b2b86d1c7c");
  EXPECT_EQ(to_hex(v.destination.public_key()),
            "64b101b1d0be5a8704bd078f9895001fc03e8e9f9522f188dd128d9846d48466");
  PrivateBatch first = Vectors::batch(3, 2, {Gfn{5}, Gfn{0x123456789}}, {0, 100});
  v.sender.sign(first);
  EXPECT_EQ(to_hex(first.batch_auth),
            "0000000000000000"
            "1ea9b622b98ad34dbbfa2c142f8d7cc664b4090fd47cfaec5ae8d801a72149fb");
  PrivateBatch second = Vectors::batch(4, 0, {Gfn{6}}, {7});
  v.sender.sign(second);
  EXPECT_EQ(to_hex(second.batch_auth),
            "0100000000000000"
            "8a7df013a7a100db524d5786946d1490ad602e40c504ad1e1500d8700e257bf1");
  EXPECT_EQ(v.sender.next_sequence(), 2u);
  EXPECT_EQ(to_hex(v.sender.state_tag(9, counting_from(0, Bytes(40)))),
            "d2ba63c98b0ce36a8aaa86351a47c6fef141575fa74cf4a5dadd0fdc7dbc5534");
  v.sender.count_state();
  v.sender.end_epoch(4);
  const Digest seal = v.sender.seal_tag();
  EXPECT_EQ(to_hex(seal), "74913610ddc6d4c91f742febb295082993ee3eba5dc46731b7d3d953e4dfad81");

  must(v.receiver.accept(first));
  EXPECT_EQ(v.receiver.accept(first).error().detail, "SEV batch 0 came where batch 1 was due.");
  must(v.receiver.accept(second));
  v.receiver.count_state();
  EXPECT_EQ(
      v.receiver.check_seal(seal).error().detail,
      "The SEV seal does not fit what came: 2 batches with 3 pages, 1 vCPU states, last epoch "
      "0.");
  v.receiver.end_epoch(4);
  must(v.receiver.check_seal(seal));
}

// What each term of the key is for: one of them changed, and the receiver accepts nothing.
TEST(SevBinding, EachTermChangesTheKey) {
  Vectors v;
  PrivateBatch batch = Vectors::batch(1, 0, {Gfn{1}}, {0});
  v.sender.sign(batch);
  const std::vector<std::function<void(BindingTerms&)>> changes = {
      [](BindingTerms& t) { t.source_key[31] ^= std::byte{1}; },
      [](BindingTerms& t) { t.destination_key[0] ^= std::byte{1}; },
      [](BindingTerms& t) { t.nonce[5] ^= std::byte{1}; },
      [](BindingTerms& t) { t.identity_hash[9] ^= std::byte{1}; },
      [](BindingTerms& t) { t.start_hash[9] ^= std::byte{1}; },
      [](BindingTerms& t) { std::swap(t.source_key, t.destination_key); }};
  for (const auto& change : changes) {
    BindingTerms terms = v.terms;
    change(terms);
    Binding other(must(v.destination.agree(v.source.public_key())), terms);
    EXPECT_FALSE(other.accept(batch).has_value());
  }
  Binding same(must(v.destination.agree(v.source.public_key())), v.terms);
  must(same.accept(batch));
}

// Points whose every multiple by a clamped scalar is zero (RFC 7748, section 6.1; the list is from
// D. J. Bernstein's page on Curve25519).
TEST(SevBinding, KeysOfSmallOrderAreRefused) {
  SystemRandom random;
  const BindingKeyPair own(random);
  for (const char* hex : {"0000000000000000000000000000000000000000000000000000000000000000",
                          "0100000000000000000000000000000000000000000000000000000000000000",
                          "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
                          "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
                          "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
                          "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"}) {
    BindingPublicKey weak{};
    const Bytes bytes = from_hex(hex);
    std::copy(bytes.begin(), bytes.end(), weak.begin());
    const auto agreed = own.agree(weak);
    ASSERT_FALSE(agreed.has_value()) << hex;
    EXPECT_EQ(agreed.error().cls, ErrorClass::kMalformed);
  }
}

TEST(SevBinding, ThePairAndTheSecretAreErased) {
  SystemRandom random;
  alignas(BindingKeyPair) std::array<std::byte, sizeof(BindingKeyPair)> place{};
  auto* pair = new (place.data()) BindingKeyPair(random);
  const Bytes secret(pair->private_key().begin(), pair->private_key().end());
  const auto holds_it = [&] {
    return std::search(place.begin(), place.end(), secret.begin(), secret.end()) != place.end();
  };
  EXPECT_TRUE(holds_it());
  pair->~BindingKeyPair();
  EXPECT_FALSE(holds_it());
}

TEST(SevBlobs, GoldenBytesOfVersion2) {
  const IdentityBlob identity{.pdh = pattern(kCertificateBytes, 3, 1),
                              .chain = pattern(kChainBytes, 5, 2),
                              .amd_certs = pattern(100, 7, 3),
                              .key = counting32(0x10)};
  const Bytes bytes = encode(identity);
  EXPECT_EQ(to_hex(ByteView(bytes).first(64)),
            "02000000240800006c18000064000000"
            "101112131415161718191a1b1c1d1e1f202122232425262728292a2b2c2d2e2f"
            "0104070a0d101316191c1f2225282b2e");
  EXPECT_EQ(to_hex(sha256_of(bytes)),
            "046f6752dfe41f5111a0cb090d768e8044906fb30d8510b523d56d23cd8b37eb");
  EXPECT_EQ(must(decode_identity(bytes)), identity);

  const StartBlob start{.policy = 0x33010005,
                        .pdh = pattern(kCertificateBytes, 3, 1),
                        .session = pattern(kSessionBytes, 11, 4),
                        .key = counting32(0x20),
                        .nonce = counting32(0x60)};
  const Bytes start_bytes = encode(start);
  EXPECT_EQ(to_hex(ByteView(start_bytes).first(96)),
            "02000000050001332408000080000000"
            "202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f"
            "606162636465666768696a6b6c6d6e6f707172737475767778797a7b7c7d7e7f"
            "0104070a0d101316191c1f2225282b2e");
  EXPECT_EQ(to_hex(sha256_of(start_bytes)),
            "080bc72182f849bad0d8562fb314305a4178b58e65aae341a0d85d86c5795804");
  EXPECT_EQ(must(decode_start(start_bytes)), start);
}

// Any one bit of a blob: refused, or other content than before; never the same content twice.
TEST(SevBlobs, EveryBitIsReadOrRefused) {
  const Bytes identity = encode(IdentityBlob{
      .pdh = Bytes(kCertificateBytes), .chain = Bytes(kChainBytes), .amd_certs = Bytes(3)});
  const Bytes start = encode(
      StartBlob{.policy = 5, .pdh = Bytes(kCertificateBytes), .session = Bytes(kSessionBytes)});
  const auto every_bit = [](const Bytes& good, const auto& decode) {
    const auto before = must(decode(good));
    for (std::size_t bit = 0; bit < good.size() * 8; ++bit) {
      Bytes bad = good;
      bad[bit / 8] ^= std::byte(1u << bit % 8);
      const auto decoded = decode(bad);
      if (decoded) {
        EXPECT_NE(*decoded, before) << bit;
      } else {
        EXPECT_EQ(decoded.error().cls, ErrorClass::kMalformed) << bit;
      }
    }
    for (std::size_t size = 0; size < good.size(); ++size) {
      ASSERT_FALSE(decode(ByteView(good).first(size)).has_value()) << size;
    }
  };
  every_bit(identity, [](ByteView bytes) { return decode_identity(bytes); });
  every_bit(start, [](ByteView bytes) { return decode_start(bytes); });
}

TEST(SevBlobs, Version1IsRefusedInWords) {
  Bytes old = encode(
      StartBlob{.policy = 5, .pdh = Bytes(kCertificateBytes), .session = Bytes(kSessionBytes)});
  old[0] = std::byte{1};
  EXPECT_EQ(decode_start(old).error().detail,
            "The SEV start blob has version 1; this host knows 2.");
}

// A test that holds the revealed key can open what it captured; nothing of it is on the wire.
TEST(SevBinding, TheRevealedKeyOpensACapturedStreamAndIsNotInIt) {
  SoftSevHost source_host;
  SoftSevHost target_host;
  TestGuest source(source_host, 2);
  TestGuest target(target_host, 2);
  source.launch_with_pattern(0);
  target.prepare();
  std::map<std::string, Bytes, std::less<>> told;
  SevConfig config;
  config.reveal = [&](std::string_view name, ByteView bytes) {
    told[std::string(name)].assign(bytes.begin(), bytes.end());
  };
  SevExporter exporter(source.vm, source.ram.lookup(), {});
  SevImporter importer(target.vm, target.ram.lookup(), config);
  const Bytes identity = must(importer.identity());
  EXPECT_EQ(told.size(), 2u);
  EXPECT_EQ(told["identity"], identity);
  const Bytes secret = told["binding-private-key"];
  const Bytes start = must(exporter.begin(identity));
  const PrivateBatch batch = must(exporter.export_batch(0, 1, source.gfns())).batch;

  FixedRandom revealed(secret);
  const BindingKeyPair pair(revealed);
  const StartBlob said = must(decode_start(start));
  Binding reader(must(pair.agree(said.key)), {.source_key = said.key,
                                              .destination_key = pair.public_key(),
                                              .nonce = said.nonce,
                                              .identity_hash = sha256_of(identity),
                                              .start_hash = sha256_of(start)});
  must(reader.accept(batch));
  for (const Bytes* sent : {&identity, &start, &batch.batch_auth, &batch.page_auth, &batch.body}) {
    EXPECT_EQ(std::search(sent->begin(), sent->end(), secret.begin(), secret.end()), sent->end());
  }
}

}  // namespace
}  // namespace sealift::sev
