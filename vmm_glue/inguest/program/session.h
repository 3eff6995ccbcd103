// Session: what the helper program does. Keys are made, used and erased here and nowhere else.
//
// Written once and freestanding on libsodium: compiled into the program that runs on the helper
// vCPU, and into tests that run it in their own process.
// Spec:    docs/spec/wire.md, "SW-protected". X25519; BLAKE2b-512 over label, shared secret, both
//          public keys and nonce gives page key and proof; ChaCha20-Poly1305 (RFC 8439) for each
//          page, its nonce the sequence number, its additional data operation, epoch, gfn,
//          sequence.
// Owner:   the program: the one instance lies in secret memory.
// Threads: one.
// Failure: a Status in the mailbox. A command that fails after keys were agreed erases them: a
//          session ends with its first bad entry.
// Invariants:
//   I1  A key pair is used for one agreement, and a page key counts its sequence up from 0: no
//       nonce is used twice with a key.
//   I2  Whatever comes from the mailbox or the buffer is copied to secret memory once, checked
//       there and used from there.
//   I3  A page of the guest is written only with content whose tag was good; an earlier epoch, a
//       repeated and a missing entry are refused.
//   I4  Plain content of a page is in guest memory and in secret memory only.
//
// A Machine has:
//   u8* page(u64 gfn);                 for a gfn within the ranges given at boot
//   bool random(void* out, u64 bytes)  false: no entropy
#pragma once

#include <sodium.h>

#include "vmm_glue/inguest/mailbox.h"

namespace sealift::inguest {

template <class Machine>
class Session {
 public:
  // Boot: takes the RAM ranges, `count` of them in the buffer.
  void boot(Machine& machine, Mailbox& mailbox, const u8* buffer) {
    machine_ = &machine;
    mailbox.version = kProgramVersion;
    mailbox.status = static_cast<u64>(take_ranges(mailbox.count, buffer));
  }

  void serve(Mailbox& mailbox, u8* buffer) {
    failed_entry_ = 0;
    const Status status = perform(mailbox, buffer);
    if (status != Status::kDone) erase();
    mailbox.failed_entry = failed_entry_;
    mailbox.status = static_cast<u64>(status);
  }

 private:
  enum class State : u64 { kIdle = 0, kIdentified, kExporting, kImporting };

  struct Secrets {
    u8 own_secret[kKeyBytes];
    u8 own_key[kKeyBytes];
    u8 page_key[crypto_aead_chacha20poly1305_IETF_KEYBYTES];
    u8 page[kPage];
    State state;
    u64 epoch;
    u64 sequence;  // of the next entry
  };
  struct Derived {
    u8 page_key[crypto_aead_chacha20poly1305_IETF_KEYBYTES];
    u8 proof[kProofBytes];
  };
  // Additional data of an entry, and with the session's totals of the seal.
  struct Bound {
    u64 what;
    u64 epoch;
    u64 gfn;
    u64 sequence;
  };
  static constexpr u64 kBoundPage = 1, kBoundSeal = 2;
  static_assert(sizeof(Derived) == crypto_generichash_BYTES_MAX);

  Status take_ranges(u64 count, const u8* buffer) {
    if (count == 0 || count > kRangesMax) return Status::kBadCount;
    copy(ranges_, buffer, count * sizeof(RamRange));
    for (u64 i = 0; i < count; ++i) {
      constexpr u64 kGfns = kWindowBytesMax / kPage;
      if (ranges_[i].first >= kGfns || ranges_[i].pages > kGfns - ranges_[i].first) {
        return Status::kNotRam;
      }
    }
    range_count_ = count;
    return Status::kDone;
  }

  Status perform(Mailbox& mailbox, u8* buffer) {
    const u64 operation = read(mailbox.operation);
    if (range_count_ == 0) return Status::kWrongState;
    switch (static_cast<Operation>(operation)) {
      case Operation::kIdentify:
        return identify(mailbox);
      case Operation::kOffer:
        return offer(mailbox);
      case Operation::kAccept:
        return accept(mailbox);
      case Operation::kExport:
        return each(mailbox, buffer, State::kExporting);
      case Operation::kImport:
        return each(mailbox, buffer, State::kImporting);
      case Operation::kSeal:
        return seal(mailbox);
      case Operation::kCheckSeal:
        return check_seal(mailbox);
      case Operation::kWipe:
        erase();
        return Status::kDone;
      case Operation::kBoot:
        break;
    }
    return Status::kBadOperation;
  }

