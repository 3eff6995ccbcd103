// encode(): engine records to bytes. What it is given comes from our engine, so limits are asserted
// here and refused in decode.cc: the two files check the same things in pairs.

#include <utility>

#include "engine/assert.h"
#include "engine/limits.h"
#include "schemas/capnp_compat.h"  // before any capnp header
#include "schemas/codec.h"
#include "schemas/pages.capnp.h"
#include "schemas/record_type.h"
#include "schemas/session.capnp.h"
#include "schemas/state.capnp.h"
#include "schemas/wire_text.h"

namespace sealift {
namespace {

constexpr std::size_t kWordBytes = sizeof(capnp::word);
// Of a flat message with one segment: u32 number of segments - 1, u32 words of the segment.
constexpr std::size_t kSegmentTableBytes = 8;

// One Cap'n Proto message in one segment, built in place in the bytes that will be sent. Asserts
// when the bound that it was given is too small.
class MetaBuilder final : public capnp::MessageBuilder {
 public:
  // `bytes_max` bounds texts, data and lists of the message; the structs themselves are allowed for
  // here.
  explicit MetaBuilder(std::size_t bytes_max)
      : bytes_(kSegmentTableBytes + (kStructWordsMax + bytes_max / kWordBytes) * kWordBytes) {}

  // The flat message. The builder is not used after this.
  Bytes finish() {
    const auto segments = getSegmentsForOutput();
    SEALIFT_ASSERT(segments.size() == 1);
    const std::size_t words = segments[0].size();
    for (std::size_t i = 0; i < 4; ++i) bytes_[4 + i] = static_cast<std::byte>(words >> (8 * i));
    bytes_.resize(kSegmentTableBytes + words * kWordBytes);
    SEALIFT_ASSERT(bytes_.size() <= limits::kFrameMetaBytesMax);
    return std::move(bytes_);
  }

 protected:
  kj::ArrayPtr<capnp::word> allocateSegment(unsigned int minimum_words) override {
    SEALIFT_ASSERT(!allocated_);
    allocated_ = true;
    const std::size_t words = (bytes_.size() - kSegmentTableBytes) / kWordBytes;
    SEALIFT_ASSERT(minimum_words <= words);
    return kj::arrayPtr(reinterpret_cast<capnp::word*>(bytes_.data() + kSegmentTableBytes), words);
  }

 private:
  // Root pointer, the largest struct (Hello) and, for each list, its tag and the rounding up to a
  // word.
  static constexpr std::size_t kStructWordsMax = 32;

  Bytes bytes_;  // zeroed, as capnp requires of a segment
  bool allocated_ = false;
};

capnp::Text::Reader text_of(const std::string& text) { return {text.data(), text.size()}; }

capnp::Data::Reader data_of(ByteView bytes) {
  return {reinterpret_cast<const kj::byte*>(bytes.data()), bytes.size()};
}

template <class Enum>
capnp::Data::Reader data_of(const std::vector<Enum>& values) {
  static_assert(sizeof(Enum) == 1);
  return {reinterpret_cast<const kj::byte*>(values.data()), values.size()};
}

unsigned int list_size(std::size_t size) { return static_cast<unsigned int>(size); }

void set_ranges(capnp::List<wire::GfnRange>::Builder out, const std::vector<GfnRange>& ranges) {
  for (unsigned int i = 0; i < out.size(); ++i) {
    const GfnRange range = ranges[i];
    SEALIFT_ASSERT(range.pages > 0 && range.pages <= limits::kGuestPagesMax);
    SEALIFT_ASSERT(value(range.first) <= limits::kGuestPagesMax - range.pages);
    out[i].setFirst(value(range.first));
    out[i].setPages(range.pages);
  }
}

void set_gfns(capnp::List<std::uint64_t>::Builder out, const std::vector<Gfn>& gfns) {
  for (unsigned int i = 0; i < out.size(); ++i) out.set(i, value(gfns[i]));
}

// Builds the meta of each record type.
struct MetaEncoder {
  Bytes operator()(const Hello& hello) const {
    const std::string agent_name = to_wire_text(hello.agent_name);
    const std::string build = to_wire_text(hello.build);
    SEALIFT_ASSERT(is_wire_text(hello.backend) && hello.backend.size() <= limits::kTextBytesMax);
    SEALIFT_ASSERT(hello.memory.size() <= limits::kMemoryRangesMax);
    SEALIFT_ASSERT(hello.vcpus <= limits::kVcpusMax);
    MetaBuilder builder(agent_name.size() + build.size() + hello.backend.size() +
                        hello.memory.size() * sizeof(GfnRange));
    auto root = builder.initRoot<wire::Hello>();
    root.setVersionMin(hello.version_min);
    root.setVersionMax(hello.version_max);
    root.setAgentName(text_of(agent_name));
    root.setBuild(text_of(build));
    root.setPlatform(static_cast<std::uint8_t>(hello.platform));
    root.setCheckOnly(hello.check_only);
    root.setStreamsMax(hello.streams_max);
    root.setBackend(text_of(hello.backend));
    root.setPageBytes(hello.page_bytes);
    root.setVcpus(hello.vcpus);
    set_ranges(root.initMemory(list_size(hello.memory.size())), hello.memory);
    root.setFeatures(hello.features);
    root.setBatchPagesMax(hello.batch_pages_max);
    return builder.finish();
  }

