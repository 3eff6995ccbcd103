#include "vmm_glue/exits/hypercall.h"

#include <gtest/gtest.h>

#include <cstring>
#include <string>

namespace sealift {
namespace {

constexpr auto kNone = HypercallForm::kNone;
constexpr auto kEnc = HypercallForm::kPageEncStatus;
constexpr auto kMap = HypercallForm::kMapGpaRange;
using Why = HypercallRefusal;

// As an ordinary or SEV guest is answered.
HypercallOutcome answer_plain(KvmRun& run, HypercallForm form, const MemoryLayout& layout,
                              PageMap& map, DirtySet& dirty) {
  MapConverter converter(map, dirty);
  return handle_hypercall(run, HypercallRules{.form = form}, layout, converter);
}

struct Case {
  const char* name;
  HypercallForm form;
  std::uint64_t nr, gpa, pages, attributes;
  Why why;
  PageClass cls;  // of an accepted call
};

constexpr auto kToShared = PageClass::kShared;
constexpr auto kToPrivate = PageClass::kPrivate;

// RAM: gfn 0..0xff and 0x200..0x3ff.
const Case kCases[] = {
    {"enc_status_shared", kEnc, 12, 0x10000, 4, 0, Why::kNone, kToShared},
    {"enc_status_private", kEnc, 12, 0x10000, 4, 1, Why::kNone, kToPrivate},
    {"enc_status_2", kEnc, 12, 0x10000, 4, 2, Why::kNotABoolean, kToPrivate},
    {"enc_status_0x10", kEnc, 12, 0x10000, 4, 0x10, Why::kNotABoolean, kToPrivate},
    {"enc_status_huge", kEnc, 12, 0x10000, 4, 1ULL << 63 | 1, Why::kNotABoolean, kToPrivate},
    {"map_shared", kMap, 12, 0x10000, 4, 0, Why::kNone, kToShared},
    {"map_shared_2m_is_not_encrypted", kMap, 12, 0x10000, 4, 1, Why::kNone, kToShared},
    {"map_shared_1g", kMap, 12, 0x10000, 4, 2, Why::kNone, kToShared},
    {"map_private", kMap, 12, 0x10000, 4, 0x10, Why::kNone, kToPrivate},
    {"map_private_2m_unaligned_hint", kMap, 12, 0x11000, 1, 0x11, Why::kNone, kToPrivate},
    {"map_private_1g", kMap, 12, 0x10000, 4, 0x12, Why::kNone, kToPrivate},
    {"map_hint_3", kMap, 12, 0x10000, 4, 3, Why::kPageSizeHint, kToPrivate},
    {"map_hint_15_encrypted", kMap, 12, 0x10000, 4, 0x1f, Why::kPageSizeHint, kToPrivate},
    {"map_reserved_bit_5", kMap, 12, 0x10000, 4, 0x20, Why::kReservedBits, kToPrivate},
    {"map_reserved_bit_63", kMap, 12, 0x10000, 4, 1ULL << 63 | 0x10, Why::kReservedBits,
     kToPrivate},
    {"unaligned", kMap, 12, 0x10008, 4, 0, Why::kUnaligned, kToPrivate},
    {"unaligned_by_one", kEnc, 12, 0x10001, 4, 0, Why::kUnaligned, kToPrivate},
    {"zero_pages", kMap, 12, 0x10000, 0, 0, Why::kNoPages, kToPrivate},
    {"wraps_by_pages", kMap, 12, 0x10000, ~0ULL, 0, Why::kWraps, kToPrivate},
    {"wraps_by_one", kMap, 12, ~0xfffULL, 2, 0, Why::kWraps, kToPrivate},
    {"last_page_of_64_bits", kMap, 12, ~0xfffULL, 1, 0, Why::kNotRam, kToPrivate},
    {"wraps_exactly_not", kMap, 12, 0, 1ULL << 52, 0, Why::kNotRam, kToPrivate},
    {"last_page_of_low_ram", kMap, 12, 0xff000, 1, 0, Why::kNone, kToShared},
    {"one_page_past_low_ram", kMap, 12, 0xff000, 2, 0, Why::kNotRam, kToPrivate},
    {"in_the_hole", kMap, 12, 0x100000, 1, 0, Why::kNotRam, kToPrivate},
    {"across_the_hole", kMap, 12, 0, 0x400, 0, Why::kNotRam, kToPrivate},
    {"all_of_low_ram", kMap, 12, 0, 0x100, 0, Why::kNone, kToShared},
    {"all_of_high_ram", kMap, 12, 0x200000, 0x200, 0, Why::kNone, kToShared},
    {"past_high_ram", kMap, 12, 0x200000, 0x201, 0, Why::kNotRam, kToPrivate},
    {"past_everything", kMap, 12, 0x400000, 1, 0, Why::kNotRam, kToPrivate},
    {"other_number", kMap, 11, 0x10000, 4, 0, Why::kOtherNumber, kToPrivate},
    {"other_number_high_bits", kMap, 12 | 1ULL << 32, 0x10000, 4, 0, Why::kOtherNumber, kToPrivate},
    {"not_advertised", kNone, 12, 0x10000, 4, 0, Why::kNotAdvertised, kToPrivate},
    {"not_advertised_and_wrong", kNone, 12, 0x10001, 0, 77, Why::kNotAdvertised, kToPrivate},
};

MemoryLayout test_layout() {
  auto layout = MemoryLayout::make({GfnRange{Gfn{0}, 0x100}, GfnRange{Gfn{0x200}, 0x200}});
  EXPECT_TRUE(layout.has_value());
  return *layout;
}

// What a platform may answer; otherwise bookkeeping.
class ScriptedConverter final : public Converter {
 public:
  ScriptedConverter(PageMap& map, DirtySet& dirty, Converted answer)
      : inner_(map, dirty), answer_(answer) {}
  Converted convert(GfnRange range, PageClass cls) override {
    ++calls;
    return answer_ == Converted::kDone ? inner_.convert(range, cls) : answer_;
  }
  int calls = 0;

