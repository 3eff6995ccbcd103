// LockConfig: which lock manager an agent's guests run under. Plain values.
//
// Spec:    docs/operations.md, "Lock manager".
// Failure: make_locks(): kUsage for what cannot be, kPolicy for certificates.
#pragma once

#include <memory>
#include <string>

#include "fence/lease_keeper.h"
#include "fence/lock_manager.h"
#include "transport/cancel.h"

namespace sealift {

struct LockConfig {
  std::string etcd;       // "https://host:2379[,…]"; empty: no lock manager
  std::string certs_dir;  // ca.pem, host.pem, host.key for it; https needs them
  std::string prefix;     // of its keys; empty: EtcdLocks::kPrefixDefault
  LeaseTerms terms;
  bool take_over = false;  // launch a guest although another host had it last and went silent
};

// Reaches nobody yet. `stop` ends every call to it.
Result<std::unique_ptr<LockManager>> make_locks(const LockConfig& config, const CancelToken& stop);

}  // namespace sealift