  // --- Keys ---
  Status make_key_pair(Mailbox& mailbox) {
    if (!machine_->random(secrets_.own_secret, kKeyBytes)) return Status::kNoRandom;
    crypto_scalarmult_base(secrets_.own_key, secrets_.own_secret);
    copy(mailbox.key, secrets_.own_key, kKeyBytes);
    return Status::kDone;
  }

  Status identify(Mailbox& mailbox) {
    if (secrets_.state != State::kIdle) return Status::kWrongState;
    const Status made = make_key_pair(mailbox);
    if (made == Status::kDone) secrets_.state = State::kIdentified;
    return made;
  }

  Status offer(Mailbox& mailbox) {
    if (secrets_.state != State::kIdle) return Status::kWrongState;
    u8 peer[kKeyBytes];
    u8 nonce[kNonceBytes];
    copy(peer, mailbox.key, kKeyBytes);
    const Status made = make_key_pair(mailbox);
    if (made != Status::kDone) return made;
    if (!machine_->random(nonce, kNonceBytes)) return Status::kNoRandom;
    Derived derived;
    if (!derive(peer, secrets_.own_key, peer, nonce, derived)) return Status::kBadPeerKey;
    copy(mailbox.nonce, nonce, kNonceBytes);
    copy(mailbox.proof, derived.proof, kProofBytes);
    start(derived, State::kExporting);
    return Status::kDone;
  }

  Status accept(Mailbox& mailbox) {
    if (secrets_.state != State::kIdentified) return Status::kWrongState;
    u8 peer[kKeyBytes];
    u8 nonce[kNonceBytes];
    u8 proof[kProofBytes];
    copy(peer, mailbox.key, kKeyBytes);
    copy(nonce, mailbox.nonce, kNonceBytes);
    copy(proof, mailbox.proof, kProofBytes);
    Derived derived;
    if (!derive(peer, peer, secrets_.own_key, nonce, derived)) return Status::kBadPeerKey;
    const bool same = sodium_memcmp(proof, derived.proof, kProofBytes) == 0;
    if (same) start(derived, State::kImporting);
    sodium_memzero(&derived, sizeof derived);
    return same ? Status::kDone : Status::kBadProof;
  }

  // False for a key of low order, which would make the secret known to everybody.
  bool derive(const u8* peer, const u8* source, const u8* destination, const u8* nonce,
              Derived& out) {
    static constexpr u8 kLabel[32] = "sealift in-guest transfer v1";
    u8 shared[crypto_scalarmult_BYTES];
    if (crypto_scalarmult(shared, secrets_.own_secret, peer) != 0) return false;
    crypto_generichash_state hash;
    crypto_generichash_init(&hash, nullptr, 0, sizeof out);
    crypto_generichash_update(&hash, kLabel, sizeof kLabel);
    crypto_generichash_update(&hash, shared, sizeof shared);
    crypto_generichash_update(&hash, source, kKeyBytes);
    crypto_generichash_update(&hash, destination, kKeyBytes);
    crypto_generichash_update(&hash, nonce, kNonceBytes);
    crypto_generichash_final(&hash, reinterpret_cast<u8*>(&out), sizeof out);
    sodium_memzero(shared, sizeof shared);
    sodium_memzero(&hash, sizeof hash);
    return true;
  }

  void start(const Derived& derived, State state) {
    copy(secrets_.page_key, derived.page_key, sizeof secrets_.page_key);
    sodium_memzero(secrets_.own_secret, kKeyBytes);
    secrets_.epoch = 0;
    secrets_.sequence = 0;
    secrets_.state = state;
  }

  void erase() { sodium_memzero(&secrets_, sizeof secrets_); }

  // --- Pages ---
  Status each(Mailbox& mailbox, u8* buffer, State state) {
    const u64 count = read(mailbox.count);
    const u64 epoch = read(mailbox.epoch);
    if (secrets_.state != state) return Status::kWrongState;
    if (count == 0 || count > kEntriesMax) return Status::kBadCount;
    if (epoch < secrets_.epoch) return Status::kOutOfOrder;
    secrets_.epoch = epoch;
    for (u64 i = 0; i < count; ++i) {
      failed_entry_ = i;
      u8* const body = buffer + i * kPage;
      const Status status = state == State::kExporting ? export_page(mailbox.entries[i], body)
                                                       : import_page(mailbox.entries[i], body);
      if (status != Status::kDone) return status;
    }
    failed_entry_ = 0;
    return Status::kDone;
  }

