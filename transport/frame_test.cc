#include "transport/frame.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <array>
#include <future>
#include <string>
#include <thread>
#include <vector>

#include "transport/test_support.h"

namespace sealift {
namespace {

using test::must;
using testing::AllOf;
using testing::HasSubstr;

constexpr std::uint64_t kSession = 0x1122334455667788;

// A stream whose far end is memory: reads come from `input`, writes go to `output`.
class MemoryStream final : public Stream {
 public:
  Result<std::size_t> read_some(MutableBytes out) override {
    if (at_ == input.size()) {
      return fail(ErrorClass::kDisconnected, "the peer memory closed the connection");
    }
    largest_read = std::max(largest_read, out.size());
    const std::size_t count = std::min({out.size(), input.size() - at_, std::size_t{7}});
    std::ranges::copy(ByteView(input).subspan(at_, count), out.begin());
    at_ += count;
    return count;
  }
  Result<void> write_parts(std::span<const ByteView> parts) override {
    if (writes_allowed == 0) return fail(ErrorClass::kDisconnected, "the peer memory is full");
    --writes_allowed;
    for (const ByteView part : parts) output.insert(output.end(), part.begin(), part.end());
    return {};
  }
  Result<void> end_writes() override { return {}; }
  void shutdown() override {}
  [[nodiscard]] std::string peer() const override { return "memory"; }
  [[nodiscard]] std::optional<SharedSecret> shared_secret(const std::string&) override {
    return std::nullopt;
  }

  Bytes input, output;
  std::size_t largest_read = 0;
  std::size_t writes_allowed = SIZE_MAX;