 private:
  MapConverter inner_;
  Converted answer_;
};

// The bytes KVM would leave, with an old value in `ret`.
KvmRun exit_of(const Case& test) {
  KvmRun run{};
  run.exit_reason = kKvmExitHypercall;
  run.exit.hypercall.nr = test.nr;
  run.exit.hypercall.args[0] = test.gpa;
  run.exit.hypercall.args[1] = test.pages;
  run.exit.hypercall.args[2] = test.attributes;
  for (int i = 3; i < 6; ++i) run.exit.hypercall.args[i] = 0x5a5a5a5a5a5a5a5a;
  run.exit.hypercall.ret = 0xdeadbeef;
  run.exit.hypercall.flags = ~0ULL;
  return run;
}

class HypercallTable : public testing::TestWithParam<Case> {};

TEST_P(HypercallTable, AnswersAndConverts) {
  const Case& test = GetParam();
  const MemoryLayout layout = test_layout();
  for (bool start_shared : {false, true}) {
    PageMap map(layout.span_pages());
    if (start_shared) map.convert(GfnRange{Gfn{0}, layout.span_pages()}, PageClass::kShared);
    const auto before = map.shared_ranges();
    DirtySet dirty(layout.span_pages());
    KvmRun run = exit_of(test);

    const auto out = answer_plain(run, test.form, layout, map, dirty);

    EXPECT_EQ(out.refusal, test.why) << describe(out);
    EXPECT_EQ(run.exit.hypercall.ret, out.ret);
    if (test.why != Why::kNone) {
      const bool unknown = test.why == Why::kOtherNumber || test.why == Why::kNotAdvertised;
      EXPECT_EQ(static_cast<std::int64_t>(out.ret), unknown ? -1000 : -22);
      EXPECT_EQ(map.shared_ranges(), before);
      EXPECT_EQ(dirty.count(), 0u);
      continue;
    }
    EXPECT_EQ(out.ret, 0u);
    EXPECT_EQ(out.range, (GfnRange{page_of(Gpa{test.gpa}), test.pages}));
    EXPECT_EQ(out.cls, test.cls);
    const std::uint64_t elsewhere = start_shared ? layout.span_pages() - test.pages : 0;
    EXPECT_EQ(map.shared_pages(), elsewhere + (test.cls == kToShared ? test.pages : 0));
    EXPECT_EQ(dirty.count(), test.pages);
    for (std::uint64_t i = 0; i < test.pages; ++i) {
      ASSERT_EQ(map.class_of(out.range.first + i), test.cls);
      ASSERT_TRUE(dirty.is_marked(out.range.first + i));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, HypercallTable, testing::ValuesIn(kCases),
                         [](const auto& row) { return std::string(row.param.name); });

// What each caller accepts: KVM_RUN fails on anything but 0, 22 and 11 for SNP and TDX.
struct Answer {
  const char* name;
  PageStateCaller caller;
  bool knows_retry;
  HypercallForm form;
  std::uint64_t nr, gpa, pages, attributes;
  Converted platform;
  Why why;
  std::int64_t ret;
  int conversions;
};

constexpr auto kPlain = PageStateCaller::kPlain;
constexpr auto kSnp = PageStateCaller::kSnp;
constexpr auto kTdx = PageStateCaller::kTdx;
constexpr auto kDone = Converted::kDone;
constexpr auto kLater = Converted::kLater;
constexpr auto kFailed = Converted::kFailed;

const Answer kAnswers[] = {
    {"plain_done", kPlain, true, kMap, 12, 0x10000, 4, 0x10, kDone, Why::kNone, 0, 1},
    {"plain_bad_range", kPlain, true, kMap, 12, 0x100000, 4, 0, kDone, Why::kNotRam, -22, 0},
    {"plain_later", kPlain, true, kMap, 12, 0x10000, 4, 0, kLater, Why::kLater, -22, 1},
    {"plain_failed", kPlain, true, kMap, 12, 0x10000, 4, 0, kFailed, Why::kFailed, -22, 1},
    {"plain_number", kPlain, true, kMap, 9, 0x10000, 4, 0, kDone, Why::kOtherNumber, -1000, 0},
    {"plain_form", kPlain, true, kNone, 12, 0x10000, 4, 0, kDone, Why::kNotAdvertised, -1000, 0},
    {"snp_done", kSnp, false, kMap, 12, 0x10000, 4, 0x10, kDone, Why::kNone, 0, 1},
    {"snp_done_2m_hint", kSnp, false, kMap, 12, 0x10000, 4, 0x11, kDone, Why::kNone, 0, 1},
    {"snp_bad_range", kSnp, false, kMap, 12, 0x100000, 4, 0, kDone, Why::kNotRam, 22, 0},
    {"snp_unaligned", kSnp, false, kMap, 12, 0x10001, 4, 0, kDone, Why::kUnaligned, 22, 0},
    {"snp_reserved", kSnp, false, kMap, 12, 0x10000, 4, 0x20, kDone, Why::kReservedBits, 22, 0},
    {"snp_later_old_kernel", kSnp, false, kMap, 12, 0x10000, 4, 0, kLater, Why::kLater, 22, 1},
    {"snp_later", kSnp, true, kMap, 12, 0x10000, 4, 0, kLater, Why::kLater, 11, 1},
    {"snp_failed", kSnp, true, kMap, 12, 0x10000, 4, 0, kFailed, Why::kFailed, 22, 1},
    {"snp_number", kSnp, true, kMap, 9, 0x10000, 4, 0, kDone, Why::kOtherNumber, 22, 0},
    {"snp_form", kSnp, true, kNone, 12, 0x10000, 4, 0, kDone, Why::kNotAdvertised, 22, 0},
    {"tdx_done", kTdx, true, kMap, 12, 0x10000, 4, 0x10, kDone, Why::kNone, 0, 1},
    {"tdx_unaligned_chunk", kTdx, true, kMap, 12, 0x201000, 0x1ff, 0, kDone, Why::kNone, 0, 1},
    {"tdx_later_old_kernel", kTdx, false, kMap, 12, 0x10000, 4, 0, kLater, Why::kLater, 22, 1},
    {"tdx_later", kTdx, true, kMap, 12, 0x10000, 4, 0, kLater, Why::kLater, 11, 1},
    {"tdx_failed", kTdx, true, kMap, 12, 0x10000, 4, 0, kFailed, Why::kFailed, 22, 1},
    {"tdx_no_ram_shared", kTdx, true, kMap, 12, 0xfee00000, 1, 0, kDone, Why::kNone, 0, 0},
    {"tdx_no_ram_hole", kTdx, true, kMap, 12, 0x100000, 0x100, 0, kDone, Why::kNone, 0, 0},
    {"tdx_no_ram_private", kTdx, true, kMap, 12, 0xfee00000, 1, 0x10, kDone, Why::kNotRam, 22, 0},
    {"tdx_no_ram_reserved", kTdx, true, kMap, 12, 0xfee00000, 1, 0x40, kDone, Why::kReservedBits,
     22, 0},
    {"tdx_half_ram_shared", kTdx, true, kMap, 12, 0xff000, 2, 0, kDone, Why::kNotRam, 22, 0},
    {"tdx_half_ram_from_below", kTdx, true, kMap, 12, 0x1ff000, 2, 0, kDone, Why::kNotRam, 22, 0},
    {"tdx_across_all_ram", kTdx, true, kMap, 12, 0, 0x500, 0, kDone, Why::kNotRam, 22, 0},
    {"tdx_wraps", kTdx, true, kMap, 12, ~0xfffULL, 2, 0, kDone, Why::kWraps, 22, 0},
    {"snp_no_ram_shared", kSnp, true, kMap, 12, 0xfee00000, 1, 0, kDone, Why::kNotRam, 22, 0},
    {"plain_no_ram_shared", kPlain, true, kMap, 12, 0xfee00000, 1, 0, kDone, Why::kNotRam, -22, 0},
};

class HypercallAnswers : public testing::TestWithParam<Answer> {};

TEST_P(HypercallAnswers, AreTheCallersOwn) {
  const Answer& test = GetParam();
  const MemoryLayout layout = test_layout();
  PageMap map(layout.span_pages());
  map.convert(GfnRange{Gfn{0x220}, 0x20}, PageClass::kShared);
  DirtySet dirty(layout.span_pages());
  ScriptedConverter converter(map, dirty, test.platform);
  const auto digest = map.digest();
  KvmRun run = exit_of(Case{test.name, test.form, test.nr, test.gpa, test.pages, test.attributes,
                            test.why, kToShared});

  const HypercallRules rules{
      .form = test.form, .caller = test.caller, .knows_retry = test.knows_retry};
  const auto out = handle_hypercall(run, rules, layout, converter);

  EXPECT_EQ(out.refusal, test.why) << describe(out);
  EXPECT_EQ(static_cast<std::int64_t>(run.exit.hypercall.ret), test.ret);
  EXPECT_EQ(converter.calls, test.conversions);
  EXPECT_EQ(out.converted(), test.why == Why::kNone && test.conversions == 1);
  if (out.converted()) {
    EXPECT_EQ(dirty.count(), test.pages);
  } else {
    EXPECT_EQ(map.digest(), digest);
    EXPECT_EQ(dirty.count(), 0u);
  }
}

INSTANTIATE_TEST_SUITE_P(All, HypercallAnswers, testing::ValuesIn(kAnswers),
                         [](const auto& row) { return std::string(row.param.name); });

TEST(Hypercall, AGateThatSaysLaterChangesNothing) {
  const MemoryLayout layout = test_layout();
  PageMap map(layout.span_pages());
  DirtySet dirty(layout.span_pages());
  GfnRange asked;
  MapConverter converter(map, dirty, [&](GfnRange range, PageClass) {
    asked = range;
    return ConvertVerdict::kLater;
  });
  KvmRun run = exit_of(kCases[5]);
  const HypercallRules rules{.form = kMap, .caller = kTdx, .knows_retry = true};
  EXPECT_EQ(handle_hypercall(run, rules, layout, converter).refusal, Why::kLater);
  EXPECT_EQ(asked, (GfnRange{Gfn{0x10}, 4}));
  EXPECT_EQ(map.shared_pages() + dirty.count(), 0u);
}

TEST(Hypercall, TouchesOnlyTheResultOfTheExit) {
  const MemoryLayout layout = test_layout();
  PageMap map(layout.span_pages());
  DirtySet dirty(layout.span_pages());
  KvmRun run = exit_of(kCases[0]);
  KvmRun expected = run;
  expected.exit.hypercall.ret = 0;
  (void)answer_plain(run, kEnc, layout, map, dirty);
  EXPECT_EQ(std::memcmp(&run, &expected, sizeof run), 0);
}

TEST(Hypercall, SaysWhatItDid) {
  const MemoryLayout layout = test_layout();
  PageMap map(layout.span_pages());
  DirtySet dirty(layout.span_pages());
  KvmRun run = exit_of(kCases[0]);
  EXPECT_EQ(describe(answer_plain(run, kEnc, layout, map, dirty)),
            "hypercall converted 4 pages from gfn 0x10 to shared");
  run = exit_of(kCases[2]);
  EXPECT_EQ(describe(answer_plain(run, kEnc, layout, map, dirty)),
            "hypercall 12 (0x10000, 0x4, 0x2) refused: enc is neither 0 nor 1");
  MapConverter converter(map, dirty);
  run = exit_of(Case{"", kMap, 12, 0xfee00000, 1, 0, Why::kNone, kToShared});
  EXPECT_EQ(describe(handle_hypercall(run, HypercallRules{.form = kMap, .caller = kTdx}, layout,
                                      converter)),
            "hypercall converted 1 pages from gfn 0xfee00 to shared: no RAM, nothing to do");
}

}  // namespace
}  // namespace sealift
