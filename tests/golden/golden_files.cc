#include "tests/golden/golden_files.h"

#include <algorithm>
#include <array>
#include <utility>

#include "engine/limits.h"
#include "schemas/record_type.h"
#include "transport/frame.h"

namespace sealift::golden {
namespace {

// Bytes that can be recognised in a dump: start, start + 1, …
Bytes counting(std::size_t size, unsigned int start) {
  Bytes bytes(size);
  for (std::size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::byte>(start + i);
  return bytes;
}

Digest digest() {
  Digest digest{};
  for (std::size_t i = 0; i < digest.size(); ++i) digest[i] = static_cast<std::byte>(0xd0 + i);
  return digest;
}

Hello hello(std::string agent, Platform platform = Platform::kSev) {
  return {1,
          1,
          std::move(agent),
          "sealift 0.1.0",
          platform,
          "model",
          kPageBytes,
          {{Gfn{0}, 0xa0}, {Gfn{0x100}, 0xf00}},
          2,
          kFeatureVerifyDigest | (platform == Platform::kTdx ? kFeatureStreams : 0),
          512,
          2,
          false};
}

// The source's word: a claim and what its record says; `mac` starts counting there.
RightWord right_word(std::uint8_t record, bool has_guest, unsigned int mac) {
  RightWord word;
  word.claim = {{std::byte{0xa1}, std::byte{0xb2}, std::byte{0xc3}}, 3};
  word.guest = "database-1";
  word.source = "rack1-node1";
  word.destination = "rack2-node7 tcp:192.0.2.7:7000";
  word.page_map_sha256 = digest();
  word.record = record;
  word.has_guest = has_guest;
  word.proven = record;
  const Bytes bytes = counting(word.mac.size(), mac);
  std::copy(bytes.begin(), bytes.end(), word.mac.begin());
  return word;
}

SharedBatch shared_pages(std::uint32_t epoch) {
  return {epoch,
          0,
          {Gfn{0x10}, Gfn{0x11}, Gfn{0x13}},
          {PageEncoding::kZero, PageEncoding::kRaw, PageEncoding::kZero},
          counting(kPageBytes, 0)};
}

LivePages live_pages() {
  return {2, 3, {{Gfn{0x10}, 2}}, {{Gfn{0x12}, 1}}, counting(kPageBytes, 0x20)};
}

StreamJoin stream_join(std::uint8_t stream) {
  StreamJoin join{stream, {}};
  for (std::size_t i = 0; i < join.secret.size(); ++i) {
    join.secret[i] = static_cast<std::byte>(0xe0 + i);
  }
  return join;
}

// Pages as SEV exports them, with short bodies to keep the file small.
PrivateBatch private_pages(std::uint32_t epoch, std::uint8_t stream) {
  return {epoch,
          stream,
          {Gfn{0x200}, Gfn{0x201}, Gfn{0x202}},
          {PrivateOp::kImport, PrivateOp::kImport, PrivateOp::kImport},
          {},
          52,
          counting(std::size_t{3} * 52, 1),
          64,
          counting(std::size_t{3} * 64, 0x40)};
}

// One entry of each op; the metadata entry's number is no gfn.
PrivateBatch private_ops() {
  return {2,
          0,
          {Gfn{0x200}, Gfn{0x201}, Gfn{0xfedcba9876543210}, Gfn{0x202}, Gfn{0x203}},
          {PrivateOp::kImport, PrivateOp::kImportEmpty, PrivateOp::kMetadata, PrivateOp::kNothing,
           PrivateOp::kCancel},
          counting(48, 0x40),
          24,
          counting(std::size_t{5} * 24, 1),
          64,
          counting(128, 0x80)};
}

// Pages as a helper inside the guest's VM exports them: sequence number and tag, 24 bytes each.
PrivateBatch sw_protected_pages() {
  return {4,
          0,
          {Gfn{0x1}, Gfn{0x2}},
          {PrivateOp::kImport, PrivateOp::kImport},
          {},
          24,
          counting(std::size_t{2} * 24, 7),
          64,
          counting(std::size_t{2} * 64, 0x60)};
}

// Nothing but a cancellation, for a page that became shared.
PrivateBatch cancellation(std::uint32_t epoch, Gfn gfn) {
  return {epoch, 0, {gfn}, {PrivateOp::kCancel}, counting(8, 0x30), 52, counting(52, 3), 64, {}};
}

StateBlob vcpu_state(std::uint32_t index) {
  return {StateBlob::Kind::kVcpu, index, "sregs2", 1, counting(40, index)};
}

StateBlob device_state() { return {StateBlob::Kind::kDevice, 0, "serial", 2, counting(12, 9)}; }

StateBlob platform_state() {
  return {StateBlob::Kind::kPlatform, 1, "tdvps", 1, counting(20, 0x50)};
}

std::vector<EncodedRecord> encode_all(const std::vector<Record>& records) {
  std::vector<EncodedRecord> encoded;
  encoded.reserve(records.size());
  for (const Record& record : records) encoded.push_back(encode(record));
  return encoded;
}

GoldenFile single(std::string name, Record record) {
  Bytes bytes = frame_of(encode(record), 0);
  return {"wire-v1/" + std::move(name) + ".bin", std::move(bytes), {std::move(record)}};
}

GoldenFile session(std::string name, std::vector<Record> records) {
  std::vector<EncodedRecord> encoded = encode_all(records);
  // What a newer peer may send: an optional record of a number that version 1 does not have.
  encoded.insert(encoded.begin() + 1, EncodedRecord{0x80ff, 0, counting(16, 0), counting(5, 0)});
  return {"wire-v1/" + std::move(name) + ".bin", stream_of(encoded), std::move(records)};
}

std::vector<Record> source_session() {
  return {
      hello("rack1-node1", Platform::kTdx),
      stream_join(0),
      SessionStart{"database-1", 2, true},
      stream_join(1),
      PlatformStart{counting(24, 0x20)},
      Conversions{0, {{Gfn{0x10}, 0x10}}, {}},
      EpochBegin{1},
      LivePages{1, 1, {{Gfn{0x10}, 1}, {Gfn{0x13}, 1}}, {{Gfn{0x11}, 1}}, counting(kPageBytes, 0)},
      private_pages(1, 0),
      EpochEnd{1, 0, 0, 3, counting(8, 0x60)},
      EpochEnd{1, 1, 3, 0, {}},
      KeepAlive{},
      Conversions{2, {{Gfn{0x201}, 1}}, {{Gfn{0x1f}, 1}}},
      EpochBegin{2},
      LivePages{2, 1, {{Gfn{0x201}, 1}}, {}, {}},
      PrivateBatch{
          2, 0, {Gfn{0x1f}}, {PrivateOp::kImport}, {}, 52, counting(52, 2), 64, counting(64, 0x90)},
      cancellation(2, Gfn{0x201}),
      EpochEnd{2, 1, 1, 0, {}},
      EpochEnd{2, 0, 0, 1, {}},
      vcpu_state(0),
      vcpu_state(1),
      device_state(),
      platform_state(),
      Finish{2, 4, 4, 4, digest(), {}},
      Handover{},
  };
}

std::vector<Record> destination_session() {
  return {
      hello("rack2-node7", Platform::kTdx),
      SessionAccept{counting(32, 0x10)},
      SessionReady{},
      EpochAck{1},
      EpochAck{2},
      Ready{1'500'000, 250'000},
      Running{90'000},
  };
}

}  // namespace

std::vector<GoldenFile> golden_files() {
  std::vector<GoldenFile> files;
  const auto add = [&](const char* name, Record record) {
    files.push_back(single(name, std::move(record)));
  };
  add("hello", hello("rack1-node1"));
  add("session_start", SessionStart{"database-1", 2, true});
  add("session_accept", SessionAccept{counting(32, 0x10)});
  add("platform_start", PlatformStart{counting(24, 0x20)});
  add("session_ready", SessionReady{});
  add("shared_pages", shared_pages(1));
  add("private_pages", private_pages(1, 1));
  add("private_ops", private_ops());
  add("conversions", Conversions{2, {{Gfn{0x80}, 1}}, {{Gfn{0x1f}, 1}, {Gfn{0x40}, 8}}});
  add("epoch_end", EpochEnd{1, 0, 3, 2, counting(8, 0x60)});
  add("epoch_ack", EpochAck{1});
  add("vcpu_state", vcpu_state(1));
  add("device_state", device_state());
  add("platform_state", platform_state());
  add("finish", Finish{2, 4, 4, 4, digest(), counting(8, 0x70)});
  add("ready", Ready{1'500'000, 250'000});
  add("handover", Handover{});
  add("running", Running{90'000});
  add("abort",
      Abort{ErrorClass::kRefused, "platforms differ: a has sev, b has tdx", counting(8, 1)});
  add("keep_alive", KeepAlive{});
  add("platform_card", PlatformCard{counting(40, 0x11)});
  add("claim", Claim{{std::byte{0xa1}, std::byte{0xb2}, std::byte{0xc3}}, 3});
  add("inquiry", Inquiry{right_word(4, true, 0x20)});
  add("answer", Answer{right_word(5, true, 0x40)});
  add("stream_join", stream_join(0));
  add("epoch_begin", EpochBegin{2});
  add("live_pages", live_pages());
  files.push_back(
      session("stream_3", {stream_join(3), live_pages(), KeepAlive{}, EpochEnd{2, 3, 3, 0, {}}}));
  add("hello_sw_protected", hello("rack1-node1", Platform::kSwProtected));
  add("sw_protected_pages", sw_protected_pages());
  files.push_back(session("source_session", source_session()));
  files.push_back(session("destination_session", destination_session()));
  return files;
}

Bytes example_frame() { return frame_of(encode(EpochAck{3}), 7); }

Bytes frame_of(const EncodedRecord& record, std::uint64_t sequence) {
  FrameHeader header;
  header.type = record.type;
  header.stream = record.stream;
  header.meta_bytes = static_cast<std::uint32_t>(record.meta.size());
  header.payload_bytes = static_cast<std::uint32_t>(record.payload.size());
  header.session_id = kSession;
  header.sequence = sequence;
  header.body_checksum = body_checksum(record.type, record.meta, record.payload);
  const auto raw = encode_header(header);
  Bytes bytes(raw.size() + record.meta.size() + record.payload.size());
  const auto meta_at = std::copy(raw.begin(), raw.end(), bytes.begin());
  const auto payload_at = std::copy(record.meta.begin(), record.meta.end(), meta_at);
  std::copy(record.payload.begin(), record.payload.end(), payload_at);
  return bytes;
}

Bytes stream_of(const std::vector<EncodedRecord>& records) {
  Bytes bytes;
  std::array<std::uint64_t, 256> next{};
  for (const EncodedRecord& record : records) {
    const Bytes frame = frame_of(record, next[record.stream]++);
    bytes.insert(bytes.end(), frame.begin(), frame.end());
  }
  return bytes;
}

Result<std::vector<Record>> read_stream(ByteView bytes, bool whole) {
  std::vector<Record> records;
  FrameOrder order;
  for (std::size_t offset = 0; offset < bytes.size();) {
    const std::size_t start = offset;
    SEALIFT_TRY(Frame frame, parse_frame(bytes, offset, order));
    auto record = decode(frame.type, frame.stream, frame.meta, std::move(frame.payload));
    if (!record) {
      return fail(record.error().cls, "at offset {}: {}", start, record.error().detail);
    }
    if (record->has_value()) records.push_back(std::move(**record));
  }
  const bool ended = !records.empty() && (std::holds_alternative<Handover>(records.back()) ||
                                          std::holds_alternative<Running>(records.back()) ||
                                          std::holds_alternative<Abort>(records.back()));
  if (whole && !ended) {
    return fail(ErrorClass::kDisconnected,
                "the stream ends after {} records without a terminal one", records.size());
  }
  return records;
}

}  // namespace sealift::golden
