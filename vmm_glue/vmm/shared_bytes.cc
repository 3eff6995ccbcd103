#include "vmm_glue/vmm/shared_bytes.h"

#include <algorithm>
#include <cstdint>

#include "vmm_glue/exits/converter.h"

namespace sealift {
namespace {

// Calls `each(host address, offset, bytes)` for the part of [gpa, gpa + bytes) in each page.
template <class Each>
void for_each_part(Gpa gpa, std::size_t bytes, Each each) {
  for (std::size_t done = 0; done < bytes;) {
    const Gpa at{value(gpa) + done};
    const std::size_t part =
        std::min<std::size_t>(bytes - done, kPageBytes - value(at) % kPageBytes);
    each(at, done, part);
    done += part;
  }
}

}  // namespace

bool SharedBytes::is_shared_ram(Gpa gpa, std::size_t bytes) const {
  if (bytes == 0) return true;
  const std::uint64_t last = value(gpa) + (bytes - 1);
  if (last < value(gpa)) return false;
  const Gfn first = page_of(gpa);
  const GfnRange pages{first, value(page_of(Gpa{last})) - value(first) + 1};
  return layout_.contains(pages) && all_pages_are(map_, pages, PageClass::kShared);
}

// Byte by byte, each atomic: nothing here is aligned, and the guest may write beside us.
bool SharedBytes::read(Gpa gpa, MutableBytes out) const {
  if (!is_shared_ram(gpa, out.size())) return false;
  for_each_part(gpa, out.size(), [&](Gpa at, std::size_t done, std::size_t part) {
    const std::byte* host = memory_.at(page_of(at)) + value(at) % kPageBytes;
    for (std::size_t i = 0; i < part; ++i) {
      out[done + i] = std::byte{
          __atomic_load_n(reinterpret_cast<const std::uint8_t*>(host + i), __ATOMIC_ACQUIRE)};
    }
  });
  return true;
}

bool SharedBytes::write(Gpa gpa, ByteView in) {
  if (!is_shared_ram(gpa, in.size())) return false;
  for_each_part(gpa, in.size(), [&](Gpa at, std::size_t done, std::size_t part) {
    std::byte* host = memory_.at(page_of(at)) + value(at) % kPageBytes;
    for (std::size_t i = 0; i < part; ++i) {
      __atomic_store_n(reinterpret_cast<std::uint8_t*>(host + i),
                       static_cast<std::uint8_t>(in[done + i]), __ATOMIC_RELEASE);
    }
    dirty_.mark(page_of(at));
  });
  return true;
}

}  // namespace sealift
