#include "transport/http_exchange.h"

#include <array>
#include <boost/asio/buffer.hpp>
#include <boost/asio/error.hpp>
#include <boost/beast/core/buffers_to_string.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http.hpp>
#include <exception>
#include <optional>
#include <sstream>
#include <string>
#include <utility>

namespace sealift {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using Code = beast::error_code;

// Our Stream as Beast wants to see one. Beast carries a bare code; the Error itself waits in
// `error`.
class BeastStream {
 public:
  BeastStream(Stream& stream, Deadline deadline) : stream_(stream), deadline_(deadline) {}

  template <class MutableBuffers>
  std::size_t read_some(const MutableBuffers& buffers, Code& code) {
    for (auto at = asio::buffer_sequence_begin(buffers); at != asio::buffer_sequence_end(buffers);
         ++at) {
      const asio::mutable_buffer buffer = *at;
      if (buffer.size() == 0) continue;
      if (deadline_.remaining() == Millis{0}) {
        return stop(code, {ErrorClass::kTimedOut,
                           fmt::format("{} did not finish its request in time", stream_.peer())});
      }
      auto got = stream_.read_some({static_cast<std::byte*>(buffer.data()), buffer.size()});
      if (!got) return stop(code, std::move(got.error()));
      code = {};
      return *got;
    }
    code = {};
    return 0;
  }
  template <class ConstBuffers>
  std::size_t write_some(const ConstBuffers& buffers, Code& code) {
    std::size_t bytes = 0;
    for (auto at = asio::buffer_sequence_begin(buffers); at != asio::buffer_sequence_end(buffers);
         ++at) {
      const asio::const_buffer buffer = *at;
      auto sent = stream_.write_all({static_cast<const std::byte*>(buffer.data()), buffer.size()});
      if (!sent) return stop(code, std::move(sent.error()));
      bytes += buffer.size();
    }
    code = {};
    return bytes;
  }
  // The forms that throw are part of Beast's stream concept; nothing here calls them.
  template <class MutableBuffers>
  std::size_t read_some(const MutableBuffers& buffers) {
    Code code;
    const std::size_t got = read_some(buffers, code);
    if (code) throw beast::system_error(code);
    return got;
  }
  template <class ConstBuffers>
  std::size_t write_some(const ConstBuffers& buffers) {
    Code code;
    const std::size_t sent = write_some(buffers, code);
    if (code) throw beast::system_error(code);
    return sent;
  }

  // What the stream said, if it said something; otherwise what Beast says about the bytes.
  [[nodiscard]] Error error_for(const Code& code) const {
    if (error_) return *error_;
    return {ErrorClass::kMalformed,
            fmt::format("{} does not speak HTTP/1.1: {}", stream_.peer(), code.message())};
  }
  [[nodiscard]] bool failed() const { return error_.has_value(); }

 private:
  std::size_t stop(Code& code, Error error) {
    error_ = std::move(error);
    code = asio::error::operation_aborted;
    return 0;
  }

  Stream& stream_;
  const Deadline deadline_;
  std::optional<Error> error_;
};

// What a client is told about a request that cannot be read.
HttpResponse refusal_for(const Code& code) {
  if (code == http::error::body_limit) {
    return {413, "text/plain", fmt::format("the body exceeds {} bytes\n", kHttpBodyBytesMax)};
  }
  if (code == http::error::header_limit || code == http::error::buffer_overflow) {
    return {431, "text/plain", fmt::format("the header exceeds {} bytes\n", kHttpHeaderBytesMax)};
  }
  return {400, "text/plain", fmt::format("the request is not HTTP/1.1: {}\n", code.message())};
}

http::response<http::string_body> to_beast(const HttpResponse& response) {
  http::response<http::string_body> message;
  message.version(11);
  message.result(response.status);
  message.set(http::field::server, "sealift");
  message.set(http::field::content_type, response.content_type);
  message.set(http::field::connection, "close");
  message.body() = response.body;
  message.prepare_payload();
  return message;
}

// Beast reports by code; what is left to throw is exhausted memory and a header that cannot be.
template <class Work>
auto guarded(const char* doing, const Work& work) -> decltype(work()) {
  try {
    return work();
  } catch (const std::exception& error) {
    return fail(ErrorClass::kLocalFault, "{}: {}", doing, error.what());
  }
}

}  // namespace

Result<HttpArrival> receive_request(Stream& stream, Deadline deadline) {
  return guarded("reading an HTTP request", [&]() -> Result<HttpArrival> {
    BeastStream adapter(stream, deadline);
    beast::flat_buffer buffer(kHttpHeaderBytesMax + kHttpBodyBytesMax);
    http::request_parser<http::string_body> parser;
    parser.header_limit(kHttpHeaderBytesMax);
    parser.body_limit(kHttpBodyBytesMax);
    Code code;
    http::read(adapter, buffer, parser, code);
    HttpArrival arrival;
    if (code && adapter.failed()) {
      const Error error = adapter.error_for(code);
      if (error.cls != ErrorClass::kTimedOut) return fail(error);
      arrival.refusal = {408, "text/plain", error.detail + "\n"};
      arrival.refused = true;
      return arrival;
    }
    if (code) {
      arrival.refusal = refusal_for(code);
      arrival.refused = true;
      return arrival;
    }
    auto message = parser.release();
    arrival.request.method = std::string(message.method_string());
    arrival.request.target = std::string(message.target());
    arrival.request.body = std::move(message.body());
    arrival.request.peer = stream.peer();
    return arrival;
  });
}

Result<void> send_request(Stream& stream, const HttpRequest& request, const std::string& host) {
  return guarded("writing an HTTP request", [&]() -> Result<void> {
    http::request<http::string_body> message;
    message.version(11);
    message.method_string(request.method);
    message.target(request.target);
    message.set(http::field::host, host);
    message.set(http::field::connection, "close");
    if (!request.body.empty()) message.set(http::field::content_type, "application/json");
    message.body() = request.body;
    message.prepare_payload();
    BeastStream adapter(stream, Deadline::after(kNoTimeout));
    Code code;
    http::write(adapter, message, code);
    if (code) return fail(adapter.error_for(code));
    return {};
  });
}

Result<HttpResponse> receive_response(Stream& stream, bool answers_head) {
  return guarded("reading an HTTP response", [&]() -> Result<HttpResponse> {
    BeastStream adapter(stream, Deadline::after(kNoTimeout));
    beast::flat_buffer buffer(kHttpHeaderBytesMax + kHttpAnswerBytesMax);
    http::response_parser<http::string_body> parser;
    parser.header_limit(kHttpHeaderBytesMax);
    parser.body_limit(kHttpAnswerBytesMax);
    parser.skip(answers_head);
    Code code;
    http::read(adapter, buffer, parser, code);
    if (code) return fail(adapter.error_for(code));
    auto message = parser.release();
    return HttpResponse{message.result_int(), std::string(message[http::field::content_type]),
                        std::move(message.body())};
  });
}

Result<void> send_response(Stream& stream, const HttpResponse& response, bool answers_head) {
  return guarded("writing an HTTP response", [&]() -> Result<void> {
    auto message = to_beast(response);
    BeastStream adapter(stream, Deadline::after(kNoTimeout));
    http::response_serializer<http::string_body> serializer(message);
    Code code;
    if (answers_head) {
      http::write_header(adapter, serializer, code);
    } else {
      http::write(adapter, serializer, code);
    }
    if (code) return fail(adapter.error_for(code));
    return {};
  });
}

std::string response_text(const HttpResponse& response) {
  std::ostringstream text;
  text << to_beast(response);
  return text.str();
}

}  // namespace sealift
