#include "transport/tls.h"

#include <gmock/gmock.h>
#include <sys/stat.h>

#include <array>
#include <atomic>
#include <csignal>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <future>
#include <string>

#include "transport/certs.h"
#include "transport/test_support.h"
#include "transport/tls_state.h"
#include "transport/tls_stream.h"
#include "transport/tls_verify.h"

namespace sealift {
namespace {

using test::connected;
using test::Ends;
using test::loopback;
using test::must;
using test::Pair;
using test::PairOptions;
using test::try_connect;
using testing::AllOf;
using testing::ContainsRegex;
using testing::HasSubstr;

constexpr std::time_t kTwoYears = 730L * 86'400;

class Tls : public testing::Test {
 protected:
  void SetUp() override {
    must(make_ca(dir_.path("ca")));
    must(make_host_certificate(dir_.path("ca"), dir_.path("a"), {"alpha", "127.0.0.1"}, 30));
    must(make_host_certificate(dir_.path("ca"), dir_.path("b"), {"beta"}, 30));
    must(make_ca(dir_.path("other-ca")));
    must(make_host_certificate(dir_.path("other-ca"), dir_.path("other"), {"127.0.0.1"}, 30));
  }
  TlsContext load(const std::string& name, TlsRole role, const TlsOptions& options = {}) {
    return must(TlsContext::load(dir_.path(name), role, options));
  }
  TlsContext client(const std::string& name) { return load(name, TlsRole::kClient); }
  TlsContext server(const std::string& name) { return load(name, TlsRole::kServer); }

  // What the first read of a client says whose handshake, as far as it can tell, went well.
  static Error first_read_error(Ends& ends) {
    if (!ends.client) return ends.client.error();
    Bytes got(1);
    const auto read = (*ends.client)->read_some(got);
    return read ? Error{ErrorClass::kLocalFault, "the client read a byte"} : read.error();
  }

