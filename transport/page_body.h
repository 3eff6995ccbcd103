// The body of a batch of shared pages, made smaller: one zstd frame of its pages in their order.
//
// Levels (engine/compression.h), measured on words of a language in batches of 512 KiB:
//   kFastest  Huffman coding and hardly any search for matches: half the time of kFast for 1.25
//             times its bytes
//   kFast     zstd's level 1
//   kGood     zstd's level 3
//
// Spec:    docs/spec/wire.md, "SharedPages". The frame carries no checksum, dictionary or content
//          size: what it has to expand to is known from the batch.
// Owner:   one for each stream and direction. Threads: one each.
// Failure: compress() none, asserts on what is ours. expand() takes a hostile peer's bytes: it
//          writes nothing outside `out`, takes no memory that a peer could choose, and says
//          kMalformed of everything that is not exactly out.size() bytes.
#pragma once

#include <memory>
#include <optional>

#include "engine/compression.h"
#include "engine/limits.h"
#include "engine/result.h"
#include "engine/types.h"

struct ZSTD_CCtx_s;
struct ZSTD_DCtx_s;

namespace sealift {

class PageBodyCompressor {
 public:
  // REQUIRES: level is not kOff; raw.size() <= limits::kFramePayloadBytesMax.
  // Empty: it would not have become smaller by an eighth at least, so it travels as it is. The
  // bytes are valid until the next call. `raw` must not change meanwhile: the compressor reads it
  // more than once, so pages of a guest that runs are copied first.
  std::optional<ByteView> compress(ByteView raw, CompressionLevel level);

 private:
  struct Free {
    void operator()(ZSTD_CCtx_s* context) const;
  };
  std::unique_ptr<ZSTD_CCtx_s, Free> context_;
  CompressionLevel level_ = CompressionLevel::kOff;  // of context_
  Bytes out_;
};

class PageBodyExpander {
 public:
  Result<void> expand(ByteView compressed, MutableBytes out);

 private:
  struct Free {
    void operator()(ZSTD_DCtx_s* context) const;
  };
  std::unique_ptr<ZSTD_DCtx_s, Free> context_;
};

}  // namespace sealift
