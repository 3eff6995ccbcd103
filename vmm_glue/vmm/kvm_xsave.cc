#include "vmm_glue/vmm/kvm_xsave.h"

#include <cpuid.h>
#include <fmt/core.h>

#include <algorithm>
#include <cstring>

#include "engine/assert.h"
#include "vmm_glue/abi/kvm_requests.h"

namespace sealift {
namespace {

constexpr std::size_t kStateBvOffset = 512;
constexpr std::size_t kCompactOffset = 520;
constexpr std::uint32_t kComponents = 63;  // bit 63 of XSTATE_BV is none
constexpr std::size_t kPartBytes = sizeof(XsavePart);
constexpr std::uint64_t kXsaveBytesMax = 1 << 16;  // AMX makes it 11008
static_assert(kPartBytes == 12);

std::uint64_t word_at(const Bytes& bytes, std::size_t offset) {
  std::uint64_t word = 0;
  std::memcpy(&word, bytes.data() + offset, sizeof word);
  return word;
}

const XsavePart* find(const XsaveLayout& layout, std::uint32_t component) {
  const auto it = std::find_if(layout.begin(), layout.end(),
                               [&](const XsavePart& part) { return part.component == component; });
  return it == layout.end() ? nullptr : &*it;
}

Result<void> check_component(std::uint32_t component, const XsaveLayout& saved,
                             const XsaveLayout& own, std::uint64_t bytes_max) {
  const XsavePart* const there = find(saved, component);
  const XsavePart* const here = find(own, component);
  if (there == nullptr) {
    return fail(ErrorClass::kMalformed, "extended state {} is in use and not in the layout",
                component);
  }
  if (here == nullptr) {
    return fail(ErrorClass::kRefused, "this processor has no extended state {}", component);
  }
  if (*there != *here) {
    return fail(ErrorClass::kRefused,
                "extended state {} is {} bytes at {} in the image and {} bytes at {} here",
                component, there->bytes, there->offset, here->bytes, here->offset);
  }
  if (std::uint64_t{here->offset} + here->bytes > bytes_max) {
    return fail(ErrorClass::kRefused, "extended state {}, {} bytes at {}, is beyond {} bytes",
                component, here->bytes, here->offset, bytes_max);
  }
  return {};
}

}  // namespace

std::uint64_t components_of(const Bytes& xsave) {
  SEALIFT_ASSERT(xsave.size() >= kKvmXsaveBytesMin);
  return word_at(xsave, kStateBvOffset);
}

XsaveLayout own_layout(std::uint64_t components) {
  XsaveLayout layout;
  for (std::uint32_t i = 2; i < kComponents; ++i) {
    if ((components >> i & 1) == 0) continue;
    XsavePart part;
    std::uint32_t ecx = 0, edx = 0;
    if (__get_cpuid_count(0xd, i, &part.bytes, &part.offset, &ecx, &edx) == 0) break;
    if (part.bytes == 0) continue;
    part.component = i;
    layout.push_back(part);
  }
  return layout;
}

Bytes encode_layout(const XsaveLayout& layout) {
  Bytes bytes(layout.size() * kPartBytes);
  if (!layout.empty()) std::memcpy(bytes.data(), layout.data(), bytes.size());
  return bytes;
}

Result<XsaveLayout> decode_layout(const Bytes& bytes) {
  if (bytes.size() % kPartBytes != 0 || bytes.size() > kComponents * kPartBytes) {
    return fail(ErrorClass::kMalformed, "a layout of extended state has {} bytes", bytes.size());
  }
  XsaveLayout layout(bytes.size() / kPartBytes);
  if (!layout.empty()) std::memcpy(layout.data(), bytes.data(), bytes.size());
  return layout;
}

Result<Bytes> fit_xsave(const Bytes& xsave, const XsaveLayout& saved, const XsaveLayout& own,
                        std::uint64_t own_bytes) {
  // Every component is of whole 8-byte words.
  if (xsave.size() < kKvmXsaveBytesMin || xsave.size() > kXsaveBytesMax || xsave.size() % 8 != 0) {
    return fail(ErrorClass::kMalformed, "an XSAVE image has {} bytes, not {} to {} in whole words",
                xsave.size(), kKvmXsaveBytesMin, kXsaveBytesMax);
  }
  const std::uint64_t components = components_of(xsave);
  if (components >> kComponents != 0 || word_at(xsave, kCompactOffset) != 0) {
    return fail(ErrorClass::kMalformed, "an XSAVE image is not in the standard form");
  }
  const std::uint64_t common = std::min<std::uint64_t>(xsave.size(), own_bytes);
  for (std::uint32_t i = 2; i < kComponents; ++i) {
    if ((components >> i & 1) != 0) SEALIFT_CHECK(check_component(i, saved, own, common));
  }
  // Nothing that is in use lies beyond `common`.
  Bytes fitted(own_bytes);
  std::memcpy(fitted.data(), xsave.data(), common);
  return fitted;
}

}  // namespace sealift
