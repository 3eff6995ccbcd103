// EtcdHttp: reaches any member of an etcd cluster over HTTP(S), in the order that answered last.
//
// Owner:    the agent; outlives the EtcdLocks that calls it. Threads: any.
// Failure:  kDisconnected when no member answers within the limit, with what each said; kCancelled.
// Invariants: a call ends within about `request_max`, however many members there are.
#pragma once

#include <atomic>
#include <optional>
#include <string>
#include <vector>

#include "fence/etcd.h"
#include "transport/address.h"
#include "transport/cancel.h"
#include "transport/tls.h"

namespace sealift {

// "https://host:2379[,https://host2:2379]", or http:// throughout, for tests.
struct EtcdEndpoints {
  std::vector<Address> members;
  bool tls = true;
};
Result<EtcdEndpoints> parse_endpoints(const std::string& text);

class EtcdHttp {
 public:
  // `tls` empty: plain text.
  EtcdHttp(std::vector<Address> members, std::optional<TlsContext> tls, Millis request_max,
           CancelToken stop);
  Result<EtcdReply> call(const std::string& path, const std::string& body);

 private:
  std::vector<Address> const members_;
  std::optional<TlsContext> const tls_;
  Millis const request_max_;
  CancelToken const stop_;
  std::atomic<std::size_t> first_{0};  // the member that answered last
};

}  // namespace sealift
