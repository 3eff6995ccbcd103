// AgentClient: calls of an agent's control API, with answers as JSON.
//
// Owner: a command. Threads: one. Failure: the transport's error, or the agent's own with its class
// and words.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "engine/result.h"
#include "transport/http.h"

namespace sealift {

class AgentClient {
 public:
  // `certs_dir` may be empty for unix addresses and for plain tcp.
  static Result<AgentClient> make(const std::string& address, const std::string& certs_dir);
  Result<nlohmann::json> get(const std::string& target) const { return call("GET", target, ""); }
  Result<nlohmann::json> post(const std::string& target, const nlohmann::json& body) const;
  const Address& address() const { return address_; }

 private:
  AgentClient(Address address, std::optional<TlsContext> tls)
      : address_(std::move(address)), tls_(std::move(tls)) {}
  Result<nlohmann::json> call(const std::string& method, const std::string& target,
                              const std::string& body) const;

  Address address_;
  std::optional<TlsContext> tls_;
};

// What an error of the agent or of reaching it means for the exit code.
int exit_code_of(const Error& error);
// kExit… for the "outcome" of a report.
int exit_code_of_outcome(const std::string& outcome);

}  // namespace sealift
