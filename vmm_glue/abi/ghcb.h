// The GHCB as the host reads it: MSR protocol, page, and the buffer of page-state changes.
//
// Spec:    AMD 56421 (SEV-ES guest-hypervisor communication block) as Linux 7.3's guest and KVM use
//          it. All numbers are little-endian.
// Plain values: no ownership, no threads, no failure. The page and the buffer are guest memory: the
// guest may change them at any time, so these functions work on a copy.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "engine/types.h"

namespace sealift {

// ---- MSR protocol ------------------------------------------------------------------------------
// Bits 11:0 zero: the rest is the address of the GHCB page; else a request with that code.
inline constexpr std::uint64_t kGhcbMsrCodeMask = 0xfff;
inline constexpr std::uint64_t kGhcbMsrPscRequest = 0x014;   // 51:12 gfn, 55:52 operation
inline constexpr std::uint64_t kGhcbMsrPscResponse = 0x015;  // 63:32 error
inline constexpr std::uint64_t kGhcbMsrPscFailed = 1ULL << 63 | kGhcbMsrPscResponse;

// ---- the page ----------------------------------------------------------------------------------
inline constexpr std::size_t kGhcbExitCode = 0x390;
inline constexpr std::size_t kGhcbExitInfo1 = 0x398;
inline constexpr std::size_t kGhcbExitInfo2 = 0x3a0;
inline constexpr std::size_t kGhcbScratch = 0x3a8;      // the address of the event's buffer
inline constexpr std::size_t kGhcbValidBitmap = 0x3f0;  // 16 bytes: bit n is the field at 8 * n
inline constexpr std::size_t kGhcbSharedBuffer = 0x800;
inline constexpr std::size_t kGhcbSharedBufferBytes = 0x7f0;
inline constexpr std::size_t kGhcbUsage = 0xffc;  // u32, 0: this layout

inline constexpr std::uint64_t kNaePageStateChange = 0x80000010;

// ---- page-state change (NAE 0x80000010) --------------------------------------------------------
struct PscHeader {
  std::uint16_t cur_entry = 0;
  std::uint16_t end_entry = 0;  // the last entry, inclusive
  std::uint32_t reserved = 0;
};
static_assert(sizeof(PscHeader) == 8 && offsetof(PscHeader, end_entry) == 2);

enum class PscOperation : std::uint8_t { kPrivate = 1, kShared = 2, kPsmash = 3, kUnsmash = 4 };

// The operation and the gfn lie alike in an entry and in the MSR request.
constexpr PscOperation psc_operation(std::uint64_t word) {
  return static_cast<PscOperation>(word >> 52 & 0xf);
}
constexpr Gfn psc_gfn(std::uint64_t word) { return Gfn{word >> 12 & 0xff'ffff'ffff}; }

struct PscEntry {
  std::uint64_t word = 0;
  constexpr std::uint64_t cur_page() const { return word & 0xfff; }  // pages that are done
  constexpr Gfn gfn() const { return psc_gfn(word); }
  constexpr PscOperation operation() const { return psc_operation(word); }
  constexpr std::uint64_t pages() const { return (word >> 56 & 1) != 0 ? 512 : 1; }
  constexpr std::uint64_t reserved() const { return word >> 57; }
  constexpr PscEntry completed() const { return {(word & ~0xfffULL) | pages()}; }
};
static_assert(sizeof(PscEntry) == 8);
inline constexpr std::size_t kPscEntriesMax =
    (kGhcbSharedBufferBytes - sizeof(PscHeader)) / sizeof(PscEntry);
static_assert(kPscEntriesMax == 253);

// SW_EXITINFO2 of a page-state change. 0 is success or an interruption: the guest compares
// cur_entry with end_entry and asks again for the rest.
inline constexpr std::uint64_t kPscDone = 0;
inline constexpr std::uint64_t kPscHeaderInvalid = 0x0000'0001'0000'0001;
inline constexpr std::uint64_t kPscEntryInvalid = 0x0000'0001'0000'0002;
inline constexpr std::uint64_t kPscFailed = 0x0000'0100'0000'0000;

// REQUIRES: offset + sizeof(T) <= bytes.size().
template <class T>
T load_at(ByteView bytes, std::size_t offset) {
  T out;
  std::memcpy(&out, bytes.subspan(offset, sizeof out).data(), sizeof out);
  return out;
}

}  // namespace sealift
