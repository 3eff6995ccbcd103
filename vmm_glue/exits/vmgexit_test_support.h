// FakeGuest: guest memory, page map and converter for tests of exit decoders.
//
// Fault model: memory follows the page map: a range that is not wholly shared RAM is neither read
// nor written. `answers` scripts the converter call by call (kDone when it is used up).
// `on_read` runs after every read and stands for another vCPU that writes meanwhile; `read_limit`
// makes a decoder that reads again and again fail.
// Owner:   the test. Threads: memory from any (one mutex); the converter from one.
#pragma once

#include <algorithm>
#include <array>
#include <cstring>
#include <functional>
#include <limits>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include "engine/assert.h"
#include "engine/dirty_set.h"
#include "engine/memory_layout.h"
#include "engine/page_map.h"
#include "engine/types.h"
#include "vmm_glue/exits/converter.h"
#include "vmm_glue/exits/guest_bytes.h"
#include "vmm_glue/exits/guest_range.h"

namespace sealift::test {

class FakeGuest final : public GuestBytes, public Converter {
 public:
  struct Write {
    std::uint64_t gpa = 0;
    std::size_t bytes = 0;
  };

  explicit FakeGuest(std::vector<GfnRange> ram)
      : layout(make_layout(std::move(ram))), map(layout.span_pages()), dirty(layout.span_pages()) {}

  bool read(Gpa gpa, MutableBytes out) const override {
    {
      const std::lock_guard lock(mutex_);
      if (!is_shared(value(gpa), out.size()) || reads >= read_limit) return false;
      ++reads;
      for_each_piece(value(gpa), out.size(), [&](std::uint64_t gfn, auto offset, auto at, auto n) {
        const auto page = pages_.find(gfn);
        if (page == pages_.end()) {
          std::memset(out.data() + at, 0, n);
        } else {
          std::memcpy(out.data() + at, page->second.data() + offset, n);
        }
      });
    }
    if (on_read) on_read();
    return true;
  }

  bool write(Gpa gpa, ByteView in) override {
    const std::lock_guard lock(mutex_);
    if (!is_shared(value(gpa), in.size())) return false;
    writes.push_back({value(gpa), in.size()});
    put(value(gpa), in);
    return true;
  }

  Converted convert(GfnRange range, PageClass cls) override {
    SEALIFT_ASSERT(layout.contains(range));  // Converter I2
    Converted answer = Converted::kDone;
    if (next_answer_ < answers.size()) answer = answers[next_answer_++];
    calls.emplace_back(range, cls);
    if (answer == Converted::kDone) convert_pages(map, dirty, range, cls);
    return answer;
  }

  // As the guest itself writes and reads, whatever the class.
  void poke(std::uint64_t gpa, ByteView in) const {
    const std::lock_guard lock(mutex_);
    put(gpa, in);
  }
  template <class T>
  void poke_word(std::uint64_t gpa, T word) const {
    poke(gpa, std::as_bytes(std::span(&word, 1)));
  }
  template <class T>
  T peek(std::uint64_t gpa) const {
    T out{};
    auto* bytes = reinterpret_cast<std::byte*>(&out);
    const std::lock_guard lock(mutex_);
    for_each_piece(gpa, sizeof out, [&](std::uint64_t gfn, auto offset, auto at, auto n) {
      std::memcpy(bytes + at, pages_[gfn].data() + offset, n);
    });
    return out;
  }
  void share(GfnRange range) { map.convert(range, PageClass::kShared); }

  MemoryLayout layout;
  PageMap map;
  DirtySet dirty;
  std::vector<Converted> answers;
  std::vector<std::pair<GfnRange, PageClass>> calls;
  std::vector<Write> writes;
  mutable std::uint64_t reads = 0;
  std::uint64_t read_limit = std::numeric_limits<std::uint64_t>::max();
  std::function<void()> on_read;

 private:
  static MemoryLayout make_layout(std::vector<GfnRange> ram) {
    auto made = MemoryLayout::make(std::move(ram));
    SEALIFT_ASSERT(made.has_value());
    return *made;
  }

  bool is_shared(std::uint64_t gpa, std::size_t bytes) const {
    if (bytes == 0 || gpa > std::numeric_limits<std::uint64_t>::max() - bytes) return false;
    const GfnRange range{page_of(Gpa{gpa}),
                         ((gpa + bytes - 1) >> kPageShift) - (gpa >> kPageShift) + 1};
    return layout.contains(range) && all_pages_are(map, range, PageClass::kShared);
  }

  template <class Piece>
  static void for_each_piece(std::uint64_t gpa, std::size_t bytes, Piece piece) {
    for (std::size_t at = 0; at < bytes;) {
      const std::size_t offset = (gpa + at) % kPageBytes;
      const std::size_t n = std::min<std::size_t>(bytes - at, kPageBytes - offset);
      piece((gpa + at) >> kPageShift, offset, at, n);
      at += n;
    }
  }

  void put(std::uint64_t gpa, ByteView in) const {
    for_each_piece(gpa, in.size(), [&](std::uint64_t gfn, auto offset, auto at, auto n) {
      std::memcpy(pages_[gfn].data() + offset, in.data() + at, n);
    });
  }

  mutable std::mutex mutex_;
  mutable std::map<std::uint64_t, std::array<std::byte, kPageBytes>> pages_;
  std::size_t next_answer_ = 0;
};

}  // namespace sealift::test
