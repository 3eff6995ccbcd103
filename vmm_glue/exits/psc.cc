#include "vmm_glue/exits/psc.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <span>

#include "engine/assert.h"

namespace sealift {
namespace {

std::uint64_t answer_to(PscRefusal refusal) {
  switch (refusal) {
    case PscRefusal::kNone:
    case PscRefusal::kLater:
      return kPscDone;
    case PscRefusal::kBadHeader:
      return kPscHeaderInvalid;
    case PscRefusal::kBadEntry:
      return kPscEntryInvalid;
    default:
      return kPscFailed;
  }
}

bool is_valid(PscEntry entry) {
  return entry.cur_page() <= entry.pages() && value(entry.gfn()) % entry.pages() == 0 &&
         entry.reserved() == 0;
}

bool is_complete(PscEntry entry) { return entry.cur_page() == entry.pages(); }

GfnRange pages_left(PscEntry entry) {
  return {entry.gfn() + entry.cur_page(), entry.pages() - entry.cur_page()};
}

// Entries [first, end) that one convert() serves.
struct Run {
  std::size_t first = 0;
  std::size_t end = 0;
  PscOperation operation{};
  GfnRange range;
};

class Buffer {
 public:
  Buffer(ByteView copy, Gpa gpa, GuestBytes& guest)
      : copy_(copy), gpa_(gpa), guest_(guest), header_(load_at<PscHeader>(copy, 0)) {}

  const PscHeader& header() const { return header_; }
  std::size_t capacity() const { return (copy_.size() - sizeof(PscHeader)) / sizeof(PscEntry); }
  PscEntry entry(std::size_t index) const { return load_at<PscEntry>(copy_, offset_of(index)); }

  // REQUIRES: the entry at `first` is valid and not complete.
  Run run_from(std::size_t first) const {
    const PscEntry head = entry(first);
    Run run{first, first + 1, head.operation(), pages_left(head)};
    for (; run.end <= header_.end_entry; ++run.end) {
      const PscEntry next = entry(run.end);
      if (!is_valid(next) || next.cur_page() != 0) break;
      if (next.operation() != run.operation || next.gfn() != end_of(run.range)) break;
      run.range.pages += next.pages();
    }
    return run;
  }

  bool mark_complete(const Run& run) {
    std::array<PscEntry, kPscEntriesMax> done;
    for (std::size_t i = run.first; i < run.end; ++i) done[i - run.first] = entry(i).completed();
    const auto entries = std::span(done).first(run.end - run.first);
    return guest_.write(Gpa{value(gpa_) + offset_of(run.first)}, std::as_bytes(entries));
  }

  bool set_current(std::size_t index) {
    const auto current = static_cast<std::uint16_t>(index);
    if (current == header_.cur_entry) return true;
    header_.cur_entry = current;
    return guest_.write(gpa_, std::as_bytes(std::span(&header_.cur_entry, 1)));
  }

 private:
  static std::size_t offset_of(std::size_t index) {
    return sizeof(PscHeader) + index * sizeof(PscEntry);
  }

  ByteView copy_;
  Gpa gpa_;
  GuestBytes& guest_;
  PscHeader header_;
};

PscRefusal convert_run(const Run& run, const MemoryLayout& layout, Converter& converter,
                       PscOutcome& out) {
  PageClass cls{};
  if (!class_wanted(run.operation, cls)) return PscRefusal::kNone;
  if (!layout.contains(run.range)) return PscRefusal::kNotRam;
  const auto refusal = refusal_of(converter.convert(run.range, cls));
  if (refusal != PscRefusal::kNone) return refusal;
  out.converted_pages += run.range.pages;
  ++out.conversions;
  return PscRefusal::kNone;
}

PscRefusal process(Buffer& buffer, const MemoryLayout& layout, Converter& converter,
                   PscOutcome& out) {
  const PscHeader header = buffer.header();
  if (header.end_entry >= buffer.capacity() || header.reserved != 0) return PscRefusal::kBadHeader;
  for (std::size_t index = header.cur_entry; index <= header.end_entry;) {
    const PscEntry entry = buffer.entry(index);
    auto refusal = is_valid(entry) ? PscRefusal::kNone : PscRefusal::kBadEntry;
    std::size_t next = index + 1;
    if (refusal == PscRefusal::kNone && !is_complete(entry)) {
      const Run run = buffer.run_from(index);
      next = run.end;
      refusal = convert_run(run, layout, converter, out);
      if (refusal == PscRefusal::kNone && !buffer.mark_complete(run))
        return PscRefusal::kUnwritable;
    }
    if (refusal != PscRefusal::kNone) return refusal;
    if (!buffer.set_current(next)) return PscRefusal::kUnwritable;
    index = next;
  }
  return PscRefusal::kNone;
}

const char* reason_of(PscRefusal refusal) {
  switch (refusal) {
    case PscRefusal::kNone:
      return "complete";
    case PscRefusal::kLater:
      return "the guest is to ask again";
    case PscRefusal::kBadHeader:
      return "the header is invalid";
    case PscRefusal::kBadEntry:
      return "an entry is invalid";
    case PscRefusal::kNotRam:
      return "the range is not wholly RAM";
    case PscRefusal::kFailed:
      return "the platform refused";
    case PscRefusal::kUnwritable:
      return "the buffer stopped being shared RAM";
    case PscRefusal::kOtherRequest:
      return "not a page-state change";
    case PscRefusal::kBadOperation:
      return "the operation is neither private nor shared";
    case PscRefusal::kReservedBits:
      return "reserved bits are set";
    case PscRefusal::kNoGhcb:
      return "the GHCB is not shared RAM";
    case PscRefusal::kBadUsage:
      return "the GHCB has another usage";
    case PscRefusal::kMissingField:
      return "the GHCB lacks a field";
    case PscRefusal::kBadScratch:
      return "the buffer is not inside the GHCB";
  }
  return "unknown";
}

}  // namespace

PscRefusal refusal_of(Converted answer) {
  switch (answer) {
    case Converted::kDone:
    case Converted::kAlready:
      return PscRefusal::kNone;
    case Converted::kLater:
      return PscRefusal::kLater;
    case Converted::kFailed:
      break;
  }
  return PscRefusal::kFailed;
}

bool class_wanted(PscOperation operation, PageClass& cls) {
  if (operation == PscOperation::kPrivate) {
    cls = PageClass::kPrivate;
  } else if (operation == PscOperation::kShared) {
    cls = PageClass::kShared;
  } else {
    return false;
  }
  return true;
}

std::string describe(const PscOutcome& outcome) {
  return fmt::format("page-state change of {} pages in {} conversions, answer {:#x}: {}",
                     outcome.converted_pages, outcome.conversions, outcome.answer,
                     reason_of(outcome.refusal));
}

PscOutcome change_page_states(ByteView copy, Gpa gpa, const MemoryLayout& layout,
                              Converter& converter, GuestBytes& guest) {
  SEALIFT_ASSERT(copy.size() >= sizeof(PscHeader));
  const std::size_t room = sizeof(PscHeader) + kPscEntriesMax * sizeof(PscEntry);
  Buffer buffer(copy.first(std::min(copy.size(), room)), gpa, guest);
  PscOutcome out;
  out.refusal = process(buffer, layout, converter, out);
  out.answer = answer_to(out.refusal);
  return out;
}

}  // namespace sealift
