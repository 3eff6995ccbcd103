#include "transport/frame.h"

#define XXH_STATIC_LINKING_ONLY  // the state lives on the stack, not in one allocation a frame
#include <xxhash.h>

#include <algorithm>
#include <bit>
#include <string>
#include <string_view>
#include <utility>

#include "engine/assert.h"

namespace sealift {
namespace {

static_assert(std::endian::native == std::endian::little, "headers are copied as they lie");

constexpr std::size_t kHeaderCheckedBytes = offsetof(FrameHeader, header_checksum);
using HeaderBytes = std::array<std::byte, kFrameHeaderBytes>;

std::uint64_t checksum(ByteView bytes) { return XXH3_64bits(bytes.data(), bytes.size()); }

bool begins_with(ByteView bytes, std::string_view text) {
  return bytes.size() >= text.size() &&
         std::equal(text.begin(), text.end(), bytes.begin(),
                    [](char c, std::byte b) { return static_cast<std::byte>(c) == b; });
}

// What else might be talking to us; empty when it is nothing we know.
std::string_view guess_language(ByteView bytes) {
  using namespace std::string_view_literals;
  if (begins_with(bytes, "\x16\x03"sv)) return "; the peer seems to speak TLS, this side does not";
  if (begins_with(bytes, "\x15\x03"sv)) return "; the peer seems to answer with a TLS alert";
  if (begins_with(bytes, "SSH-"sv)) return "; the peer seems to speak SSH";
  for (const std::string_view word : {"GET "sv, "POST"sv, "PUT "sv, "HEAD"sv, "HTTP"sv}) {
    if (begins_with(bytes, word)) return "; the peer seems to speak HTTP";
  }
  return "";
}

Error at_offset(Error error, std::size_t offset) {
  error.detail = fmt::format("at offset {}: {}", offset, error.detail);
  return error;
}

Failure truncated(std::size_t offset, const char* what, std::size_t wanted, std::size_t here) {
  return fail(ErrorClass::kMalformed,
              "at offset {}: the input ends in a frame's {}: {} of its {} bytes are missing",
              offset, what, wanted - here, wanted);
}

Result<void> check_body(const FrameHeader& header, ByteView meta, ByteView payload) {
  const std::uint64_t found = body_checksum(header.type, meta, payload);
  if (found == header.body_checksum) return {};
  return fail(
      ErrorClass::kMalformed,
      "frame type {:#06x} stream {} sequence {}: body checksum {:#018x}, header says {:#018x}",
      header.type, header.stream, header.sequence, found, header.body_checksum);
}

}  // namespace

HeaderBytes encode_header(FrameHeader header) {
  SEALIFT_ASSERT(header.magic == kFrameMagic);
  SEALIFT_ASSERT(header.version == kFrameVersion);
  SEALIFT_ASSERT(header.session_id != 0);
  SEALIFT_ASSERT(header.meta_bytes <= limits::kFrameMetaBytesMax);
  SEALIFT_ASSERT(header.payload_bytes <= limits::kFramePayloadBytesMax);
  const auto unsealed = std::bit_cast<HeaderBytes>(header);
  header.header_checksum = checksum(ByteView(unsealed).first(kHeaderCheckedBytes));
  return std::bit_cast<HeaderBytes>(header);
}

Result<FrameHeader> decode_header(std::span<const std::byte, kFrameHeaderBytes> bytes) {
  HeaderBytes copy{};
  std::ranges::copy(bytes, copy.begin());
  const auto header = std::bit_cast<FrameHeader>(copy);
  if (header.magic != kFrameMagic) {
    return fail(ErrorClass::kMalformed, "frame magic is {:#010x}, not {:#010x}{}", header.magic,
                kFrameMagic, guess_language(bytes));
  }
  const std::uint64_t found = checksum(bytes.first<kHeaderCheckedBytes>());
  if (found != header.header_checksum) {
    return fail(ErrorClass::kMalformed, "frame header checksum is {:#018x}, header says {:#018x}",
                found, header.header_checksum);
  }
  if (header.version != kFrameVersion) {
    return fail(ErrorClass::kMalformed, "frame version is {}; this side knows version {}",
                header.version, kFrameVersion);
  }
  if (header.meta_bytes > limits::kFrameMetaBytesMax) {
    return fail(ErrorClass::kMalformed, "frame type {:#06x}: {} meta bytes exceed {}", header.type,
                header.meta_bytes, limits::kFrameMetaBytesMax);
  }
  if (header.payload_bytes > limits::kFramePayloadBytesMax) {
    return fail(ErrorClass::kMalformed, "frame type {:#06x}: {} payload bytes exceed {}",
                header.type, header.payload_bytes, limits::kFramePayloadBytesMax);
  }
  if (header.session_id == 0) {
    return fail(ErrorClass::kMalformed, "frame type {:#06x}: session 0 is not valid", header.type);
  }
  return header;
}

std::uint64_t body_checksum(ByteView meta, ByteView payload) {
  if (payload.empty()) return checksum(meta);
  if (meta.empty()) return checksum(payload);
  XXH3_state_t state;
  XXH3_INITSTATE(&state);
  XXH3_64bits_reset(&state);
  XXH3_64bits_update(&state, meta.data(), meta.size());
  XXH3_64bits_update(&state, payload.data(), payload.size());
  return XXH3_64bits_digest(&state);
}

std::uint64_t body_checksum(std::uint16_t type, ByteView meta, ByteView payload) {
  return body_checksum(meta, type == kLivePagesType ? ByteView() : payload);
}

FrameOrder::FrameOrder(std::uint64_t session_id) : session_id_(session_id) {}

FrameOrder FrameOrder::after_first(std::uint64_t session_id, std::uint8_t stream) {
  FrameOrder order(session_id);
  order.next_[stream] = 1;
  return order;
}

Result<void> FrameOrder::check(const FrameHeader& header) {
  if (session_id_ != 0 && header.session_id != session_id_) {
    return fail(ErrorClass::kMalformed,
                "frame type {:#06x} belongs to session {:#018x}, this connection to {:#018x}",
                header.type, header.session_id, session_id_);
  }
  std::uint64_t& next = next_[header.stream];
  if (header.sequence != next) {
    return fail(ErrorClass::kMalformed,
                "frame type {:#06x} on stream {} has sequence {}, expected {}", header.type,
                header.stream, header.sequence, next);
  }
  session_id_ = header.session_id;
  ++next;
  return {};
}

Result<Frame> parse_frame(ByteView bytes, std::size_t& offset, FrameOrder& order) {
  SEALIFT_ASSERT(offset < bytes.size());
  const std::size_t start = offset;
  const ByteView rest = bytes.subspan(start);
  if (rest.size() < kFrameHeaderBytes) {
    return truncated(start, "header", kFrameHeaderBytes, rest.size());
  }
  auto header = decode_header(rest.first<kFrameHeaderBytes>());
  if (!header) return fail(at_offset(std::move(header.error()), start));
  const ByteView after = rest.subspan(kFrameHeaderBytes);
  const std::size_t body_bytes = std::size_t{header->meta_bytes} + header->payload_bytes;
  if (after.size() < body_bytes) return truncated(start, "body", body_bytes, after.size());
  const ByteView meta = after.first(header->meta_bytes);
  const ByteView payload = after.subspan(header->meta_bytes, header->payload_bytes);
  auto sound = check_body(*header, meta, payload);
  if (sound) sound = order.check(*header);
  if (!sound) return fail(at_offset(std::move(sound.error()), start));
  offset = start + kFrameHeaderBytes + body_bytes;
  return Frame{header->type, header->stream, header->session_id, Bytes(meta.begin(), meta.end()),
               Bytes(payload.begin(), payload.end())};
}

FrameWriter::FrameWriter(Stream& stream, std::uint64_t session_id, FrameTap tap)
    : stream_(stream), session_id_(session_id), tap_(std::move(tap)) {
  SEALIFT_ASSERT(session_id != 0);
}

Result<void> FrameWriter::write_in_parts(std::uint16_t type, std::uint8_t stream, ByteView meta,
                                         std::span<const ByteView> payload) {
  SEALIFT_ASSERT(meta.size() <= limits::kFrameMetaBytesMax);
  std::size_t payload_bytes = 0;
  for (const ByteView part : payload) payload_bytes += part.size();
  SEALIFT_ASSERT(payload_bytes <= limits::kFramePayloadBytesMax);
  SEALIFT_ASSERT(payload.size() == 1 || type == kLivePagesType);
  FrameHeader header;
  header.type = type;
  header.stream = stream;
  header.meta_bytes = static_cast<std::uint32_t>(meta.size());
  header.payload_bytes = static_cast<std::uint32_t>(payload_bytes);
  header.session_id = session_id_;
  header.body_checksum = body_checksum(type, meta, payload.empty() ? ByteView() : payload.front());

  const std::lock_guard lock(mutex_);
  if (broken_) return fail(*broken_);
  header.sequence = next_[stream]++;
  const HeaderBytes encoded = encode_header(header);
  parts_.assign({ByteView(encoded), meta});
  parts_.insert(parts_.end(), payload.begin(), payload.end());
  if (auto written = stream_.write_parts(parts_); !written) {
    broken_ = written.error();
    return written;
  }
  if (tap_) std::ranges::for_each(parts_, tap_);
  return {};
}

FrameReader::FrameReader(Stream& stream, std::uint64_t session_id, FrameTap tap)
    : stream_(stream), tap_(std::move(tap)), order_(session_id) {}

Result<Frame> FrameReader::read() {
  Frame frame;
  SEALIFT_CHECK(read_into(frame));
  return frame;
}

Result<FrameHeader> FrameReader::read_head(Bytes& meta) {
  if (broken_) return fail(*broken_);
  auto head = read_one_head(meta);
  if (!head) {
    if (head.error().cls == ErrorClass::kMalformed) {
      head.error().detail = fmt::format("from {}: {}", stream_.peer(), head.error().detail);
    }
    broken_ = head.error();
  }
  return head;
}

Result<FrameHeader> FrameReader::read_one_head(Bytes& meta) {
  HeaderBytes raw{};
  SEALIFT_CHECK(stream_.read_exact(raw));
  SEALIFT_TRY(const FrameHeader header, decode_header(raw));
  SEALIFT_CHECK(order_.check(header));
  if (header.type != kLivePagesType && header.payload_bytes > 0) {
    return fail(ErrorClass::kMalformed, "frame type {:#06x} has {} bytes of payload on stream {}",
                header.type, header.payload_bytes, header.stream);
  }
  meta.resize(header.meta_bytes);
  SEALIFT_CHECK(stream_.read_exact(meta));
  SEALIFT_CHECK(check_body(header, meta, {}));
  return header;
}

Result<void> FrameReader::read_into(Frame& frame) {
  if (broken_) return fail(*broken_);
  auto outcome = read_one(frame);
  if (!outcome) {
    if (outcome.error().cls == ErrorClass::kMalformed) {
      outcome.error().detail = fmt::format("from {}: {}", stream_.peer(), outcome.error().detail);
    }
    broken_ = outcome.error();
  }
  return outcome;
}

Result<void> FrameReader::read_one(Frame& frame) {
  HeaderBytes raw{};
  SEALIFT_CHECK(stream_.read_exact(raw));
  if (tap_) tap_(raw);
  SEALIFT_TRY(const FrameHeader header, decode_header(raw));
  SEALIFT_CHECK(order_.check(header));
  frame.type = header.type;
  frame.stream = header.stream;
  frame.session_id = header.session_id;
  frame.meta.resize(header.meta_bytes);
  SEALIFT_CHECK(stream_.read_exact(frame.meta));
  frame.payload.resize(header.payload_bytes);
  SEALIFT_CHECK(stream_.read_exact(frame.payload));
  if (tap_) {
    tap_(frame.meta);
    tap_(frame.payload);
  }
  return check_body(header, frame.meta, frame.payload);
}

}  // namespace sealift
