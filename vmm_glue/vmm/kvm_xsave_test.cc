// XSAVE images between hosts whose extended states differ.
#include "vmm_glue/vmm/kvm_xsave.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

namespace sealift {
namespace {

using testing::HasSubstr;

constexpr std::size_t kStateBv = 512;
constexpr XsavePart kAvx{2, 576, 256}, kPkru{9, 2688, 8}, kTiles{18, 2816, 8192};

Bytes image(std::size_t size, std::uint64_t components) {
  Bytes bytes(size);
  std::memcpy(bytes.data() + kStateBv, &components, sizeof components);
  return bytes;
}

std::string refusal(const Bytes& xsave, const XsaveLayout& saved, const XsaveLayout& own,
                    std::uint64_t own_bytes = 4096) {
  const auto fitted = fit_xsave(xsave, saved, own, own_bytes);
  return fitted ? "accepted" : fitted.error().detail;
}

TEST(Xsave, TheSameLayoutIsTakenAsItIs) {
  Bytes xsave = image(4096, 0x207);
  xsave[600] = std::byte{0x5a};
  const auto fitted = fit_xsave(xsave, {kAvx, kPkru}, {kPkru, kAvx}, 4096);
  ASSERT_TRUE(fitted.has_value());
  EXPECT_EQ(*fitted, xsave);
}

TEST(Xsave, ASmallerImageGrowsAndALargerOneShrinks) {
  Bytes small = image(4096, 7);
  small[600] = std::byte{0x5a};
  const auto grown = fit_xsave(small, {kAvx}, {kAvx}, 11008);
  ASSERT_TRUE(grown.has_value());
  EXPECT_EQ(grown->size(), 11008u);
  EXPECT_EQ((*grown)[600], std::byte{0x5a});
  EXPECT_EQ(components_of(*grown), 7u);

  const auto shrunk = fit_xsave(*grown, {kAvx}, {kAvx}, 4096);
  ASSERT_TRUE(shrunk.has_value());
  EXPECT_EQ(*shrunk, small);
}

TEST(Xsave, RefusesWhatDoesNotFit) {
  EXPECT_THAT(refusal(image(4096, 0x207), {kAvx, {9, 2432, 8}}, {kAvx, kPkru}),
              HasSubstr("state 9 is 8 bytes at 2432 in the image and 8 bytes at 2688 here"));
  EXPECT_THAT(refusal(image(4096, 0x207), {kAvx, kPkru}, {kAvx}), HasSubstr("no extended state 9"));
  EXPECT_THAT(refusal(image(4096, 0x207), {kAvx}, {kAvx, kPkru}), HasSubstr("not in the layout"));
  EXPECT_THAT(refusal(image(11008, 0x40003), {kTiles}, {kTiles}, 4096),
              HasSubstr("state 18, 8192 bytes at 2816, is beyond 4096"));
  EXPECT_THAT(refusal(image(4096, 0x40003), {kTiles}, {kTiles}, 11008), HasSubstr("beyond 4096"));
}

TEST(Xsave, RefusesWhatIsNoImage) {
  EXPECT_THAT(refusal(Bytes(4095), {}, {}), HasSubstr("4095 bytes"));
  EXPECT_THAT(refusal(Bytes(), {}, {}), HasSubstr("0 bytes"));
  EXPECT_THAT(refusal(image(1 << 17, 0), {}, {}), HasSubstr("131072 bytes"));
  EXPECT_THAT(refusal(image(4096, 1ULL << 63), {}, {}), HasSubstr("standard form"));
  Bytes compact = image(4096, 3);
  compact[527] = std::byte{0x80};
  EXPECT_THAT(refusal(compact, {}, {}), HasSubstr("standard form"));
}

TEST(Xsave, ALayoutSurvivesItsEncoding) {
  const XsaveLayout layout = {kAvx, kPkru};
  const auto decoded = decode_layout(encode_layout(layout));
  ASSERT_TRUE(decoded.has_value());
  EXPECT_EQ(*decoded, layout);
  EXPECT_TRUE(decode_layout({}).has_value());
  EXPECT_FALSE(decode_layout(Bytes(13)).has_value());
  EXPECT_FALSE(decode_layout(Bytes(12 * 64)).has_value());
}

TEST(Xsave, OwnLayoutHasWhatTheProcessorHas) {
  EXPECT_TRUE(own_layout(3).empty()) << "x87 and SSE are the same everywhere";
  const XsaveLayout avx = own_layout(1 << 2 | 1ULL << 62);
  if (avx.empty()) GTEST_SKIP() << "this processor has no AVX";
  EXPECT_EQ(avx, XsaveLayout{kAvx});
}

}  // namespace
}  // namespace sealift
