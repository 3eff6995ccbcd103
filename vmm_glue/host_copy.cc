#include "vmm_glue/host_copy.h"

#include <atomic>
#include <cstdint>
#include <cstring>

#include "engine/assert.h"

namespace sealift {
namespace {

void check_alignment(const std::byte* guest, std::size_t bytes) {
  SEALIFT_ASSERT(reinterpret_cast<std::uintptr_t>(guest) % 8 == 0);
  SEALIFT_ASSERT(bytes % 8 == 0);
}

std::uint64_t load_word(const std::byte* guest) {
  // atomic_ref<const T> does not exist before C++26; the load does not write.
  auto* word = reinterpret_cast<const std::uint64_t*>(guest);
  return __atomic_load_n(word, __ATOMIC_RELAXED);
}

}  // namespace

void copy_from_guest(const std::byte* guest, MutableBytes out) {
  check_alignment(guest, out.size());
  for (std::size_t at = 0; at < out.size(); at += 8) {
    const std::uint64_t word = load_word(guest + at);
    std::memcpy(out.data() + at, &word, 8);
  }
}

void copy_to_guest(std::byte* guest, ByteView in) {
  check_alignment(guest, in.size());
  for (std::size_t at = 0; at < in.size(); at += 8) {
    std::uint64_t word = 0;
    std::memcpy(&word, in.data() + at, 8);
    __atomic_store_n(reinterpret_cast<std::uint64_t*>(guest + at), word, __ATOMIC_RELAXED);
  }
}

}  // namespace sealift
