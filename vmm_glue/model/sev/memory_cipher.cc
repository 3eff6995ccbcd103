#include "vmm_glue/model/sev/memory_cipher.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <functional>
#include <thread>

#include "engine/assert.h"
#include "vmm_glue/host_copy.h"
#include "vmm_glue/sev/crypto.h"
#include "vmm_glue/sev/openssl_ptr.h"

namespace sealift::sev {
namespace {

constexpr std::size_t kSlots = 16;  // threads that use one key at once without waiting
constexpr std::size_t kChunkBytes = kPageBytes;
using Chunk = std::array<std::uint64_t, kChunkBytes / 8>;

OpensslPtr<evp_cipher_ctx_st> new_ecb(const Block& key, int encrypts) {
  OpensslPtr<evp_cipher_ctx_st> context(EVP_CIPHER_CTX_new());
  const auto* octets = reinterpret_cast<const unsigned char*>(key.data());
  SEALIFT_ASSERT(context != nullptr);
  SEALIFT_ASSERT(EVP_CipherInit_ex2(context.get(), EVP_aes_128_ecb(), octets, nullptr, encrypts,
                                    nullptr) == 1);
  SEALIFT_ASSERT(EVP_CIPHER_CTX_set_padding(context.get(), 0) == 1);
  return context;
}

void ecb(evp_cipher_ctx_st* context, Chunk& chunk, std::size_t bytes) {
  auto* octets = reinterpret_cast<unsigned char*>(chunk.data());
  int written = 0;
  SEALIFT_ASSERT(EVP_CipherUpdate(context, octets, &written, octets, static_cast<int>(bytes)) == 1);
  SEALIFT_ASSERT(static_cast<std::size_t>(written) == bytes);
}

void xor_with(Chunk& data, const Chunk& tweaks, std::size_t bytes) {
  for (std::size_t i = 0; i < bytes / 8; ++i) data[i] ^= tweaks[i];
}

MutableBytes first_bytes(Chunk& chunk, std::size_t bytes) {
  return std::as_writable_bytes(std::span(chunk)).first(bytes);
}

}  // namespace

// Contexts of OpenSSL are not shareable and cost an allocation, so that each key keeps some.
struct MemoryCipher::Slot {
  std::atomic_flag busy;
  OpensslPtr<evp_cipher_ctx_st> tweak;
  OpensslPtr<evp_cipher_ctx_st> encrypt;
  OpensslPtr<evp_cipher_ctx_st> decrypt;
  Chunk tweaks{};
  Chunk data{};

  void make_tweaks(std::uint64_t spa, std::size_t bytes) {
    for (std::size_t block = 0; block < bytes / kBlockBytes; ++block) {
      tweaks[2 * block] = spa + block * kBlockBytes;
      tweaks[2 * block + 1] = 0;
    }
    ecb(tweak.get(), tweaks, bytes);
  }

  // Leaves the plain text of `bytes` at `host` in `data` and the tweaks in `tweaks`.
  void load_blocks(std::uint64_t spa, const std::byte* host, std::size_t bytes) {
    make_tweaks(spa, bytes);
    copy_from_guest(host, first_bytes(data, bytes));
    xor_with(data, tweaks, bytes);
    ecb(decrypt.get(), data, bytes);
    xor_with(data, tweaks, bytes);
  }

  // Encrypts `data` with `tweaks` and writes it.
  void store_blocks(std::byte* host, std::size_t bytes) {
    xor_with(data, tweaks, bytes);
    ecb(encrypt.get(), data, bytes);
    xor_with(data, tweaks, bytes);
    copy_to_guest(host, first_bytes(data, bytes));
  }
};

class MemoryCipher::SlotLease {
 public:
  explicit SlotLease(Slot* slots) {
    const std::size_t start = std::hash<std::thread::id>{}(std::this_thread::get_id());
    for (std::size_t i = 0;; ++i) {
      slot_ = &slots[(start + i) % kSlots];
      if (!slot_->busy.test_and_set(std::memory_order_acquire)) return;
      if (i % kSlots == kSlots - 1) std::this_thread::yield();
    }
  }
  ~SlotLease() { slot_->busy.clear(std::memory_order_release); }
  SlotLease(const SlotLease&) = delete;
  SlotLease& operator=(const SlotLease&) = delete;
  Slot& operator*() const { return *slot_; }

 private:
  Slot* slot_ = nullptr;
};

MemoryCipher::MemoryCipher(RandomSource& random, bool encrypts) {
  if (!encrypts) return;
  Block data_key{};
  Block tweak_key{};
  random.fill(data_key);
  random.fill(tweak_key);
  slots_ = std::make_unique<Slot[]>(kSlots);
  for (std::size_t i = 0; i < kSlots; ++i) {
    slots_[i].tweak = new_ecb(tweak_key, 1);
    slots_[i].encrypt = new_ecb(data_key, 1);
    slots_[i].decrypt = new_ecb(data_key, 0);
  }
  erase_secret(data_key);
  erase_secret(tweak_key);
}

MemoryCipher::~MemoryCipher() {
  if (slots_ == nullptr) return;
  for (std::size_t i = 0; i < kSlots; ++i) {
    erase_secret(first_bytes(slots_[i].data, kChunkBytes));
    erase_secret(first_bytes(slots_[i].tweaks, kChunkBytes));
  }
}

void MemoryCipher::load(std::uint64_t spa, const std::byte* host, MutableBytes out) const {
  if (slots_ == nullptr) return copy_from_guest(host, out);
  const SlotLease lease(slots_.get());
  Slot& slot = *lease;
  while (!out.empty()) {
    const std::size_t skip = spa % kBlockBytes;  // bytes of the first block before the range
    const std::size_t count = std::min(out.size(), kChunkBytes - skip);
    const std::size_t blocks = (skip + count + kBlockBytes - 1) / kBlockBytes * kBlockBytes;
    slot.load_blocks(spa - skip, host - skip, blocks);
    std::memcpy(out.data(), first_bytes(slot.data, blocks).data() + skip, count);
    spa += count;
    host += count;
    out = out.subspan(count);
  }
}

void MemoryCipher::store(std::uint64_t spa, std::byte* host, ByteView in) const {
  if (slots_ == nullptr) return copy_to_guest(host, in);
  const SlotLease lease(slots_.get());
  Slot& slot = *lease;
  while (!in.empty()) {
    const std::size_t skip = spa % kBlockBytes;
    std::size_t count = 0;
    std::size_t blocks = kBlockBytes;
    if (skip != 0 || in.size() < kBlockBytes) {
      count = std::min(in.size(), kBlockBytes - skip);
      slot.load_blocks(spa - skip, host - skip, blocks);  // the rest of the block stays
    } else {
      count = std::min(in.size() / kBlockBytes * kBlockBytes, kChunkBytes);
      blocks = count;
      slot.make_tweaks(spa, blocks);
    }
    std::memcpy(first_bytes(slot.data, blocks).data() + skip, in.data(), count);
    slot.store_blocks(host - skip, blocks);
    spa += count;
    host += count;
    in = in.subspan(count);
  }
}

}  // namespace sealift::sev
