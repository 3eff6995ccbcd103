#include "vmm_glue/guest/guest_plan.h"

#include <algorithm>

namespace sealift {
namespace {

constexpr std::uint64_t kStackPages = 2;
constexpr std::uint64_t kEntriesPerTablePage = kPageBytes / guest::kTableEntryBytes;
constexpr std::uint64_t kWritablePagesMin = 16;
constexpr std::uint64_t kGfnsPerGiB = 1ULL << (30 - kPageShift);

}  // namespace

Result<MemoryLayout> layout_of_guest(std::uint64_t memory_bytes) {
  if (memory_bytes % kPageBytes != 0 || memory_bytes < kGuestBytesMin ||
      memory_bytes > kGuestBytesMax) {
    return fail(ErrorClass::kUsage,
                "guest memory of {} bytes is not a multiple of 4096 between {} and {}",
                memory_bytes, kGuestBytesMin, kGuestBytesMax);
  }
  const std::uint64_t pages = memory_bytes >> kPageShift;
  std::vector<GfnRange> ranges{{Gfn{0}, std::min(pages, guest::kGapFirstGfn)}};
  if (pages > guest::kGapFirstGfn) {
    ranges.push_back({Gfn{guest::kGapEndGfn}, pages - guest::kGapFirstGfn});
  }
  return MemoryLayout::make(std::move(ranges));
}

Result<GuestPlan> plan_guest(std::uint64_t memory_bytes, std::uint32_t vcpus,
                             std::uint64_t image_bytes, std::uint32_t populated_percent) {
  SEALIFT_TRY(const MemoryLayout layout, layout_of_guest(memory_bytes));
  if (vcpus == 0 || vcpus > guest::kVcpusMax) {
    return fail(ErrorClass::kUsage, "{} vCPUs are not between 1 and {}", vcpus, guest::kVcpusMax);
  }
  GuestPlan plan;
  plan.ram_pages = layout.pages();
  const std::uint64_t mapped = std::max(layout.span_pages(), guest::kGapEndGfn);
  plan.page_directories = (mapped + kGfnsPerGiB - 1) / kGfnsPerGiB;

  std::uint64_t next = guest::kPageTablesGfn + 2 + plan.page_directories;
  const std::uint64_t controls = next;
  next += vcpus * (1 + kStackPages);
  if (populated_percent < kPopulatedPercentMin || populated_percent > 100) {
    return fail(ErrorClass::kUsage, "a populated share of {} % is not between {} and 100",
                populated_percent, kPopulatedPercentMin);
  }
  // Of arena and its table.
  const std::uint64_t each = (plan.ram_pages - next) * populated_percent / 100 / vcpus;
  const std::uint64_t arena = each * kEntriesPerTablePage / (kEntriesPerTablePage + 1);
  const std::uint64_t table = (arena + kEntriesPerTablePage - 1) / kEntriesPerTablePage;
  const std::uint64_t image = image_bytes / kPageBytes + (image_bytes % kPageBytes != 0 ? 1 : 0);

  std::uint64_t image_offset = 0;
  for (std::uint32_t i = 0; i < vcpus; ++i) {
    VcpuPlan vcpu;
    vcpu.control = Gfn{controls + i * (1 + kStackPages)};
    vcpu.stack_top = base_of(vcpu.control + 1 + kStackPages);
    vcpu.table = base_of(Gfn{next + i * table});
    vcpu.arena_first = next + vcpus * table + i * arena;
    vcpu.arena_pages = arena;
    vcpu.image_pages = image / vcpus + (i < image % vcpus ? 1 : 0);
    vcpu.image_offset = image_offset;
    image_offset += vcpu.image_pages;
    if (vcpu.image_pages > arena || arena - vcpu.image_pages < kWritablePagesMin) {
      return fail(
          ErrorClass::kUsage,
          "an image of {} pages leaves vCPU {} fewer than {} of its {} arena pages to write", image,
          i, kWritablePagesMin, arena);
    }
    plan.vcpus.push_back(vcpu);
  }
  return plan;
}

}  // namespace sealift
