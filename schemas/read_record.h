// read_record(): the message in a frame's meta, field by field. decode() calls it after it has
// checked the frame.
//
// Plain function, any thread. Failure: kMalformed; it never throws, and allocates nothing whose
// size it has not checked against engine/limits.h.
#pragma once

#include <cstdint>
#include <span>

#include "engine/records.h"
#include "engine/result.h"
#include "engine/types.h"

namespace sealift {

// REQUIRES: `type` is known; `meta_words` is a flat message with one segment that fills it.
Result<Record> read_record(std::uint16_t type, std::uint8_t stream,
                           std::span<const std::uint64_t> meta_words, Bytes payload);

// The same of LivePages whose payload of so many bytes is not here yet.
Result<LivePages> read_live_pages(std::uint8_t stream, std::span<const std::uint64_t> meta_words,
                                  std::size_t payload_bytes);

}  // namespace sealift
