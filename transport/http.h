// A small HTTP/1.1 for the control API: one request for each connection, over tcp, unix or TLS.
//
// Owner:    an HttpServer owns its listener and threads; the destructor stops and joins them.
// Threads:  the handler is called from up to kHttpConnectionsMax threads at once. stop() may be
// called
//           from any thread but one of the handler's, and more than once.
// Failure:  a server answers what it can (400, 408, 413, 431, 503) and drops the rest; over TLS the
//           503 needs a handshake, so the connection is only closed. http_call() returns the Result
//           of connecting and streaming, or kMalformed for an answer that is not HTTP.
// Invariants: a request that is not whole within kHttpRequestMax holds its thread no longer. After
//           stop() no handler runs. The handler's exceptions become a 500.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>

#include "engine/result.h"
#include "transport/address.h"
#include "transport/cancel.h"
#include "transport/connect.h"
#include "transport/tls.h"

namespace sealift {

inline constexpr std::size_t kHttpConnectionsMax = 16;
inline constexpr std::size_t kHttpBodyBytesMax = 64u << 10;
inline constexpr std::size_t kHttpHeaderBytesMax = 16u << 10;
inline constexpr std::size_t kHttpAnswerBytesMax = 4u << 20;
inline constexpr Millis kHttpIdleTimeout{10'000};
inline constexpr Millis kHttpRequestMax{30'000};

struct HttpRequest {
  std::string method;  // as it was sent: "GET"
  std::string target;  // path and query, not decoded
  std::string body;
  std::string peer;  // for the log
};

struct HttpResponse {
  unsigned status = 200;
  std::string content_type = "application/json";
  std::string body;
};

using HttpHandler = std::function<HttpResponse(const HttpRequest&)>;

struct HttpServerOptions {
  const TlsContext* tls = nullptr;  // null: plain text; outlives the server
  Millis idle_timeout = kHttpIdleTimeout;
};

class HttpServer {
 public:
  HttpServer(Listener listener, HttpHandler handler, const HttpServerOptions& options = {});
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;
  ~HttpServer();

  [[nodiscard]] const Address& bound_address() const;
  void stop();  // wakes every connection and joins every thread

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

struct HttpCallOptions {
  const TlsContext* tls = nullptr;
  std::string expected_name;  // what the server's certificate must prove; empty: the address's host
  Millis connect_timeout = kConnectTimeoutDefault;
  Millis idle_timeout = kIdleTimeoutDefault;
};

// Any status is a success here; only an exchange that failed is an error.
Result<HttpResponse> http_call(const Address& address, const HttpCallOptions& options,
                               const std::string& method, const std::string& target,
                               const std::string& body, const CancelToken& cancel);

}  // namespace sealift
