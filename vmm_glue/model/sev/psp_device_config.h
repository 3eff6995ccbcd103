// How slow the modelled PSP is, and what goes wrong with it on purpose.
//
// MODEL CHOICE: the profile "asp" takes 2.5 ms for each SEND_UPDATE_* and RECEIVE_UPDATE_*, the
// middle of the 350 to 450 pages a second that AMD measured on SEND_UPDATE_DATA, and 100 us for any
// other command of a guest: nobody has published a number for those.
//
// Plain values: no ownership, no threads, no failure.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string_view>

#include "vmm_glue/model/sev/mailbox.h"

namespace sealift::sev {

// Time that each command takes; one that is not named takes none.
struct LatencyProfile : std::map<MailboxCommand, std::chrono::nanoseconds> {
  using map::map;
  static LatencyProfile fast() { return {}; }
  static LatencyProfile asp();  // as the hardware's secure processor
  // "fast" or "asp"; anything else is nullopt.
  static std::optional<LatencyProfile> parse(std::string_view name);
};

// What happens to one firmware command.
struct Fault {
  enum class Kind : std::uint8_t {
    kStatus,      // answered with `status` instead of being run
    kTimeout,     // no answer: the driver gives the PSP up for good
    kNewPdh,      // somebody issues PDH_GEN just before it; it is run
    kFlipHeader,  // a bit of the packet's header is flipped: before a command that takes the packet
                  // in, after one that gives it out. Commands without a packet run as always
    kFlipBody,    // the same for the packet's body
    kCopyOut,     // it is run; the next copy to user space faults
  };

  Kind kind = Kind::kStatus;
  std::uint16_t status = 0;
  std::uint32_t bit = 0;  // of kFlipHeader and kFlipBody, modulo their size

  Fault(std::uint16_t answer) : status(answer) {}  // NOLINT(google-explicit-constructor)
  static Fault timeout() { return Fault(Kind::kTimeout); }
  static Fault new_pdh() { return Fault(Kind::kNewPdh); }
  static Fault flip_header(std::uint32_t bit) { return {Kind::kFlipHeader, bit}; }
  static Fault flip_body(std::uint32_t bit) { return {Kind::kFlipBody, bit}; }
  static Fault copy_out() { return Fault(Kind::kCopyOut); }

 private:
  explicit Fault(Kind what) : kind(what) {}
  Fault(Kind what, std::uint32_t which) : kind(what), bit(which) {}
};

// Called before each firmware command with its id and how often it was issued before (0, 1, …),
// under the mailbox mutex: do not call back. It may also return std::optional<std::uint16_t>.
using FaultHook = std::function<std::optional<Fault>(MailboxCommand id, std::uint64_t nth)>;

}  // namespace sealift::sev
