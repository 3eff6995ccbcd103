#include "vmm_glue/exits/system_event.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <bit>
#include <span>

#include "engine/assert.h"
#include "vmm_glue/exits/guest_text.h"

namespace sealift {
namespace {

using Words = std::span<const std::uint64_t>;

// Types of KVM_EXIT_SYSTEM_EVENT.
constexpr std::uint32_t kShutdown = 1;
constexpr std::uint32_t kReset = 2;
constexpr std::uint32_t kCrash = 3;
constexpr std::uint32_t kSevTerm = 6;
constexpr std::uint32_t kTdxFatal = 7;
// As first posted (April 2022): bit 31 announces ndata, and SEV_TERM is 4.
constexpr std::uint32_t kNdataValid = 1u << 31;
constexpr std::uint32_t kPostedSevTerm = 4 | kNdataValid;

// The GHCB MSR: a request in the low twelve bits, or the address of the GHCB.
constexpr std::uint64_t kRequestMask = 0xfff;
constexpr std::uint64_t kTerminate = 0x100;

// Of the GHCB page: exit code, info 1 and info 2 follow each other.
constexpr std::uint64_t kSwExitCodeAt = 0x390;
constexpr std::uint64_t kExitTerminate = 0x8000fffe;

const char* words_of_set0(std::uint32_t code) {
  switch (code) {
    case 0:
      return "general";
    case 1:
      return "GHCB protocol versions do not meet";
    case 2:
      return "the hypervisor lacks SNP features";
    default:
      return nullptr;
  }
}

// Set 1: Linux.
const char* words_of_set1(std::uint32_t code) {
  constexpr std::array kWords = {"GHCB registration failed",
                                 "page-state change failed",
                                 "PVALIDATE failed",
                                 "not running at VMPL0",
                                 "CPUID table wrong",
                                 "CPUID by hypervisor failed",
                                 "no secrets page",
                                 "no SVSM",
                                 "SVSM left the guest at VMPL0",
                                 "SVSM calling area wrong",
                                 "secure TSC failed",
                                 "SVSM calling area not remapped",
                                 "secure AVIC failed"};
  return code < kWords.size() ? kWords[code] : nullptr;
}

std::string reason_text(std::uint32_t set, std::uint32_t code) {
  const char* words = set == 0 ? words_of_set0(code) : set == 1 ? words_of_set1(code) : nullptr;
  return fmt::format("reason set {} code {} ({})", set, code,
                     words == nullptr ? "no known meaning" : words);
}

const char* misuse_of(std::uint64_t request) {
  switch (request) {
    case 0x010:
      return "asked for a GHCB address";
    case 0x012:
      return "registered a GHCB";
    case 0x014:
      return "asked for a page-state change";
    default:
      return nullptr;
  }
}

// Termination by GHCB page: the guest wrote exit code and reasons into it, and may have written
// something else since.
void read_ghcb(const GuestBytes* memory, SevTermination& sev, std::string& why) {
  std::array<std::uint64_t, 3> words{};
  const Gpa at{sev.ghcb + kSwExitCodeAt};
  if (memory == nullptr || !memory->read(at, std::as_writable_bytes(std::span(words)))) {
    why =
        fmt::format("the guest terminated itself; its GHCB at gpa {:#x} cannot be read", sev.ghcb);
    return;
  }
  if (words[0] != kExitTerminate) {
    why =
        fmt::format("the guest terminated itself; its GHCB at gpa {:#x} has exit code {:#x} by now",
                    sev.ghcb, words[0]);
    return;
  }
  sev.has_reason = true;
  sev.reason_set = static_cast<std::uint32_t>(words[1] & 0xf);
  sev.reason_code = static_cast<std::uint32_t>(words[1] >> 4 & 0xff);
  sev.detail = words[2];
  why = fmt::format("the guest terminated itself: {}, detail {:#x}",
                    reason_text(sev.reason_set, sev.reason_code), sev.detail);
}

void decode_sev(std::uint64_t ghcb, const GuestBytes* memory, GuestEnd& end) {
  end.kind = GuestEndKind::kSevTerminated;
  SevTermination& sev = end.sev.emplace();
  sev.ghcb = ghcb;
  const std::uint64_t request = ghcb & kRequestMask;
  if (request == 0) return read_ghcb(memory, sev, end.why);
  if (request == kTerminate) {
    sev.has_reason = true;
    sev.reason_set = static_cast<std::uint32_t>(ghcb >> 12 & 0xf);
    sev.reason_code = static_cast<std::uint32_t>(ghcb >> 16 & 0xff);
    end.why = fmt::format("the guest terminated itself: {}",
                          reason_text(sev.reason_set, sev.reason_code));
    return;
  }
  const char* misuse = misuse_of(request);
  end.why =
      misuse != nullptr
          ? fmt::format("the guest {} as only an SNP guest may (GHCB MSR {:#x})", misuse, ghcb)
          : fmt::format("the guest ended with GHCB MSR {:#x}, which is no termination", ghcb);
}

// Words of the message in their order; the index is the register's number in x86 encoding.
std::string tdx_message(Words data) {
  constexpr std::array<std::size_t, 8> kOrder = {14, 15, 3, 7, 6, 8, 9, 2};
  const std::uint64_t exposed = data[1];
  Bytes text;
  for (const std::size_t reg : kOrder) {
    if ((exposed >> reg & 1) == 0) continue;
    const auto bytes = std::bit_cast<std::array<std::byte, 8>>(data[reg]);
    text.insert(text.end(), bytes.begin(), bytes.end());
  }
  text.erase(std::find(text.begin(), text.end(), std::byte{0}), text.end());
  return escape_guest_text(text, kTdxMessageBytesMax);
}

void decode_tdx(Words data, GuestEnd& end) {
  end.kind = GuestEndKind::kTdxFatal;
  if (data.size() < 16) {
    end.why = fmt::format("the guest reported a fatal error with {} registers instead of 16",
                          data.size());
    return;
  }
  TdxFatal& tdx = end.tdx.emplace();
  tdx.error_code = static_cast<std::uint32_t>(data[12]);
  if ((data[12] >> 63) != 0) tdx.gpa = data[13];
  tdx.message = tdx_message(data);
  end.why = fmt::format("the guest reported fatal error {:#x}", tdx.error_code);
  if ((tdx.error_code & 0xffff) != 0) end.why += " (no valid code)";
  if (!tdx.message.empty()) end.why += fmt::format(", \"{}\"", tdx.message);
  if (tdx.gpa) end.why += fmt::format(", more at gpa {:#x}", *tdx.gpa);
}

// The kernels of the posted form announced one word and wrote the second.
std::uint64_t posted_ghcb(Words both) {
  const auto is_termination = [](std::uint64_t word) {
    return (word & kRequestMask) == kTerminate;
  };
  return is_termination(both[0]) || !is_termination(both[1]) ? both[0] : both[1];
}

void name_plain(GuestEndKind kind, const char* words, GuestEnd& end) {
  end.kind = kind;
  end.why = words;
}

void decode_event(const KvmRun::SystemEvent& event, const ExitAbi& abi, const GuestBytes* memory,
                  GuestEnd& end) {
  const bool posted = (event.type & kNdataValid) != 0;
  const std::size_t ndata = posted || abi.has_system_event_data
                                ? std::min<std::size_t>(event.ndata, std::size(event.data))
                                : 0;
  const Words data(event.data, ndata);
  if (event.type == kPostedSevTerm && ndata > 0) {
    return decode_sev(posted_ghcb(Words(event.data, 2)), memory, end);
  }
  switch (event.type & ~kNdataValid) {
    case kShutdown:
      return name_plain(GuestEndKind::kShutdown, "the guest shut itself down", end);
    case kReset:
      return name_plain(GuestEndKind::kReset, "the guest asked for a reset", end);
    case kCrash:
      return name_plain(GuestEndKind::kCrash, "the guest reported a crash", end);
    case kSevTerm:
      if (ndata > 0) return decode_sev(data[0], memory, end);
      return name_plain(GuestEndKind::kSevTerminated,
                        "the guest terminated itself; the kernel gave no reason", end);
    case kTdxFatal:
      return decode_tdx(data, end);
    default:
      end.why = fmt::format("the guest ended with system event {:#x}, which has no known meaning",
                            event.type);
  }
}

}  // namespace

GuestEnd decode_guest_end(const KvmRun& run, const ExitAbi& abi, const GuestBytes* memory) {
  GuestEnd end;
  if (run.exit_reason == kKvmExitShutdown) {
    name_plain(GuestEndKind::kTripleFault, "triple fault (KVM_EXIT_SHUTDOWN)", end);
    return end;
  }
  SEALIFT_ASSERT(run.exit_reason == kKvmExitSystemEvent);
  const KvmRun::SystemEvent event = run.exit.system_event;
  decode_event(event, abi, memory, end);
  return end;
}

}  // namespace sealift
