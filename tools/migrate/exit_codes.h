// Exit codes of `migrate`. Documented in --help and docs/operations.md; never renumbered.
#pragma once

namespace sealift {

enum ExitCode : int {
  kExitDone = 0,
  kExitFailed = 1,        // failed; the guest runs at the source
  kExitUsage = 2,         // an option or a value is wrong
  kExitRefused = 3,       // a check said no before anything moved
  kExitTimedOut = 4,      // --timeout-ms passed; the guest runs at the source
  kExitCancelled = 5,     // the operator asked; the guest runs at the source
  kExitPolicy = 6,        // certificates, attestation or guest policy said no
  kExitInDoubt = 7,       // paused at the source, may run at the destination
  kExitGuestLost = 8,     // the guest cannot be resumed
  kExitUnreachable = 9,   // the agent cannot be reached or gave no sensible answer
  kExitGuestFaulty = 10,  // verify: the guest found errors in its memory
  kExitGuestEnded = 11,   // the guest terminated by itself
};

inline constexpr const char* kExitCodesHelp =
    "Exit codes: 0 done; 1 failed, the guest runs at the source; 2 usage; 3 refused by a check; 4 "
    "timed out;\n"
    "5 cancelled; 6 certificates, attestation or policy; 7 in doubt: paused at the source, may run "
    "at the\n"
    "destination; 8 the guest cannot be resumed; 9 the agent cannot be reached; 10 the guest found "
    "errors;\n"
    "11 the guest terminated by itself.\n";

}  // namespace sealift
