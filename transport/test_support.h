// What the tests of transport/ share: a directory that goes away, certificates, connected streams.
//
// Threads: one test. Failure: a test that cannot be set up aborts with the Error's text.
#pragma once

#include <fmt/core.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <future>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "transport/certs.h"
#include "transport/connect.h"

namespace sealift::test {

template <class T>
T must(Result<T> result) {
  if (!result) {
    fmt::print(stderr, "test setup: {}\n", result.error().detail);
    std::abort();
  }
  return std::move(*result);
}
inline void must(const Result<void>& result) {
  if (!result) {
    fmt::print(stderr, "test setup: {}\n", result.error().detail);
    std::abort();
  }
}

class TempDir {
 public:
  TempDir() {
    std::string pattern = (std::filesystem::temp_directory_path() / "sealift-XXXXXX").string();
    if (::mkdtemp(pattern.data()) == nullptr) std::abort();
    path_ = pattern;
  }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  ~TempDir() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  [[nodiscard]] std::string path(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

inline ByteView bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

inline Bytes pattern_bytes(std::size_t count) {
  Bytes bytes(count);
  for (std::size_t i = 0; i < count; ++i)
    bytes[i] = static_cast<std::byte>((i * 31 + i / 251) & 0xff);
  return bytes;
}

inline Address loopback() { return must(parse_address("tcp:127.0.0.1:0")); }

struct Pair {
  std::unique_ptr<Stream> client, server;
};

struct PairOptions {
  Millis idle_timeout = kIdleTimeoutDefault;
  const TlsContext* client_tls = nullptr;
  const TlsContext* server_tls = nullptr;
  std::string expected_name = {};
  CancelToken client_cancel = {};
};

// Both ends of one connection, as their sides see it: a handshake may fail on each.
struct Ends {
  Result<std::unique_ptr<Stream>> client, server;
};

inline Ends try_connect(const Address& where, const PairOptions& options) {
  Listener listener = must(Listener::bind(where));
  const CancelToken cancel;
  auto serving = std::async(std::launch::async, [&] {
    return accept_stream(must(listener.accept(cancel)),
                         AcceptOptions{Millis{10'000}, options.idle_timeout, options.server_tls},
                         cancel);
  });
  auto client = connect(listener.bound_address(),
                        ConnectOptions{Millis{10'000}, options.idle_timeout, options.client_tls,
                                       options.expected_name},
                        options.client_cancel);
  // A client that refuses must go before a server can see it has gone.
  return Ends{std::move(client), serving.get()};
}

inline Pair connected(const Address& where, const PairOptions& options = {}) {
  Ends ends = try_connect(where, options);
  return Pair{must(std::move(ends.client)), must(std::move(ends.server))};
}

class Stopwatch {
 public:
  [[nodiscard]] Millis elapsed() const {
    return std::chrono::duration_cast<Millis>(std::chrono::steady_clock::now() - start_);
  }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

// Lets a thread get into a blocking call. The test is right without the pause, only less sharp.
inline void pause_for(Millis time) { wait_for(-1, 0, CancelToken{}, Deadline::after(time)); }

}  // namespace sealift::test