  // Encrypted in secret memory: whoever writes the buffer meanwhile cannot have a changed
  // ciphertext authenticated.
  Status export_page(Entry& slot, u8* body) {
    Entry entry{};
    entry.gfn = read(slot.gfn);
    entry.auth.sequence = secrets_.sequence;
    if (!is_ram(entry.gfn)) return Status::kNotRam;
    const Bound bound{kBoundPage, secrets_.epoch, entry.gfn, entry.auth.sequence};
    const PageNonce nonce(entry.auth.sequence, kBoundPage);
    crypto_aead_chacha20poly1305_ietf_encrypt_detached(
        secrets_.page, entry.auth.tag, nullptr, machine_->page(entry.gfn), kPage,
        reinterpret_cast<const u8*>(&bound), sizeof bound, nullptr, nonce.bytes, secrets_.page_key);
    copy(body, secrets_.page, kPage);
    copy(&slot, &entry, sizeof entry);
    ++secrets_.sequence;
    return Status::kDone;
  }

  Status import_page(const Entry& slot, const u8* body) {
    Entry entry;
    copy(&entry, &slot, sizeof entry);
    if (!is_ram(entry.gfn)) return Status::kNotRam;
    if (entry.auth.sequence != secrets_.sequence) return Status::kOutOfOrder;
    copy(secrets_.page, body, kPage);
    const Bound bound{kBoundPage, secrets_.epoch, entry.gfn, entry.auth.sequence};
    const PageNonce nonce(entry.auth.sequence, kBoundPage);
    if (crypto_aead_chacha20poly1305_ietf_decrypt_detached(
            secrets_.page, nullptr, secrets_.page, kPage, entry.auth.tag,
            reinterpret_cast<const u8*>(&bound), sizeof bound, nonce.bytes,
            secrets_.page_key) != 0) {
      return Status::kBadTag;
    }
    copy(machine_->page(entry.gfn), secrets_.page, kPage);
    ++secrets_.sequence;
    return Status::kDone;
  }

  bool is_ram(u64 gfn) const {
    for (u64 i = 0; i < range_count_; ++i) {
      if (gfn >= ranges_[i].first && gfn - ranges_[i].first < ranges_[i].pages) return true;
    }
    return false;
  }

  // --- The end: nothing may be missing ---
  void make_seal(u8* tag) {
    const Bound bound{kBoundSeal, secrets_.epoch, 0, secrets_.sequence};
    const PageNonce nonce(secrets_.sequence, kBoundSeal);
    u8 nothing = 0;
    crypto_aead_chacha20poly1305_ietf_encrypt_detached(
        &nothing, tag, nullptr, &nothing, 0, reinterpret_cast<const u8*>(&bound), sizeof bound,
        nullptr, nonce.bytes, secrets_.page_key);
  }

  Status seal(Mailbox& mailbox) {
    if (secrets_.state != State::kExporting) return Status::kWrongState;
    u8 tag[kTagBytes];
    make_seal(tag);
    copy(mailbox.tag, tag, kTagBytes);
    erase();
    return Status::kDone;
  }

  Status check_seal(const Mailbox& mailbox) {
    if (secrets_.state != State::kImporting) return Status::kWrongState;
    u8 tag[kTagBytes];
    u8 expected[kTagBytes];
    copy(tag, mailbox.tag, kTagBytes);
    make_seal(expected);
    if (sodium_memcmp(tag, expected, kTagBytes) != 0) return Status::kBadSeal;
    erase();
    return Status::kDone;
  }

  // The last byte keeps the seal's nonce apart from every page's.
  struct PageNonce {
    PageNonce(u64 sequence, u64 what) : bytes{} {
      copy(bytes, &sequence, sizeof sequence);
      bytes[sizeof bytes - 1] = static_cast<u8>(what);
    }
    u8 bytes[crypto_aead_chacha20poly1305_IETF_NPUBBYTES];
  };

  static void copy(void* to, const void* from, u64 bytes) { __builtin_memcpy(to, from, bytes); }
  // One read, not to be repeated by the compiler.
  static u64 read(const u64& word) { return *static_cast<const volatile u64*>(&word); }

  Machine* machine_ = nullptr;
  u64 range_count_ = 0;
  u64 failed_entry_ = 0;
  RamRange ranges_[kRangesMax]{};
  Secrets secrets_{};
};

}  // namespace sealift::inguest