  Bytes operator()(const SessionStart& start) const {
    SEALIFT_ASSERT(start.streams > 0 && start.streams <= limits::kStreamsMax);
    const std::string guest_name = to_wire_text(start.guest_name);
    MetaBuilder builder(guest_name.size());
    auto root = builder.initRoot<wire::SessionStart>();
    root.setGuestName(text_of(guest_name));
    root.setStreams(start.streams);
    root.setVerify(start.verify);
    return builder.finish();
  }

  Bytes operator()(const SessionAccept& accept) const {
    SEALIFT_ASSERT(accept.identity.size() <= limits::kPlatformBlobBytesMax);
    MetaBuilder builder(accept.identity.size());
    builder.initRoot<wire::SessionAccept>().setIdentity(data_of(accept.identity));
    return builder.finish();
  }

  Bytes operator()(const PlatformCard& card) const {
    SEALIFT_ASSERT(card.card.size() <= limits::kPlatformBlobBytesMax);
    MetaBuilder builder(card.card.size());
    builder.initRoot<wire::PlatformCard>().setCard(data_of(card.card));
    return builder.finish();
  }

  Bytes operator()(const Claim& claim) const {
    MetaBuilder builder(claim.migration.size());
    auto root = builder.initRoot<wire::Claim>();
    root.setMigration(data_of(claim.migration));
    root.setGeneration(claim.generation);
    return builder.finish();
  }

  Bytes operator()(const StreamJoin& join) const {
    MetaBuilder builder(join.secret.size());
    builder.initRoot<wire::StreamJoin>().setSecret(data_of(join.secret));
    return builder.finish();
  }

  Bytes operator()(const Inquiry& inquiry) const { return right_word(inquiry.word); }
  Bytes operator()(const Answer& answer) const { return right_word(answer.word); }

  static Bytes right_word(const RightWord& word) {
    const std::string guest = to_wire_text(word.guest);
    const std::string source = to_wire_text(word.source);
    const std::string destination = to_wire_text(word.destination);
    MetaBuilder builder(guest.size() + source.size() + destination.size() +
                        word.claim.migration.size() + 3 * word.mac.size());
    auto root = builder.initRoot<wire::RightWord>();
    root.setMigration(data_of(word.claim.migration));
    root.setGeneration(word.claim.generation);
    root.setGuest(text_of(guest));
    root.setSource(text_of(source));
    root.setDestination(text_of(destination));
    root.setPageMapSha256(data_of(ByteView(word.page_map_sha256)));
    root.setMemorySha256(data_of(ByteView(word.memory_sha256)));
    root.setRecord(word.record);
    root.setHasGuest(word.has_guest);
    root.setProven(word.proven);
    root.setMac(data_of(ByteView(word.mac)));
    return builder.finish();
  }

  Bytes operator()(const PlatformStart& start) const {
    SEALIFT_ASSERT(start.start.size() <= limits::kPlatformBlobBytesMax);
    MetaBuilder builder(start.start.size());
    builder.initRoot<wire::PlatformStart>().setStart(data_of(start.start));
    return builder.finish();
  }

