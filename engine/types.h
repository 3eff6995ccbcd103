// Strong types for the numbers of migration. Plain values: no ownership, no threads, no failure.
//
// A Gfn is not an address and a Gpa is not a host pointer; mixing them does not compile.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace sealift {

inline constexpr unsigned kPageShift = 12;
inline constexpr std::uint64_t kPageBytes = 1ULL << kPageShift;

enum class Gfn : std::uint64_t {};  // index of a 4 KiB guest page
enum class Gpa : std::uint64_t {};  // guest physical byte address, C-bit / shared bit stripped

constexpr std::uint64_t value(Gfn gfn) { return static_cast<std::uint64_t>(gfn); }
constexpr std::uint64_t value(Gpa gpa) { return static_cast<std::uint64_t>(gpa); }
constexpr Gpa base_of(Gfn gfn) { return Gpa{value(gfn) << kPageShift}; }
constexpr Gfn page_of(Gpa gpa) { return Gfn{value(gpa) >> kPageShift}; }
constexpr Gfn operator+(Gfn gfn, std::uint64_t pages) { return Gfn{value(gfn) + pages}; }

// Half-open run of pages [first, first + pages). REQUIRES: first + pages does not wrap.
struct GfnRange {
  Gfn first{};
  std::uint64_t pages = 0;
  friend constexpr bool operator==(const GfnRange&, const GfnRange&) = default;
};
constexpr Gfn end_of(GfnRange range) { return range.first + range.pages; }

// How a page must travel. Wire values (docs/spec/wire.md): append only, never renumber.
enum class PageClass : std::uint8_t {
  kShared = 1,   // the host reads and writes it; travels plain
  kPrivate = 2,  // encrypted for the guest; travels through the platform's firmware
};
const char* name_of(PageClass cls);

using Bytes = std::vector<std::byte>;
using ByteView = std::span<const std::byte>;
using MutableBytes = std::span<std::byte>;

// The platform that keeps the guest's memory private. Wire values: append only.
enum class Platform : std::uint8_t {
  kNone = 1,
  kSev = 2,
  kSevEs = 3,
  kSnp = 4,
  kTdx = 5,
  kSwProtected =
      6,  // KVM_X86_SW_PROTECTED_VM: kept by the kernel, exported by the guest's VM itself
};
const char* name_of(Platform platform);

}  // namespace sealift
