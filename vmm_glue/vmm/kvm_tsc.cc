#include "vmm_glue/vmm/kvm_tsc.h"

#include <fmt/core.h>
#include <linux/kvm.h>

#include <cerrno>
#include <cstring>

namespace sealift {
namespace {

kvm_device_attr attribute(std::uint64_t* value) {
  kvm_device_attr attr{};
  attr.group = KVM_VCPU_TSC_CTRL;
  attr.attr = KVM_VCPU_TSC_OFFSET;
  attr.addr = reinterpret_cast<std::uintptr_t>(value);
  return attr;
}

// Of the vCPU's blob; nothing if there is none, or the source had no offsets.
std::optional<std::uint64_t> saved_offset(const std::vector<StateBlob>& state, std::size_t index) {
  for (const StateBlob& blob : state) {
    if (blob.kind != StateBlob::Kind::kVcpu || blob.index != index) continue;
    if (blob.name != kTscOffsetItem || blob.bytes.size() != sizeof(std::uint64_t)) continue;
    std::uint64_t offset = 0;
    std::memcpy(&offset, blob.bytes.data(), sizeof offset);
    return offset;
  }
  return std::nullopt;
}

}  // namespace

Result<std::optional<std::uint64_t>> tsc_offset(HostIoctl& kernel, int vcpu) {
  std::uint64_t offset = 0;
  kvm_device_attr attr = attribute(&offset);
  const int got = kernel.ioctl(vcpu, KVM_GET_DEVICE_ATTR, &attr);
  if (got >= 0) return std::optional(offset);
  if (got == -ENXIO || got == -ENOTTY) return std::optional<std::uint64_t>();
  return fail(ErrorClass::kLocalFault, "KVM_GET_DEVICE_ATTR of a TSC offset failed: {}",
              errno_text(-got));
}

Result<void> set_tsc_offset(HostIoctl& kernel, int vcpu, std::uint64_t offset) {
  kvm_device_attr attr = attribute(&offset);
  const int set = kernel.ioctl(vcpu, KVM_SET_DEVICE_ATTR, &attr);
  if (set >= 0) return {};
  return fail(ErrorClass::kLocalFault, "KVM_SET_DEVICE_ATTR of TSC offset {:#x} failed: {}", offset,
              errno_text(-set));
}

Result<StateNotes> align_tscs(HostIoctl& kernel, std::span<const int> vcpus,
                              const std::vector<StateBlob>& state) {
  StateNotes notes;
  if (vcpus.size() < 2) return notes;
  SEALIFT_TRY(const auto first_here, tsc_offset(kernel, vcpus[0]));
  const auto first_there = saved_offset(state, 0);
  for (std::size_t i = 1; i < vcpus.size(); ++i) {
    const auto there = saved_offset(state, i);
    if (!first_here || !first_there || !there) {
      notes.push_back(
          {fmt::format("vCPU {} TSC", i), "not aligned with vCPU 0: no TSC offsets here or there"});
      continue;
    }
    SEALIFT_CHECK(set_tsc_offset(kernel, vcpus[i], *first_here + (*there - *first_there)));
  }
  return notes;
}

}  // namespace sealift
