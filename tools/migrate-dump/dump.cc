#include "tools/migrate-dump/dump.h"

#include <algorithm>
#include <map>
#include <utility>

#include "journal/record.h"
#include "schemas/codec.h"
#include "schemas/record_type.h"
#include "transport/frame.h"

namespace sealift {
namespace {

constexpr std::size_t kRunsShown = 8;  // a full batch of scattered pages would fill the screen

void append_run(std::string& text, std::uint64_t first, std::uint64_t last) {
  text += fmt::format("{}{:#x}", text.empty() ? "gfn " : ", ", first);
  if (last != first) text += fmt::format("-{:#x}", last);
}

std::string in_words(std::vector<GfnRange> runs) {
  std::string text;
  for (std::size_t i = 0; i < std::min(runs.size(), kRunsShown); ++i) {
    append_run(text, value(runs[i].first), value(runs[i].first) + runs[i].pages - 1);
  }
  if (runs.size() > kRunsShown) text += fmt::format(" and {} more runs", runs.size() - kRunsShown);
  return text;
}

std::string in_words(const std::vector<Gfn>& gfns) {
  std::vector<GfnRange> runs;
  for (Gfn gfn : gfns) {
    if (!runs.empty() && end_of(runs.back()) == gfn) {
      ++runs.back().pages;
    } else {
      runs.push_back(GfnRange{gfn, 1});
    }
  }
  return in_words(std::move(runs));
}

const char* name_of(PrivateOp op) {
  switch (op) {
    case PrivateOp::kImport:
      return "import";
    case PrivateOp::kCancel:
      return "cancel";
    case PrivateOp::kMetadata:
      return "metadata";
    case PrivateOp::kNothing:
      return "nothing";
    case PrivateOp::kImportEmpty:
      return "import empty";
  }
  return "invalid operation";
}

const char* name_of(StateBlob::Kind kind) {
  switch (kind) {
    case StateBlob::Kind::kVcpu:
      return "vCPU";
    case StateBlob::Kind::kDevice:
      return "device";
    case StateBlob::Kind::kPlatform:
      return "platform";
  }
  return "invalid kind";
}

// How often each op occurs, ascending by its number: "2 import, 1 cancel".
std::string in_words(const std::vector<PrivateOp>& ops) {
  std::map<PrivateOp, std::size_t> counts;
  for (PrivateOp op : ops) ++counts[op];
  std::string text;
  for (const auto& [op, count] : counts) {
    text += fmt::format("{}{} {}", text.empty() ? "" : ", ", count, name_of(op));
  }
  return text;
}

std::string kind_text(std::uint8_t record) {
  return record == 0 ? "nothing" : sealift::name_of(static_cast<JournalKind>(record));
}

std::string in_words(const RightWord& word) {
  std::string text = fmt::format(
      "migration {}, generation {}, guest \"{}\" from \"{}\" to \"{}\": {}{}",
      hex_text(word.claim.migration), word.claim.generation, word.guest, word.source,
      word.destination, kind_text(word.record), word.has_guest ? ", has the guest" : "");
  text += fmt::format(", page map {}, memory {}", hex_text(word.page_map_sha256),
                      hex_text(word.memory_sha256));
  if (word.proven != 0) {
    text += fmt::format(", MAC of {} {}", kind_text(word.proven), hex_text(word.mac));
  }
  return text;
}

struct Describe {
  std::string operator()(const Hello& hello) const {
    return fmt::format(
        "\"{}\" ({}), versions {}-{}, platform {}, backend {}, {} vCPUs, {} pages of {} bytes: {}, "
        "features {:#x}, batches up to {} pages, up to {} streams{}",
        hello.agent_name, hello.build, hello.version_min, hello.version_max,
        name_of(hello.platform), hello.backend, hello.vcpus, pages_in(hello.memory),
        hello.page_bytes, in_words(hello.memory), hello.features, hello.batch_pages_max,
        hello.streams_max, hello.check_only ? ", check only" : "");
  }
  std::string operator()(const SessionStart& start) const {
    return fmt::format("guest \"{}\", {} streams{}", start.guest_name, start.streams,
                       start.verify ? ", verify" : "");
  }
  std::string operator()(const SessionAccept& accept) const {
    return fmt::format("identity of {} bytes", accept.identity.size());
  }
  std::string operator()(const PlatformCard& card) const {
    return fmt::format("card of {} bytes", card.card.size());
  }
  std::string operator()(const Claim& claim) const {
    return fmt::format("migration {}, generation {}", hex_text(claim.migration), claim.generation);
  }
  std::string operator()(const Inquiry& inquiry) const { return in_words(inquiry.word); }
  std::string operator()(const Answer& answer) const { return in_words(answer.word); }
  std::string operator()(const PlatformStart& start) const {
    return fmt::format("start of {} bytes", start.start.size());
  }
  std::string operator()(const SharedBatch& batch) const {
    return fmt::format(
        "epoch {}, {} pages ({} zero): {}", batch.epoch, batch.gfns.size(),
        std::count(batch.encodings.begin(), batch.encodings.end(), PageEncoding::kZero),
        in_words(batch.gfns));
  }
  std::string operator()(const LivePages& pages) const {
    std::vector<GfnRange> runs = pages.zero;
    runs.insert(runs.end(), pages.raw.begin(), pages.raw.end());
    return fmt::format("epoch {}, {} pages ({} zero): {}", pages.epoch, pages_in(runs),
                       pages_in(pages.zero), in_words(std::move(runs)));
  }
  std::string operator()(const StreamJoin&) const { return ""; }  // a secret
  std::string operator()(const EpochBegin& begin) const {
    return fmt::format("epoch {}", begin.epoch);
  }
  std::string operator()(const PrivateBatch& batch) const {
    return fmt::format("epoch {}, {} entries ({}): {}", batch.epoch, batch.gfns.size(),
                       in_words(batch.ops), in_words(batch.gfns));
  }
  std::string operator()(const Conversions& conversions) const {
    std::string text = fmt::format("epoch {}", conversions.epoch);
    const auto append = [&](const char* to, const std::vector<GfnRange>& ranges) {
      if (ranges.empty()) return;
      text += fmt::format(", {} pages to {}: {}", pages_in(ranges), to, in_words(ranges));
    };
    append("shared", conversions.to_shared);
    append("private", conversions.to_private);
    return text;
  }
  std::string operator()(const EpochEnd& end) const {
    return fmt::format("epoch {}, {} shared and {} private pages, token of {} bytes", end.epoch,
                       end.shared_pages, end.private_pages, end.token.size());
  }
  std::string operator()(const EpochAck& ack) const { return fmt::format("epoch {}", ack.epoch); }
  std::string operator()(const StateBlob& blob) const {
    return fmt::format("{} {}, \"{}\" version {}, {} bytes", name_of(blob.kind), blob.index,
                       blob.name, blob.version, blob.bytes.size());
  }
  std::string operator()(const Finish& finish) const {
    return fmt::format(
        "{} epochs, {} shared and {} private pages, {} state items, page map {}, token of {} bytes",
        finish.epochs, finish.shared_pages, finish.private_pages, finish.state_items,
        hex_text(finish.page_map_digest), finish.token.size());
  }
  std::string operator()(const Ready& ready) const {
    return fmt::format("state loaded in {} ns, sealed in {} ns", ready.load_state_ns,
                       ready.seal_ns);
  }
  std::string operator()(const Running& running) const {
    return fmt::format("resumed in {} ns", running.resume_ns);
  }
  std::string operator()(const Abort& abort) const {
    return fmt::format("{}: \"{}\", token of {} bytes", name_of(abort.cls), abort.detail,
                       abort.abort_token.size());
  }
  std::string operator()(const SessionReady&) const { return ""; }
  std::string operator()(const Handover&) const { return "the right to run moves"; }
  std::string operator()(const KeepAlive&) const { return ""; }
};

Result<std::string> next_line(ByteView bytes, std::size_t& offset, FrameOrder& order) {
  const std::size_t start = offset;
  SEALIFT_TRY(Frame frame, parse_frame(bytes, offset, order));
  SEALIFT_TRY(const FrameHeader header,
              decode_header(bytes.subspan(start).first<kFrameHeaderBytes>()));
  auto record = decode(frame.type, frame.stream, frame.meta, std::move(frame.payload));
  if (!record) {
    return fail(record.error().cls, "at offset {}: {}", start, record.error().detail);
  }
  std::string line =
      fmt::format("{:>10} {:<13} stream {:<2} sequence {:<5} meta {:<6} payload {:<7}", start,
                  record_type_name(header.type), header.stream, header.sequence, header.meta_bytes,
                  header.payload_bytes);
  const std::string fields = record->has_value()
                                 ? describe(**record)
                                 : fmt::format("type {:#06x} is optional and skipped", header.type);
  if (!fields.empty()) line += " " + fields;
  line.erase(line.find_last_not_of(' ') + 1);
  return line;
}

}  // namespace

std::string describe(const Record& record) { return std::visit(Describe{}, record); }

DumpResult dump_stream(ByteView bytes, const std::function<void(std::string_view)>& print) {
  DumpResult result;
  FrameOrder order;
  for (std::size_t offset = 0; offset < bytes.size(); ++result.frames) {
    auto line = next_line(bytes, offset, order);
    if (!line) {
      result.error = std::move(line.error());
      break;
    }
    print(*line);
  }
  return result;
}

}  // namespace sealift
