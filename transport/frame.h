// Wire frames: a 48-byte header, then meta bytes, then payload bytes. Normative: docs/spec/wire.md.
//
//   0      4     6   7      8           12             16          24        32             40 48
//   | magic| type|ver|stream| meta bytes| payload bytes| session id| sequence| body checksum| hdr
//   ck| Little-endian, no padding. body checksum = XXH3-64 of meta and payload, header checksum =
//   XXH3-64 of the 40 bytes before it. The checksums find accidents; TLS is what stops an attacker.
//
// Owner:    a writer and a reader borrow the Stream, which outlives them.
// Threads:  FrameWriter: any thread, frames stay whole. FrameReader: one thread.
// Failure:  kMalformed for bytes the layout does not allow, with the values in the text; otherwise
//           what the Stream says. After a failure a writer or reader gives the same error for ever.
// Invariants: sequences of one direction and stream number count from 0 without a gap. No memory is
//           allocated for a length before the header checksum and the limits have been checked.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <span>
#include <type_traits>
#include <vector>

#include "engine/limits.h"
#include "engine/result.h"
#include "engine/types.h"
#include "transport/stream.h"

namespace sealift {

inline constexpr std::uint32_t kFrameMagic = 0x54464c53;  // 'S' 'L' 'F' 'T' in memory
inline constexpr std::uint8_t kFrameVersion = 1;
inline constexpr std::size_t kFrameHeaderBytes = 48;
// The one type whose body checksum is of the meta alone: its payload leaves the memory of a guest
// that may write it at that moment (wire.md, "Frames").
inline constexpr std::uint16_t kLivePagesType = 0x001a;

struct FrameHeader {
  std::uint32_t magic = kFrameMagic;
  std::uint16_t type = 0;  // raw: any value can arrive
  std::uint8_t version = kFrameVersion;
  std::uint8_t stream = 0;
  std::uint32_t meta_bytes = 0;
  std::uint32_t payload_bytes = 0;
  std::uint64_t session_id = 0;  // 0 is never valid
  std::uint64_t sequence = 0;
  std::uint64_t body_checksum = 0;
  std::uint64_t header_checksum = 0;
  friend bool operator==(const FrameHeader&, const FrameHeader&) = default;
};
static_assert(sizeof(FrameHeader) == kFrameHeaderBytes);
static_assert(offsetof(FrameHeader, type) == 4 && offsetof(FrameHeader, version) == 6 &&
              offsetof(FrameHeader, stream) == 7 && offsetof(FrameHeader, meta_bytes) == 8 &&
              offsetof(FrameHeader, payload_bytes) == 12 &&
              offsetof(FrameHeader, session_id) == 16 && offsetof(FrameHeader, sequence) == 24 &&
              offsetof(FrameHeader, body_checksum) == 32 &&
              offsetof(FrameHeader, header_checksum) == 40);
static_assert(std::has_unique_object_representations_v<FrameHeader>, "padding would leak memory");

struct Frame {
  std::uint16_t type = 0;
  std::uint8_t stream = 0;
  std::uint64_t session_id = 0;
  Bytes meta;
  Bytes payload;
  friend bool operator==(const Frame&, const Frame&) = default;
};

// Sets the header checksum. REQUIRES: magic, version, session and lengths are what decode_header()
// accepts.
std::array<std::byte, kFrameHeaderBytes> encode_header(FrameHeader header);

// Everything that one header can be checked for by itself.
Result<FrameHeader> decode_header(std::span<const std::byte, kFrameHeaderBytes> bytes);

std::uint64_t body_checksum(ByteView meta, ByteView payload);
// What the header of a frame of this type says.
std::uint64_t body_checksum(std::uint16_t type, ByteView meta, ByteView payload);

// The order of frames: one session, and sequences without gaps. Plain value.
class FrameOrder {
 public:
  FrameOrder() = default;  // adopts the session of the first frame
  explicit FrameOrder(std::uint64_t session_id);
  // After the first frame of a stream's own connection.
  static FrameOrder after_first(std::uint64_t session_id, std::uint8_t stream);

  Result<void> check(const FrameHeader& header);  // counts the frame when it is the one expected
  [[nodiscard]] std::uint64_t session_id() const { return session_id_; }  // 0: none seen yet

 private:
  std::uint64_t session_id_ = 0;
  std::array<std::uint64_t, 256> next_{};  // by stream number
};

// The frame at `offset` of `bytes`, and moves `offset` behind it. Text says where it went wrong.
// REQUIRES: offset < bytes.size()
Result<Frame> parse_frame(ByteView bytes, std::size_t& offset, FrameOrder& order);

// Sees every raw byte in the order of the wire, for captures. Called under the writer's lock.
using FrameTap = std::function<void(ByteView)>;

class FrameWriter {
 public:
  // REQUIRES: session_id is not 0.
  FrameWriter(Stream& stream, std::uint64_t session_id, FrameTap tap = {});

  // REQUIRES: the lengths are within limits::kFrameMetaBytesMax and kFramePayloadBytesMax.
  Result<void> write(std::uint16_t type, std::uint8_t stream, ByteView meta, ByteView payload) {
    return write_in_parts(type, stream, meta, std::span(&payload, 1));
  }
  // The payload in parts. Those of kLivePagesType may change while they are written.
  Result<void> write_in_parts(std::uint16_t type, std::uint8_t stream, ByteView meta,
                              std::span<const ByteView> payload);

 private:
  Stream& stream_;
  const std::uint64_t session_id_;
  const FrameTap tap_;
  std::mutex mutex_;                       // guards all below, and the order of frames
  std::array<std::uint64_t, 256> next_{};  // by stream number
  std::vector<ByteView> parts_;            // of the frame that is being written
  std::optional<Error> broken_;
};

class FrameReader {
 public:
  // `session_id` 0: adopts the session of the first frame.
  explicit FrameReader(Stream& stream, std::uint64_t session_id = 0, FrameTap tap = {});

  FrameReader(Stream& stream, const FrameOrder& order) : stream_(stream), order_(order) {}

  Result<Frame> read();
  Result<void> read_into(Frame& frame);  // uses the memory `frame` has already
  // Header and meta of the next frame, checked. Only one of kLivePagesType may have a payload,
  // which the caller reads from the stream before the next call.
  Result<FrameHeader> read_head(Bytes& meta);
  [[nodiscard]] std::uint64_t session_id() const { return order_.session_id(); }

 private:
  Result<void> read_one(Frame& frame);
  Result<FrameHeader> read_one_head(Bytes& meta);

  Stream& stream_;
  const FrameTap tap_;
  FrameOrder order_;
  std::optional<Error> broken_;
};

}  // namespace sealift
