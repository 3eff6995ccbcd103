#include "schemas/test_records.h"

namespace sealift::test_records {
namespace {

constexpr std::uint32_t kU32Max = ~std::uint32_t{0};
constexpr std::uint64_t kU64Max = ~std::uint64_t{0};
constexpr std::uint8_t kLastStream = limits::kStreamsMax - 1;

Digest digest() {
  Digest digest{};
  for (std::size_t i = 0; i < digest.size(); ++i) digest[i] = static_cast<std::byte>(0xa0 + i);
  return digest;
}

RightWord right_word() {
  return {.claim = {{std::byte{0x33}}, 4},
          .guest = "database-1",
          .source = "rack1-node1",
          .destination = "rack2-node7 tcp:192.0.2.7:7000",
          .page_map_sha256 = digest(),
          .memory_sha256 = {},
          .record = 4,
          .has_guest = true,
          .proven = 4,
          .mac = digest()};
}

std::string long_text() { return std::string(limits::kTextBytesMax - 2, 'x') + "é"; }

std::vector<GfnRange> ranges(std::size_t count) {
  std::vector<GfnRange> list(count);
  for (std::size_t i = 0; i < count; ++i) list[i] = GfnRange{Gfn{i * 0x1000}, i + 1};
  if (!list.empty()) list.back() = GfnRange{Gfn{limits::kGuestPagesMax - 1}, 1};
  return list;
}

Hello largest_hello() {
  return {.version_min = 1,
          .version_max = 0xffff,
          .agent_name = long_text(),
          .build = long_text(),
          .platform = Platform::kTdx,
          .backend = long_text(),
          .page_bytes = kU32Max,
          .memory = ranges(limits::kMemoryRangesMax),
          .vcpus = limits::kVcpusMax,
          .features = kU64Max,
          .batch_pages_max = kU32Max,
          .streams_max = 0xff,
          .check_only = true};
}

PrivateBatch largest_private_batch() {
  PrivateBatch batch = private_batch(limits::kBatchPagesMax);
  batch.epoch = kU32Max;
  batch.stream = kLastStream;
  batch.ops.assign(batch.gfns.size(), PrivateOp::kMetadata);
  batch.gfns.back() = Gfn{kU64Max};
  batch.batch_auth = pattern(limits::kBatchAuthBytesMax);
  batch.page_auth_bytes = limits::kPageAuthBytesMax;
  batch.page_auth = pattern(batch.gfns.size() * limits::kPageAuthBytesMax);
  batch.page_body_bytes = limits::kFramePayloadBytesMax / limits::kBatchPagesMax;
  batch.body = pattern(limits::kFramePayloadBytesMax);
  return batch;
}

LivePages largest_live_pages() {
  LivePages pages{kU32Max, kLastStream, {}, {}, pattern(limits::kBatchPagesMax * kPageBytes)};
  for (std::uint64_t i = 1; i <= limits::kBatchPagesMax; ++i) {
    pages.raw.push_back(GfnRange{Gfn{limits::kGuestPagesMax - 2 * i}, 1});
  }
  return pages;
}

}  // namespace

Bytes pattern(std::size_t size, unsigned int seed) {
  Bytes bytes(size);
  std::uint32_t x = seed * 2654435761U + 1;
  for (std::byte& b : bytes) {
    x = x * 1664525U + 1013904223U;
    b = static_cast<std::byte>(x >> 24);
  }
  return bytes;
}

SharedBatch shared_batch(std::size_t pages) {
  SharedBatch batch;
  batch.epoch = 7;
  batch.stream = 3;
  std::size_t raw = 0;
  for (std::size_t i = 0; i < pages; ++i) {
    batch.gfns.push_back(Gfn{0x100000 + 3 * i});
    batch.encodings.push_back(i % 2 == 0 ? PageEncoding::kRaw : PageEncoding::kZero);
    raw += i % 2 == 0 ? 1U : 0U;
  }
  batch.body = pattern(raw * kPageBytes);
  return batch;
}

PrivateBatch private_batch(std::size_t entries) {
  PrivateBatch batch;
  batch.epoch = 7;
  batch.stream = 2;
  std::size_t bodies = 0;
  for (std::size_t i = 0; i < entries; ++i) {
    batch.gfns.push_back(Gfn{0x2000 + 5 * i});
    batch.ops.push_back(PrivateOp{static_cast<std::uint8_t>(1 + i % 5)});
    bodies += i % 5 == 0 || i % 5 == 2 ? 1U : 0U;  // ops 1 and 3
  }
  batch.batch_auth = pattern(48, 2);
  batch.page_auth_bytes = 52;
  batch.page_auth = pattern(entries * 52, 3);
  batch.page_body_bytes = kPageBytes;
  batch.body = pattern(bodies * kPageBytes, 4);
  return batch;
}

LivePages live_pages() {
  return {.epoch = 7,
          .stream = 4,
          .zero = {{Gfn{0x200}, 3}, {Gfn{0x100}, 1}},
          .raw = {{Gfn{0x101}, 2}, {Gfn{0x300}, 1}},
          .body = pattern(3 * kPageBytes)};
}

std::vector<Record> typical() {
  return {
      Hello{1,
            1,
            "rack7-node3",
            "sealift 0.1.0",
            Platform::kSev,
            "kvm",
            kPageBytes,
            {{Gfn{0}, 0xa0}, {Gfn{0x100}, 0x3ff00}},
            4,
            kFeatureVerifyDigest,
            512,
            4,
            true},
      SessionStart{"database-1", 4, true},
      SessionAccept{pattern(300)},
      PlatformCard{pattern(150)},
      Claim{{std::byte{0x11}, std::byte{0x22}}, 7},
      Inquiry{right_word()},
      Answer{right_word()},
      PlatformStart{pattern(200)},
      SessionReady{},
      shared_batch(5),
      private_batch(7),
      StreamJoin{3, {std::byte{0x31}, std::byte{0x32}}},
      EpochBegin{3},
      live_pages(),
      Conversions{3, {{Gfn{0x10}, 2}, {Gfn{0x20}, 1}}, {{Gfn{0x100}, 512}}},
      EpochEnd{3, 0, 100, 200, pattern(40)},
      EpochEnd{3, 5, 100, 200, {}},
      EpochAck{3},
      StateBlob{StateBlob::Kind::kVcpu, 2, "sregs2", 1, pattern(320)},
      StateBlob{StateBlob::Kind::kDevice, 1, "serial", 3, pattern(24)},
      StateBlob{StateBlob::Kind::kPlatform, 3, "vmsa", 2, pattern(48)},
      Finish{9, 1000, 2000, 12, digest(), pattern(64)},
      Ready{1'500'000, 2'500'000},
      Handover{},
      Running{300'000},
      Abort{ErrorClass::kPolicy, "the guest's policy forbids this host", pattern(24)},
      KeepAlive{},
  };
}

std::vector<Record> largest() {
  SharedBatch shared = shared_batch(limits::kBatchPagesMax);
  shared.epoch = kU32Max;
  shared.stream = kLastStream;
  shared.gfns.back() = Gfn{limits::kGuestPagesMax - 1};
  shared.encodings.assign(shared.gfns.size(), PageEncoding::kRaw);
  shared.body = pattern(shared.gfns.size() * kPageBytes);
  const Bytes blob = pattern(limits::kPlatformBlobBytesMax);
  const Bytes state = pattern(limits::kStateBlobBytesMax);
  const auto half = ranges(limits::kConversionRangesMax / 2);
  return {
      largest_hello(),
      SessionStart{long_text(), limits::kStreamsMax, true},
      SessionAccept{blob},
      PlatformCard{blob},
      Claim{{}, kU64Max - 1},
      Inquiry{{{{}, kU64Max - 1},
               long_text(),
               long_text(),
               long_text(),
               digest(),
               digest(),
               9,
               true,
               9,
               digest()}},
      Answer{{{{}, kU64Max - 1},
              long_text(),
              long_text(),
              long_text(),
              digest(),
              digest(),
              9,
              true,
              9,
              digest()}},
      PlatformStart{blob},
      SessionReady{},
      shared,
      largest_private_batch(),
      StreamJoin{kLastStream, {}},
      EpochBegin{kU32Max},
      largest_live_pages(),
      LivePages{kU32Max, kLastStream, {{Gfn{limits::kGuestPagesMax - 512}, 512}}, {}, {}},
      Conversions{kU32Max, ranges(limits::kConversionRangesMax), {}},
      Conversions{kU32Max, {}, ranges(limits::kConversionRangesMax)},
      Conversions{kU32Max, half, half},
      Conversions{0, {{Gfn{0}, limits::kGuestPagesMax}}, {}},
      EpochEnd{kU32Max, 0, kU64Max, kU64Max, blob},
      EpochEnd{kU32Max, kLastStream, kU64Max, kU64Max, {}},
      EpochAck{kU32Max},
      StateBlob{StateBlob::Kind::kVcpu, limits::kVcpusMax - 1, long_text(), kU32Max, state},
      StateBlob{StateBlob::Kind::kDevice, kU32Max, long_text(), kU32Max, state},
      StateBlob{StateBlob::Kind::kPlatform, kU32Max, long_text(), kU32Max, state},
      Finish{kU32Max, kU64Max, kU64Max, limits::kStateBlobsMax, digest(), blob},
      Ready{kU64Max, kU64Max},
      Handover{},
      Running{kU64Max},
      Abort{ErrorClass::kUsage, long_text(), blob},
      KeepAlive{},
  };
}

std::vector<Record> smallest() {
  Hello hello;
  hello.version_min = hello.version_max = 0;
  hello.page_bytes = 0;
  hello.vcpus = 0;
  hello.streams_max = 0;
  SharedBatch shared;
  shared.gfns = {Gfn{0}};
  shared.encodings = {PageEncoding::kZero};
  StateBlob platform_state;
  platform_state.kind = StateBlob::Kind::kPlatform;
  std::vector<Record> records{hello,           SessionStart{"", 1, false},
                              SessionAccept{}, PlatformStart{},
                              shared,          Conversions{},
                              EpochEnd{},      EpochAck{},
                              StateBlob{},     platform_state,
                              Finish{},        Ready{},
                              Running{},       Abort{},
                              PlatformCard{},  Claim{},
                              Inquiry{},       Answer{}};
  for (PrivateOp op : {PrivateOp::kImport, PrivateOp::kCancel, PrivateOp::kMetadata,
                       PrivateOp::kNothing, PrivateOp::kImportEmpty}) {
    PrivateBatch batch;
    batch.gfns = {Gfn{0}};
    batch.ops = {op};
    records.push_back(std::move(batch));
  }
  return records;
}

}  // namespace sealift::test_records
