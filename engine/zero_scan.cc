#include "engine/zero_scan.h"

#include "engine/assert.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace sealift {
namespace {

// So much is looked at between two looks at the answer: four of the widest registers.
constexpr std::size_t kStrideBytes = 256;

// Loads may race with the guest's stores. This way says so to the language, and to ThreadSanitizer;
// the others are single instructions that the compiler neither splits nor repeats.
bool zero_by_words(const std::byte* at, std::size_t bytes) {
  for (const std::byte* end = at + bytes; at != end; at += kStrideBytes) {
    std::uint64_t seen = 0;
    for (std::size_t i = 0; i < kStrideBytes; i += 8)
      seen |= __atomic_load_n(reinterpret_cast<const std::uint64_t*>(at + i), __ATOMIC_RELAXED);
    if (seen != 0) return false;
  }
  return true;
}

#if defined(__x86_64__)

__attribute__((target("sse2"))) bool zero_by_sse2(const std::byte* at, std::size_t bytes) {
  for (const std::byte* end = at + bytes; at != end; at += kStrideBytes) {
    const auto* lane = reinterpret_cast<const __m128i*>(at);
    __m128i seen = _mm_loadu_si128(lane);
    for (std::size_t i = 1; i < kStrideBytes / sizeof(__m128i); ++i)
      seen = _mm_or_si128(seen, _mm_loadu_si128(lane + i));
    if (_mm_movemask_epi8(_mm_cmpeq_epi8(seen, _mm_setzero_si128())) != 0xffff) return false;
  }
  return true;
}

__attribute__((target("avx2"))) bool zero_by_avx2(const std::byte* at, std::size_t bytes) {
  for (const std::byte* end = at + bytes; at != end; at += kStrideBytes) {
    const auto* lane = reinterpret_cast<const __m256i*>(at);
    __m256i seen = _mm256_loadu_si256(lane);
    for (std::size_t i = 1; i < kStrideBytes / sizeof(__m256i); ++i)
      seen = _mm256_or_si256(seen, _mm256_loadu_si256(lane + i));
    if (_mm256_testz_si256(seen, seen) == 0) return false;
  }
  return true;
}

__attribute__((target("avx512f"))) bool zero_by_avx512(const std::byte* at, std::size_t bytes) {
  for (const std::byte* end = at + bytes; at != end; at += kStrideBytes) {
    __m512i seen = _mm512_loadu_si512(at);
    for (std::size_t i = 64; i < kStrideBytes; i += 64)
      seen = _mm512_or_si512(seen, _mm512_loadu_si512(at + i));
    if (_mm512_test_epi64_mask(seen, seen) != 0) return false;
  }
  return true;
}

#endif

}  // namespace

const char* name_of(ZeroScan scan) {
  switch (scan) {
    case ZeroScan::kWords:
      return "words";
    case ZeroScan::kSse2:
      return "sse2";
    case ZeroScan::kAvx2:
      return "avx2";
    case ZeroScan::kAvx512:
      return "avx512";
  }
  assert_failed("a way to scan", __FILE__, __LINE__);
}

bool runs_here(ZeroScan scan) {
#if defined(__x86_64__) && !defined(__SANITIZE_THREAD__)
  if (scan == ZeroScan::kSse2) return true;
  if (scan == ZeroScan::kAvx2) return __builtin_cpu_supports("avx2") != 0;
  if (scan == ZeroScan::kAvx512) return __builtin_cpu_supports("avx512f") != 0;
#endif
  return scan == ZeroScan::kWords;
}

bool is_zero_by(ZeroScan scan, const std::byte* at, std::size_t bytes) {
  SEALIFT_ASSERT(reinterpret_cast<std::uintptr_t>(at) % 8 == 0 && bytes % kStrideBytes == 0);
#if defined(__x86_64__)
  if (scan == ZeroScan::kAvx512) return zero_by_avx512(at, bytes);
  if (scan == ZeroScan::kAvx2) return zero_by_avx2(at, bytes);
  if (scan == ZeroScan::kSse2) return zero_by_sse2(at, bytes);
#endif
  return zero_by_words(at, bytes);
}

bool is_zero(const std::byte* at, std::size_t bytes) {
  for (std::size_t i = kZeroScans.size(); i-- > 1;) {
    if (runs_here(kZeroScans[i])) return is_zero_by(kZeroScans[i], at, bytes);
  }
  return is_zero_by(ZeroScan::kWords, at, bytes);
}

}  // namespace sealift
