#include "transport/http.h"

#include <gmock/gmock.h>

#include <future>
#include <stdexcept>
#include <string>
#include <vector>

#include "transport/test_support.h"

namespace sealift {
namespace {

using test::loopback;
using test::must;
using testing::HasSubstr;
using testing::StartsWith;

HttpResponse echo(const HttpRequest& request) {
  if (request.target == "/throw") throw std::runtime_error("no such guest");
  return {request.target == "/missing" ? 404u : 200u, "text/plain",
          request.method + " " + request.target + " " + request.body};
}

Result<HttpResponse> call(const HttpServer& server, const std::string& method,
                          const std::string& target, const std::string& body = {},
                          const HttpCallOptions& options = {}) {
  return http_call(server.bound_address(), options, method, target, body, CancelToken{});
}

std::string everything_from(Stream& stream) {
  std::string text;
  Bytes part(4096);
  for (;;) {
    const auto got = stream.read_some(part);
    if (!got) return text;
    for (std::size_t i = 0; i < *got; ++i) text.push_back(static_cast<char>(part[i]));
  }
}

// What the server answers to raw bytes.
std::string answer_to(const HttpServer& server, const std::string& bytes) {
  auto stream = must(connect(server.bound_address(), {}, CancelToken{}));
  static_cast<void>(
      stream->write_all(test::bytes_of(bytes)));  // the server may answer and close early
  return everything_from(*stream);
}

TEST(Http, AnswersOverTcpUnixAndTls) {
  const test::TempDir dir;
  must(make_ca(dir.path("ca")));
  must(make_host_certificate(dir.path("ca"), dir.path("a"), {"127.0.0.1"}, 30));
  const TlsContext server_tls = must(TlsContext::load(dir.path("a"), TlsRole::kServer));
  const TlsContext client_tls = must(TlsContext::load(dir.path("a"), TlsRole::kClient));
  for (const std::string where : {"tcp:127.0.0.1:0", "tls", "unix"}) {
    SCOPED_TRACE(where);
    const bool tls = where == "tls";
    const Address address =
        where == "unix" ? must(parse_address("unix:" + dir.path("api"))) : loopback();
    HttpServerOptions serving;
    serving.tls = tls ? &server_tls : nullptr;
    HttpCallOptions calling;
    calling.tls = tls ? &client_tls : nullptr;
    HttpServer server(must(Listener::bind(address)), &echo, serving);
    const auto got = call(server, "GET", "/status?x=1", {}, calling);
    ASSERT_TRUE(got) << got.error().detail;
    EXPECT_EQ(got->status, 200u);
    EXPECT_EQ(got->content_type, "text/plain");
    EXPECT_EQ(got->body, "GET /status?x=1 ");
    EXPECT_EQ(must(call(server, "POST", "/start", "{}", calling)).body, "POST /start {}");
    EXPECT_EQ(must(call(server, "GET", "/missing", {}, calling)).status, 404u);
    EXPECT_EQ(must(call(server, "HEAD", "/", {}, calling)).body, "");
    const auto broken = must(call(server, "GET", "/throw", {}, calling));
    EXPECT_EQ(broken.status, 500u);
    EXPECT_THAT(broken.body, HasSubstr("no such guest"));
    EXPECT_EQ(must(call(server, "PUT", "/", std::string(kHttpBodyBytesMax, 'b'), calling)).status,
              200u);
    EXPECT_EQ(
        must(call(server, "PUT", "/", std::string(kHttpBodyBytesMax + 1, 'b'), calling)).status,
        413u);
  }
}

TEST(Http, RefusesWhatIsNotARequest) {
  HttpServer server(must(Listener::bind(loopback())), &echo);
  EXPECT_THAT(answer_to(server, "garbage\r\n\r\n"), StartsWith("HTTP/1.1 400"));
  EXPECT_THAT(answer_to(server, "SLFT\x01\x02\x03\x04 not http at all\r\n\r\n"),
              StartsWith("HTTP/1.1 400"));
  EXPECT_THAT(answer_to(server, "GET / HTTP/1.1\r\nx: " + std::string(20'000, 'a') + "\r\n\r\n"),
              StartsWith("HTTP/1.1 431"));
  EXPECT_THAT(answer_to(server, "PUT / HTTP/1.1\r\ncontent-length: 99999999\r\n\r\n"),
              StartsWith("HTTP/1.1 413"));
  EXPECT_THAT(answer_to(server, "PUT / HTTP/1.1\r\ncontent-length: 18446744073709551616\r\n\r\n"),
              StartsWith("HTTP/1.1 400"));
  EXPECT_EQ(must(call(server, "GET", "/alive")).status, 200u);
}

TEST(Http, AHangingClientIsDroppedAndOthersAreServed) {
  HttpServerOptions options;
  options.idle_timeout = Millis{100};
  HttpServer server(must(Listener::bind(loopback())), &echo, options);
  auto hanging = must(connect(server.bound_address(), {}, CancelToken{}));
  must(hanging->write_all(test::bytes_of("GET / HT")));
  EXPECT_EQ(must(call(server, "GET", "/")).status, 200u);
  EXPECT_EQ(everything_from(*hanging), "");
}

TEST(Http, MoreConnectionsThanThreadsGet503AndStopWakesAll) {
  HttpServer server(must(Listener::bind(loopback())), &echo);
  std::vector<std::unique_ptr<Stream>> hanging;
  for (std::size_t i = 0; i < kHttpConnectionsMax; ++i) {
    hanging.push_back(must(connect(server.bound_address(), {}, CancelToken{})));
    must(hanging.back()->write_all(test::bytes_of("GET / HTTP/1.1\r\n")));
  }
  const auto refused = call(server, "GET", "/");
  ASSERT_TRUE(refused) << refused.error().detail;
  EXPECT_EQ(refused->status, 503u);
  const test::Stopwatch watch;
  server.stop();
  EXPECT_LT(watch.elapsed(), Millis{1'000});
  for (auto& stream : hanging) EXPECT_EQ(everything_from(*stream), "");
  server.stop();
}

TEST(Http, StopWakesAClientInTheTlsHandshake) {
  const test::TempDir dir;
  must(make_ca(dir.path("ca")));
  must(make_host_certificate(dir.path("ca"), dir.path("a"), {"127.0.0.1"}, 30));
  const TlsContext tls = must(TlsContext::load(dir.path("a"), TlsRole::kServer));
  HttpServerOptions options;
  options.tls = &tls;
  HttpServer server(must(Listener::bind(loopback())), &echo, options);
  auto silent = must(connect(server.bound_address(), {}, CancelToken{}));
  test::pause_for(Millis{30});
  const test::Stopwatch watch;
  server.stop();
  EXPECT_LT(watch.elapsed(), Millis{1'000});
}

TEST(Http, TheCallerLearnsThatTheServerIsNoHttpServer) {
  Listener listener = must(Listener::bind(loopback()));
  const CancelToken cancel;
  auto serving = std::async(std::launch::async, [&] {
    auto stream = must(accept_stream(must(listener.accept(cancel)), {}, cancel));
    Bytes some(4);
    must(stream->read_exact(some));
    must(stream->write_all(test::bytes_of("SLFT is not HTTP\r\n\r\n")));
    must(stream->end_writes());
    everything_from(*stream);
  });
  const auto got = http_call(listener.bound_address(), {}, "GET", "/", "", CancelToken{});
  ASSERT_FALSE(got);
  EXPECT_EQ(got.error().cls, ErrorClass::kMalformed);
  EXPECT_THAT(got.error().detail, HasSubstr("does not speak HTTP/1.1"));
  serving.get();
  EXPECT_EQ(http_call(listener.bound_address(), {}, "GET", "/ x", "", cancel).error().cls,
            ErrorClass::kUsage);
}

}  // namespace
}  // namespace sealift
