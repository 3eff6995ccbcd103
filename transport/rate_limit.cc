#include "transport/rate_limit.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <chrono>
#include <cmath>
#include <utility>
#include <vector>

#include "engine/assert.h"

namespace sealift {
namespace {

constexpr std::uint64_t kNsPerS = 1'000'000'000;
constexpr std::uint64_t kNsPerMs = 1'000'000;
static_assert(kRateBytesPerSMax <= UINT64_MAX / TokenBucket::kBurst_ns / 2);

std::uint64_t now_ns() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return static_cast<std::uint64_t>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(now).count());
}

bool is_rate(std::uint64_t bytes_per_s) {
  return bytes_per_s == kUnlimited ||
         (bytes_per_s >= kRateBytesPerSMin && bytes_per_s <= kRateBytesPerSMax);
}

}  // namespace

TokenBucket::TokenBucket(std::uint64_t bytes_per_s, std::uint64_t now_ns)
    : rate_(bytes_per_s), filled_ns_(now_ns) {
  SEALIFT_ASSERT(is_rate(bytes_per_s));
}

void TokenBucket::fill(std::uint64_t now_ns) {
  const std::uint64_t passed_ns = std::min(now_ns - filled_ns_, kBurst_ns);
  filled_ns_ = now_ns;
  level_ = std::min(level_ + rate_ * passed_ns, rate_ * kBurst_ns);
}

void TokenBucket::set_rate(std::uint64_t bytes_per_s, std::uint64_t now_ns) {
  SEALIFT_ASSERT(is_rate(bytes_per_s));
  fill(now_ns);
  rate_ = bytes_per_s;
  level_ = std::min(level_, rate_ * kBurst_ns);
}

std::uint64_t TokenBucket::least(std::uint64_t wish) const {
  return std::min({wish, kQuantumBytesMax, rate_ * (kQuantum_ns / 1000) / (kNsPerS / 1000)});
}

std::uint64_t TokenBucket::take(std::uint64_t wish, std::uint64_t now_ns) {
  if (rate_ == kUnlimited) return wish;
  fill(now_ns);
  const std::uint64_t there = level_ / kNsPerS;
  if (there < least(wish)) return 0;
  const std::uint64_t taken = std::min({wish, there, std::max(kQuantumBytesMax, least(wish))});
  level_ -= taken * kNsPerS;
  return taken;
}

std::uint64_t TokenBucket::wait_ns(std::uint64_t wish) const {
  const std::uint64_t needed = least(wish) * kNsPerS;
  if (rate_ == kUnlimited || needed <= level_) return 0;
  return (needed - level_ + rate_ - 1) / rate_;
}

RateLimit::RateLimit(std::uint64_t bytes_per_s)
    : rate_(bytes_per_s), bucket_(bytes_per_s, now_ns()) {}

void RateLimit::set(std::uint64_t bytes_per_s) {
  const std::lock_guard lock(mutex_);
  bucket_.set_rate(bytes_per_s, now_ns());
  rate_.store(bytes_per_s, std::memory_order_relaxed);
}

// A wait is a quantum at most, so nobody has to be woken for a new rate.
Result<std::uint64_t> RateLimit::take(std::uint64_t wish, const CancelToken& cancel) {
  SEALIFT_ASSERT(wish > 0);
  for (;;) {
    if (bytes_per_s() == kUnlimited) return wish;
    std::uint64_t wait_ns = 0;
    {
      const std::lock_guard lock(mutex_);
      if (const std::uint64_t taken = bucket_.take(wish, now_ns()); taken > 0) return taken;
      wait_ns = bucket_.wait_ns(wish);
    }
    const Millis wait{static_cast<Millis::rep>((wait_ns + kNsPerMs - 1) / kNsPerMs)};
    if (wait_for(-1, 0, cancel, Deadline::after(wait)) == Wake::kCancelled)
      return fail(ErrorClass::kCancelled, "cancelled while waiting for bandwidth");
  }
}

