#include "tools/agent/harvester.h"

#include <condition_variable>
#include <mutex>
#include <utility>

namespace sealift {

Harvester::Harvester(GuestPort& guest, std::chrono::nanoseconds every, std::function<void()> failed)
    : guest_(guest), failed_(std::move(failed)) {
  if (every.count() == 0) return;
  thread_ = std::jthread([this, every](const std::stop_token& stop) { run(stop, every); });
}

void Harvester::run(const std::stop_token& stop, std::chrono::nanoseconds every) {
  std::mutex mutex;
  std::condition_variable_any wake;
  std::unique_lock lock(mutex);
  for (;;) {
    wake.wait_for(lock, stop, every, [&] { return stop.stop_requested(); });
    if (stop.stop_requested()) return;
    auto harvested = guest_.harvest_dirty();
    if (harvested) continue;
    error_ = std::move(harvested.error());
    failed_();
    return;
  }
}

Result<void> Harvester::stop() {
  thread_ = std::jthread();  // stops and joins
  if (error_) return tl::unexpected(std::move(*error_));
  return {};
}

}  // namespace sealift
