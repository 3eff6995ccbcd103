// SEV and SEV-ES guests of the agent: the software platform of this host, and the machine on it.
//
// Owner, threads, failure: as machine.h.
#pragma once

#include "tools/agent/machine.h"

namespace sealift {

// REQUIRES: config.platform is kSev or kSevEs.
Result<std::unique_ptr<PlatformHost>> make_sev_host(const PlatformConfig& config);
// REQUIRES: `host` came from make_sev_host().
Result<std::unique_ptr<Machine>> make_sev_machine(PlatformHost& host, const VmConfig& config,
                                                  bool launch);

}  // namespace sealift
