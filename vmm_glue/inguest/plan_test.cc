// Where the helper lies, and that its tables reach exactly what they should.
#include "vmm_glue/inguest/plan.h"

#include <gtest/gtest.h>

#include <cstring>
#include <optional>

#include "vmm_glue/inguest/program/program_image.h"

namespace sealift::inguest {
namespace {

constexpr std::uint64_t kAddressBits = 0x000ffffffffff000;
constexpr std::uint64_t kGiB = 1ULL << 30;

MemoryLayout layout(std::vector<GfnRange> ranges) {
  return MemoryLayout::make(std::move(ranges)).value();
}

struct Walked {
  std::uint64_t gpa = 0;
  bool writable = true;
  bool executable = true;
};

// The processor's walk, over the tables in `plain`.
class Walk {
 public:
  explicit Walk(const MemoryLayout& ram)
      : plan_(plan_helper(ram).value()), plain_(plan_.plain.pages * kPageBytes) {
    write_program(plan_, ram, plain_);
  }
  std::optional<Walked> operator()(std::uint64_t va) const {
    std::uint64_t table = value(base_of(plan_.plain.first + plan_.tables_page));
    Walked out;
    for (unsigned level = 4; level-- > 0;) {
      const std::uint64_t entry = read(table + ((va >> (12 + 9 * level)) & 511) * 8);
      if ((entry & 1) == 0) return std::nullopt;
      EXPECT_NE(entry & 4, 0u) << "not for CPL3";
      out.writable = out.writable && (entry & 2) != 0;
      out.executable = out.executable && (entry >> 63) == 0;
      const bool large = level == 1 && (entry & 0x80) != 0;
      const std::uint64_t offset = large ? (2ULL << 20) - 1 : kPageBytes - 1;
      out.gpa = (entry & kAddressBits) + (va & offset);
      if (large) return out;
      table = entry & kAddressBits;
    }
    return out;
  }
  const HelperPlan& plan() const { return plan_; }
  const Bytes& plain() const { return plain_; }

 private:
  std::uint64_t read(std::uint64_t gpa) const {
    std::uint64_t word = 0;
    std::memcpy(&word, plain_.data() + (gpa - value(base_of(plan_.plain.first))), sizeof word);
    return word;
  }
  HelperPlan plan_;
  Bytes plain_;
};

TEST(HelperPlan, LiesBeyondTheGuestsMemory) {
  const auto at = [](std::vector<GfnRange> ranges) {
    return value(base_of(plan_helper(layout(std::move(ranges))).value().plain.first));
  };
  EXPECT_EQ(at({{Gfn{0}, 512}}), 4 * kGiB);
  EXPECT_EQ(at({{Gfn{0}, 0xc0000}, {Gfn{0x100000}, 1}}), 5 * kGiB);
  EXPECT_EQ(at({{Gfn{0}, 0xc0000}, {Gfn{0x100000}, 0x40000}}), 5 * kGiB);
  EXPECT_EQ(at({{Gfn{0}, 0xc0000}, {Gfn{0x100000}, 0x40001}}), 6 * kGiB);
}

TEST(HelperPlan, RefusesMoreThanTheWindowMaps) {
  const std::uint64_t most = kWindowBytesMax / kPageBytes;
  EXPECT_TRUE(plan_helper(layout({{Gfn{0}, most}})).has_value());
  const auto refused = plan_helper(layout({{Gfn{0}, most + 1}}));
  EXPECT_EQ(refused.error().cls, ErrorClass::kUsage);
}

TEST(HelperPlan, CodeIsReadOnlyAndDataIsNotCode) {
  const Walk walk(layout({{Gfn{0}, 512}}));
  const std::uint64_t plain = value(base_of(walk.plan().plain.first));
  const std::uint64_t secret = value(base_of(walk.plan().secret.first));
  const auto code = walk(kProgramVa);
  ASSERT_TRUE(code.has_value());
  EXPECT_FALSE(code->writable);
  EXPECT_TRUE(code->executable);
  const ByteView image = program_image();
  EXPECT_EQ(std::memcmp(walk.plain().data() + (code->gpa - plain), image.data(), image.size()), 0);
  const struct {
    std::uint64_t va, gpa;
  } data[] = {{kMailboxVa, plain},
              {kBufferVa + kEntriesMax * kPage - 1, plain + kSharedPages * kPage - 1},
              {kStackVa, secret},
              {kDataVa, secret + kStackPages * kPage},
              {kDataVa + kDataPages * kPage - 1, secret + kSecretPages * kPage - 1},
              {kBellVa, value(walk.plan().bell)}};
  for (const auto& one : data) {
    const auto got = walk(one.va);
    ASSERT_TRUE(got.has_value()) << one.va;
    EXPECT_EQ(got->gpa, one.gpa) << one.va;
    EXPECT_TRUE(got->writable);
    EXPECT_FALSE(got->executable);
  }
  EXPECT_FALSE(walk(kStackVa - 1).has_value()) << "nothing stops the stack";
  EXPECT_FALSE(walk(kDataVa + kDataPages * kPage).has_value());
  EXPECT_FALSE(walk(0).has_value());
}

TEST(HelperPlan, TheWindowShowsRamOnly) {
  const Walk walk(layout({{Gfn{0}, 0xc0000}, {Gfn{0x100000}, 0x40200}}));
  for (const std::uint64_t gpa :
       {0 * kGiB, 0 * kGiB + 0x1234, 3 * kGiB - 1, 4 * kGiB, 5 * kGiB + 0x1fffff}) {
    const auto got = walk(kWindowVa + gpa);
    ASSERT_TRUE(got.has_value()) << gpa;
    EXPECT_EQ(got->gpa, gpa);
    EXPECT_FALSE(got->executable);
  }
  for (const std::uint64_t gpa : {3 * kGiB, 4 * kGiB - 1, 5 * kGiB + 0x200000, 6 * kGiB}) {
    EXPECT_FALSE(walk(kWindowVa + gpa).has_value()) << gpa;
  }
}

TEST(HelperProgram, FitsAndIsNotEmpty) {
  EXPECT_GT(program_image().size(), 10000u);
  EXPECT_LE(program_image().size(), kCodePages * kPage);
}

}  // namespace
}  // namespace sealift::inguest
