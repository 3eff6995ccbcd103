#include "vmm_glue/sev/populated.h"

#include <immintrin.h>

#include <algorithm>
#include <array>
#include <memory>
#include <utility>

#include "engine/limits.h"
#include "engine/zero_scan.h"

namespace sealift::sev {
namespace {

constexpr std::size_t kCacheLineBytes = 64;

// A page at a page's address, so that nothing else of ours is pinned.
struct alignas(kPageBytes) OwnPage {
  std::array<std::byte, kPageBytes> bytes{};
};

}  // namespace

bool never_written(const std::byte* host_page) { return is_zero(host_page, kPageBytes); }

void flush_host_view(const std::byte* host_page) {
  for (std::size_t at = 0; at < kPageBytes; at += kCacheLineBytes) _mm_clflush(host_page + at);
  _mm_mfence();
}

Result<void> flush_all_caches(const SevVm& vm) {
  const auto page = std::make_unique<OwnPage>();
  KvmEncRegion region{.addr = reinterpret_cast<std::uint64_t>(page->bytes.data()),
                      .size = kPageBytes};
  const std::array<std::pair<unsigned long, const char*>, 2> calls = {
      {{kKvmMemoryEncryptRegRegion, "KVM_MEMORY_ENCRYPT_REG_REGION"},
       {kKvmMemoryEncryptUnregRegion, "KVM_MEMORY_ENCRYPT_UNREG_REGION"}}};
  for (const auto& [request, name] : calls) {
    if (const int result = vm.host.ioctl(vm.vm_fd, request, &region); result < 0) {
      return fail(ErrorClass::kLocalFault, "{} of one page, to flush the caches, failed: {}.", name,
                  errno_text(-result));
    }
  }
  return {};
}

void Settled::clear() {
  const std::lock_guard lock(mutex_);
  pages_.clear();
}

void Settled::add(GfnRange pages) {
  const std::uint64_t first = std::min(value(pages.first), limits::kGuestPagesMax);
  const std::uint64_t end = first + std::min(pages.pages, limits::kGuestPagesMax - first);
  if (first == end) return;
  const std::lock_guard lock(mutex_);
  if (pages_.size() < end) pages_.resize(end);
  std::fill(pages_.begin() + static_cast<std::ptrdiff_t>(first),
            pages_.begin() + static_cast<std::ptrdiff_t>(end), true);
}

bool Settled::contains(Gfn gfn) const {
  const std::lock_guard lock(mutex_);
  return value(gfn) < pages_.size() && pages_[value(gfn)];
}

}  // namespace sealift::sev
