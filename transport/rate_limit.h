// RateLimit: one budget of bytes per second for all streams of a migration.
//
// A bucket that fills at the rate and holds kBurst_ns of it; bytes leave when they are in it, so in
// any time t at most rate × (t + kBurst_ns) leave, over all streams together: 1 % more than the
// rate over any second. A writer that is ready all the time gets the whole rate: what it was late
// by is in the bucket, up to kBurst_ns. Pieces are what kQuantum_ns gives, so streams take turns
// and a new rate, or a cancel, is obeyed within a few of these.
//
// What is counted are the bytes given to the stream: TLS adds 0.2 %, TCP and IP some 3 % more.
//
// Threads: RateLimit any; TokenBucket one.
// Failure: take() kCancelled when the token is cancelled while it waits.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string_view>

#include "engine/result.h"
#include "transport/cancel.h"
#include "transport/stream.h"

namespace sealift {

inline constexpr std::uint64_t kUnlimited = 0;
// Below this a migration of anything would look like a dead link.
inline constexpr std::uint64_t kRateBytesPerSMin = 64 * 1024;
inline constexpr std::uint64_t kRateBytesPerSMax = 100'000'000'000;

// The arithmetic, in whole numbers: nothing is rounded away. Times never go back.
class TokenBucket {
 public:
  static constexpr std::uint64_t kBurst_ns = 10'000'000;
  static constexpr std::uint64_t kQuantum_ns = 2'000'000;
  static constexpr std::uint64_t kQuantumBytesMax = 256 * 1024;

  // REQUIRES: rate 0 (unlimited), or in [kRateBytesPerSMin, kRateBytesPerSMax].
  TokenBucket(std::uint64_t bytes_per_s, std::uint64_t now_ns);
  void set_rate(std::uint64_t bytes_per_s, std::uint64_t now_ns);

  // How many of `wish` bytes may leave now; they have left. 0: none before wait_ns() has passed.
  std::uint64_t take(std::uint64_t wish, std::uint64_t now_ns);
  std::uint64_t wait_ns(std::uint64_t wish) const;

 private:
  std::uint64_t least(std::uint64_t wish) const;  // it is not worth a write before
  void fill(std::uint64_t now_ns);

  std::uint64_t rate_;
  std::uint64_t level_ = 0;  // bytes × 10⁹
  std::uint64_t filled_ns_;  // when level_ was right
};

class RateLimit {
 public:
  explicit RateLimit(std::uint64_t bytes_per_s = kUnlimited);

  // REQUIRES: as TokenBucket. Streams that wait now go on by the new rate.
  void set(std::uint64_t bytes_per_s);
  std::uint64_t bytes_per_s() const { return rate_.load(std::memory_order_relaxed); }

  // Waits until some of `wish` bytes may leave, and says how many. REQUIRES: wish is not 0.
  Result<std::uint64_t> take(std::uint64_t wish, const CancelToken& cancel);

 private:
  std::atomic<std::uint64_t> rate_;
  std::mutex mutex_;
  TokenBucket bucket_;  // guarded by mutex_
};

// "1Gbit/s", "200 MiB/s", "12.5MB/s", "off": bytes per second, kUnlimited for off. kUsage for other
// text and for rates out of range.
Result<std::uint64_t> parse_rate(std::string_view text);

// The same stream, whose writes keep to the limit. Owner, Threads, Failure: as Stream; the limit is
// shared with others and with whoever changes it. shutdown() ends a wait as well.
std::unique_ptr<Stream> make_limited_stream(std::unique_ptr<Stream> stream,
                                            std::shared_ptr<RateLimit> limit);

}  // namespace sealift