  Bytes operator()(const SharedBatch& batch) const {
    SEALIFT_ASSERT(!batch.gfns.empty() && batch.gfns.size() <= limits::kBatchPagesMax);
    SEALIFT_ASSERT(batch.encodings.size() == batch.gfns.size());
    MetaBuilder builder(batch.gfns.size() * (sizeof(Gfn) + 1));
    auto root = builder.initRoot<wire::SharedPages>();
    root.setEpoch(batch.epoch);
    set_gfns(root.initGfns(list_size(batch.gfns.size())), batch.gfns);
    root.setEncodings(data_of(batch.encodings));
    std::size_t body_bytes = 0;
    for (PageEncoding encoding : batch.encodings) {
      if (encoding == PageEncoding::kRaw) body_bytes += kPageBytes;
    }
    SEALIFT_ASSERT(batch.body.size() == body_bytes);
    return builder.finish();
  }

  Bytes operator()(const LivePages& pages) const {
    const std::uint64_t raw_pages = pages_in(pages.raw);
    const std::uint64_t count = raw_pages + pages_in(pages.zero);
    SEALIFT_ASSERT(count > 0 && count <= limits::kBatchPagesMax);
    SEALIFT_ASSERT(pages.body.empty() || pages.body.size() == raw_pages * kPageBytes);
    MetaBuilder builder((pages.zero.size() + pages.raw.size()) * sizeof(GfnRange));
    auto root = builder.initRoot<wire::LivePages>();
    root.setEpoch(pages.epoch);
    set_ranges(root.initZero(list_size(pages.zero.size())), pages.zero);
    set_ranges(root.initRaw(list_size(pages.raw.size())), pages.raw);
    return builder.finish();
  }

  Bytes operator()(const EpochBegin& begin) const {
    MetaBuilder builder(0);
    builder.initRoot<wire::EpochBegin>().setEpoch(begin.epoch);
    return builder.finish();
  }

  Bytes operator()(const PrivateBatch& batch) const {
    SEALIFT_ASSERT(!batch.gfns.empty() && batch.gfns.size() <= limits::kBatchPagesMax);
    SEALIFT_ASSERT(batch.ops.size() == batch.gfns.size());
    SEALIFT_ASSERT(batch.batch_auth.size() <= limits::kBatchAuthBytesMax);
    SEALIFT_ASSERT(batch.page_auth_bytes <= limits::kPageAuthBytesMax);
    SEALIFT_ASSERT(batch.page_auth.size() == batch.gfns.size() * batch.page_auth_bytes);
    MetaBuilder builder(batch.gfns.size() * (sizeof(Gfn) + 1) + batch.batch_auth.size() +
                        batch.page_auth.size());
    auto root = builder.initRoot<wire::PrivatePages>();
    root.setEpoch(batch.epoch);
    set_gfns(root.initGfns(list_size(batch.gfns.size())), batch.gfns);
    root.setOps(data_of(batch.ops));
    root.setPageAuthBytes(batch.page_auth_bytes);
    root.setPageBodyBytes(batch.page_body_bytes);
    root.setBatchAuth(data_of(batch.batch_auth));
    root.setPageAuth(data_of(batch.page_auth));
    std::uint64_t bodies = 0;
    for (PrivateOp op : batch.ops) {
      SEALIFT_ASSERT(op >= PrivateOp::kImport && op <= PrivateOp::kImportEmpty);
      if (has_body(op)) ++bodies;
    }
    SEALIFT_ASSERT(batch.page_body_bytes <= limits::kFramePayloadBytesMax);
    SEALIFT_ASSERT(batch.body.size() == bodies * batch.page_body_bytes);
    return builder.finish();
  }

  Bytes operator()(const Conversions& conversions) const {
    const std::size_t ranges = conversions.to_shared.size() + conversions.to_private.size();
    SEALIFT_ASSERT(ranges <= limits::kConversionRangesMax);
    MetaBuilder builder(ranges * sizeof(GfnRange));
    auto root = builder.initRoot<wire::Conversions>();
    root.setEpoch(conversions.epoch);
    set_ranges(root.initToShared(list_size(conversions.to_shared.size())), conversions.to_shared);
    set_ranges(root.initToPrivate(list_size(conversions.to_private.size())),
               conversions.to_private);
    return builder.finish();
  }