  const test::TempDir dir_;
};

PairOptions with(const TlsContext* client, const TlsContext* server, std::string name = {}) {
  PairOptions options;
  options.client_tls = client;
  options.server_tls = server;
  options.expected_name = std::move(name);
  return options;
}

void count_key_update(int is_write, int /*version*/, int type, const void* bytes, std::size_t size,
                      SSL* /*ssl*/, void* count) {
  const bool ours = is_write == 1 && type == SSL3_RT_HANDSHAKE && size > 0;
  if (ours && *static_cast<const unsigned char*>(bytes) == SSL3_MT_KEY_UPDATE) {
    ++*static_cast<std::atomic<int>*>(count);
  }
}

TEST_F(Tls, CarriesBytesBothWaysAtOnce) {
  const TlsContext c = client("b"), s = server("a");
  Pair pair = connected(loopback(), with(&c, &s));
  const Bytes sent = test::pattern_bytes(5u << 20);
  const auto send = [&](Stream& stream) {
    const std::array<ByteView, 3> parts{ByteView(sent).first(48), ByteView(sent).subspan(48, 100),
                                        ByteView(sent).subspan(148)};
    return stream.write_parts(parts);
  };
  auto one = std::async(std::launch::async, [&] { return send(*pair.client); });
  auto two = std::async(std::launch::async, [&] { return send(*pair.server); });
  Bytes at_client(sent.size()), at_server(sent.size());
  auto three = std::async(std::launch::async, [&] { return pair.server->read_exact(at_server); });
  must(pair.client->read_exact(at_client));
  must(three.get());
  must(one.get());
  must(two.get());
  EXPECT_EQ(at_client, sent);
  EXPECT_EQ(at_server, sent);

  must(pair.client->end_writes());
  Bytes more(1);
  const auto end = pair.server->read_some(more);
  ASSERT_FALSE(end);
  EXPECT_EQ(end.error().detail, "the peer " + pair.server->peer() + " closed the connection");
}

TEST_F(Tls, BothEndsOfOneConnectionShareASecretForEachLabel) {
  const TlsContext c = client("b"), s = server("a");
  const Pair pair = connected(loopback(), with(&c, &s));
  const Pair other = connected(loopback(), with(&c, &s));
  const auto secret = pair.client->shared_secret("one");
  ASSERT_TRUE(secret);
  EXPECT_EQ(pair.server->shared_secret("one"), secret);
  EXPECT_EQ(pair.client->shared_secret("one"), secret);  // and stays
  EXPECT_NE(pair.server->shared_secret("two"), secret);
  EXPECT_NE(other.client->shared_secret("one"), secret);
  const Pair plain = connected(loopback(), with(nullptr, nullptr));
  EXPECT_FALSE(plain.client->shared_secret("one"));
}

TEST_F(Tls, RenewsItsKeysWhileBothSidesWrite) {
  const TlsContext c = client("b"), s = server("a");
  Listener listener = must(Listener::bind(loopback()));
  const CancelToken cancel;
  std::atomic<int> renewals{0};
  SSL_CTX_set_msg_callback(s.state()->ctx.get(), &count_key_update);
  SSL_CTX_set_msg_callback_arg(s.state()->ctx.get(), &renewals);
  const TlsHandshake how{Deadline::after(Millis{10'000}), "127.0.0.1", 100'000};
  auto serving = std::async(std::launch::async, [&] {
    Incoming incoming = must(listener.accept(cancel));
    Link link{std::move(incoming.fd), incoming.peer, kIdleTimeoutDefault, cancel};
    return must(start_tls(std::move(link), s, how));
  });
  auto near = must(connect(listener.bound_address(),
                           ConnectOptions{Millis{10'000}, kIdleTimeoutDefault, &c, {}}, cancel));
  auto far = serving.get();
  const Bytes sent = test::pattern_bytes(2u << 20);
  auto one = std::async(std::launch::async, [&] { return far->write_all(sent); });
  auto two = std::async(std::launch::async, [&] { return near->write_all(sent); });
  Bytes got(sent.size()), back(sent.size());
  auto three = std::async(std::launch::async, [&] { return far->read_exact(back); });
  must(near->read_exact(got));
  must(one.get());
  must(two.get());
  must(three.get());
  EXPECT_EQ(got, sent);
  EXPECT_EQ(back, sent);
  EXPECT_GE(renewals, 10);  // 2 MiB, new keys each 100 kB or a record later
}

TEST_F(Tls, ACutConnectionIsNotAnEnd) {
  const TlsContext c = client("b"), s = server("a");
  Pair pair = connected(loopback(), with(&c, &s));
  pair.server.reset();  // closes the socket without the closing record
  Bytes got(1);
  const auto read = pair.client->read_some(got);
  ASSERT_FALSE(read);
  EXPECT_EQ(read.error().cls, ErrorClass::kDisconnected);
  EXPECT_THAT(read.error().detail, HasSubstr("was cut: it ended without the closing TLS record"));
}

TEST_F(Tls, CancelAndShutdownWakeAReadAndAWrite) {
  const TlsContext c = client("b"), s = server("a");
  for (const bool by_cancel : {true, false}) {
    const PairOptions options = with(&c, &s);
    Pair pair = connected(loopback(), options);
    auto reading = std::async(std::launch::async, [&] {
      Bytes got(1);
      return pair.client->read_some(got).error().cls;
    });
    auto writing = std::async(std::launch::async, [&] {
      const Bytes bytes(64u << 20);
      return pair.client->write_all(bytes).error().cls;
    });
    test::pause_for(Millis{50});
    const test::Stopwatch watch;
    by_cancel ? options.client_cancel.cancel() : pair.client->shutdown();
    const ErrorClass wanted = by_cancel ? ErrorClass::kCancelled : ErrorClass::kDisconnected;
    EXPECT_EQ(reading.get(), wanted);
    EXPECT_EQ(writing.get(), wanted);
    EXPECT_LT(watch.elapsed(), Millis{1'000});
  }
}

TEST_F(Tls, WritingToAPeerThatWentRaisesNoSignal) {
  ASSERT_NE(std::signal(SIGPIPE, SIG_DFL), SIG_ERR);
  const TlsContext c = client("b"), s = server("a");
  Pair pair = connected(loopback(), with(&c, &s));
  pair.server.reset();
  const Bytes bytes = test::pattern_bytes(1u << 20);
  Result<void> written;
  for (int i = 0; i < 50 && written; ++i) written = pair.client->write_all(bytes);
  ASSERT_FALSE(written);
  EXPECT_EQ(written.error().cls, ErrorClass::kDisconnected);
}

TEST_F(Tls, AServerOfAnotherCaIsRefusedOnBothSides) {
  const TlsContext c = client("a"), s = server("other");
  Ends ends = try_connect(loopback(), with(&c, &s));
  ASSERT_FALSE(ends.client);
  EXPECT_EQ(ends.client.error().cls, ErrorClass::kPolicy);
  EXPECT_THAT(ends.client.error().detail,
              AllOf(HasSubstr("the certificate of tcp:127.0.0.1:"),
                    HasSubstr("was issued by \"CN = Sealift migration CA"),
                    HasSubstr("which is not the CA in " + dir_.path("a/ca.pem"))));
  ASSERT_FALSE(ends.server);
  EXPECT_EQ(ends.server.error().cls, ErrorClass::kPolicy);
  EXPECT_THAT(ends.server.error().detail,
              HasSubstr("refused this host's certificate: unknown CA (TLS alert 48)"));
}

TEST_F(Tls, AClientOfAnotherCaLearnsItOnItsFirstRead) {
  // The client trusts the server's CA and carries a certificate of another one.
  std::filesystem::copy(dir_.path("other"), dir_.path("mixed"));
  {
    std::ofstream both(dir_.path("mixed/ca.pem"), std::ios::app);
    both << std::ifstream(dir_.path("ca/ca.pem")).rdbuf();
  }
  const TlsContext c = client("mixed"), s = server("a");
  Ends ends = try_connect(loopback(), with(&c, &s));
  ASSERT_FALSE(ends.server);
  EXPECT_EQ(ends.server.error().cls, ErrorClass::kPolicy);
  EXPECT_THAT(ends.server.error().detail, HasSubstr("which is not the CA in"));
  const Error error = first_read_error(ends);
  EXPECT_EQ(error.cls, ErrorClass::kPolicy);
  EXPECT_THAT(error.detail,
              HasSubstr("refused this host's certificate: unknown CA (TLS alert 48)"));
}

TEST_F(Tls, ARefusedClientThatOnlyWritesLearnsItToo) {
  const TlsContext s = server("a");
  const TlsContext bare = load("b", TlsRole::kClient, TlsOptions{{}, false});
  Ends ends = try_connect(loopback(), with(&bare, &s));
  ASSERT_TRUE(ends.client) << ends.client.error().detail;  // TLS 1.3: it cannot know yet
  const Bytes bytes = test::pattern_bytes(1u << 20);
  Result<void> written;
  for (int i = 0; i < 50 && written; ++i) written = (*ends.client)->write_all(bytes);
  ASSERT_FALSE(written);
  EXPECT_EQ(written.error().cls, ErrorClass::kPolicy) << written.error().detail;
}

TEST_F(Tls, AWrongNameIsSaidWithBothNames) {
  const TlsContext c = client("a"), s = server("b");
  Ends ends = try_connect(loopback(), with(&c, &s));  // wants the address: 127.0.0.1
  ASSERT_FALSE(ends.client);
  EXPECT_EQ(ends.client.error().cls, ErrorClass::kPolicy);
  EXPECT_THAT(ends.client.error().detail,
              HasSubstr("is not valid for the name \"127.0.0.1\": it names DNS:beta"));
  EXPECT_FALSE(ends.server);

  Ends named = try_connect(loopback(), with(&c, &s, "beta"));
  EXPECT_TRUE(named.client) << named.client.error().detail;
  Ends misnamed = try_connect(loopback(), with(&c, &s, "gamma"));
  ASSERT_FALSE(misnamed.client);
  EXPECT_THAT(misnamed.client.error().detail, HasSubstr("\"gamma\": it names DNS:beta"));
}

TEST_F(Tls, AnExpiredCertificateIsSaidWithItsDate) {
  const TlsOptions later{std::time(nullptr) + kTwoYears, true};
  const auto own = TlsContext::load(dir_.path("a"), TlsRole::kServer, later);
  ASSERT_FALSE(own);
  EXPECT_EQ(own.error().cls, ErrorClass::kPolicy);
  EXPECT_THAT(own.error().detail,
              AllOf(HasSubstr("this host's certificate " + dir_.path("a/host.pem")),
                    ContainsRegex("expired on 20[0-9-]+ [0-9:]+ UTC")));

  // A server with a long-lived certificate, two years from now.
  must(make_host_certificate(dir_.path("ca"), dir_.path("long"), {"127.0.0.1"}, 800));
  const TlsContext s = load("long", TlsRole::kServer, later), c = client("a");
  Ends ends = try_connect(loopback(), with(&c, &s));
  ASSERT_FALSE(ends.server);
  EXPECT_EQ(ends.server.error().cls, ErrorClass::kPolicy);
  EXPECT_THAT(ends.server.error().detail, AllOf(HasSubstr("the certificate of tcp:127.0.0.1:"),
                                                ContainsRegex("expired on 20[0-9-]+")));
  const Error error = first_read_error(ends);
  EXPECT_EQ(error.cls, ErrorClass::kPolicy);
  EXPECT_THAT(error.detail, HasSubstr("certificate expired (TLS alert 45)"));
}

TEST_F(Tls, AClientWithoutACertificateIsRefusedOnBothSides) {
  const TlsContext c = load("b", TlsRole::kClient, TlsOptions{{}, false}), s = server("a");
  Ends ends = try_connect(loopback(), with(&c, &s));
  ASSERT_FALSE(ends.server);
  EXPECT_EQ(ends.server.error().cls, ErrorClass::kPolicy);
  EXPECT_THAT(ends.server.error().detail,
              HasSubstr("presented no certificate; it needs one issued"));
  const Error error = first_read_error(ends);
  EXPECT_EQ(error.cls, ErrorClass::kPolicy);
  EXPECT_THAT(error.detail, HasSubstr("requires a certificate and this host presented none"));
}

TEST_F(Tls, APeerInPlainTextIsNamedAsSuch) {
  const TlsContext tls = server("a");
  Listener listener = must(Listener::bind(loopback()));
  auto plain = must(connect(listener.bound_address(), {}, CancelToken{}));
  must(plain->write_all(test::bytes_of("SLFT and more bytes than a TLS record header has")));
  const CancelToken cancel;
  AcceptOptions options;
  options.tls = &tls;
  must(plain->end_writes());
  const auto stream = accept_stream(must(listener.accept(cancel)), options, cancel);
  ASSERT_FALSE(stream);
  EXPECT_EQ(stream.error().cls, ErrorClass::kPolicy);
  EXPECT_THAT(
      stream.error().detail,
      HasSubstr("speaks plain text where TLS is required (its first bytes are 53 4c 46 54)"));
}

TEST_F(Tls, ASilentClientTimesOutInTheHandshakeNotInAccept) {
  const TlsContext tls = server("a");
  Listener listener = must(Listener::bind(loopback()));
  auto silent = must(connect(listener.bound_address(), {}, CancelToken{}));
  const CancelToken cancel;
  Incoming incoming = must(listener.accept(cancel));  // returns though nothing was sent
  const auto stream =
      accept_stream(std::move(incoming), AcceptOptions{Millis{50}, Millis{50}, &tls}, cancel);
  ASSERT_FALSE(stream);
  EXPECT_EQ(stream.error().cls, ErrorClass::kDisconnected);
  EXPECT_THAT(stream.error().detail, HasSubstr("did not end in time"));
}

TEST_F(Tls, UnixNeedsAnExpectedName) {
  const TlsContext c = client("b"), s = server("a");
  const Address address = must(parse_address("unix:" + dir_.path("socket")));
  const auto refused = connect(address, ConnectOptions{Millis{100}, Millis{100}, &c, {}}, {});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().cls, ErrorClass::kUsage);
  Ends ends = try_connect(address, with(&c, &s, "alpha"));
  EXPECT_TRUE(ends.client) << ends.client.error().detail;
}

TEST_F(Tls, LoadNamesTheFileThatIsWrong) {
  const std::string key = dir_.path("a/host.key");
  const auto error_of = [&](const std::string& name) {
    return TlsContext::load(dir_.path(name), TlsRole::kServer).error();
  };
  ASSERT_EQ(::chmod(key.c_str(), 0640), 0);
  EXPECT_EQ(error_of("a").cls, ErrorClass::kPolicy);
  EXPECT_EQ(error_of("a").detail,
            "the private key " + key + " can be used by others (permissions 0640); it needs 0600");
  ASSERT_EQ(::chmod(key.c_str(), 0600), 0);

  std::filesystem::copy(dir_.path("a"), dir_.path("m"));
  std::filesystem::remove(dir_.path("m/host.key"));
  std::filesystem::copy(dir_.path("b/host.key"), dir_.path("m/host.key"));
  EXPECT_EQ(error_of("m").detail, "the private key " + dir_.path("m/host.key") +
                                      " does not match the certificate " + dir_.path("m/host.pem"));
  for (const char* name : {"m/host.key", "m/host.pem", "m/ca.pem"}) {
    std::filesystem::remove(dir_.path(name));
    EXPECT_EQ(error_of("m").cls, ErrorClass::kUsage);
    EXPECT_EQ(error_of("m").detail, "the file " + dir_.path(name) + " is missing");
  }
  std::ofstream(dir_.path("m/ca.pem")) << "not a certificate\n";
  EXPECT_THAT(error_of("m").detail, HasSubstr("m/ca.pem holds no PEM certificate"));
  std::filesystem::remove(dir_.path("m/ca.pem"));
  std::filesystem::copy(dir_.path("b/host.pem"), dir_.path("m/ca.pem"));
  EXPECT_THAT(error_of("m").detail, HasSubstr("holds a certificate that is not a CA's"));
}

TEST_F(Tls, LoadRefusesACertificateOfAnotherCa) {
  std::filesystem::copy(dir_.path("a"), dir_.path("x"));
  std::filesystem::remove(dir_.path("x/ca.pem"));
  std::filesystem::copy(dir_.path("other-ca/ca.pem"), dir_.path("x/ca.pem"));
  const auto context = TlsContext::load(dir_.path("x"), TlsRole::kClient);
  ASSERT_FALSE(context);
  EXPECT_EQ(context.error().cls, ErrorClass::kPolicy);
  EXPECT_THAT(context.error().detail, HasSubstr("which is not the CA in"));
}

TEST_F(Tls, CertificatesNeverOverwriteAndCheckTheirNames) {
  const auto again = make_ca(dir_.path("ca"));
  ASSERT_FALSE(again);
  EXPECT_EQ(again.error().cls, ErrorClass::kUsage);
  EXPECT_THAT(again.error().detail, HasSubstr(dir_.path("ca/ca.pem") + " exists already"));
  EXPECT_TRUE(TlsContext::load(dir_.path("a"), TlsRole::kServer));

  // host.pem exists: the new key that was created before it is removed again.
  std::filesystem::create_directory(dir_.path("part"));
  std::ofstream(dir_.path("part/host.pem")) << "mine";
  EXPECT_FALSE(make_host_certificate(dir_.path("ca"), dir_.path("part"), {"n"}, 1));
  EXPECT_FALSE(std::filesystem::exists(dir_.path("part/host.key")));

  for (const std::string name : {"", "a,DNS:evil", "a b", "-x", "x\ny"}) {
    const auto made = make_host_certificate(dir_.path("ca"), dir_.path("n"), {name}, 1);
    ASSERT_FALSE(made) << name;
    EXPECT_EQ(made.error().cls, ErrorClass::kUsage);
  }
  EXPECT_FALSE(make_host_certificate(dir_.path("ca"), dir_.path("n"), {"n"}, 0));
  EXPECT_FALSE(make_host_certificate(dir_.path("ca"), dir_.path("n"), {}, 1));
  EXPECT_FALSE(std::filesystem::exists(dir_.path("n")));
  struct stat info{};
  ASSERT_EQ(::stat(dir_.path("ca/ca.key").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
}

}  // namespace
}  // namespace sealift
