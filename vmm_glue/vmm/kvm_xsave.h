// The XSAVE image of a vCPU between two hosts whose extended states differ in number or layout.
//
// KVM gives the image in the host processor's own standard layout, and says nowhere which that is:
// AVX-512 lies elsewhere on AMD than on Intel in an image of the same size. So the layout of the
// components in use goes along, and an image is accepted only where they lie at the same offsets.
//
// Spec:    Intel SDM 1, 13.4 (XSAVE area; XSTATE_BV at byte 512, XCOMP_BV after it); CPUID leaf
//          0xd; Linux Documentation/virt/kvm/api.rst, KVM_GET_XSAVE2 (4096 bytes or more).
// Owner, Threads: none, functions of their arguments and of the processor.
// Failure: kMalformed for what is no image or layout; kRefused for one that does not fit.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/result.h"
#include "engine/types.h"

namespace sealift {

// Where a component lies. x87 and SSE (0 and 1) are the same everywhere and left out.
struct XsavePart {
  std::uint32_t component = 0;  // bit of XSTATE_BV
  std::uint32_t offset = 0;
  std::uint32_t bytes = 0;
  friend bool operator==(const XsavePart&, const XsavePart&) = default;
};
using XsaveLayout = std::vector<XsavePart>;

// XSTATE_BV. REQUIRES: xsave has kKvmXsaveBytesMin bytes.
std::uint64_t components_of(const Bytes& xsave);
// This processor's layout of those of `components` that it has.
XsaveLayout own_layout(std::uint64_t components);

Bytes encode_layout(const XsaveLayout& layout);
Result<XsaveLayout> decode_layout(const Bytes& bytes);

// The image for a KVM whose images have `own_bytes`. `own` is own_layout() of its components.
Result<Bytes> fit_xsave(const Bytes& xsave, const XsaveLayout& saved, const XsaveLayout& own,
                        std::uint64_t own_bytes);

}  // namespace sealift
