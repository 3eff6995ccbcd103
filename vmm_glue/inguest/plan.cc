#include "vmm_glue/inguest/plan.h"

#include <algorithm>
#include <cstring>

#include "engine/assert.h"
#include "vmm_glue/inguest/program/program_image.h"

namespace sealift::inguest {
namespace {

// Present, user, accessed and (leaves) dirty from the start, so that neither the processor nor a
// software MMU has a reason to write to the tables.
constexpr std::uint64_t kTableBits = 0x27;  // with bit 1: writable
constexpr std::uint64_t kCodeBits = 0x65;
constexpr std::uint64_t kNoExecute = 1ULL << 63;
constexpr std::uint64_t kDataBits = 0x67 | kNoExecute;
constexpr std::uint64_t kLargeBits = 0xe7 | kNoExecute;  // with bit 7: a 2 MiB page
constexpr std::uint64_t kLargePageBytes = 2ULL << 20;
constexpr std::uint64_t kGiB = 1ULL << 30;

// Within plain: mailbox, buffer, code, then the tables in this order.
constexpr std::uint64_t kCodePage = kSharedPages;
constexpr std::uint64_t kTop = kCodePage + kCodePages;
constexpr std::uint64_t kProgramPointers = kTop + 1, kProgramDirectory = kTop + 2,
                        kProgramTable = kTop + 3, kWindowPointers = kTop + 4,
                        kWindowDirectories = kTop + 5;

// Within the helper's GiB.
constexpr std::uint64_t kSecretOffset = 256ULL << 20, kBellOffset = 512ULL << 20;

std::uint64_t window_directories(const MemoryLayout& ram) {
  return (ram.span_pages() * kPageBytes + kGiB - 1) / kGiB;
}

class Tables {
 public:
  Tables(MutableBytes plain, Gfn first) : plain_(plain), first_(first) {}

  void set(std::uint64_t table_page, std::uint64_t index, std::uint64_t entry) {
    const std::uint64_t at = table_page * kPageBytes + index * sizeof entry;
    SEALIFT_ASSERT(index < kPageBytes / sizeof entry && at + sizeof entry <= plain_.size());
    std::memcpy(plain_.data() + at, &entry, sizeof entry);
  }
  void set_table(std::uint64_t table_page, std::uint64_t index, std::uint64_t next) {
    set(table_page, index, value(base_of(first_ + next)) | kTableBits);
  }
  // The 4 KiB leaves of `pages` pages at `va`, in the program's own table.
  void map(std::uint64_t va, Gfn gfn, std::uint64_t pages, std::uint64_t bits) {
    for (std::uint64_t i = 0; i < pages; ++i) {
      set(kProgramTable, (va - kProgramVa) / kPageBytes + i, value(base_of(gfn + i)) | bits);
    }
  }

 private:
  MutableBytes plain_;
  Gfn const first_;
};

constexpr std::uint64_t index_of(std::uint64_t va, unsigned level) {
  return (va >> (kPageShift + 9 * level)) & 511;
}

void write_window(const MemoryLayout& ram, Tables& tables) {
  for (std::uint64_t i = 0; i < window_directories(ram); ++i) {
    tables.set_table(kWindowPointers, i, kWindowDirectories + i);
  }
  for (const GfnRange& range : ram.ranges()) {
    const std::uint64_t first = value(base_of(range.first)) / kLargePageBytes;
    const std::uint64_t end =
        (value(base_of(end_of(range))) + kLargePageBytes - 1) / kLargePageBytes;
    for (std::uint64_t large = first; large < end; ++large) {
      tables.set(kWindowDirectories + large / 512, large % 512,
                 large * kLargePageBytes | kLargeBits);
    }
  }
}

}  // namespace

Result<HelperPlan> plan_helper(const MemoryLayout& ram) {
  const std::uint64_t span_bytes = ram.span_pages() * kPageBytes;
  if (span_bytes > kWindowBytesMax) {
    return fail(ErrorClass::kUsage,
                "guest memory ends at {:#x}, beyond the {:#x} that the in-guest helper can map",
                span_bytes, kWindowBytesMax);
  }
  const std::uint64_t base = std::max(4 * kGiB, (span_bytes + kGiB - 1) / kGiB * kGiB);
  HelperPlan plan;
  plan.plain = {page_of(Gpa{base}), kWindowDirectories + window_directories(ram)};
  plan.secret = {page_of(Gpa{base + kSecretOffset}), kSecretPages};
  plan.bell = Gpa{base + kBellOffset};
  plan.tables_page = kTop;
  return plan;
}

void write_program(const HelperPlan& plan, const MemoryLayout& ram, MutableBytes plain) {
  const ByteView program = program_image();
  SEALIFT_ASSERT(plain.size() == plan.plain.pages * kPageBytes);
  SEALIFT_ASSERT(program.size() <= kCodePages * kPageBytes);
  std::memcpy(plain.data() + kCodePage * kPageBytes, program.data(), program.size());

  Tables tables(plain, plan.plain.first);
  tables.set_table(kTop, index_of(kProgramVa, 3), kProgramPointers);
  tables.set_table(kTop, index_of(kWindowVa, 3), kWindowPointers);
  tables.set_table(kProgramPointers, index_of(kProgramVa, 2), kProgramDirectory);
  tables.set_table(kProgramDirectory, index_of(kProgramVa, 1), kProgramTable);
  tables.map(kProgramVa, plan.plain.first + kCodePage, kCodePages, kCodeBits);
  tables.map(kMailboxVa, plan.plain.first, kSharedPages, kDataBits);
  tables.map(kStackVa, plan.secret.first, kSecretPages, kDataBits);
  tables.map(kBellVa, page_of(plan.bell), 1, kDataBits);
  write_window(ram, tables);
}

}  // namespace sealift::inguest
