#include "tools/agent/lock_http.h"

#include <algorithm>
#include <utility>

#include "engine/assert.h"
#include "transport/http.h"

namespace sealift {
namespace {

constexpr std::size_t kMembersMax = 9;

}  // namespace

Result<EtcdEndpoints> parse_endpoints(const std::string& text) {
  EtcdEndpoints found;
  for (std::size_t at = 0; at <= text.size();) {
    const std::size_t end = std::min(text.find(',', at), text.size());
    std::string one = text.substr(at, end - at);
    at = end + 1;
    const bool tls = one.starts_with("https://");
    if (!tls && !one.starts_with("http://")) {
      return fail(ErrorClass::kUsage, "'{}' is not https://HOST:PORT", one);
    }
    if (!found.members.empty() && tls != found.tls) {
      return fail(ErrorClass::kUsage, "'{}' mixes https and http", text);
    }
    found.tls = tls;
    one = one.substr(one.find("//") + 2);
    while (one.ends_with('/')) one.pop_back();
    SEALIFT_TRY(Address address, parse_address("tcp:" + one));
    found.members.push_back(std::move(address));
  }
  if (found.members.size() > kMembersMax) {
    return fail(ErrorClass::kUsage, "{} members of etcd; at most {}", found.members.size(),
                kMembersMax);
  }
  return found;
}

EtcdHttp::EtcdHttp(std::vector<Address> members, std::optional<TlsContext> tls, Millis request_max,
                   CancelToken stop)
    : members_(std::move(members)),
      tls_(std::move(tls)),
      request_max_(request_max),
      stop_(std::move(stop)) {
  SEALIFT_ASSERT(!members_.empty());
}

Result<EtcdReply> EtcdHttp::call(const std::string& path, const std::string& body) {
  // Connecting and answering each get half of a member's share.
  const Millis share =
      std::max(Millis{1}, request_max_ / (2 * static_cast<Millis::rep>(members_.size())));
  HttpCallOptions options;
  options.tls = tls_ ? &*tls_ : nullptr;
  options.connect_timeout = share;
  options.idle_timeout = share;
  std::string errors;
  const std::size_t first = first_.load();
  for (std::size_t i = 0; i < members_.size(); ++i) {
    const std::size_t at = (first + i) % members_.size();
    auto reply = http_call(members_[at], options, "POST", path, body, stop_);
    // 503: this member has no leader, or is no etcd at all; another may do better.
    if (reply && reply->status != 503) {
      first_.store(at);
      return EtcdReply{reply->status, std::move(reply->body)};
    }
    if (!reply && reply.error().cls == ErrorClass::kCancelled) return fail(reply.error());
    errors += (errors.empty() ? "" : "; ");
    errors += reply ? fmt::format("{} is not available: {}", to_string(members_[at]), reply->body)
                    : reply.error().detail;
  }
  return fail(ErrorClass::kDisconnected, "etcd cannot be reached: {}", errors);
}

}  // namespace sealift
