// KvmVcpu::save() and load(): one StateBlob for each of KVM's state structures, in the kernel's own
// layout.
#include <fmt/core.h>
#include <linux/kvm.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <string_view>

#include "engine/limits.h"
#include "vmm_glue/abi/kvm_requests.h"
#include "vmm_glue/vmm/kvm_vcpu.h"

namespace sealift {
namespace {

constexpr std::uint32_t kVersion = 1;
constexpr std::string_view kRegs = "kvm.regs", kSregs2 = "kvm.sregs2", kSregs = "kvm.sregs",
                           kXcrs = "kvm.xcrs", kXsave = "kvm.xsave", kMsrs = "kvm.msrs",
                           kDebugregs = "kvm.debugregs", kEvents = "kvm.vcpu_events",
                           kMpState = "kvm.mp_state";

// Not in KVM_GET_MSR_INDEX_LIST of the page-table-based back-end, but part of a CPL0 guest's state
// there: the guest physical address of its control page. Other KVMs do not know it, and reading it
// fails.
constexpr std::uint32_t kPvmControlMsr = 0x4b564d10;

// Without these a guest does not run on as it was. Others in the list are read-only or features of
// the host, and KVM refuses to set them: those are left as they are.
constexpr std::uint32_t kStar = 0xc0000081, kLstar = 0xc0000082, kSfmask = 0xc0000084, kTsc = 0x10,
                        kKernelGsBase = 0xc0000102;
constexpr std::array kNeededMsrs = {kStar, kLstar, kSfmask, kTsc, kKernelGsBase, kPvmControlMsr};

static_assert(offsetof(KvmOneMsr, index) == kKvmMsrsHeadBytes + offsetof(kvm_msr_entry, index));
static_assert(offsetof(KvmOneMsr, data) == kKvmMsrsHeadBytes + offsetof(kvm_msr_entry, data));

template <class State>
Result<Bytes> get_struct(const KvmHandle& vcpu, const char* name, unsigned long request) {
  Bytes bytes(sizeof(State));
  SEALIFT_TRY([[maybe_unused]] int got, vcpu.call(name, request, bytes.data()));
  return bytes;
}
#define SEALIFT_GET(state, request) get_struct<state>(handle_, #request, request)

}  // namespace

std::uint64_t KvmVcpu::sregs_bytes() const {
  return system_.has_sregs2 ? sizeof(kvm_sregs2) : sizeof(kvm_sregs);
}

// In the order in which they are set: the mode first, and what depends on it later.
std::vector<const char*> KvmVcpu::item_names() const {
  return {system_.has_sregs2 ? kSregs2.data() : kSregs.data(),
          kXcrs.data(),
          kXsave.data(),
          kMsrs.data(),
          kRegs.data(),
          kDebugregs.data(),
          kEvents.data(),
          kMpState.data()};
}

Result<Bytes> KvmVcpu::get_item(std::string_view name) const {
  if (name == kSregs2) return SEALIFT_GET(kvm_sregs2, KVM_GET_SREGS2);
  if (name == kSregs) return SEALIFT_GET(kvm_sregs, KVM_GET_SREGS);
  if (name == kXcrs) return SEALIFT_GET(kvm_xcrs, KVM_GET_XCRS);
  if (name == kRegs) return SEALIFT_GET(kvm_regs, KVM_GET_REGS);
  if (name == kDebugregs) return SEALIFT_GET(kvm_debugregs, KVM_GET_DEBUGREGS);
  if (name == kEvents) return SEALIFT_GET(kvm_vcpu_events, KVM_GET_VCPU_EVENTS);
  if (name == kMpState) return SEALIFT_GET(kvm_mp_state, KVM_GET_MP_STATE);
  if (name == kMsrs) return get_msrs();
  Bytes bytes(system_.xsave_bytes);
  SEALIFT_TRY([[maybe_unused]] int got,
              handle_.call("KVM_GET_XSAVE2", kKvmGetXsave2, bytes.data()));
  return bytes;
}

Result<std::vector<StateBlob>> KvmVcpu::save() const {
  std::vector<StateBlob> state;
  for (const char* name : item_names()) {
    SEALIFT_TRY(Bytes bytes, get_item(name));
    state.push_back(StateBlob{StateBlob::Kind::kVcpu, index_, name, kVersion, std::move(bytes)});
  }
  return state;
}

Result<Bytes> KvmVcpu::get_msrs() const {
  std::vector<std::uint32_t> indices = system_.msrs;
  indices.push_back(kPvmControlMsr);
  std::vector<kvm_msr_entry> entries;
  for (const std::uint32_t index : indices) {
    KvmOneMsr one;
    one.index = index;
    // The list names what this KVM may know; a vCPU without the feature refuses to read it, and
    // then has none.
    const auto got = handle_.call("KVM_GET_MSRS", kKvmGetMsrs, &one);
    if (!got || *got != 1) continue;
    if (index == kPvmControlMsr && (one.data & 1) == 0) continue;  // not switched on
    kvm_msr_entry entry{};
    entry.index = index;
    entry.data = one.data;
    entries.push_back(entry);
  }
  Bytes bytes(entries.size() * sizeof(kvm_msr_entry));
  if (!entries.empty()) std::memcpy(bytes.data(), entries.data(), bytes.size());
  return bytes;
}

Result<void> KvmVcpu::set_msrs(const Bytes& bytes) const {
  for (std::size_t at = 0; at < bytes.size(); at += sizeof(kvm_msr_entry)) {
    kvm_msr_entry entry{};
    std::memcpy(&entry, bytes.data() + at, sizeof entry);
    KvmOneMsr one;
    one.index = entry.index;
    one.data = entry.data;
    const auto set = handle_.call("KVM_SET_MSRS", kKvmSetMsrs, &one);
    if (set && *set == 1) continue;
    if (std::find(kNeededMsrs.begin(), kNeededMsrs.end(), one.index) == kNeededMsrs.end()) continue;
    return fail(ErrorClass::kRefused, "MSR {:#x} of vCPU {} cannot be set to {:#x} here", one.index,
                index_, one.data);
  }
  return {};
}

Result<void> KvmVcpu::check_item(const StateBlob& blob) const {
  if (blob.version != kVersion) {
    return fail(ErrorClass::kRefused, "state '{}' of vCPU {} has version {} instead of {}",
                blob.name, index_, blob.version, kVersion);
  }
  std::uint64_t bytes = 0;
  if (blob.name == kSregs2 || blob.name == kSregs) bytes = sregs_bytes();
  if (blob.name == kXcrs) bytes = sizeof(kvm_xcrs);
  if (blob.name == kXsave) bytes = system_.xsave_bytes;
  if (blob.name == kRegs) bytes = sizeof(kvm_regs);
  if (blob.name == kDebugregs) bytes = sizeof(kvm_debugregs);
  if (blob.name == kEvents) bytes = sizeof(kvm_vcpu_events);
  if (blob.name == kMpState) bytes = sizeof(kvm_mp_state);
  if (blob.name == kMsrs) {
    if (blob.bytes.size() % sizeof(kvm_msr_entry) == 0) return {};
    return fail(ErrorClass::kMalformed, "state '{}' of vCPU {} has {} bytes, no multiple of {}",
                blob.name, index_, blob.bytes.size(), sizeof(kvm_msr_entry));
  }
  if (blob.bytes.size() == bytes) return {};
  return fail(ErrorClass::kMalformed, "state '{}' of vCPU {} has {} bytes instead of {}", blob.name,
              index_, blob.bytes.size(), bytes);
}

Result<void> KvmVcpu::set_item(const StateBlob& blob) const {
  if (blob.name == kMsrs) return set_msrs(blob.bytes);
  unsigned long request = kKvmSetXsave;
  if (blob.name == kSregs2) request = KVM_SET_SREGS2;
  if (blob.name == kSregs) request = KVM_SET_SREGS;
  if (blob.name == kXcrs) request = KVM_SET_XCRS;
  if (blob.name == kRegs) request = KVM_SET_REGS;
  if (blob.name == kDebugregs) request = KVM_SET_DEBUGREGS;
  if (blob.name == kEvents) request = KVM_SET_VCPU_EVENTS;
  if (blob.name == kMpState) request = KVM_SET_MP_STATE;
  if (auto set = handle_.call(blob.name.c_str(), request, blob.bytes.data()); !set) {
    // EINVAL here is a verdict of KVM on the peer's values.
    return fail(ErrorClass::kRefused, "setting state of vCPU {}: {}", index_, set.error().detail);
  }
  return {};
}

Result<void> KvmVcpu::load(const std::vector<StateBlob>& state) {
  std::vector<const StateBlob*> ordered;
  for (const char* name : item_names()) {
    const auto is_it = [&](const StateBlob& blob) {
      return blob.index == index_ && blob.name == name;
    };
    const auto copies = std::count_if(state.begin(), state.end(), is_it);
    if (copies != 1) {
      return fail(ErrorClass::kRefused, "state '{}' of vCPU {} comes {} times instead of once",
                  name, index_, copies);
    }
    const StateBlob& found = *std::find_if(state.begin(), state.end(), is_it);
    SEALIFT_CHECK(check_item(found));
    ordered.push_back(&found);
  }
  for (const StateBlob& blob : state) {
    const auto is_known = [&](const StateBlob* known) { return known == &blob; };
    if (blob.index == index_ && std::none_of(ordered.begin(), ordered.end(), is_known)) {
      return fail(ErrorClass::kRefused, "state '{}' of vCPU {} is not known to this KVM", blob.name,
                  index_);
    }
  }
  for (const StateBlob* blob : ordered) SEALIFT_CHECK(set_item(*blob));
  return {};
}

}  // namespace sealift
