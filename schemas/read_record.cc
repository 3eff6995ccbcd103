#include "schemas/read_record.h"

#include <array>
#include <cstring>
#include <limits>
#include <string_view>
#include <type_traits>
#include <utility>

#include "engine/assert.h"
#include "engine/limits.h"
#include "schemas/capnp_compat.h"  // before any capnp header
#include "schemas/pages.capnp.h"
#include "schemas/record_type.h"
#include "schemas/session.capnp.h"
#include "schemas/state.capnp.h"
#include "schemas/wire_text.h"

namespace sealift {
namespace {

static_assert(sizeof(capnp::word) == sizeof(std::uint64_t));

// A peer may make a small message look large by pointing at the same bytes again and again: each
// read counts.
constexpr std::uint64_t kTraversalFactorMax = 4;
constexpr int kNestingMax = 16;

struct Frame {
  std::uint16_t type = 0;
  std::uint8_t stream = 0;
  Bytes payload;
  std::size_t payload_bytes = 0;  // also when they are not here yet
};

// ---- Fields. `what` is the field's name in the schema, for the error's text. ----

template <class Number, class Limit>
Result<void> check_max(const char* what, Number number, Limit max) {
  if (number <= max) return {};
  return fail(ErrorClass::kMalformed, "{} is {}, more than {}", what, number, max);
}

Result<std::string> read_text(const char* what, capnp::Text::Reader text) {
  if (text.size() > limits::kTextBytesMax) {
    return fail(ErrorClass::kMalformed, "{} has {} bytes, more than {}", what, text.size(),
                limits::kTextBytesMax);
  }
  const std::string_view view(text.begin(), text.size());
  if (!is_wire_text(view)) {
    return fail(ErrorClass::kMalformed, "{} of {} bytes is not UTF-8 without control characters",
                what, view.size());
  }
  return std::string(view);
}

Result<Bytes> read_bytes(const char* what, capnp::Data::Reader data, std::size_t bytes_max) {
  if (data.size() > bytes_max) {
    return fail(ErrorClass::kMalformed, "{} has {} bytes, more than {}", what, data.size(),
                bytes_max);
  }
  const auto* first = reinterpret_cast<const std::byte*>(data.begin());
  return Bytes(first, first + data.size());
}

// The values of Enum are `first` to `last` without a gap.
template <class Enum>
Result<Enum> read_enum(const char* what, std::underlying_type_t<Enum> raw, Enum first, Enum last) {
  using Raw = std::underlying_type_t<Enum>;
  if (raw >= static_cast<Raw>(first) && raw <= static_cast<Raw>(last)) return Enum{raw};
  return fail(ErrorClass::kMalformed, "{} is {}, known are {} to {}", what, raw,
              static_cast<Raw>(first), static_cast<Raw>(last));
}

template <class Enum>
Result<std::vector<Enum>> read_enums(const char* what, capnp::Data::Reader data, std::size_t count,
                                     Enum first, Enum last) {
  if (data.size() != count) {
    return fail(ErrorClass::kMalformed, "{} has {} entries for {} gfns", what, data.size(), count);
  }
  std::vector<Enum> values(count);
  for (unsigned int i = 0; i < data.size(); ++i) {
    if (data[i] < static_cast<kj::byte>(first) || data[i] > static_cast<kj::byte>(last)) {
      return fail(ErrorClass::kMalformed, "{} entry {} is {}, known are {} to {}", what, i, data[i],
                  static_cast<kj::byte>(first), static_cast<kj::byte>(last));
    }
    values[i] = Enum{data[i]};
  }
  return values;
}

using GfnList = capnp::List<std::uint64_t>::Reader;
using RangeList = capnp::List<wire::GfnRange>::Reader;

Result<std::vector<Gfn>> read_gfns(const char* what, GfnList list) {
  if (list.size() == 0 || list.size() > limits::kBatchPagesMax) {
    return fail(ErrorClass::kMalformed, "{} has {} entries, outside 1 to {}", what, list.size(),
                limits::kBatchPagesMax);
  }
  std::vector<Gfn> gfns(list.size());
  for (unsigned int i = 0; i < list.size(); ++i) gfns[i] = Gfn{list[i]};
  return gfns;
}

Result<void> check_gfn(const char* what, std::size_t index, Gfn gfn) {
  if (value(gfn) < limits::kGuestPagesMax) return {};
  return fail(ErrorClass::kMalformed, "{} entry {} is gfn {:#x}, not below {:#x}", what, index,
              value(gfn), limits::kGuestPagesMax);
}

Result<std::vector<GfnRange>> read_ranges(const char* what, RangeList list,
                                          std::size_t ranges_max) {
  if (list.size() > ranges_max) {
    return fail(ErrorClass::kMalformed, "{} has {} ranges, more than {}", what, list.size(),
                ranges_max);
  }
  std::vector<GfnRange> ranges(list.size());
  for (unsigned int i = 0; i < list.size(); ++i) {
    const std::uint64_t first = list[i].getFirst();
    const std::uint64_t pages = list[i].getPages();
    if (pages == 0 || pages > limits::kGuestPagesMax || first > limits::kGuestPagesMax - pages) {
      return fail(ErrorClass::kMalformed,
                  "{} range {} (gfn {:#x}, {} pages) is empty or ends beyond gfn {:#x}", what, i,
                  first, pages, limits::kGuestPagesMax);
    }
    ranges[i] = GfnRange{Gfn{first}, pages};
  }
  return ranges;
}

Result<void> check_payload(const Frame& frame, std::uint64_t expected_bytes) {
  if (frame.payload_bytes == expected_bytes) return {};
  return fail(ErrorClass::kMalformed, "{} has a payload of {} bytes, its entries make {}",
              record_type_name(frame.type), frame.payload_bytes, expected_bytes);
}

// ---- Records, one overload of read() for each message. ----

Result<Record> read(wire::Hello::Reader root, Frame&) {
  Hello hello;
  hello.version_min = root.getVersionMin();
  hello.version_max = root.getVersionMax();
  SEALIFT_TRY(hello.agent_name, read_text("Hello.agentName", root.getAgentName()));
  SEALIFT_TRY(hello.build, read_text("Hello.build", root.getBuild()));
  SEALIFT_TRY(hello.platform, read_enum("Hello.platform", root.getPlatform(), Platform::kNone,
                                        Platform::kSwProtected));
  SEALIFT_TRY(hello.backend, read_text("Hello.backend", root.getBackend()));
  SEALIFT_TRY(hello.memory,
              read_ranges("Hello.memory", root.getMemory(), limits::kMemoryRangesMax));
  SEALIFT_CHECK(check_max("Hello.vcpus", root.getVcpus(), limits::kVcpusMax));
  hello.page_bytes = root.getPageBytes();
  hello.vcpus = root.getVcpus();
  hello.features = root.getFeatures();
  hello.batch_pages_max = root.getBatchPagesMax();
  hello.streams_max = root.getStreamsMax();
  hello.check_only = root.getCheckOnly();
  return Record(std::move(hello));
}

Result<Record> read(wire::SessionStart::Reader root, Frame&) {
  SessionStart start;
  SEALIFT_TRY(start.guest_name, read_text("SessionStart.guestName", root.getGuestName()));
  start.streams = root.getStreams();
  start.verify = root.getVerify();
  if (start.streams == 0 || start.streams > limits::kStreamsMax) {
    return fail(ErrorClass::kMalformed, "SessionStart.streams is {}, outside 1 to {}",
                start.streams, limits::kStreamsMax);
  }
  return Record(std::move(start));
}

Result<Record> read(wire::PlatformCard::Reader root, Frame&) {
  SEALIFT_TRY(Bytes card,
              read_bytes("PlatformCard.card", root.getCard(), limits::kPlatformBlobBytesMax));
  return Record(PlatformCard{std::move(card)});
}

// Fields of exactly as many bytes as `out` has.
template <std::size_t kSize>
Result<void> read_exactly(const char* what, capnp::Data::Reader data,
                          std::array<std::byte, kSize>& out) {
  if (data.size() != kSize) {
    return fail(ErrorClass::kMalformed, "{} has {} bytes instead of {}", what, data.size(), kSize);
  }
  std::memcpy(out.data(), data.begin(), kSize);
  return {};
}

Result<std::uint64_t> read_generation(const char* what, std::uint64_t generation) {
  if (generation != std::numeric_limits<std::uint64_t>::max()) return generation;
  return fail(ErrorClass::kMalformed, "{} {} has no successor", what, generation);
}

Result<Record> read(wire::Claim::Reader root, Frame&) {
  Claim claim;
  SEALIFT_CHECK(read_exactly("Claim.migration", root.getMigration(), claim.migration));
  SEALIFT_TRY(claim.generation, read_generation("Claim.generation", root.getGeneration()));
  return Record(claim);
}

Result<RightWord> read_right_word(wire::RightWord::Reader root) {
  constexpr std::uint8_t kRecordKindMax = 9;
  RightWord word;
  SEALIFT_CHECK(read_exactly("RightWord.migration", root.getMigration(), word.claim.migration));
  SEALIFT_TRY(word.claim.generation, read_generation("RightWord.generation", root.getGeneration()));
  SEALIFT_TRY(word.guest, read_text("RightWord.guest", root.getGuest()));
  SEALIFT_TRY(word.source, read_text("RightWord.source", root.getSource()));
  SEALIFT_TRY(word.destination, read_text("RightWord.destination", root.getDestination()));
  SEALIFT_CHECK(
      read_exactly("RightWord.pageMapSha256", root.getPageMapSha256(), word.page_map_sha256));
  SEALIFT_CHECK(read_exactly("RightWord.memorySha256", root.getMemorySha256(), word.memory_sha256));
  SEALIFT_CHECK(check_max("RightWord.record", root.getRecord(), kRecordKindMax));
  SEALIFT_CHECK(check_max("RightWord.proven", root.getProven(), kRecordKindMax));
  SEALIFT_CHECK(read_exactly("RightWord.mac", root.getMac(), word.mac));
  word.record = root.getRecord();
  word.has_guest = root.getHasGuest();
  word.proven = root.getProven();
  return word;
}

Result<Record> read_right_record(wire::RightWord::Reader root, Frame& frame) {
  SEALIFT_TRY(RightWord word, read_right_word(root));
  if (frame.type == value(RecordType::kInquiry)) return Record(Inquiry{std::move(word)});
  SEALIFT_ASSERT(frame.type == value(RecordType::kAnswer));
  return Record(Answer{std::move(word)});
}

Result<Record> read(wire::StreamJoin::Reader root, Frame& frame) {
  StreamJoin join;
  join.stream = frame.stream;
  const auto secret = root.getSecret();
  if (secret.size() != join.secret.size()) {
    return fail(ErrorClass::kMalformed, "StreamJoin.secret has {} bytes instead of {}",
                secret.size(), join.secret.size());
  }
  std::memcpy(join.secret.data(), secret.begin(), join.secret.size());
  return Record(join);
}

Result<Record> read(wire::EpochBegin::Reader root, Frame&) {
  return Record(EpochBegin{root.getEpoch()});
}

Result<Record> read(wire::SessionAccept::Reader root, Frame&) {
  SEALIFT_TRY(Bytes identity, read_bytes("SessionAccept.identity", root.getIdentity(),
                                         limits::kPlatformBlobBytesMax));
  return Record(SessionAccept{std::move(identity)});
}

Result<Record> read(wire::PlatformStart::Reader root, Frame&) {
  SEALIFT_TRY(Bytes start,
              read_bytes("PlatformStart.start", root.getStart(), limits::kPlatformBlobBytesMax));
  return Record(PlatformStart{std::move(start)});
}

Result<Record> read(wire::SharedPages::Reader root, Frame& frame) {
  SharedBatch batch;
  batch.epoch = root.getEpoch();
  batch.stream = frame.stream;
  SEALIFT_TRY(batch.gfns, read_gfns("SharedPages.gfns", root.getGfns()));
  SEALIFT_TRY(batch.encodings,
              read_enums("SharedPages.encodings", root.getEncodings(), batch.gfns.size(),
                         PageEncoding::kZero, PageEncoding::kRaw));
  std::uint64_t raw_pages = 0;
  for (std::size_t i = 0; i < batch.gfns.size(); ++i) {
    SEALIFT_CHECK(check_gfn("SharedPages.gfns", i, batch.gfns[i]));
    if (batch.encodings[i] == PageEncoding::kRaw) ++raw_pages;
  }
  SEALIFT_CHECK(check_payload(frame, raw_pages * kPageBytes));
  batch.body = std::move(frame.payload);
  return Record(std::move(batch));
}

Result<LivePages> read_live(wire::LivePages::Reader root, Frame& frame) {
  LivePages pages;
  pages.epoch = root.getEpoch();
  pages.stream = frame.stream;
  SEALIFT_TRY(pages.zero, read_ranges("LivePages.zero", root.getZero(), limits::kBatchPagesMax));
  SEALIFT_TRY(pages.raw, read_ranges("LivePages.raw", root.getRaw(), limits::kBatchPagesMax));
  const std::uint64_t raw_pages = pages_in(pages.raw);
  const std::uint64_t count = raw_pages + pages_in(pages.zero);
  if (count == 0 || count > limits::kBatchPagesMax) {
    return fail(ErrorClass::kMalformed, "LivePages has {} pages, outside 1 to {}", count,
                limits::kBatchPagesMax);
  }
  SEALIFT_CHECK(check_payload(frame, raw_pages * kPageBytes));
  pages.body = std::move(frame.payload);
  return pages;
}

Result<Record> read(wire::LivePages::Reader root, Frame& frame) {
  SEALIFT_TRY(LivePages pages, read_live(root, frame));
  return Record(std::move(pages));
}

Result<Record> read(wire::PrivatePages::Reader root, Frame& frame) {
  PrivateBatch batch;
  batch.epoch = root.getEpoch();
  batch.stream = frame.stream;
  SEALIFT_TRY(batch.gfns, read_gfns("PrivatePages.gfns", root.getGfns()));
  SEALIFT_TRY(batch.ops, read_enums("PrivatePages.ops", root.getOps(), batch.gfns.size(),
                                    PrivateOp::kImport, PrivateOp::kImportEmpty));
  std::uint64_t bodies = 0;
  for (std::size_t i = 0; i < batch.gfns.size(); ++i) {
    if (batch.ops[i] != PrivateOp::kMetadata) {
      SEALIFT_CHECK(check_gfn("PrivatePages.gfns", i, batch.gfns[i]));
    }
    if (has_body(batch.ops[i])) ++bodies;
  }
  batch.page_auth_bytes = root.getPageAuthBytes();
  batch.page_body_bytes = root.getPageBodyBytes();
  SEALIFT_CHECK(
      check_max("PrivatePages.pageAuthBytes", batch.page_auth_bytes, limits::kPageAuthBytesMax));
  SEALIFT_CHECK(check_max("PrivatePages.pageBodyBytes", batch.page_body_bytes,
                          limits::kFramePayloadBytesMax));
  SEALIFT_TRY(batch.batch_auth, read_bytes("PrivatePages.batchAuth", root.getBatchAuth(),
                                           limits::kBatchAuthBytesMax));
  const std::size_t page_auth_bytes = batch.gfns.size() * batch.page_auth_bytes;
  const capnp::Data::Reader page_auth = root.getPageAuth();
  if (page_auth.size() != page_auth_bytes) {
    return fail(ErrorClass::kMalformed,
                "PrivatePages.pageAuth has {} bytes, {} entries of {} make {}", page_auth.size(),
                batch.gfns.size(), batch.page_auth_bytes, page_auth_bytes);
  }
  SEALIFT_TRY(batch.page_auth, read_bytes("PrivatePages.pageAuth", page_auth, page_auth_bytes));
  SEALIFT_CHECK(check_payload(frame, bodies * batch.page_body_bytes));
  batch.body = std::move(frame.payload);
  return Record(std::move(batch));
}

Result<Record> read(wire::Conversions::Reader root, Frame&) {
  Conversions conversions;
  conversions.epoch = root.getEpoch();
  SEALIFT_TRY(conversions.to_shared, read_ranges("Conversions.toShared", root.getToShared(),
                                                 limits::kConversionRangesMax));
  const std::size_t ranges_left = limits::kConversionRangesMax - conversions.to_shared.size();
  SEALIFT_TRY(conversions.to_private,
              read_ranges("Conversions.toPrivate", root.getToPrivate(), ranges_left));
  return Record(std::move(conversions));
}

Result<Record> read(wire::EpochEnd::Reader root, Frame& frame) {
  EpochEnd end;
  end.epoch = root.getEpoch();
  end.stream = frame.stream;
  end.shared_pages = root.getSharedPages();
  end.private_pages = root.getPrivatePages();
  SEALIFT_TRY(end.token,
              read_bytes("EpochEnd.token", root.getToken(), limits::kPlatformBlobBytesMax));
  if (frame.stream != 0 && !end.token.empty()) {
    return fail(ErrorClass::kMalformed,
                "EpochEnd.token has {} bytes on stream {}, only stream 0 has one", end.token.size(),
                frame.stream);
  }
  return Record(std::move(end));
}

Result<Record> read(wire::EpochAck::Reader root, Frame&) {
  return Record(EpochAck{root.getEpoch()});
}

// REQUIRES: one of the three types that carry state.
StateBlob::Kind state_kind(std::uint16_t type) {
  if (type == value(RecordType::kVcpuState)) return StateBlob::Kind::kVcpu;
  if (type == value(RecordType::kDeviceState)) return StateBlob::Kind::kDevice;
  SEALIFT_ASSERT(type == value(RecordType::kPlatformState));
  return StateBlob::Kind::kPlatform;
}

Result<Record> read(wire::State::Reader root, Frame& frame) {
  StateBlob blob;
  blob.kind = state_kind(frame.type);
  blob.index = root.getIndex();
  blob.version = root.getVersion();
  SEALIFT_TRY(blob.name, read_text("State.name", root.getName()));
  if (blob.kind == StateBlob::Kind::kVcpu) {
    SEALIFT_CHECK(check_max("VcpuState.index", blob.index, limits::kVcpusMax - 1));
  }
  SEALIFT_CHECK(
      check_max("size of the state payload", frame.payload.size(), limits::kStateBlobBytesMax));
  blob.bytes = std::move(frame.payload);
  return Record(std::move(blob));
}

Result<Record> read(wire::Finish::Reader root, Frame&) {
  Finish finish;
  finish.epochs = root.getEpochs();
  finish.shared_pages = root.getSharedPages();
  finish.private_pages = root.getPrivatePages();
  finish.state_items = root.getStateItems();
  SEALIFT_CHECK(check_max("Finish.stateItems", finish.state_items, limits::kStateBlobsMax));
  const capnp::Data::Reader digest = root.getPageMapDigest();
  if (digest.size() != finish.page_map_digest.size()) {
    return fail(ErrorClass::kMalformed, "Finish.pageMapDigest has {} bytes, not {}", digest.size(),
                finish.page_map_digest.size());
  }
  std::memcpy(finish.page_map_digest.data(), digest.begin(), digest.size());
  SEALIFT_TRY(finish.token,
              read_bytes("Finish.token", root.getToken(), limits::kPlatformBlobBytesMax));
  return Record(std::move(finish));
}

Result<Record> read(wire::Ready::Reader root, Frame&) {
  return Record(Ready{root.getLoadStateNs(), root.getSealNs()});
}

Result<Record> read(wire::Running::Reader root, Frame&) {
  return Record(Running{root.getResumeNs()});
}

Result<Record> read(wire::Abort::Reader root, Frame&) {
  Abort abort;
  SEALIFT_TRY(abort.cls, read_enum("Abort.errorClass", root.getErrorClass(),
                                   ErrorClass::kLocalFault, ErrorClass::kUsage));
  SEALIFT_TRY(abort.detail, read_text("Abort.detail", root.getDetail()));
  SEALIFT_TRY(abort.abort_token,
              read_bytes("Abort.abortToken", root.getAbortToken(), limits::kPlatformBlobBytesMax));
  return Record(std::move(abort));
}

Result<Record> read(wire::SessionReady::Reader, Frame&) { return Record(SessionReady{}); }
Result<Record> read(wire::Handover::Reader, Frame&) { return Record(Handover{}); }
Result<Record> read(wire::KeepAlive::Reader, Frame&) { return Record(KeepAlive{}); }

Result<Record> read_message(capnp::MessageReader& message, Frame& frame) {
  switch (RecordType{frame.type}) {
    case RecordType::kInvalid:
      break;
    case RecordType::kHello:
      return read(message.getRoot<wire::Hello>(), frame);
    case RecordType::kSessionStart:
      return read(message.getRoot<wire::SessionStart>(), frame);
    case RecordType::kClaim:
      return read(message.getRoot<wire::Claim>(), frame);
    case RecordType::kInquiry:
    case RecordType::kAnswer:
      return read_right_record(message.getRoot<wire::RightWord>(), frame);
    case RecordType::kPlatformCard:
      return read(message.getRoot<wire::PlatformCard>(), frame);
    case RecordType::kSessionAccept:
      return read(message.getRoot<wire::SessionAccept>(), frame);
    case RecordType::kPlatformStart:
      return read(message.getRoot<wire::PlatformStart>(), frame);
    case RecordType::kSessionReady:
      return read(message.getRoot<wire::SessionReady>(), frame);
    case RecordType::kSharedPages:
      return read(message.getRoot<wire::SharedPages>(), frame);
    case RecordType::kPrivatePages:
      return read(message.getRoot<wire::PrivatePages>(), frame);
    case RecordType::kStreamJoin:
      return read(message.getRoot<wire::StreamJoin>(), frame);
    case RecordType::kEpochBegin:
      return read(message.getRoot<wire::EpochBegin>(), frame);
    case RecordType::kLivePages:
      return read(message.getRoot<wire::LivePages>(), frame);
    case RecordType::kConversions:
      return read(message.getRoot<wire::Conversions>(), frame);
    case RecordType::kEpochEnd:
      return read(message.getRoot<wire::EpochEnd>(), frame);
    case RecordType::kEpochAck:
      return read(message.getRoot<wire::EpochAck>(), frame);
    case RecordType::kVcpuState:
    case RecordType::kDeviceState:
    case RecordType::kPlatformState:
      return read(message.getRoot<wire::State>(), frame);
    case RecordType::kFinish:
      return read(message.getRoot<wire::Finish>(), frame);
    case RecordType::kReady:
      return read(message.getRoot<wire::Ready>(), frame);
    case RecordType::kHandover:
      return read(message.getRoot<wire::Handover>(), frame);
    case RecordType::kRunning:
      return read(message.getRoot<wire::Running>(), frame);
    case RecordType::kAbort:
      return read(message.getRoot<wire::Abort>(), frame);
    case RecordType::kKeepAlive:
      return read(message.getRoot<wire::KeepAlive>(), frame);
  }
  return fail(ErrorClass::kMalformed, "record type {:#06x} has no message", frame.type);
}

// Hands the message in `meta_words` to `read`; what capnp throws ends here.
template <class Read>
auto with_message(std::uint16_t type, std::span<const std::uint64_t> meta_words, Read read)
    -> decltype(read(std::declval<capnp::MessageReader&>())) {
  capnp::ReaderOptions options;
  options.traversalLimitInWords = kTraversalFactorMax * meta_words.size();
  options.nestingLimit = kNestingMax;
  try {
    capnp::FlatArrayMessageReader message(
        kj::arrayPtr(reinterpret_cast<const capnp::word*>(meta_words.data()), meta_words.size()),
        options);
    return read(message);
  } catch (const kj::Exception& e) {
    return fail(ErrorClass::kMalformed, "the meta of {} is not a valid message: {}",
                record_type_name(type), e.getDescription().cStr());
  }
}

}  // namespace

Result<Record> read_record(std::uint16_t type, std::uint8_t stream,
                           std::span<const std::uint64_t> meta_words, Bytes payload) {
  Frame frame{type, stream, std::move(payload), 0};
  frame.payload_bytes = frame.payload.size();
  return with_message(type, meta_words,
                      [&](capnp::MessageReader& message) { return read_message(message, frame); });
}

Result<LivePages> read_live_pages(std::uint8_t stream, std::span<const std::uint64_t> meta_words,
                                  std::size_t payload_bytes) {
  Frame frame{value(RecordType::kLivePages), stream, {}, payload_bytes};
  return with_message(frame.type, meta_words, [&](capnp::MessageReader& message) {
    return read_live(message.getRoot<wire::LivePages>(), frame);
  });
}

}  // namespace sealift
