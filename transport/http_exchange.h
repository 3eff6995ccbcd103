// One HTTP message each way over a Stream. The only file behind it knows Boost.Beast.
//
// Owner: nothing is kept after a call. Threads: the stream's rules. Failure: kMalformed for bytes
// that are not HTTP or exceed a limit, otherwise what the Stream said. Internal to transport/.
#pragma once

#include <cstddef>
#include <string>

#include "engine/result.h"
#include "transport/http.h"
#include "transport/stream.h"

namespace sealift {

// A request, or the response that the client deserves instead.
struct HttpArrival {
  HttpRequest request;
  bool refused = false;
  HttpResponse refusal;
};

Result<HttpArrival> receive_request(Stream& stream, Deadline deadline);
Result<void> send_request(Stream& stream, const HttpRequest& request, const std::string& host);
Result<HttpResponse> receive_response(Stream& stream, bool answers_head);
Result<void> send_response(Stream& stream, const HttpResponse& response, bool answers_head);

// The bytes of a response, for a socket that must not be waited for.
std::string response_text(const HttpResponse& response);

}  // namespace sealift
