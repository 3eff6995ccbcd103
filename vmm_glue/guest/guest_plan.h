// GuestPlan: where everything of the test guest lies in its memory, computed once from size, vCPUs
// and image.
//
// Spec:    guest/mailbox.h has the order. Plain values.
// Failure: kUsage when the wish does not fit, with the numbers.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/memory_layout.h"
#include "engine/result.h"
#include "engine/types.h"
#include "vmm_glue/guest/mailbox.h"

namespace sealift {

inline constexpr std::uint64_t kGuestBytesMin = 2ULL << 20;
// All arena tables (1/257 of memory) lie below the 3 GiB gap, and one PML4 entry maps everything.
inline constexpr std::uint64_t kGuestBytesMax = 256ULL << 30;

struct VcpuPlan {
  Gfn control{};
  Gpa stack_top{};
  Gpa table{};
  std::uint64_t arena_first = 0;  // linear pages
  std::uint64_t arena_pages = 0;
  std::uint64_t image_pages = 0;   // the last pages of the arena
  std::uint64_t image_offset = 0;  // of this part, in pages from the start of the image
};

struct GuestPlan {
  std::uint64_t ram_pages = 0;
  std::uint64_t page_directories = 0;  // one for each GiB up to the end of RAM and of the gap
  std::vector<VcpuPlan> vcpus;
};

// What a guest must fill of its arenas at least, in percent of RAM; the rest is never touched.
inline constexpr std::uint32_t kPopulatedPercentMin = 1;

// RAM of `memory_bytes`, with the gap between 3 and 4 GiB.
Result<MemoryLayout> layout_of_guest(std::uint64_t memory_bytes);
Result<GuestPlan> plan_guest(std::uint64_t memory_bytes, std::uint32_t vcpus,
                             std::uint64_t image_bytes, std::uint32_t populated_percent = 100);

}  // namespace sealift
