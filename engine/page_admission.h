// PageAdmission: which pages may be applied at the destination now, over all streams of a session:
// those of the epoch that is open, of RAM, each once, and none on a stream that has ended it.
//
// Spec:    docs/spec/wire.md, "Epochs".
// Owner:   DestinationSession. Threads: begin() and open() by the session's; admit() and end() by
//          one thread for each stream, at the same time. A stream's thread touches its own counts
//          and the shared bitmap only.
// Failure: kMalformed with the values. What was admitted before the failure stays admitted.
// Invariants:
//   I1  No page is admitted twice in an epoch, whatever the streams do at the same time.
//   I2  Nothing is admitted on a stream for an epoch that it has ended, or that is not open.
#pragma once

#include <atomic>
#include <cstdint>
#include <span>
#include <vector>

#include "engine/batch.h"
#include "engine/memory_layout.h"
#include "engine/records.h"
#include "engine/result.h"

namespace sealift {

class PageAdmission {
 public:
  explicit PageAdmission(const MemoryLayout& layout);  // outlives it

  // Once, before anything else.
  void begin(std::uint8_t streams, std::uint32_t batch_pages_max);
  // REQUIRES: every stream has ended the epoch before.
  void open(std::uint32_t epoch);

  // `entries`: of the batch, those that are no pages included. All pages have class `cls`.
  Result<void> admit(std::uint8_t stream, std::uint32_t epoch, std::span<const Gfn> pages,
                     std::size_t entries, PageClass cls);
  Result<void> admit(const LivePages& pages);
  // The stream has ended the epoch, and what it says of it is what came.
  Result<void> end(const EpochEnd& marker);

  std::uint8_t streams() const { return static_cast<std::uint8_t>(streams_.size()); }

 private:
  struct alignas(64) Stream {  // of its own thread
    std::uint32_t epoch = 0;   // what the counts are of
    std::uint32_t ended = 0;   // the last epoch that it ended
    std::uint64_t shared_pages = 0;
    std::uint64_t private_pages = 0;
  };

  Result<Stream*> check_turn(std::uint8_t stream, std::uint32_t epoch, const char* what);
  Result<void> check_size(std::uint64_t pages) const;
  Result<void> take(GfnRange range, std::uint32_t epoch);

  const MemoryLayout& layout_;
  std::vector<Stream> streams_;
  std::uint32_t batch_pages_max_ = 0;
  std::atomic<std::uint32_t> open_{0};             // the epoch that is open; 0: none
  std::vector<std::atomic<std::uint64_t>> taken_;  // pages of that epoch
};

}  // namespace sealift
