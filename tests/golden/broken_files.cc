// Streams that must be refused: each one thing wrong, everything else right, checksums included.
#include <algorithm>
#include <array>
#include <utility>

#include "engine/limits.h"
#include "tests/golden/golden_files.h"
#include "transport/frame.h"

namespace sealift::golden {
namespace {

constexpr std::size_t kVersionAt = 6;
constexpr std::size_t kMetaBytesAt = 8;
constexpr std::size_t kPayloadBytesAt = 12;
constexpr std::size_t kSessionAt = 16;
constexpr std::size_t kSequenceAt = 24;
constexpr std::size_t kBodyChecksumAt = 32;
constexpr std::size_t kHeaderChecksumAt = 40;

template <class Number>
void put(Bytes& bytes, std::size_t at, Number number) {
  for (std::size_t i = 0; i < sizeof(Number); ++i) {
    bytes[at + i] = static_cast<std::byte>(number >> (8 * i));
  }
}

// Makes the header checksum right again.
Bytes seal(Bytes frame) {
  const std::uint64_t checksum = body_checksum(ByteView(frame).first(kHeaderChecksumAt), {});
  put(frame, kHeaderChecksumAt, checksum);
  return frame;
}

template <class Number>
Bytes with(Bytes bytes, std::size_t at, Number number) {
  put(bytes, at, number);
  return seal(std::move(bytes));
}

// Replaces the only run of bytes equal to `from` in the record's meta.
EncodedRecord replaced(EncodedRecord record, const Bytes& from, const Bytes& to) {
  const auto at = std::search(record.meta.begin(), record.meta.end(), from.begin(), from.end());
  std::copy(to.begin(), to.end(), at);
  return record;
}

Bytes text(std::string_view characters) {
  Bytes bytes(characters.size());
  std::transform(characters.begin(), characters.end(), bytes.begin(),
                 [](char c) { return static_cast<std::byte>(c); });
  return bytes;
}

Bytes ack_frame(std::uint32_t epoch, std::uint64_t sequence) {
  return frame_of(encode(EpochAck{epoch}), sequence);
}

Bytes joined(Bytes first, const Bytes& second) {
  first.insert(first.end(), second.begin(), second.end());
  return first;
}

void add_broken_headers(std::vector<BrokenFile>& files) {
  const Bytes good = ack_frame(1, 0);
  const auto add = [&](const char* name, Bytes bytes, std::string message) {
    files.push_back({std::string("broken/") + name + ".bin", std::move(bytes), std::move(message)});
  };
  add("bad_magic", with(good, 0, std::uint32_t{0x584c4653}),
      "at offset 0: frame magic is 0x584c4653, not 0x54464c53");
  Bytes unsealed = good;
  put(unsealed, kSequenceAt, std::uint64_t{1});
  add("bad_header_checksum", unsealed,
      "at offset 0: frame header checksum is 0xf2b17c10f5a3680a, header says 0xe37b4f50002d6da1");
  add("frame_version_2", with(good, kVersionAt, std::uint8_t{2}),
      "at offset 0: frame version is 2; this side knows version 1");
  add("meta_too_long", with(good, kMetaBytesAt, limits::kFrameMetaBytesMax + 8),
      "at offset 0: frame type 0x000a: 262152 meta bytes exceed 262144");
  add("payload_too_long", with(good, kPayloadBytesAt, limits::kFramePayloadBytesMax + 1),
      "at offset 0: frame type 0x000a: 4194305 payload bytes exceed 4194304");
  add("session_zero", with(good, kSessionAt, std::uint64_t{0}),
      "at offset 0: frame type 0x000a: session 0 is not valid");
  add("bad_body_checksum", with(good, kBodyChecksumAt, std::uint64_t{1}),
      "at offset 0: frame type 0x000a stream 0 sequence 0: body checksum 0xdb6443db4281b3e0, "
      "header says 0x0000000000000001");
  add("truncated_header", Bytes(good.begin(), good.begin() + 47),
      "at offset 0: the input ends in a frame's header: 1 of its 48 bytes are missing");
  add("truncated_body", Bytes(good.begin(), good.end() - 1),
      "at offset 0: the input ends in a frame's body: 1 of its 24 bytes are missing");
  const Bytes other = with(ack_frame(2, 1), kSessionAt, std::uint64_t{0x99});
  add("session_changes", joined(good, other),
      "at offset 72: frame type 0x000a belongs to session 0x0000000000000099, this connection to "
      "0x1122334455667788");
  add("sequence_gap", joined(good, ack_frame(2, 2)),
      "at offset 72: frame type 0x000a on stream 0 has sequence 2, expected 1");
  add("sequence_repeated", joined(good, ack_frame(2, 0)),
      "at offset 72: frame type 0x000a on stream 0 has sequence 0, expected 1");
  add("begins_at_sequence_1", ack_frame(1, 1),
      "at offset 0: frame type 0x000a on stream 0 has sequence 1, expected 0");
}

void add_broken_records(std::vector<BrokenFile>& files) {
  const auto add = [&](const char* name, const EncodedRecord& record, std::string message) {
    files.push_back(
        {std::string("broken/") + name + ".bin", frame_of(record, 0), std::move(message)});
  };
  const EncodedRecord ack = encode(EpochAck{1});
  add("unknown_mandatory", {0x7ffe, 0, ack.meta, {}},
      "at offset 0: record type 0x7ffe is not known and not optional");
  add("type_zero", {0, 0, ack.meta, {}},
      "at offset 0: record type 0x0000 is not known and not optional");
  add("control_record_on_stream_1", {ack.type, 1, ack.meta, {}},
      "at offset 0: EpochAck came on stream 1, only stream 0 may carry it");
  add("meta_missing", {ack.type, 0, {}, {}},
      "at offset 0: EpochAck has a meta of 0 bytes, outside 16 to 262144");
  add("meta_not_words", {ack.type, 0, Bytes(20), {}},
      "at offset 0: EpochAck has a meta of 20 bytes, not a multiple of 8");
  add("payload_not_allowed", {ack.type, 0, ack.meta, Bytes(1)},
      "at offset 0: EpochAck has a payload of 1 bytes and may have none");
  EncodedRecord segments = ack;
  segments.meta[0] = std::byte{1};
  add("two_segments", segments, "at offset 0: EpochAck has a message of 2 segments, not 1");
  EncodedRecord outside = ack;
  outside.meta[8] = std::byte{0x40};
  add("pointer_outside", outside, "at offset 0: the meta of EpochAck is not a valid message: ");

  const SharedBatch pages{1, 0, {Gfn{0x1234567}}, {PageEncoding::kRaw}, Bytes(kPageBytes)};
  EncodedRecord shared = encode(pages);
  shared.stream = 65;
  add("stream_65", shared, "at offset 0: SharedPages came on stream 65, not below 65");
  shared.stream = 0;
  Bytes gfn(8);
  put(gfn, 0, std::uint64_t{0x1234567});
  Bytes beyond(8);
  put(beyond, 0, limits::kGuestPagesMax);
  add("gfn_beyond", replaced(shared, gfn, beyond),
      "at offset 0: SharedPages.gfns entry 0 is gfn 0x100000000, not below 0x100000000");
  shared.payload.resize(kPageBytes / 2);
  add("half_a_page", shared,
      "at offset 0: SharedPages has a payload of 2048 bytes, its entries make 4096");
  EncodedRecord encoding = encode(pages);
  encoding.meta[encoding.meta.size() - 8] =
      std::byte{3};  // the data of `encodings` is the last word
  add("unknown_encoding", encoding,
      "at offset 0: SharedPages.encodings entry 0 is 3, known are 1 to 2");
  add("range_empty",
      replaced(encode(Conversions{1, {{Gfn{5}, 0x7654321}}, {}}), text("\x21\x43\x65\x07"),
               Bytes(4)),
      "at offset 0: Conversions.toShared range 0 (gfn 0x5, 0 pages) is empty or ends beyond gfn "
      "0x100000000");
  add("text_with_escape",
      replaced(encode(Abort{ErrorClass::kRefused, "sorry", {}}), text("sorry"), text("so\x1b[m")),
      "at offset 0: Abort.detail of 5 bytes is not UTF-8 without control characters");
  const EncodedRecord one_page =
      encode(PrivateBatch{1, 0, {Gfn{0x1234567}}, {PrivateOp::kImport}, {}, 0, {}, 8, Bytes(8)});
  EncodedRecord op = one_page;
  op.meta[op.meta.size() - 8] = std::byte{6};  // the data of `ops` is the last word
  add("unknown_op", op, "at offset 0: PrivatePages.ops entry 0 is 6, known are 1 to 5");
  EncodedRecord no_body = one_page;
  no_body.meta[no_body.meta.size() - 8] = std::byte{4};
  add("body_of_an_entry_without", no_body,
      "at offset 0: PrivatePages has a payload of 8 bytes, its entries make 0");
  EncodedRecord platform_state = encode(StateBlob{StateBlob::Kind::kPlatform, 0, "vmsa", 1, {}});
  platform_state.stream = 1;
  add("platform_state_on_stream_1", platform_state,
      "at offset 0: PlatformState came on stream 1, only stream 0 may carry it");
  RightWord word;
  word.claim.generation = 0x7766554433221100;
  Bytes generation(8);
  put(generation, 0, word.claim.generation);
  add("generation_without_successor",
      replaced(encode(Inquiry{word}), generation, Bytes(8, std::byte{0xff})),
      "at offset 0: RightWord.generation 18446744073709551615 has no successor");
  word.record = 0x55;
  add("unknown_journal_record", encode(Answer{word}),
      "at offset 0: RightWord.record is 85, more than 9");
  EncodedRecord error_class = encode(Abort{ErrorClass{0x7777}, "", {}});
  add("unknown_error_class", error_class,
      "at offset 0: Abort.errorClass is 30583, known are 1 to 9");
}

}  // namespace

std::vector<BrokenFile> broken_files() {
  std::vector<BrokenFile> files;
  add_broken_headers(files);
  add_broken_records(files);
  return files;
}

}  // namespace sealift::golden
