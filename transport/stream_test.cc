#include "transport/stream.h"

#include <gmock/gmock.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <fstream>
#include <future>
#include <string>

#include "transport/connect.h"
#include "transport/socket_address.h"
#include "transport/test_support.h"

namespace sealift {
namespace {

using test::connected;
using test::loopback;
using test::must;
using test::Pair;
using test::PairOptions;
using testing::HasSubstr;

constexpr Millis kPromptly{1'000};
constexpr Millis kSettle{30};

void expect_echo(Stream& from, Stream& to) {
  const Bytes sent = test::pattern_bytes(3u << 20);
  const std::array<ByteView, 3> parts{ByteView(sent).first(48), ByteView{},
                                      ByteView(sent).subspan(48)};
  auto writing = std::async(std::launch::async, [&] { return from.write_parts(parts); });
  Bytes got(sent.size());
  const auto read = to.read_exact(got);
  EXPECT_TRUE(read) << read.error().detail;
  EXPECT_TRUE(writing.get());
  EXPECT_EQ(got, sent);
}

TEST(Stream, CarriesBytesBothWaysOverTcpAndUnix) {
  const test::TempDir dir;
  for (const std::string text : {"tcp:127.0.0.1:0", "tcp:[::1]:0"}) {
    SCOPED_TRACE(text);
    Pair pair = connected(must(parse_address(text)));
    expect_echo(*pair.client, *pair.server);
    expect_echo(*pair.server, *pair.client);
  }
  Pair pair = connected(must(parse_address("unix:" + dir.path("s"))));
  expect_echo(*pair.client, *pair.server);
  expect_echo(*pair.server, *pair.client);
}

TEST(Stream, ManyPartsAreOneWrite) {
  Pair pair = connected(loopback());
  const Bytes sent = test::pattern_bytes(40);
  std::vector<ByteView> parts;
  for (std::size_t i = 0; i < sent.size(); ++i) parts.push_back(ByteView(sent).subspan(i, 1));
  must(pair.client->write_parts(parts));
  Bytes got(sent.size());
  must(pair.server->read_exact(got));
  EXPECT_EQ(got, sent);
}

// More parts than the kernel takes at a time, of uneven sizes, in both directions of a copy.
TEST(Stream, FillsManyParts) {
  Pair pair = connected(loopback());
  const Bytes sent = test::pattern_bytes(3u << 20);
  Bytes got(sent.size());
  std::vector<ByteView> from;
  std::vector<MutableBytes> into;
  for (std::size_t at = 0, size = 1; at < sent.size(); at += size, size = size * 7 % 9973 + 1) {
    from.push_back(ByteView(sent).subspan(at, std::min(size, sent.size() - at)));
  }
  for (std::size_t at = 0, size = 1; at < got.size(); at += size, size = size * 5 % 8191 + 1) {
    into.push_back(std::span(got).subspan(at, std::min(size, got.size() - at)));
  }
  ASSERT_GT(from.size(), 200U);
  auto writing = std::async(std::launch::async, [&] { return pair.client->write_parts(from); });
  must(pair.server->read_parts(into));
  EXPECT_TRUE(writing.get());
  EXPECT_EQ(got, sent);
  pair.client->shutdown();
  const auto over = pair.server->read_parts(into);
  ASSERT_FALSE(over);
  EXPECT_EQ(over.error().cls, ErrorClass::kDisconnected);
}

TEST(Stream, TheEndOfThePeerIsDisconnectedAndNamesIt) {
  Pair pair = connected(loopback());
  const std::string peer = pair.server->peer();
  must(pair.client->write_all(test::bytes_of("12345")));
  must(pair.client->end_writes());
  Bytes got(8);
  const auto read = pair.server->read_exact(got);
  ASSERT_FALSE(read);
  EXPECT_EQ(read.error().cls, ErrorClass::kDisconnected);
  EXPECT_EQ(read.error().detail, "the peer " + peer + " closed the connection after 5 of 8 bytes");
  must(pair.server->write_all(test::bytes_of("still open")));  // the other direction lives on
}

TEST(Stream, WritingToAPeerThatWentRaisesNoSignal) {
  ASSERT_NE(std::signal(SIGPIPE, SIG_DFL), SIG_ERR);
  Pair pair = connected(loopback());
  pair.server.reset();
  const Bytes bytes = test::pattern_bytes(1u << 20);
  Result<void> written;
  for (int i = 0; i < 50 && written; ++i) written = pair.client->write_all(bytes);
  ASSERT_FALSE(written);
  EXPECT_EQ(written.error().cls, ErrorClass::kDisconnected);
  EXPECT_THAT(written.error().detail, HasSubstr("writing to tcp:127.0.0.1:"));
}

TEST(Stream, CancelWakesABlockedRead) {
  PairOptions options;
  Pair pair = connected(loopback(), options);
  auto reading = std::async(std::launch::async, [&] {
    Bytes got(1);
    return pair.client->read_some(got);
  });
  test::pause_for(kSettle);
  const test::Stopwatch watch;
  options.client_cancel.cancel();
  const auto read = reading.get();
  EXPECT_LT(watch.elapsed(), kPromptly);
  ASSERT_FALSE(read);
  EXPECT_EQ(read.error().cls, ErrorClass::kCancelled);
  EXPECT_EQ(read.error().detail, "cancelled while reading from " + pair.client->peer());
}

TEST(Stream, CancelWakesABlockedWrite) {
  PairOptions options;
  Pair pair = connected(loopback(), options);
  auto writing = std::async(std::launch::async, [&] {
    const Bytes bytes(64u << 20);  // nobody reads, and no socket buffer is that large
    return pair.client->write_all(bytes);
  });
  test::pause_for(kSettle);
  const test::Stopwatch watch;
  options.client_cancel.cancel();
  const auto written = writing.get();
  EXPECT_LT(watch.elapsed(), kPromptly);
  ASSERT_FALSE(written);
  EXPECT_EQ(written.error().cls, ErrorClass::kCancelled);
  EXPECT_EQ(written.error().detail, "cancelled while writing to " + pair.client->peer());
}

TEST(Stream, CancelWakesABlockedAccept) {
  Listener listener = must(Listener::bind(loopback()));
  const CancelToken cancel;
  auto accepting = std::async(std::launch::async, [&] { return listener.accept(cancel); });
  test::pause_for(kSettle);
  const test::Stopwatch watch;
  cancel.cancel();
  const auto incoming = accepting.get();
  EXPECT_LT(watch.elapsed(), kPromptly);
  ASSERT_FALSE(incoming);
  EXPECT_EQ(incoming.error().cls, ErrorClass::kCancelled);
}

// A unix listener whose queue is full keeps the next client waiting, without any network.
TEST(Connect, CancelAndTimeoutWakeABlockedConnect) {
  const test::TempDir dir;
  const Address address = must(parse_address("unix:" + dir.path("full")));
  const UniqueFd listener = must(make_socket(AF_UNIX));
  const SocketAddress name = must(resolve(address, Purpose::kListen)).front();
  ASSERT_EQ(::bind(listener.get(), name.get(), name.bytes), 0);
  ASSERT_EQ(::listen(listener.get(), 0), 0);
  const UniqueFd first = must(make_socket(AF_UNIX));
  ASSERT_EQ(::connect(first.get(), name.get(), name.bytes), 0);

  const CancelToken cancel;
  auto connecting = std::async(std::launch::async, [&] { return connect(address, {}, cancel); });
  test::pause_for(kSettle);
  const test::Stopwatch watch;
  cancel.cancel();
  const auto stream = connecting.get();
  EXPECT_LT(watch.elapsed(), kPromptly);
  ASSERT_FALSE(stream);
  EXPECT_EQ(stream.error().cls, ErrorClass::kCancelled);

  ConnectOptions hurry;
  hurry.connect_timeout = Millis{100};
  const auto late = connect(address, hurry, CancelToken{});
  ASSERT_FALSE(late);
  EXPECT_EQ(late.error().cls, ErrorClass::kDisconnected);
}

TEST(Connect, SaysWhoRefusedAndWhy) {
  const Address address = [] { return must(Listener::bind(loopback())).bound_address(); }();
  const auto stream = connect(address, {}, CancelToken{});
  ASSERT_FALSE(stream);
  EXPECT_EQ(stream.error().cls, ErrorClass::kDisconnected);
  EXPECT_EQ(stream.error().detail,
            "connect to " + to_string(address) + ": Connection refused (errno 111)");
}

TEST(Stream, AnIdleReadEndsWithTheSecondsInTheText) {
  Pair pair = connected(loopback(), PairOptions{Millis{50}});
  Bytes got(1);
  const auto read = pair.client->read_some(got);
  ASSERT_FALSE(read);
  EXPECT_EQ(read.error().cls, ErrorClass::kDisconnected);
  EXPECT_THAT(read.error().detail, HasSubstr("no byte moved for 0.05 s"));
  const Bytes bytes(64u << 20);
  const auto written = pair.client->write_all(bytes);
  ASSERT_FALSE(written);
  EXPECT_THAT(written.error().detail, HasSubstr("no byte moved for 0.05 s"));
}

TEST(Stream, ShutdownWakesAReaderAndAWriter) {
  Pair pair = connected(loopback());
  auto reading = std::async(std::launch::async, [&] {
    Bytes got(1);
    return pair.client->read_some(got);
  });
  auto writing = std::async(std::launch::async, [&] {
    const Bytes bytes(64u << 20);
    return pair.client->write_all(bytes);
  });
  test::pause_for(kSettle);
  const test::Stopwatch watch;
  pair.client->shutdown();
  const auto read = reading.get();
  const auto written = writing.get();
  EXPECT_LT(watch.elapsed(), kPromptly);
  ASSERT_FALSE(read);
  EXPECT_THAT(read.error().detail, HasSubstr("was shut down on this side"));
  ASSERT_FALSE(written);
  EXPECT_EQ(written.error().cls, ErrorClass::kDisconnected);
}

TEST(Listener, UnixFileIsPrivateAndGoesAway) {
  const test::TempDir dir;
  const std::string path = dir.path("socket");
  const Address address = must(parse_address("unix:" + path));
  {
    const Listener listener = must(Listener::bind(address));
    struct stat info{};
    ASSERT_EQ(::stat(path.c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 0777, 0600u);
    const auto second = Listener::bind(address);
    ASSERT_FALSE(second);
    EXPECT_EQ(second.error().cls, ErrorClass::kUsage);
    EXPECT_THAT(second.error().detail, HasSubstr("another process listens there already"));
  }
  EXPECT_FALSE(std::filesystem::exists(path));
}

TEST(Listener, ReplacesAStaleUnixFileButNoOtherFile) {
  const test::TempDir dir;
  const Address address = must(parse_address("unix:" + dir.path("stale")));
  {
    const UniqueFd dead = must(make_socket(AF_UNIX));
    const SocketAddress name = must(resolve(address, Purpose::kListen)).front();
    ASSERT_EQ(::bind(dead.get(), name.get(), name.bytes), 0);
  }
  ASSERT_TRUE(std::filesystem::exists(address.path));
  EXPECT_TRUE(Listener::bind(address));
  std::ofstream(dir.path("file")) << "precious";
  const auto refused = Listener::bind(must(parse_address("unix:" + dir.path("file"))));
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().detail, HasSubstr("is not a socket"));
  EXPECT_TRUE(std::filesystem::exists(dir.path("file")));
}

}  // namespace
}  // namespace sealift
