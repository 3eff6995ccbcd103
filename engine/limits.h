// Every limit of the engine and the wire in one place, tied together by static_assert.
// A queue, loop or buffer without a line here has no place in the tree.
#pragma once

#include <cstdint>

#include "engine/types.h"

namespace sealift::limits {

inline constexpr std::uint64_t kGuestPagesMax = 1ULL << 32;  // 16 TiB
inline constexpr std::uint32_t kMemoryRangesMax = 64;
inline constexpr std::uint32_t kVcpusMax = 64;

inline constexpr std::uint32_t kBatchPagesMax = 512;  // TDX GPA list length (tdx fact sheet, 8)
// Cancellations and metadata of a whole migration, for each page of the guest.
inline constexpr std::uint64_t kExtraEntriesPerPageMax = 64;
inline constexpr std::uint32_t kPageAuthBytesMax = 128;    // SEV 52, TDX 24, SNP 64
inline constexpr std::uint32_t kBatchAuthBytesMax = 4096;  // TDX MBMD 48
inline constexpr std::uint32_t kDataStreamsMax = 64;
inline constexpr std::uint32_t kStreamsMax = 1 + kDataStreamsMax;  // stream 0 is the control's

inline constexpr std::uint32_t kFrameMetaBytesMax = 256u << 10;
inline constexpr std::uint32_t kFramePayloadBytesMax = 4u << 20;
inline constexpr std::uint32_t kPlatformBlobBytesMax = 64u
                                                       << 10;  // certificates, session data, tokens
inline constexpr std::uint32_t kStateBlobBytesMax = 1u << 20;  // one item of vCPU or device state
inline constexpr std::uint32_t kStateBlobsMax = 4096;
inline constexpr std::uint64_t kStateBytesMax = 64u << 20;   // all items together
inline constexpr std::uint32_t kConversionRangesMax = 4096;  // per record
inline constexpr std::uint32_t kTextBytesMax = 4096;         // names, error details

inline constexpr std::uint32_t kRoundsMax = 1000;  // an upper bound on what an operator may ask for

static_assert(std::uint64_t{kBatchPagesMax} * kPageBytes <= kFramePayloadBytesMax,
              "a batch is never split");
static_assert(std::uint64_t{kBatchPagesMax} * (kPageAuthBytesMax + 16) + kBatchAuthBytesMax <=
              kFrameMetaBytesMax);
static_assert(kStateBlobBytesMax <= kFramePayloadBytesMax);
static_assert(std::uint64_t{kConversionRangesMax} * 24 <= kFrameMetaBytesMax);
static_assert(kPlatformBlobBytesMax + kTextBytesMax <= kFrameMetaBytesMax);

}  // namespace sealift::limits
