// For ZSTD_c_literalCompressionMode: without it the levels below 1 leave literals as they are.
#define ZSTD_STATIC_LINKING_ONLY
#include "transport/page_body.h"

#include <zstd.h>
#include <zstd_errors.h>

#include <new>

#include "engine/assert.h"

namespace sealift {
namespace {

int zstd_level(CompressionLevel level) {
  switch (level) {
    case CompressionLevel::kFastest:
      return -30;
    case CompressionLevel::kFast:
      return 1;
    default:
      return 3;
  }
}

void set(ZSTD_CCtx* context, ZSTD_cParameter parameter, int value) {
  SEALIFT_ASSERT(ZSTD_isError(ZSTD_CCtx_setParameter(context, parameter, value)) == 0);
}

// A body is worth its expanding if it is smaller by this part.
constexpr std::size_t kWorthwhilePart = 8;

}  // namespace

void PageBodyCompressor::Free::operator()(ZSTD_CCtx* context) const { ZSTD_freeCCtx(context); }
void PageBodyExpander::Free::operator()(ZSTD_DCtx* context) const { ZSTD_freeDCtx(context); }

std::optional<ByteView> PageBodyCompressor::compress(ByteView raw, CompressionLevel level) {
  SEALIFT_ASSERT(level != CompressionLevel::kOff && raw.size() <= limits::kFramePayloadBytesMax);
  if (!context_) {
    context_.reset(ZSTD_createCCtx());
    if (!context_) throw std::bad_alloc();
    set(context_.get(), ZSTD_c_contentSizeFlag, 0);
    set(context_.get(), ZSTD_c_literalCompressionMode, ZSTD_lcm_huffman);
  }
  if (level != level_) set(context_.get(), ZSTD_c_compressionLevel, zstd_level(level));
  level_ = level;
  // Room for what is worth sending; more is not, and zstd stops as soon as it does not fit.
  out_.resize(raw.size() - raw.size() / kWorthwhilePart);
  const std::size_t size =
      ZSTD_compress2(context_.get(), out_.data(), out_.size(), raw.data(), raw.size());
  if (ZSTD_isError(size) != 0) {
    SEALIFT_ASSERT(ZSTD_getErrorCode(size) == ZSTD_error_dstSize_tooSmall);
    return std::nullopt;
  }
  return ByteView(out_).first(size);
}

Result<void> PageBodyExpander::expand(ByteView compressed, MutableBytes out) {
  if (!context_) {
    context_.reset(ZSTD_createDCtx());
    if (!context_) throw std::bad_alloc();
  }
  const std::size_t size = ZSTD_decompressDCtx(context_.get(), out.data(), out.size(),
                                               compressed.data(), compressed.size());
  if (ZSTD_isError(size) != 0) {
    return fail(ErrorClass::kMalformed, "a body of {} bytes does not expand to {}: {}",
                compressed.size(), out.size(), ZSTD_getErrorName(size));
  }
  if (size != out.size()) {
    return fail(ErrorClass::kMalformed, "a body of {} bytes expands to {} instead of {}",
                compressed.size(), size, out.size());
  }
  return {};
}

}  // namespace sealift
