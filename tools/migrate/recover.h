// `migrate recover`: who may run a guest after a migration that did not end, and carrying it out.
//
// Spec:    docs/spec/handover.md; the rules are journal/standing.h's settle().
// Threads: one. Failure: an agent that cannot be reached is a side that cannot be asked, not an
//          error; without any side it is kExitUnreachable. "Needs a human" is kExitInDoubt.
#pragma once

#include <string>

#include "tools/migrate/commands.h"

namespace sealift {

struct RecoverOptions {
  std::string peer;    // the other agent's control address; empty: not asked
  bool apply = false;  // carry the verdict out
  std::string decide;  // a human's own verdict: "run source", "run destination" or "forget"
};

int run_recover(const AgentOptions& common, const RecoverOptions& options);

}  // namespace sealift
