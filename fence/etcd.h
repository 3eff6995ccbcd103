// EtcdLocks: a LockManager on etcd 3.4 or later, through its v3 JSON gateway.
//
// Spec:       etcd's "gRPC gateway": POST /v3/{kv/txn,lease/grant,lease/keepalive,lease/revoke},
//             keys and values in base64, 64-bit numbers as text. docs/spec/handover.md, "Lock
//             manager", names the keys.
// Owner:      the agent. The EtcdCall outlives it.
// Threads:    any, if the EtcdCall allows it.
// Failure:    as LockManager. Whatever etcd says beside what is expected is kMalformed, with the
//             beginning of its text; nothing it says crashes or exhausts this host.
// Invariants: one transaction reads or compares both keys of a guest.
#pragma once

#include <functional>
#include <string>

#include "fence/lock_manager.h"

namespace sealift {

struct EtcdReply {
  unsigned status = 0;  // of HTTP
  std::string body;
};
// POSTs `body` to `path` of any member of the cluster. Bounded in time and in the reply's size.
using EtcdCall = std::function<Result<EtcdReply>(const std::string& path, const std::string& body)>;

class EtcdLocks final : public LockManager {
 public:
  static constexpr const char* kPrefixDefault = "/sealift";
  // `name`: for people.
  EtcdLocks(EtcdCall call, std::string name, std::string prefix = kPrefixDefault);

  std::string describe() const override { return name_; }
  Result<LockState> read(const std::string& guest) override;
  Result<Written> write(const std::string& guest, const LockState& seen, const GuestRight& next,
                        const LeaseId& holder) override;
  Result<Lease> grant(std::uint64_t ttl_ns) override;  // whole seconds, rounded up
  Result<std::optional<std::uint64_t>> renew(const LeaseId& lease) override;
  Result<void> revoke(const LeaseId& lease) override;

  std::string right_key(const std::string& guest) const;
  std::string holder_key(const std::string& guest) const;

 private:
  EtcdCall const call_;
  std::string const name_;
  std::string const prefix_;
};

}  // namespace sealift
