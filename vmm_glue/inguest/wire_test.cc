// The bytes on the wire against a second implementation: OpenSSL plays the source by the text of
// docs/spec/wire.md ("SW-protected ..."), and the helper must take what it sends.
#include <openssl/evp.h>

#include <algorithm>
#include <memory>

#include "vmm_glue/inguest/test_support.h"

namespace sealift::inguest {
namespace {

using namespace test;

struct Free {
  void operator()(EVP_PKEY* key) const { EVP_PKEY_free(key); }
  void operator()(EVP_PKEY_CTX* context) const { EVP_PKEY_CTX_free(context); }
  void operator()(EVP_CIPHER_CTX* context) const { EVP_CIPHER_CTX_free(context); }
};
template <class T>
using Ptr = std::unique_ptr<T, Free>;

unsigned char* raw(std::byte* bytes) { return reinterpret_cast<unsigned char*>(bytes); }
const unsigned char* raw(const std::byte* bytes) {
  return reinterpret_cast<const unsigned char*>(bytes);
}
void append(Bytes& to, ByteView from) {
  for (const std::byte byte : from) to.push_back(byte);
}
void append(Bytes& to, std::uint64_t word) { append(to, std::as_bytes(std::span(&word, 1))); }

class OpenSslSource {
 public:
  explicit OpenSslSource(ByteView identity)
      : key_(EVP_PKEY_Q_keygen(nullptr, nullptr, "X25519")), nonce_(32, std::byte{0x42}) {
    Bytes own(32);
    std::size_t size = own.size();
    EXPECT_EQ(EVP_PKEY_get_raw_public_key(key_.get(), raw(own.data()), &size), 1);
    const ByteView peer = identity.subspan(8, 32);
    Bytes text(32);
    std::memcpy(text.data(), "sealift in-guest transfer v1", 28);
    append(text, shared_secret(peer));
    append(text, own);
    append(text, peer);
    append(text, nonce_);
    Bytes hash(64);
    EXPECT_EQ(EVP_Q_digest(nullptr, "BLAKE2B-512", nullptr, text.data(), text.size(),
                           raw(hash.data()), nullptr),
              1);
    page_key_.assign(hash.begin(), hash.begin() + 32);
    start_ = Bytes{std::byte{1}};
    start_.resize(8);
    append(start_, own);
    append(start_, nonce_);
    append(start_, ByteView(hash).subspan(32));
  }
  const Bytes& start() const { return start_; }

  void add(PrivateBatch& batch, Gfn gfn, ByteView page) {
    Bytes bound;
    for (const std::uint64_t word :
         {std::uint64_t{1}, std::uint64_t{batch.epoch}, value(gfn), count_})
      append(bound, word);
    epoch_ = batch.epoch;
    batch.gfns.push_back(gfn);
    batch.ops.push_back(PrivateOp::kImport);
    batch.page_auth_bytes = 24;
    batch.page_body_bytes = kPageBytes;
    append(batch.page_auth, count_);
    append(batch.page_auth, seal_up(page, bound, count_++, 1, batch.body));
  }
  Bytes seal() {
    Bytes bound;
    for (const std::uint64_t word :
         {std::uint64_t{2}, std::uint64_t{epoch_}, std::uint64_t{0}, count_})
      append(bound, word);
    Bytes nothing;
    return seal_up({}, bound, count_, 2, nothing);
  }

 private:
  Bytes shared_secret(ByteView peer) const {
    const Ptr<EVP_PKEY> other(
        EVP_PKEY_new_raw_public_key(EVP_PKEY_X25519, nullptr, raw(peer.data()), peer.size()));
    const Ptr<EVP_PKEY_CTX> context(EVP_PKEY_CTX_new(key_.get(), nullptr));
    Bytes out(32);
    std::size_t size = out.size();
    EXPECT_EQ(EVP_PKEY_derive_init(context.get()), 1);
    EXPECT_EQ(EVP_PKEY_derive_set_peer(context.get(), other.get()), 1);
    EXPECT_EQ(EVP_PKEY_derive(context.get(), raw(out.data()), &size), 1);
    return out;
  }
  // Appends the ciphertext to `body`; returns the tag.
  Bytes seal_up(ByteView text, ByteView bound, std::uint64_t number, unsigned char kind,
                Bytes& body) const {
    Bytes nonce;
    append(nonce, number);
    nonce.resize(12);
    nonce[11] = std::byte{kind};
    const Ptr<EVP_CIPHER_CTX> context(EVP_CIPHER_CTX_new());
    Bytes out(text.size());
    Bytes tag(16);
    int size = 0;
    EXPECT_EQ(EVP_EncryptInit_ex(context.get(), EVP_chacha20_poly1305(), nullptr,
                                 raw(page_key_.data()), raw(nonce.data())),
              1);
    EXPECT_EQ(EVP_EncryptUpdate(context.get(), nullptr, &size, raw(bound.data()),
                                static_cast<int>(bound.size())),
              1);
    if (!text.empty()) {
      EXPECT_EQ(EVP_EncryptUpdate(context.get(), raw(out.data()), &size, raw(text.data()),
                                  static_cast<int>(text.size())),
                1);
    }
    unsigned char rest[16];
    EXPECT_EQ(EVP_EncryptFinal_ex(context.get(), rest, &size), 1);
    EXPECT_EQ(EVP_CIPHER_CTX_ctrl(context.get(), EVP_CTRL_AEAD_GET_TAG, 16, tag.data()), 1);
    append(body, out);
    return tag;
  }

  const Ptr<EVP_PKEY> key_;
  Bytes nonce_;
  Bytes page_key_;
  Bytes start_;
  std::uint64_t count_ = 0;
  std::uint32_t epoch_ = 0;
};

class InGuestWire : public OnEachHelper {};

TEST_P(InGuestWire, ASecondImplementationIsUnderstood) {
  Guest guest(GetParam(), small_layout());
  InGuestImporter importer(guest.helper(), guest.ram.layout());
  OpenSslSource source(must(importer.identity()));
  must(importer.begin(source.start()));
  const std::vector<Gfn> gfns = {Gfn{0}, Gfn{0x9f}, Gfn{0x100010}};
  for (std::uint32_t epoch = 1; epoch < 4; ++epoch) {
    PrivateBatch batch;
    batch.epoch = epoch;
    for (const Gfn gfn : gfns) {
      source.add(batch, gfn, Bytes(kPageBytes, static_cast<std::byte>(value(gfn) + epoch)));
    }
    must(importer.import_batch(batch));
  }
  must(importer.seal(source.seal()));
  for (const Gfn gfn : gfns) {
    EXPECT_EQ(guest.ram.page(gfn), Bytes(kPageBytes, static_cast<std::byte>(value(gfn) + 3)));
  }
}

INSTANTIATE_TEST_SUITE_P(All, InGuestWire, testing::Values(Runs::kInProcess, Runs::kOnKvm),
                         name_of_runs);

}  // namespace
}  // namespace sealift::inguest
