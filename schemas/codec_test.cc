#include "schemas/codec.h"

#include <gtest/gtest.h>

#include "schemas/record_type.h"
#include "schemas/test_records.h"

namespace sealift {
namespace {

using test_records::pattern;

Result<std::optional<Record>> decode(const EncodedRecord& encoded) {
  return sealift::decode(encoded.type, encoded.stream, encoded.meta, encoded.payload);
}

std::vector<Record> all_records() {
  std::vector<Record> all = test_records::typical();
  for (Record& record : test_records::largest()) all.push_back(std::move(record));
  for (Record& record : test_records::smallest()) all.push_back(std::move(record));
  return all;
}

void expect_error(const Result<std::optional<Record>>& result, const char* text) {
  ASSERT_FALSE(result.has_value());
  EXPECT_EQ(result.error().cls, ErrorClass::kMalformed);
  EXPECT_EQ(result.error().detail, text);
}

TEST(Codec, EveryRecordComesBackAsItWas) {
  for (const Record& record : all_records()) {
    SCOPED_TRACE(name_of(record));
    const EncodedRecord encoded = encode(record);
    EXPECT_EQ(encoded.meta.size() % 8, 0U);
    EXPECT_STREQ(record_type_name(encoded.type), name_of(record));
    auto decoded = decode(encoded);
    ASSERT_TRUE(decoded.has_value()) << decoded.error().detail;
    ASSERT_TRUE(decoded->has_value());
    EXPECT_TRUE(**decoded == record);
  }
}

TEST(Codec, TheTypicalRecordsCoverEveryType) {
  std::vector<bool> seen(static_cast<std::size_t>(std::variant_size_v<Record>));
  for (const Record& record : test_records::typical()) seen[record.index()] = true;
  for (std::size_t i = 0; i < seen.size(); ++i) EXPECT_TRUE(seen[i]) << "alternative " << i;
}

TEST(Codec, EncodesTheSameBytesWhetherTheBodyIsCopiedOrMoved) {
  for (const Record& record : all_records()) {
    SCOPED_TRACE(name_of(record));
    Record copy = record;
    EXPECT_EQ(encode(record), encode(std::move(copy)));
  }
}

TEST(Codec, MovesTheBodyThroughWithoutCopying) {
  SharedBatch batch = test_records::shared_batch(4);
  const std::byte* body = batch.body.data();
  EncodedRecord encoded = encode(Record(std::move(batch)));
  EXPECT_EQ(encoded.payload.data(), body);
  auto decoded =
      sealift::decode(encoded.type, encoded.stream, encoded.meta, std::move(encoded.payload));
  ASSERT_TRUE(decoded.has_value() && decoded->has_value());
  EXPECT_EQ(std::get<SharedBatch>(**decoded).body.data(), body);
}

TEST(Codec, ReadsAMetaAtAnyAlignment) {
  for (const Record& record : test_records::typical()) {
    const EncodedRecord encoded = encode(record);
    for (std::size_t shift = 0; shift < 8; ++shift) {
      Bytes shifted(shift);
      shifted.insert(shifted.end(), encoded.meta.begin(), encoded.meta.end());
      auto decoded = sealift::decode(encoded.type, encoded.stream, ByteView(shifted).subspan(shift),
                                     encoded.payload);
      ASSERT_TRUE(decoded.has_value()) << decoded.error().detail;
      EXPECT_TRUE(**decoded == record);
    }
  }
}

TEST(Codec, StreamAndTypeAreWhatTheRecordSays) {
  EXPECT_EQ(encode(test_records::shared_batch(1)).stream, 3);
  EXPECT_EQ(encode(test_records::private_batch(1)).stream, 2);
  EXPECT_EQ(encode(EpochEnd{1, 5, 0, 0, {}}).stream, 5);
  EXPECT_EQ(encode(Handover{}).type, 15);
  EXPECT_EQ(encode(KeepAlive{}).type, 0x8001);
  EXPECT_EQ(encode(StateBlob{StateBlob::Kind::kVcpu, 0, "", 1, {}}).type, 11);
  EXPECT_EQ(encode(StateBlob{StateBlob::Kind::kDevice, 0, "", 1, {}}).type, 12);
  EXPECT_EQ(encode(StateBlob{StateBlob::Kind::kPlatform, 0, "", 1, {}}).type, 18);
}

// One entry of every op, and which of them takes a body.
TEST(Codec, APayloadHoldsABodyForEachImportAndEachMetadataEntry) {
  const auto expect_body = [](PrivateOp op, std::size_t body_bytes) {
    const PrivateBatch batch{1, 0, {Gfn{0x10}}, {op}, {}, 3, pattern(3), 16, pattern(body_bytes)};
    EncodedRecord encoded = encode(batch);
    auto decoded = decode(encoded);
    ASSERT_TRUE(decoded.has_value()) << decoded.error().detail;
    EXPECT_TRUE(**decoded == Record(batch));
    encoded.payload = pattern(16 - body_bytes);
    expect_error(decode(encoded),
                 fmt::format("PrivatePages has a payload of {} bytes, its entries make {}",
                             16 - body_bytes, body_bytes)
                     .c_str());
  };
  expect_body(PrivateOp::kImport, 16);
  expect_body(PrivateOp::kCancel, 0);
  expect_body(PrivateOp::kMetadata, 16);
  expect_body(PrivateOp::kNothing, 0);
  expect_body(PrivateOp::kImportEmpty, 0);
}

TEST(Codec, AnUnknownMandatoryRecordStopsAndAnOptionalOneIsSkipped) {
  const EncodedRecord known = encode(EpochAck{1});
  expect_error(sealift::decode(0x7ffe, 0, known.meta, {}),
               "record type 0x7ffe is not known and not optional");
  expect_error(sealift::decode(0, 0, known.meta, {}),
               "record type 0x0000 is not known and not optional");
  for (const int number : {0x8000, 0x8002, 0xffff}) {
    const auto type = static_cast<std::uint16_t>(number);
    auto skipped = sealift::decode(type, 0xff, {}, pattern(100));
    ASSERT_TRUE(skipped.has_value());
    EXPECT_FALSE(skipped->has_value());
  }
}

TEST(Codec, LivePagesAreReadWhileTheirPayloadIsOnItsWay) {
  const LivePages pages = test_records::live_pages();
  const EncodedRecord whole = encode(pages);
  EXPECT_EQ(whole.meta, encode_live_pages(pages));
  auto head = decode_live_pages(whole.stream, whole.meta, whole.payload.size());
  ASSERT_TRUE(head.has_value()) << head.error().detail;
  EXPECT_TRUE(head->body.empty());
  head->body = pages.body;
  EXPECT_EQ(*head, pages);
  for (const std::size_t off : {std::size_t{1}, std::size_t{kPageBytes}}) {
    auto wrong = decode_live_pages(whole.stream, whole.meta, whole.payload.size() + off);
    ASSERT_FALSE(wrong.has_value());
    EXPECT_EQ(wrong.error().cls, ErrorClass::kMalformed);
  }
  expect_error(sealift::decode(whole.type, 65, whole.meta, whole.payload),
               "LivePages came on stream 65, not below 65");
}

TEST(Codec, RefusesTheWrongStream) {
  const EncodedRecord batch = encode(test_records::shared_batch(1));
  expect_error(sealift::decode(batch.type, 65, batch.meta, batch.payload),
               "SharedPages came on stream 65, not below 65");
  const EncodedRecord ack = encode(EpochAck{1});
  expect_error(sealift::decode(ack.type, 1, ack.meta, {}),
               "EpochAck came on stream 1, only stream 0 may carry it");
  const EncodedRecord end = encode(EpochEnd{1, 0, 0, 0, pattern(3)});
  expect_error(sealift::decode(end.type, 1, end.meta, {}),
               "EpochEnd.token has 3 bytes on stream 1, only stream 0 has one");
}

TEST(Codec, RefusesAPayloadThatTheRecordDoesNotHave) {
  for (const Record& record : test_records::typical()) {
    EncodedRecord encoded = encode(record);
    if (record_traits(encoded.type).has_payload) continue;
    SCOPED_TRACE(name_of(record));
    encoded.payload = pattern(8);
    auto result = decode(encoded);
    ASSERT_FALSE(result.has_value());
    EXPECT_EQ(result.error().detail,
              fmt::format("{} has a payload of 8 bytes and may have none", name_of(record)));
  }
}

TEST(Codec, RefusesAMetaOfTheWrongSize) {
  EncodedRecord ack = encode(EpochAck{1});
  ack.meta.resize(8);
  expect_error(decode(ack), "EpochAck has a meta of 8 bytes, outside 16 to 262144");
  ack.meta.resize(limits::kFrameMetaBytesMax + 8);
  expect_error(decode(ack), "EpochAck has a meta of 262152 bytes, outside 16 to 262144");
  ack.meta.resize(28);
  expect_error(decode(ack), "EpochAck has a meta of 28 bytes, not a multiple of 8");
  ack.meta.resize(32);
  expect_error(decode(ack), "EpochAck has a message of 2 words in a meta with room for 3");
  ack.meta[0] = std::byte{1};
  expect_error(decode(ack), "EpochAck has a message of 2 segments, not 1");
}

TEST(Codec, CleansTextForPeopleSoThatAnErrorCanAlwaysBeSent) {
  const std::string detail = "bad\xff text\n\x1b[2J" + std::string(2 * limits::kTextBytesMax, 'y');
  auto decoded = decode(encode(Abort{ErrorClass::kMalformed, detail, {}}));
  ASSERT_TRUE(decoded.has_value()) << decoded.error().detail;
  const std::string& text = std::get<Abort>(**decoded).detail;
  EXPECT_EQ(text.size(), limits::kTextBytesMax);
  EXPECT_EQ(text.substr(0, 17), "bad? text ?[2Jyyy");
}

TEST(CodecDeathTest, AssertsItsOwnLimits) {
  EXPECT_DEATH(encode(test_records::shared_batch(limits::kBatchPagesMax + 1)), "gfns");
  EXPECT_DEATH(encode(SharedBatch{}), "gfns");
  SharedBatch short_body = test_records::shared_batch(1);
  short_body.body.pop_back();
  EXPECT_DEATH(encode(std::move(short_body)), "body");
  EXPECT_DEATH(encode(SessionAccept{Bytes(limits::kPlatformBlobBytesMax + 1)}), "identity");
  EXPECT_DEATH(encode(EpochEnd{1, 1, 0, 0, pattern(1)}), "token");
  EXPECT_DEATH(encode(EpochEnd{1, limits::kStreamsMax, 0, 0, {}}), "stream");
  EXPECT_DEATH(encode(Conversions{1, {{Gfn{0}, 0}}, {}}), "pages");
  for (const int op : {0, 6}) {
    PrivateBatch unknown_op = test_records::private_batch(1);
    unknown_op.ops[0] = PrivateOp{static_cast<std::uint8_t>(op)};
    EXPECT_DEATH(encode(unknown_op), "kImportEmpty");
  }
  PrivateBatch body_of_an_empty_page = test_records::private_batch(1);
  body_of_an_empty_page.ops[0] = PrivateOp::kImportEmpty;
  EXPECT_DEATH(encode(body_of_an_empty_page), "body.size");
  PrivateBatch long_bodies = test_records::private_batch(1);
  long_bodies.ops[0] = PrivateOp::kCancel;  // no body, so the number alone is too large
  long_bodies.page_body_bytes = limits::kFramePayloadBytesMax + 1;
  long_bodies.body.clear();
  EXPECT_DEATH(encode(long_bodies), "page_body_bytes");
  EXPECT_DEATH(encode(StateBlob{StateBlob::Kind{4}, 0, "", 1, {}}), "kind");
}

TEST(RecordType, NamesEveryNumber) {
  EXPECT_STREQ(record_type_name(1), "Hello");
  EXPECT_STREQ(record_type_name(0x8001), "KeepAlive");
  EXPECT_STREQ(record_type_name(0x12), "PlatformState");
  EXPECT_STREQ(record_type_name(0x13), "PlatformCard");
  EXPECT_STREQ(record_type_name(0x15), "Inquiry");
  EXPECT_STREQ(record_type_name(0x16), "Answer");
  for (const int number : {0, 0x17, 0x8000, 0x8002, 0xffff}) {
    const auto type = static_cast<std::uint16_t>(number);
    EXPECT_STREQ(record_type_name(type), "unknown record");
    EXPECT_FALSE(record_traits(type).known);
  }
}

}  // namespace
}  // namespace sealift
