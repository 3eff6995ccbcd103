// Codec: engine records <-> the bytes of a frame's body. Framing itself (header, checksums) is
// transport's.
//
// Spec:    docs/spec/wire.md, changed in the same commit. The meta part of a body is one Cap'n
// Proto message
//          (schemas/*.capnp), the payload is raw bytes. No capnp type appears in this header.
// Owner:   pure functions; everything they return is owned by the caller. Threads: any.
// Failure: encode() asserts our own limits: what it is given comes from the engine, not from a
// peer. decode() takes a
//          hostile peer's bytes: it returns kMalformed with the value and the limit in the text,
//          never throws, and allocates nothing whose size it has not checked against
//          engine/limits.h.
#pragma once

#include <cstdint>
#include <optional>

#include "engine/records.h"
#include "engine/result.h"
#include "engine/types.h"

namespace sealift {

struct EncodedRecord {
  std::uint16_t type = 0;
  std::uint8_t stream = 0;
  Bytes meta;     // a multiple of 8 bytes
  Bytes payload;  // empty for most types
  friend bool operator==(const EncodedRecord&, const EncodedRecord&) = default;
};

// Text for people (names of agents and guests, Abort::detail) is cut to limits::kTextBytesMax and
// freed of control characters and invalid UTF-8, so an error can always be sent. REQUIRES: every
// other field is within its limits.
EncodedRecord encode(const Record& record);
EncodedRecord encode(Record&& record);  // moves the body of pages and state instead of copying it

// The meta of LivePages alone: on a stream its payload lies in the guest's memory.
Bytes encode_live_pages(const LivePages& pages);

// The number of `record` in a frame's header.
std::uint16_t record_type_of(const Record& record);

// Nothing, for an optional type this version does not know: skip the frame. `payload` moves into
// the record.
Result<std::optional<Record>> decode(std::uint16_t type, std::uint8_t stream, ByteView meta,
                                     Bytes payload);

// As decode(), of LivePages whose payload is still to be read: `body` stays empty.
Result<LivePages> decode_live_pages(std::uint8_t stream, ByteView meta, std::size_t payload_bytes);

}  // namespace sealift
