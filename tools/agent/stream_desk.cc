#include "tools/agent/stream_desk.h"

#include <algorithm>
#include <utility>

#include "engine/assert.h"

namespace sealift {
namespace {

// In the same time wherever they differ.
bool same(const StreamSecret& a, const StreamSecret& b) {
  std::byte difference{0};
  for (std::size_t i = 0; i < a.size(); ++i) difference |= a[i] ^ b[i];
  return difference == std::byte{0};
}

}  // namespace

void StreamDesk::expect(const StreamJoin& join, std::uint8_t streams) {
  SEALIFT_ASSERT(streams > 1);
  const std::lock_guard lock(mutex_);
  SEALIFT_ASSERT(!expected_);
  expected_ = join;
  streams_.resize(streams - 1U);
  missing_ = streams_.size();
}

Result<void> StreamDesk::join(const StreamJoin& join, std::unique_ptr<Stream> stream) {
  const std::lock_guard lock(mutex_);
  const auto refuse = [&](const char* why) {
    return fail(ErrorClass::kRefused, "{} wants to be stream {}: {}", stream->peer(), join.stream,
                why);
  };
  if (closed_ || !expected_) return refuse("the session waits for none");
  if (!same(join.secret, expected_->secret)) return refuse("it does not know the session's secret");
  if (join.stream == 0 || join.stream > streams_.size()) return refuse("there is no such stream");
  std::unique_ptr<Stream>& place = streams_[join.stream - 1U];
  if (place || missing_ == 0) return refuse("that stream is there already");
  place = std::move(stream);
  if (--missing_ == 0) changed_.notify_all();
  return {};
}

Result<std::vector<std::unique_ptr<Stream>>> StreamDesk::await_all(
    std::chrono::milliseconds limit) {
  std::unique_lock lock(mutex_);
  SEALIFT_ASSERT(expected_.has_value());
  changed_.wait_for(lock, limit, [&] { return closed_ || missing_ == 0; });
  if (closed_) return fail(ErrorClass::kCancelled, "the session ended before its streams came");
  if (missing_ > 0) {
    return fail(ErrorClass::kDisconnected, "{} of {} further connections did not come within {} ms",
                missing_, streams_.size(), limit.count());
  }
  return std::move(streams_);
}

void StreamDesk::close() {
  const std::lock_guard lock(mutex_);
  closed_ = true;
  streams_.clear();
  changed_.notify_all();
}

}  // namespace sealift