Result<std::uint64_t> parse_rate(std::string_view text) {
  struct Unit {
    std::string_view name;
    double bytes;
  };
  constexpr std::array kUnits = {
      Unit{"bit/s", 1.0 / 8},    Unit{"kbit/s", 1e3 / 8},  Unit{"Mbit/s", 1e6 / 8},
      Unit{"Gbit/s", 1e9 / 8},   Unit{"B/s", 1},           Unit{"kB/s", 1e3},
      Unit{"MB/s", 1e6},         Unit{"GB/s", 1e9},        Unit{"KiB/s", 1ULL << 10},
      Unit{"MiB/s", 1ULL << 20}, Unit{"GiB/s", 1ULL << 30}};
  if (text == "off") return kUnlimited;
  double number = 0;
  const auto [end, status] = std::from_chars(text.data(), text.data() + text.size(), number);
  std::string_view name = text.substr(static_cast<std::size_t>(end - text.data()));
  if (name.starts_with(' ')) name.remove_prefix(1);
  const auto unit = std::find_if(kUnits.begin(), kUnits.end(),
                                 [name](const Unit& known) { return known.name == name; });
  if (status != std::errc() || unit == kUnits.end() || !std::isfinite(number)) {
    return fail(ErrorClass::kUsage,
                "'{}' is no bandwidth: a number and bit/s, B/s or KiB/s, with k, M, G (1Gbit/s, "
                "200MiB/s), or off",
                text);
  }
  const double bytes_per_s = number * unit->bytes;
  if (bytes_per_s >= static_cast<double>(kRateBytesPerSMin) &&
      bytes_per_s <= static_cast<double>(kRateBytesPerSMax)) {
    return static_cast<std::uint64_t>(bytes_per_s);
  }
  return fail(ErrorClass::kUsage, "{} is not between 64KiB/s and 100GB/s", text);
}

namespace {

class LimitedStream final : public Stream {
 public:
  LimitedStream(std::unique_ptr<Stream> stream, std::shared_ptr<RateLimit> limit)
      : stream_(std::move(stream)), limit_(std::move(limit)) {}

  Result<std::size_t> read_some(MutableBytes out) override { return stream_->read_some(out); }

  Result<void> write_parts(std::span<const ByteView> parts) override {
    if (limit_->bytes_per_s() == kUnlimited) return stream_->write_parts(parts);
    std::uint64_t left = 0;
    for (const ByteView part : parts) left += part.size();
    std::size_t skip = 0;  // bytes of parts.front() that have left
    while (left > 0) {
      auto granted = limit_->take(left, down_);
      // The stream knows why; where it knows of nothing the wait's own words stay.
      if (!granted) return say_why(std::move(granted.error()));
      left -= *granted;
      SEALIFT_CHECK(write_some(parts, skip, *granted));
    }
    return {};
  }

  Result<void> end_writes() override { return stream_->end_writes(); }
  void shutdown() override {
    down_.cancel();
    stream_->shutdown();
  }
  [[nodiscard]] std::string peer() const override { return stream_->peer(); }
  [[nodiscard]] std::optional<SharedSecret> shared_secret(const std::string& label) override {
    return stream_->shared_secret(label);
  }

 private:
  // The next `bytes` of the parts; moves both cursors behind them.
  Result<void> write_some(std::span<const ByteView>& parts, std::size_t& skip,
                          std::uint64_t bytes) {
    std::vector<ByteView> piece;
    while (bytes > 0) {
      ByteView rest = parts.front().subspan(skip);
      const std::size_t taken = std::min<std::size_t>(rest.size(), bytes);
      if (taken > 0) piece.push_back(rest.first(taken));
      bytes -= taken;
      skip += taken;
      if (skip < parts.front().size()) break;
      parts = parts.subspan(1);
      skip = 0;
    }
    return stream_->write_parts(piece);
  }

  Result<void> say_why(Error error) {
    return fail(ErrorClass::kDisconnected, "the connection to {} was shut down on this side: {}",
                stream_->peer(), error.detail);
  }

  std::unique_ptr<Stream> stream_;
  std::shared_ptr<RateLimit> limit_;
  CancelToken down_;
};

}  // namespace

std::unique_ptr<Stream> make_limited_stream(std::unique_ptr<Stream> stream,
                                            std::shared_ptr<RateLimit> limit) {
  return std::make_unique<LimitedStream>(std::move(stream), std::move(limit));
}

}  // namespace sealift
