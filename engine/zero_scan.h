// Is a piece of memory all zeros? By the widest registers that this processor has: a scan of zeros
// runs at the speed of memory, and a page with content is left within its first lines.
//
// Threads: any. The memory may be a running guest's: the answer is then true of each byte at the
//          moment it was read, as with copy_from_guest().
// Failure: none. REQUIRES: the address is a multiple of 8, the size of 256.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace sealift {

bool is_zero(const std::byte* at, std::size_t bytes);

// The ways there are, the widest last; for tests and measurements.
enum class ZeroScan : std::uint8_t { kWords, kSse2, kAvx2, kAvx512 };
inline constexpr std::array kZeroScans = {ZeroScan::kWords, ZeroScan::kSse2, ZeroScan::kAvx2,
                                          ZeroScan::kAvx512};
const char* name_of(ZeroScan scan);
bool runs_here(ZeroScan scan);
// REQUIRES: runs_here(scan).
bool is_zero_by(ZeroScan scan, const std::byte* at, std::size_t bytes);

}  // namespace sealift
