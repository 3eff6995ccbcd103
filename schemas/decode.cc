// decode(): a hostile peer's bytes to engine records. Three steps, each before anything is
// allocated from a number the peer sent: the frame's sizes against the limits, the shape of the
// message (one segment that fills the meta), and, in read_record(), each field against
// engine/limits.h and against the others.
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#include "engine/limits.h"
#include "schemas/codec.h"
#include "schemas/read_record.h"
#include "schemas/record_type.h"

namespace sealift {
namespace {

constexpr std::size_t kWordBytes = sizeof(std::uint64_t);
constexpr std::size_t kMetaBytesMin = 2 * kWordBytes;  // segment table and root pointer

Result<void> check_sizes(std::uint16_t type, std::size_t meta_bytes, std::size_t payload_bytes) {
  const char* name = record_type_name(type);
  if (meta_bytes < kMetaBytesMin || meta_bytes > limits::kFrameMetaBytesMax) {
    return fail(ErrorClass::kMalformed, "{} has a meta of {} bytes, outside {} to {}", name,
                meta_bytes, kMetaBytesMin, limits::kFrameMetaBytesMax);
  }
  if (meta_bytes % kWordBytes != 0) {
    return fail(ErrorClass::kMalformed, "{} has a meta of {} bytes, not a multiple of {}", name,
                meta_bytes, kWordBytes);
  }
  if (payload_bytes > limits::kFramePayloadBytesMax) {
    return fail(ErrorClass::kMalformed, "{} has a payload of {} bytes, more than {}", name,
                payload_bytes, limits::kFramePayloadBytesMax);
  }
  if (payload_bytes > 0 && !record_traits(type).has_payload) {
    return fail(ErrorClass::kMalformed, "{} has a payload of {} bytes and may have none", name,
                payload_bytes);
  }
  return {};
}

std::uint32_t little_endian_u32(ByteView bytes) {
  std::uint32_t number = 0;
  for (std::size_t i = 0; i < 4; ++i) number |= std::to_integer<std::uint32_t>(bytes[i]) << (8 * i);
  return number;
}

// A message of several segments, or one that ends before the meta does, has bytes that no field
// accounts for.
Result<void> check_segment_table(std::uint16_t type, ByteView meta) {
  const std::uint64_t segments = std::uint64_t{little_endian_u32(meta.first(4))} + 1;
  const std::uint64_t words = little_endian_u32(meta.subspan(4, 4));
  if (segments != 1) {
    return fail(ErrorClass::kMalformed, "{} has a message of {} segments, not 1",
                record_type_name(type), segments);
  }
  if (words != meta.size() / kWordBytes - 1) {
    return fail(ErrorClass::kMalformed, "{} has a message of {} words in a meta with room for {}",
                record_type_name(type), words, meta.size() / kWordBytes - 1);
  }
  return {};
}

// The stream, the sizes and the shape of a frame of a known type.
Result<void> check_frame(std::uint16_t type, std::uint8_t stream, ByteView meta,
                         std::size_t payload_bytes) {
  if (stream >= limits::kStreamsMax) {
    return fail(ErrorClass::kMalformed, "{} came on stream {}, not below {}",
                record_type_name(type), stream, limits::kStreamsMax);
  }
  if (stream != 0 && !record_traits(type).any_stream) {
    return fail(ErrorClass::kMalformed, "{} came on stream {}, only stream 0 may carry it",
                record_type_name(type), stream);
  }
  SEALIFT_CHECK(check_sizes(type, meta.size(), payload_bytes));
  return check_segment_table(type, meta);
}

// The words of a message, copied where they do not lie as words must.
class MetaWords {
 public:
  explicit MetaWords(ByteView meta) : count_(meta.size() / kWordBytes) {
    if (reinterpret_cast<std::uintptr_t>(meta.data()) % alignof(std::uint64_t) == 0) {
      words_ = reinterpret_cast<const std::uint64_t*>(meta.data());
      return;
    }
    aligned_.resize(count_);
    std::memcpy(aligned_.data(), meta.data(), meta.size());
    words_ = aligned_.data();
  }
  [[nodiscard]] std::span<const std::uint64_t> get() const { return {words_, count_}; }

 private:
  std::size_t count_;
  std::vector<std::uint64_t> aligned_;
  const std::uint64_t* words_ = nullptr;
};

}  // namespace

Result<std::optional<Record>> decode(std::uint16_t type, std::uint8_t stream, ByteView meta,
                                     Bytes payload) {
  if (!record_traits(type).known) {
    if (is_optional(type)) return std::optional<Record>();
    return fail(ErrorClass::kMalformed, "record type {:#06x} is not known and not optional", type);
  }
  SEALIFT_CHECK(check_frame(type, stream, meta, payload.size()));
  const MetaWords words(meta);
  SEALIFT_TRY(Record record, read_record(type, stream, words.get(), std::move(payload)));
  return std::optional<Record>(std::move(record));
}

Result<LivePages> decode_live_pages(std::uint8_t stream, ByteView meta, std::size_t payload_bytes) {
  SEALIFT_CHECK(check_frame(value(RecordType::kLivePages), stream, meta, payload_bytes));
  const MetaWords words(meta);
  return read_live_pages(stream, words.get(), payload_bytes);
}

}  // namespace sealift