  Bytes operator()(const EpochEnd& end) const {
    SEALIFT_ASSERT(end.token.size() <= limits::kPlatformBlobBytesMax);
    SEALIFT_ASSERT(end.stream == 0 || end.token.empty());
    MetaBuilder builder(end.token.size());
    auto root = builder.initRoot<wire::EpochEnd>();
    root.setEpoch(end.epoch);
    root.setSharedPages(end.shared_pages);
    root.setPrivatePages(end.private_pages);
    root.setToken(data_of(end.token));
    return builder.finish();
  }

  Bytes operator()(const EpochAck& ack) const {
    MetaBuilder builder(0);
    builder.initRoot<wire::EpochAck>().setEpoch(ack.epoch);
    return builder.finish();
  }

  Bytes operator()(const StateBlob& blob) const {
    SEALIFT_ASSERT(is_wire_text(blob.name) && blob.name.size() <= limits::kTextBytesMax);
    SEALIFT_ASSERT(blob.bytes.size() <= limits::kStateBlobBytesMax);
    SEALIFT_ASSERT(blob.kind != StateBlob::Kind::kVcpu || blob.index < limits::kVcpusMax);
    MetaBuilder builder(blob.name.size());
    auto root = builder.initRoot<wire::State>();
    root.setIndex(blob.index);
    root.setName(text_of(blob.name));
    root.setVersion(blob.version);
    return builder.finish();
  }

  Bytes operator()(const Finish& finish) const {
    SEALIFT_ASSERT(finish.token.size() <= limits::kPlatformBlobBytesMax);
    SEALIFT_ASSERT(finish.state_items <= limits::kStateBlobsMax);
    MetaBuilder builder(finish.page_map_digest.size() + finish.token.size());
    auto root = builder.initRoot<wire::Finish>();
    root.setEpochs(finish.epochs);
    root.setSharedPages(finish.shared_pages);
    root.setPrivatePages(finish.private_pages);
    root.setStateItems(finish.state_items);
    root.setPageMapDigest(data_of(ByteView(finish.page_map_digest)));
    root.setToken(data_of(finish.token));
    return builder.finish();
  }

  Bytes operator()(const Ready& ready) const {
    MetaBuilder builder(0);
    auto root = builder.initRoot<wire::Ready>();
    root.setLoadStateNs(ready.load_state_ns);
    root.setSealNs(ready.seal_ns);
    return builder.finish();
  }

  Bytes operator()(const Running& running) const {
    MetaBuilder builder(0);
    builder.initRoot<wire::Running>().setResumeNs(running.resume_ns);
    return builder.finish();
  }

  Bytes operator()(const Abort& abort) const {
    SEALIFT_ASSERT(abort.abort_token.size() <= limits::kPlatformBlobBytesMax);
    const std::string detail = to_wire_text(abort.detail);
    MetaBuilder builder(detail.size() + abort.abort_token.size());
    auto root = builder.initRoot<wire::Abort>();
    root.setErrorClass(static_cast<std::uint16_t>(abort.cls));
    root.setDetail(text_of(detail));
    root.setAbortToken(data_of(abort.abort_token));
    return builder.finish();
  }

  Bytes operator()(const SessionReady&) const { return empty<wire::SessionReady>(); }
  Bytes operator()(const Handover&) const { return empty<wire::Handover>(); }
  Bytes operator()(const KeepAlive&) const { return empty<wire::KeepAlive>(); }

