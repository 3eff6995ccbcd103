// The contract between the VMM and the helper program inside the guest's VM: commands, answers, and
// where the program finds everything.
//
// Spec:    this header and docs/spec/wire.md ("SW-protected ..."); freestanding, because the
// program
//          includes it. The program (program/session.h) says what each command checks.
// Owner:   plain memory of the VM: mailbox page, then kEntriesMax pages of transfer buffer.
// Threads: the VMM writes while the helper vCPU rests at the bell, the program while it runs.
// Failure: none here. Both sides take every word of the other for hostile and copy it once before
//          they look at it: other vCPUs of the guest can write the mailbox too.
// Invariants:
//   I1  All words are little-endian u64; keys, nonces and tags are bytes.
//   I2  Nothing secret is ever in the mailbox or in the buffer: pages are there as ciphertext only.
#pragma once

#include <cstddef>
#include <cstdint>

namespace sealift::inguest {

using u8 = std::uint8_t;
using u64 = std::uint64_t;

inline constexpr u64 kPage = 4096;
inline constexpr u64 kKeyBytes = 32;
inline constexpr u64 kNonceBytes = 32;
inline constexpr u64 kProofBytes = 32;
inline constexpr u64 kTagBytes = 16;
inline constexpr u64 kEntriesMax = 64;  // pages of one command
inline constexpr u64 kRangesMax = 64;   // limits::kMemoryRangesMax
inline constexpr u64 kProgramVersion = 1;

// Addresses that the program sees; the VMM's tables (plan.h) put pages behind them. One 2 MiB
// region holds all that is the program's; guest RAM appears in a window of its own, so that a null
// pointer is no guest page.
inline constexpr u64 kProgramVa = 0x400000;
inline constexpr u64 kCodePages = 128;
inline constexpr u64 kMailboxVa = kProgramVa + kCodePages * kPage;
inline constexpr u64 kBufferVa = kMailboxVa + kPage;
inline constexpr u64 kBellVa = kBufferVa + (kEntriesMax + 1) * kPage;  // no memory behind it
// Secret: the stack, below it a page that is not mapped, and above it the data. The data begins
// with 64 bytes for FS: libsodium's stack protector reads its canary at %fs:0x28.
inline constexpr u64 kStackVa = kProgramVa + 256 * kPage;
inline constexpr u64 kStackPages = 16;
inline constexpr u64 kDataVa = kStackVa + kStackPages * kPage;
inline constexpr u64 kDataPages = 16;
inline constexpr u64 kSecretPages = kStackPages + kDataPages;
inline constexpr u64 kWindowVa = 1ULL << 46;          // guest physical address 0
inline constexpr u64 kWindowBytesMax = 512ULL << 30;  // what one top-level entry maps
static_assert(kBellVa < kStackVa - kPage);

// A command fails as a whole; an Import that fails has written the pages before `failed_entry`.
enum class Operation : u64 {
  kBoot = 1,       // implied by the first entry: the RAM ranges are in the buffer
  kIdentify = 2,   // destination: a new key pair; its public key goes out
  kOffer = 3,      // source: for the peer's key, a new key pair, session nonce and proof go out
  kAccept = 4,     // destination: the peer's key, nonce and proof come in
  kExport = 5,     // epoch, entries[].gfn come in; PageAuth and the buffer's pages go out
  kImport = 6,     // epoch, entries and the buffer's pages come in
  kSeal = 7,       // source: a tag over the whole session goes out; keys are erased
  kCheckSeal = 8,  // destination: the tag comes in; keys are erased
  kWipe = 9,       // keys are erased
};

enum class Status : u64 {
  kNone = 0,  // set by the VMM before it enters
  kDone = 1,
  kBadOperation = 2,
  kWrongState = 3,
  kBadCount = 4,
  kNotRam = 5,
  kNoRandom = 6,
  kBadPeerKey = 7,
  kBadProof = 8,
  kOutOfOrder = 9,  // sequence or epoch: replayed, moved or lost
  kBadTag = 10,
  kBadSeal = 11,
};

struct RamRange {
  u64 first;  // gfn
  u64 pages;
};

// Travels with the page.
struct PageAuth {
  u64 sequence;  // number of the page in its session, from 0
  u8 tag[kTagBytes];
};
static_assert(sizeof(PageAuth) == 24);

struct Entry {
  u64 gfn;
  PageAuth auth;
};

struct Mailbox {
  u64 operation;
  u64 count;  // of entries; at boot: of RamRanges in the buffer
  u64 epoch;
  u64 status;
  u64 failed_entry;   // index, when the status is of one entry
  u64 version;        // at boot: kProgramVersion
  u8 key[kKeyBytes];  // public, of the peer on the way in and the program's own on the way out
  u8 nonce[kNonceBytes];
  u8 proof[kProofBytes];
  u8 tag[kTagBytes];  // Seal, CheckSeal
  Entry entries[kEntriesMax];
};
static_assert(sizeof(Mailbox) <= kPage && sizeof(Mailbox) % 8 == 0);

}  // namespace sealift::inguest
