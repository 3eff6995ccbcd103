#include "transport/http.h"

#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <exception>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>

#include "transport/http_exchange.h"

namespace sealift {
namespace {

constexpr Millis kOutOfDescriptorsPause{100};
constexpr Millis kDrainMax{
    1'000};  // for the client to read the answer to a request we did not read

// Closing with unread bytes resets a connection, and the reset can overtake the answer. A client
// that is silent holds its thread for the idle timeout at most.
void drain(Stream& stream) {
  std::array<std::byte, 4096> sink{};
  const Deadline deadline = Deadline::after(kDrainMax);
  while (deadline.remaining() > Millis{0} && stream.read_some(sink)) continue;
}

bool is_token(std::string_view text, bool (*allowed)(char)) {
  return !text.empty() && std::ranges::all_of(text, allowed);
}

}  // namespace

class HttpServer::Impl {
 public:
  Impl(Listener listener, HttpHandler handler, const HttpServerOptions& options)
      : listener_(std::move(listener)), handler_(std::move(handler)), options_(options) {
    acceptor_ = std::jthread([this] { accept_all(); });
  }

  ~Impl() { stop(); }

  void stop() {
    cancel_.cancel();
    const std::lock_guard lock(stop_mutex_);
    if (acceptor_.joinable()) acceptor_.join();  // from here on nobody else touches slots_
    for (Slot& slot : slots_) {
      if (slot.thread.joinable()) slot.thread.join();
    }
  }

  [[nodiscard]] const Address& bound_address() const { return listener_.bound_address(); }

 private:
  struct Slot {
    std::atomic<bool> busy{false};
    std::jthread thread;
  };

  void accept_all() {
    for (;;) {
      auto incoming = listener_.accept(cancel_);
      if (!incoming && incoming.error().cls == ErrorClass::kCancelled) return;
      if (!incoming) {
        wait_for(-1, 0, cancel_, Deadline::after(kOutOfDescriptorsPause));
        continue;
      }
      const auto slot = std::ranges::find_if(slots_, [](const Slot& s) { return !s.busy.load(); });
      if (slot == slots_.end()) {
        refuse(*incoming);
      } else {
        start(*slot, std::move(*incoming));
      }
    }
  }

  void start(Slot& slot, Incoming incoming) {
    if (slot.thread.joinable()) slot.thread.join();  // it has finished: busy is false
    slot.busy = true;
    try {
      slot.thread = std::jthread([this, &slot, connection = std::move(incoming)]() mutable {
        serve(std::move(connection));
        slot.busy = false;
      });
    } catch (const std::system_error&) {  // out of threads: the connection closes unanswered
      slot.busy = false;
    }
  }

  // The accept thread never waits for a client, so the answer is what the socket takes at once.
  void refuse(const Incoming& incoming) const {
    if (options_.tls != nullptr) return;
    const std::string text = response_text(
        {503, "text/plain", fmt::format("{} connections are open already\n", kHttpConnectionsMax)});
    static_cast<void>(
        ::send(incoming.fd.get(), text.data(), text.size(), MSG_NOSIGNAL | MSG_DONTWAIT));
    ::shutdown(incoming.fd.get(), SHUT_WR);
    std::array<std::byte, 4096> sink{};
    static_cast<void>(::recv(incoming.fd.get(), sink.data(), sink.size(), MSG_DONTWAIT));
  }

  void serve(Incoming incoming) {
    const AcceptOptions accept{options_.idle_timeout, options_.idle_timeout, options_.tls};
    auto stream = accept_stream(std::move(incoming), accept, cancel_);
    if (!stream) return;
    auto arrival = receive_request(**stream, Deadline::after(kHttpRequestMax));
    if (!arrival) return;
    const bool head = arrival->request.method == "HEAD";
    const HttpResponse response = arrival->refused ? arrival->refusal : handle(arrival->request);
    if (!send_response(**stream, response, head)) return;
    if ((*stream)->end_writes() && arrival->refused) drain(**stream);
  }

  HttpResponse handle(const HttpRequest& request) {
    try {
      return handler_(request);
    } catch (const std::exception& error) {
      return {500, "text/plain", fmt::format("the request failed: {}\n", error.what())};
    }
  }

  Listener listener_;
  const HttpHandler handler_;
  const HttpServerOptions options_;
  const CancelToken cancel_;
  std::array<Slot, kHttpConnectionsMax> slots_;  // the accept thread's, until it is joined
  std::mutex stop_mutex_;                        // two callers of stop() join in turn
  std::jthread acceptor_;
};

HttpServer::HttpServer(Listener listener, HttpHandler handler, const HttpServerOptions& options)
    : impl_(std::make_unique<Impl>(std::move(listener), std::move(handler), options)) {}

HttpServer::~HttpServer() = default;

const Address& HttpServer::bound_address() const { return impl_->bound_address(); }

void HttpServer::stop() { impl_->stop(); }

Result<HttpResponse> http_call(const Address& address, const HttpCallOptions& options,
                               const std::string& method, const std::string& target,
                               const std::string& body, const CancelToken& cancel) {
  const bool sound = is_token(method, [](char c) { return c >= 'A' && c <= 'Z'; }) &&
                     is_token(target, [](char c) { return c > ' ' && c < '\x7f'; });
  if (!sound) {
    return fail(ErrorClass::kUsage, "\"{} {}\" cannot be an HTTP request", method, target);
  }
  const ConnectOptions how{options.connect_timeout, options.idle_timeout, options.tls,
                           options.expected_name};
  SEALIFT_TRY(const auto stream, connect(address, how, cancel));
  const bool tcp = address.kind == Address::Kind::kTcp;
  const std::string host = tcp ? to_string(address).substr(4) : "localhost";
  auto sent = send_request(*stream, HttpRequest{method, target, body, {}}, host);
  if (!sent && sent.error().cls != ErrorClass::kDisconnected) return fail(sent.error());
  // A server may answer before it has read everything and close; its answer explains more.
  auto response = receive_response(*stream, method == "HEAD");
  if (!sent && !response && response.error().cls == ErrorClass::kDisconnected) {
    return fail(sent.error());
  }
  return response;
}

}  // namespace sealift