  template <class Message>
  static Bytes empty() {
    MetaBuilder builder(0);
    builder.initRoot<Message>();
    return builder.finish();
  }
};

struct TypeOf {
  RecordType operator()(const Hello&) const { return RecordType::kHello; }
  RecordType operator()(const SessionStart&) const { return RecordType::kSessionStart; }
  RecordType operator()(const SessionAccept&) const { return RecordType::kSessionAccept; }
  RecordType operator()(const PlatformCard&) const { return RecordType::kPlatformCard; }
  RecordType operator()(const Claim&) const { return RecordType::kClaim; }
  RecordType operator()(const Inquiry&) const { return RecordType::kInquiry; }
  RecordType operator()(const Answer&) const { return RecordType::kAnswer; }
  RecordType operator()(const StreamJoin&) const { return RecordType::kStreamJoin; }
  RecordType operator()(const EpochBegin&) const { return RecordType::kEpochBegin; }
  RecordType operator()(const LivePages&) const { return RecordType::kLivePages; }
  RecordType operator()(const PlatformStart&) const { return RecordType::kPlatformStart; }
  RecordType operator()(const SessionReady&) const { return RecordType::kSessionReady; }
  RecordType operator()(const SharedBatch&) const { return RecordType::kSharedPages; }
  RecordType operator()(const PrivateBatch&) const { return RecordType::kPrivatePages; }
  RecordType operator()(const Conversions&) const { return RecordType::kConversions; }
  RecordType operator()(const EpochEnd&) const { return RecordType::kEpochEnd; }
  RecordType operator()(const EpochAck&) const { return RecordType::kEpochAck; }
  RecordType operator()(const StateBlob& blob) const {
    if (blob.kind == StateBlob::Kind::kVcpu) return RecordType::kVcpuState;
    if (blob.kind == StateBlob::Kind::kDevice) return RecordType::kDeviceState;
    SEALIFT_ASSERT(blob.kind == StateBlob::Kind::kPlatform);
    return RecordType::kPlatformState;
  }
  RecordType operator()(const Finish&) const { return RecordType::kFinish; }
  RecordType operator()(const Ready&) const { return RecordType::kReady; }
  RecordType operator()(const Handover&) const { return RecordType::kHandover; }
  RecordType operator()(const Running&) const { return RecordType::kRunning; }
  RecordType operator()(const Abort&) const { return RecordType::kAbort; }
  RecordType operator()(const KeepAlive&) const { return RecordType::kKeepAlive; }
};

std::uint8_t stream_of(const Record& record) {
  std::uint8_t stream = 0;
  if (const auto* shared = std::get_if<SharedBatch>(&record)) stream = shared->stream;
  if (const auto* priv = std::get_if<PrivateBatch>(&record)) stream = priv->stream;
  if (const auto* live = std::get_if<LivePages>(&record)) stream = live->stream;
  if (const auto* end = std::get_if<EpochEnd>(&record)) stream = end->stream;
  if (const auto* join = std::get_if<StreamJoin>(&record)) stream = join->stream;
  SEALIFT_ASSERT(stream < limits::kStreamsMax);
  return stream;
}

// The bytes of `record` that travel as payload; null for types without one. AnyRecord: Record,
// const or not.
template <class AnyRecord>
auto payload_of(AnyRecord& record) -> decltype(&std::get_if<StateBlob>(&record)->bytes) {
  if (auto* shared = std::get_if<SharedBatch>(&record)) return &shared->body;
  if (auto* live = std::get_if<LivePages>(&record)) return &live->body;
  if (auto* priv = std::get_if<PrivateBatch>(&record)) return &priv->body;
  if (auto* state = std::get_if<StateBlob>(&record)) return &state->bytes;
  return nullptr;
}

EncodedRecord encode_meta(const Record& record) {
  return {record_type_of(record), stream_of(record), std::visit(MetaEncoder{}, record), {}};
}

}  // namespace

std::uint16_t record_type_of(const Record& record) { return value(std::visit(TypeOf{}, record)); }

Bytes encode_live_pages(const LivePages& pages) { return MetaEncoder{}(pages); }

EncodedRecord encode(const Record& record) {
  EncodedRecord encoded = encode_meta(record);
  if (const Bytes* payload = payload_of(record)) encoded.payload = *payload;
  SEALIFT_ASSERT(encoded.payload.size() <= limits::kFramePayloadBytesMax);
  return encoded;
}

EncodedRecord encode(Record&& record) {
  EncodedRecord encoded = encode_meta(record);
  if (Bytes* payload = payload_of(record)) encoded.payload = std::move(*payload);
  SEALIFT_ASSERT(encoded.payload.size() <= limits::kFramePayloadBytesMax);
  return encoded;
}

}  // namespace sealift