 private:
  std::size_t at_ = 0;
};

// Two frames on two streams and an empty one.
Bytes small_stream() {
  MemoryStream memory;
  FrameWriter writer(memory, kSession);
  must(writer.write(0x0102, 0, test::bytes_of("meta"), test::bytes_of("payload")));
  must(writer.write(0x0203, 5, test::bytes_of("m2"), {}));
  must(writer.write(0x0304, 0, {}, {}));
  return memory.output;
}

Result<std::vector<Frame>> parse_all(ByteView bytes) {
  std::vector<Frame> frames;
  FrameOrder order;
  for (std::size_t offset = 0; offset < bytes.size();) {
    SEALIFT_TRY(Frame frame, parse_frame(bytes, offset, order));
    frames.push_back(std::move(frame));
  }
  return frames;
}

Result<std::vector<Frame>> read_all(const Bytes& bytes, std::size_t count) {
  MemoryStream memory;
  memory.input = bytes;
  FrameReader reader(memory);
  std::vector<Frame> frames;
  while (frames.size() < count) {
    SEALIFT_TRY(Frame frame, reader.read());
    frames.push_back(std::move(frame));
  }
  return frames;
}

// Bytes with a header of the caller's making and a header checksum that fits.
Bytes forged(FrameHeader header) {
  auto bytes = std::bit_cast<std::array<std::byte, kFrameHeaderBytes>>(header);
  header.header_checksum = body_checksum(ByteView(bytes).first(40), {});
  bytes = std::bit_cast<std::array<std::byte, kFrameHeaderBytes>>(header);
  return Bytes(bytes.begin(), bytes.end());
}

FrameHeader valid_header() {
  FrameHeader header;
  header.session_id = kSession;
  header.body_checksum = body_checksum({}, {});
  return header;
}

// The layout in numbers: whoever changes it changes the wire.
TEST(Frame, GoldenBytes) {
  const Bytes bytes = small_stream();
  const std::array<std::uint8_t, 32> golden{
      'S',  'L',  'F',  'T',  0x02, 0x01, 0x01, 0x00, 4, 0, 0, 0, 7, 0, 0, 0,
      0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 0, 0, 0, 0, 0, 0, 0, 0};
  ASSERT_EQ(bytes.size(), 3 * kFrameHeaderBytes + 11 + 2);
  EXPECT_TRUE(std::ranges::equal(std::as_bytes(std::span(golden)), ByteView(bytes).first(32)));
  const auto checksum_at = [&](std::size_t at) {
    std::uint64_t value = 0;
    for (std::size_t i = 8; i-- > 0;)
      value = value << 8 | std::to_integer<std::uint8_t>(bytes[at + i]);
    return value;
  };
  EXPECT_EQ(checksum_at(32), body_checksum(test::bytes_of("metapayload"), {}));
  EXPECT_EQ(checksum_at(40), body_checksum(ByteView(bytes).first(40), {}));
  EXPECT_EQ(body_checksum({}, {}), 0x2d06800538d394c2u);  // XXH3-64 of nothing, seed 0
}

TEST(Frame, RoundTripThroughBothReaders) {
  const auto parsed = must(parse_all(small_stream()));
  ASSERT_EQ(parsed.size(), 3u);
  EXPECT_EQ(parsed, must(read_all(small_stream(), 3)));
  EXPECT_EQ(parsed[0].type, 0x0102);
  EXPECT_EQ(parsed[1].stream, 5);
  EXPECT_EQ(parsed[2].session_id, kSession);
  EXPECT_TRUE(std::ranges::equal(parsed[0].payload, test::bytes_of("payload")));
}

TEST(Frame, EveryTruncationIsAnErrorWithOffsetAndMissingBytes) {
  const Bytes whole = small_stream();
  const std::size_t second = kFrameHeaderBytes + 11, third = second + kFrameHeaderBytes + 2;
  for (std::size_t size = 0; size < whole.size(); ++size) {
    SCOPED_TRACE(size);
    const Bytes part(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size));
    const auto read = read_all(part, 3);
    ASSERT_FALSE(read);
    EXPECT_EQ(read.error().cls, ErrorClass::kDisconnected);
    const auto parsed = parse_all(part);
    if (size == 0 || size == second || size == third) {
      EXPECT_TRUE(parsed);  // whole frames, only fewer
      continue;
    }
    ASSERT_FALSE(parsed);
    EXPECT_EQ(parsed.error().cls, ErrorClass::kMalformed);
    const std::size_t start = size > third ? third : size > second ? second : 0;
    EXPECT_THAT(parsed.error().detail,
                HasSubstr(fmt::format("at offset {}: the input ends", start)));
  }
  const auto parsed = parse_all(ByteView(whole).first(40));
  EXPECT_THAT(parsed.error().detail, HasSubstr("frame's header: 8 of its 48 bytes are missing"));
}

TEST(Frame, EveryFlippedBitIsAnError) {
  const Bytes whole = small_stream();
  for (std::size_t bit = 0; bit < whole.size() * 8; ++bit) {
    SCOPED_TRACE(bit);
    Bytes broken = whole;
    broken[bit / 8] ^= static_cast<std::byte>(1u << (bit % 8));
    const auto parsed = parse_all(broken);
    ASSERT_FALSE(parsed);
    EXPECT_EQ(parsed.error().cls, ErrorClass::kMalformed);
    const auto read = read_all(broken, 3);
    ASSERT_FALSE(read);
    EXPECT_EQ(read.error().cls, ErrorClass::kMalformed);
  }
}

TEST(Frame, RefusesOversizedLengthsBeforeItReadsOrAllocates) {
  for (const bool meta : {true, false}) {
    FrameHeader header = valid_header();
    (meta ? header.meta_bytes : header.payload_bytes) = 0xffffffff;
    MemoryStream memory;
    memory.input = forged(header);
    memory.input.resize(1000);
    FrameReader reader(memory);
    Frame frame;
    const auto read = reader.read_into(frame);
    ASSERT_FALSE(read);
    EXPECT_EQ(read.error().cls, ErrorClass::kMalformed);
    EXPECT_THAT(read.error().detail, HasSubstr("4294967295"));
    EXPECT_EQ(memory.largest_read, kFrameHeaderBytes);
    EXPECT_EQ(frame.meta.capacity() + frame.payload.capacity(), 0u);
  }
  FrameHeader header = valid_header();
  header.payload_bytes = limits::kFramePayloadBytesMax;
  EXPECT_THAT(parse_all(forged(header)).error().detail, HasSubstr("4194304 of its 4194304 bytes"));
}

TEST(Frame, RefusesWhatOneHeaderCanShow) {
  const auto error_of = [](const FrameHeader& header) { return parse_all(forged(header)).error(); };
  FrameHeader header = valid_header();
  EXPECT_TRUE(parse_all(forged(header)));
  header.version = 2;
  EXPECT_THAT(error_of(header).detail, HasSubstr("frame version is 2; this side knows version 1"));
  header = valid_header();
  header.session_id = 0;
  EXPECT_THAT(error_of(header).detail, HasSubstr("session 0 is not valid"));
  header = valid_header();
  header.body_checksum ^= 1;
  EXPECT_THAT(error_of(header).detail, HasSubstr("body checksum"));
}

TEST(Frame, RefusesAGapARepetitionAndAnotherSession) {
  for (const std::uint64_t sequence : {0ULL, 2ULL}) {
    Bytes bytes = forged(valid_header());
    FrameHeader second = valid_header();
    second.sequence = sequence;
    const Bytes more = forged(second);
    bytes.insert(bytes.end(), more.begin(), more.end());
    const auto parsed = parse_all(bytes);
    ASSERT_FALSE(parsed);
    EXPECT_THAT(parsed.error().detail,
                HasSubstr(fmt::format("has sequence {}, expected 1", sequence)));
  }
  FrameHeader other = valid_header();
  other.sequence = 1;
  other.session_id = 2;
  Bytes bytes = forged(valid_header());
  const Bytes more = forged(other);
  bytes.insert(bytes.end(), more.begin(), more.end());
  EXPECT_THAT(parse_all(bytes).error().detail, HasSubstr("belongs to session 0x0000000000000002"));

  MemoryStream memory;
  memory.input = small_stream();
  FrameReader told(memory, 7);
  const auto read = told.read();
  ASSERT_FALSE(read);
  EXPECT_THAT(read.error().detail,
              AllOf(HasSubstr("from memory: "), HasSubstr("0x0000000000000007")));
  EXPECT_EQ(told.read().error().detail, read.error().detail);  // the same answer for ever
}

TEST(Frame, GuessesWhatElseMightBeTalking) {
  const std::array<std::pair<std::string, const char*>, 4> cases{{
      {"\x16\x03\x01", "speak TLS"},
      {"\x15\x03\x03", "TLS alert"},
      {"GET / HTTP/1.1\r\n", "speak HTTP"},
      {"SSH-2.0", "speak SSH"},
  }};
  for (const auto& [opening, wanted] : cases) {
    std::string text = opening;
    text.resize(kFrameHeaderBytes, ' ');
    const ByteView view = test::bytes_of(text);
    EXPECT_THAT(parse_all(view).error().detail,
                AllOf(HasSubstr("frame magic is 0x"), HasSubstr(wanted)));
  }
}

TEST(Frame, ManyThreadsWriteWholeFramesWithoutGaps) {
  MemoryStream memory;
  FrameWriter writer(memory, kSession);
  constexpr int kThreads = 4, kFrames = 200;
  {
    std::vector<std::jthread> threads;
    for (int t = 0; t < kThreads; ++t) {
      threads.emplace_back([&writer, t] {
        const Bytes payload(static_cast<std::size_t>(t) * 100, static_cast<std::byte>(t));
        for (int i = 0; i < kFrames; ++i) must(writer.write(1, 0, {}, payload));
      });
    }
  }
  EXPECT_EQ(must(parse_all(memory.output)).size(), std::size_t{kThreads * kFrames});
}

// The payload of kLivePagesType may change at any moment, so nothing but its length is checked.
TEST(Frame, OnlyThePayloadOfLivePagesHasNoChecksum) {
  MemoryStream memory;
  FrameWriter writer(memory, kSession);
  const ByteView payload = test::bytes_of("payload");
  const std::array<ByteView, 2> parts{payload.first(3), payload.subspan(3)};
  must(writer.write_in_parts(kLivePagesType, 2, test::bytes_of("meta"), parts));
  const Bytes whole = memory.output;
  for (std::size_t at = 0; at < whole.size(); ++at) {
    Bytes bytes = whole;
    bytes[at] ^= std::byte{1};
    EXPECT_EQ(parse_all(bytes).has_value(), at >= kFrameHeaderBytes + 4) << "byte " << at;
    MemoryStream input;
    input.input = bytes;
    FrameReader reader(input, kSession);
    Bytes meta;
    EXPECT_EQ(reader.read_head(meta).has_value(), at >= kFrameHeaderBytes + 4) << "byte " << at;
  }
  memory.output.clear();
  FrameWriter other(memory, kSession);
  must(other.write(0x0102, 2, test::bytes_of("meta"), payload));
  MemoryStream input;
  input.input = memory.output;
  FrameReader reader(input, kSession);
  Bytes meta;
  const auto head = reader.read_head(meta);
  ASSERT_FALSE(head);
  EXPECT_THAT(head.error().detail, testing::HasSubstr("has 7 bytes of payload on stream 2"));
}

TEST(Frame, AWriterThatFailedStaysFailed) {
  MemoryStream memory;
  memory.writes_allowed = 1;
  FrameWriter writer(memory, kSession);
  must(writer.write(1, 0, {}, {}));
  ASSERT_FALSE(writer.write(1, 0, {}, {}));
  memory.writes_allowed = 1;
  EXPECT_FALSE(writer.write(1, 0, {}, {}));  // a frame may lie half written on the wire
  EXPECT_EQ(memory.output.size(), kFrameHeaderBytes);
}

TEST(Frame, TapsSeeExactlyTheWire) {
  Bytes written, read;
  MemoryStream memory;
  FrameWriter writer(memory, kSession,
                     [&](ByteView raw) { written.insert(written.end(), raw.begin(), raw.end()); });
  must(writer.write(1, 0, test::bytes_of("m"), test::bytes_of("p")));
  EXPECT_EQ(written, memory.output);
  memory.input = memory.output;
  FrameReader reader(memory, 0,
                     [&](ByteView raw) { read.insert(read.end(), raw.begin(), raw.end()); });
  must(reader.read());
  EXPECT_EQ(read, memory.output);
}

TEST(Frame, TravelsOverASocket) {
  test::Pair pair = test::connected(test::loopback());
  const Bytes payload = test::pattern_bytes(limits::kFramePayloadBytesMax);
  auto writing = std::async(std::launch::async, [&] {
    FrameWriter writer(*pair.client, kSession);
    return writer.write(9, 3, test::bytes_of("meta"), payload);
  });
  FrameReader reader(*pair.server);
  const Frame frame = must(reader.read());
  must(writing.get());
  EXPECT_EQ(frame.payload, payload);
  EXPECT_EQ(reader.session_id(), kSession);
}

TEST(FrameDeathTest, TheWriterAssertsItsOwnLimits) {
  MemoryStream memory;
  FrameWriter writer(memory, kSession);
  const Bytes large(limits::kFrameMetaBytesMax + 1);
  EXPECT_DEATH(static_cast<void>(writer.write(1, 0, large, {})), "kFrameMetaBytesMax");
}

}  // namespace
}  // namespace sealift
