#include "vmm_glue/vmm/kvm_vcpu_items.h"

#include <fmt/core.h>
#include <linux/kvm.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <string_view>

#include "vmm_glue/abi/kvm_requests.h"
#include "vmm_glue/vmm/kvm_msrs.h"
#include "vmm_glue/vmm/kvm_tsc.h"
#include "vmm_glue/vmm/kvm_xsave.h"

namespace sealift {
namespace {

constexpr std::uint32_t kVersion = 1;

// An item that is one structure of the kernel's, in its own layout.
struct Item {
  std::string_view name;
  unsigned long get;
  unsigned long set;
  std::uint64_t bytes;
};
#define SEALIFT_ITEM(name, structure, what) \
  {name, KVM_GET_##what, KVM_SET_##what, sizeof(structure)}
constexpr Item kMpState = SEALIFT_ITEM("kvm.mp_state", kvm_mp_state, MP_STATE);
constexpr Item kEvents = SEALIFT_ITEM("kvm.vcpu_events", kvm_vcpu_events, VCPU_EVENTS);
constexpr Item kSregs2 = SEALIFT_ITEM("kvm.sregs2", kvm_sregs2, SREGS2);
constexpr Item kSregs = SEALIFT_ITEM("kvm.sregs", kvm_sregs, SREGS);
constexpr Item kDebugregs = SEALIFT_ITEM("kvm.debugregs", kvm_debugregs, DEBUGREGS);
constexpr Item kRegs = SEALIFT_ITEM("kvm.regs", kvm_regs, REGS);
constexpr Item kXcrs = SEALIFT_ITEM("kvm.xcrs", kvm_xcrs, XCRS);
constexpr Item kLapic = SEALIFT_ITEM("kvm.lapic", kvm_lapic_state, LAPIC);
#undef SEALIFT_ITEM

constexpr std::string_view kXsave = "kvm.xsave", kXsaveLayout = "kvm.xsave_layout",
                           kMsrs = "kvm.msrs", kTscKhz = "kvm.tsc_khz";

std::string quote(const VcpuPort& vcpu, std::string_view name) {
  return fmt::format("state '{}' of vCPU {}", name, vcpu.index);
}

// --- Saving ---

Result<Bytes> get(const VcpuPort& vcpu, std::string_view name, unsigned long request,
                  std::uint64_t size) {
  Bytes bytes(size);
  const int got = vcpu.kernel.ioctl(vcpu.fd, request, bytes.data());
  if (got >= 0) return bytes;
  return fail(ErrorClass::kLocalFault, "{} cannot be read: {}", quote(vcpu, name),
              errno_text(-got));
}

// KVM_GET_LAPIC gives EINVAL to a vCPU without an in-kernel LAPIC.
Result<bool> has_lapic(const VcpuPort& vcpu) {
  Bytes bytes(kLapic.bytes);
  const int got = vcpu.kernel.ioctl(vcpu.fd, kLapic.get, bytes.data());
  if (got >= 0) return true;
  if (got == -EINVAL) return false;
  return fail(ErrorClass::kLocalFault, "{} cannot be read: {}", quote(vcpu, kLapic.name),
              errno_text(-got));
}

Bytes get_tsc_khz(const VcpuPort& vcpu, StateNotes& notes) {
  int khz = vcpu.kernel.ioctl(vcpu.fd, KVM_GET_TSC_KHZ, nullptr);
  if (khz < 0) {
    notes.push_back({quote(vcpu, kTscKhz), "KVM_GET_TSC_KHZ failed: " + errno_text(-khz)});
    khz = 0;  // unknown
  }
  Bytes bytes(sizeof(std::uint32_t));
  std::memcpy(bytes.data(), &khz, bytes.size());
  return bytes;
}

// kvm_sregs2 begins as kvm_sregs does.
static_assert(offsetof(kvm_sregs2, cr4) == offsetof(kvm_sregs, cr4));
static_assert(offsetof(kvm_sregs2, efer) == offsetof(kvm_sregs, efer));

Result<void> check_is_all(const VcpuPort& vcpu, const Bytes& sregs) {
  constexpr std::uint64_t kVmxe = 1ULL << 13, kCet = 1ULL << 23, kSvme = 1ULL << 12;
  std::uint64_t cr4 = 0, efer = 0;
  std::memcpy(&cr4, sregs.data() + offsetof(kvm_sregs, cr4), sizeof cr4);
  std::memcpy(&efer, sregs.data() + offsetof(kvm_sregs, efer), sizeof efer);
  if ((cr4 & (kVmxe | kCet)) == 0 && (efer & kSvme) == 0) return {};
  return fail(ErrorClass::kRefused,
              "vCPU {} uses {} (CR4 {:#x}, EFER {:#x}), whose state is not saved here", vcpu.index,
              (cr4 & kCet) != 0 ? "shadow stacks" : "guests of its own", cr4, efer);
}

}  // namespace

Result<std::vector<StateBlob>> save_vcpu_items(const VcpuPort& vcpu, StateNotes& notes) {
  std::vector<StateBlob> state;
  const auto add = [&](std::string_view name, Bytes bytes) {
    state.push_back(StateBlob{StateBlob::Kind::kVcpu, vcpu.index, std::string(name), kVersion,
                              std::move(bytes)});
  };
  const Item& sregs = vcpu.has_sregs2 ? kSregs2 : kSregs;
  for (const Item* item : {&kMpState, &kEvents, &sregs, &kDebugregs, &kRegs, &kXcrs}) {
    SEALIFT_TRY(Bytes bytes, get(vcpu, item->name, item->get, item->bytes));
    if (item == &sregs) SEALIFT_CHECK(check_is_all(vcpu, bytes));
    add(item->name, std::move(bytes));
  }
  SEALIFT_TRY(Bytes xsave, get(vcpu, kXsave, kKvmGetXsave2, vcpu.xsave_bytes));
  add(kXsaveLayout, encode_layout(own_layout(components_of(xsave))));
  add(kXsave, std::move(xsave));
  SEALIFT_TRY(const bool lapic, has_lapic(vcpu));
  if (lapic) {
    SEALIFT_TRY(Bytes bytes, get(vcpu, kLapic.name, kLapic.get, kLapic.bytes));
    add(kLapic.name, std::move(bytes));
  }
  add(kTscKhz, get_tsc_khz(vcpu, notes));
  SEALIFT_TRY(const auto offset, tsc_offset(vcpu.kernel, vcpu.fd));
  Bytes offset_bytes(offset ? sizeof *offset : 0);
  if (offset) std::memcpy(offset_bytes.data(), &*offset, sizeof *offset);
  add(kTscOffsetItem, std::move(offset_bytes));
  const MsrVcpu msr_vcpu{vcpu.kernel, vcpu.fd, vcpu.index};
  SEALIFT_TRY(Bytes msrs, save_msrs(msr_vcpu, vcpu.listed_msrs, notes));
  add(kMsrs, std::move(msrs));
  return state;
}

namespace {

// --- Loading ---

// The blobs of one vCPU, taken out one by one; what is left over is unknown.
class Blobs {
 public:
  Blobs(const VcpuPort& vcpu, const std::vector<StateBlob>& state) : vcpu_(vcpu) {
    for (const StateBlob& blob : state) {
      if (blob.kind == StateBlob::Kind::kVcpu && blob.index == vcpu.index) left_.push_back(&blob);
    }
  }

  bool has(std::string_view name) const {
    return std::any_of(left_.begin(), left_.end(),
                       [&](const StateBlob* blob) { return blob->name == name; });
  }

  Result<const Bytes*> take(std::string_view name) {
    const auto is_other = [&](const StateBlob* blob) { return blob->name != name; };
    const auto found = std::stable_partition(left_.begin(), left_.end(), is_other);
    const auto copies = left_.end() - found;
    if (copies != 1) {
      return fail(ErrorClass::kRefused, "{} comes {} times instead of once", quote(vcpu_, name),
                  copies);
    }
    const StateBlob& blob = **found;
    left_.pop_back();
    if (blob.version != kVersion) {
      return fail(ErrorClass::kRefused, "{} has version {} instead of {}", quote(vcpu_, name),
                  blob.version, kVersion);
    }
    return &blob.bytes;
  }

  Result<const Bytes*> take(std::string_view name, std::uint64_t size) {
    SEALIFT_TRY(const Bytes* const bytes, take(name));
    if (bytes->size() == size) return bytes;
    return fail(ErrorClass::kMalformed, "{} has {} bytes instead of {}", quote(vcpu_, name),
                bytes->size(), size);
  }

  Result<void> check_empty() const {
    if (left_.empty()) return {};
    return fail(ErrorClass::kRefused, "{} is not known to this KVM",
                quote(vcpu_, left_.front()->name));
  }

 private:
  const VcpuPort& vcpu_;
  std::vector<const StateBlob*> left_;
};

struct Checked {
  std::vector<std::pair<const Item*, const Bytes*>> first, last;  // before and after xsave … msrs
  Bytes xsave;
  const Bytes* lapic = nullptr;
  const Bytes* msrs = nullptr;
  std::uint32_t tsc_khz = 0;
};

Result<void> check_xsave(const VcpuPort& vcpu, Blobs& blobs, Checked& checked) {
  SEALIFT_TRY(const Bytes* const image, blobs.take(kXsave));
  SEALIFT_TRY(const Bytes* const layout_bytes, blobs.take(kXsaveLayout));
  SEALIFT_TRY(const XsaveLayout layout, decode_layout(*layout_bytes));
  std::uint64_t used = 0;
  if (image->size() >= kKvmXsaveBytesMin) used = components_of(*image);
  auto fitted = fit_xsave(*image, layout, own_layout(used), vcpu.xsave_bytes);
  if (!fitted) {
    return fail(fitted.error().cls, "{}: {}", quote(vcpu, kXsave), fitted.error().detail);
  }
  checked.xsave = std::move(*fitted);
  return {};
}

Result<void> check_lapic(const VcpuPort& vcpu, Blobs& blobs, Checked& checked) {
  SEALIFT_TRY(const bool here, has_lapic(vcpu));
  if (here != blobs.has(kLapic.name)) {
    return fail(ErrorClass::kRefused, "vCPU {} has {} LAPIC in the kernel here, and {} there",
                vcpu.index, here ? "a" : "no", here ? "none" : "one");
  }
  if (!here) return {};
  SEALIFT_TRY(checked.lapic, blobs.take(kLapic.name, kLapic.bytes));
  return {};
}

Result<Checked> check(const VcpuPort& vcpu, const std::vector<StateBlob>& state) {
  Blobs blobs(vcpu, state);
  Checked checked;
  // A kernel that has KVM_SET_SREGS2 has KVM_SET_SREGS too.
  const bool is_old = !vcpu.has_sregs2 || !blobs.has(kSregs2.name);
  for (const Item* item : {is_old ? &kSregs : &kSregs2, &kXcrs}) {
    SEALIFT_TRY(const Bytes* const bytes, blobs.take(item->name, item->bytes));
    checked.first.emplace_back(item, bytes);
  }
  SEALIFT_TRY(const Bytes* const khz, blobs.take(kTscKhz, sizeof checked.tsc_khz));
  std::memcpy(&checked.tsc_khz, khz->data(), sizeof checked.tsc_khz);
  SEALIFT_TRY(const Bytes* const offset, blobs.take(kTscOffsetItem));  // for align_tscs()
  if (!offset->empty() && offset->size() != sizeof(std::uint64_t)) {
    return fail(ErrorClass::kMalformed, "{} has {} bytes instead of 0 or 8",
                quote(vcpu, kTscOffsetItem), offset->size());
  }
  SEALIFT_CHECK(check_xsave(vcpu, blobs, checked));
  SEALIFT_CHECK(check_lapic(vcpu, blobs, checked));
  SEALIFT_TRY(checked.msrs, blobs.take(kMsrs));
  SEALIFT_CHECK(check_msrs(vcpu.index, *checked.msrs));
  for (const Item* item : {&kRegs, &kDebugregs, &kEvents, &kMpState}) {
    SEALIFT_TRY(const Bytes* const bytes, blobs.take(item->name, item->bytes));
    checked.last.emplace_back(item, bytes);
  }
  SEALIFT_CHECK(blobs.check_empty());
  return checked;
}

Result<void> set(const VcpuPort& vcpu, std::string_view name, unsigned long request,
                 const Bytes& bytes) {
  Bytes copy = bytes;  // ioctl takes no const
  const int done = vcpu.kernel.ioctl(vcpu.fd, request, copy.data());
  if (done >= 0) return {};
  // EINVAL is KVM's verdict on the peer's values; all else is this host's trouble.
  const bool is_verdict = done == -EINVAL;
  return fail(is_verdict ? ErrorClass::kRefused : ErrorClass::kLocalFault, "{} cannot be set: {}",
              quote(vcpu, name), errno_text(-done));
}

Result<void> set_tsc_khz(const VcpuPort& vcpu, std::uint32_t khz, StateNotes& notes) {
  if (khz == 0) {
    notes.push_back({quote(vcpu, kTscKhz), "unknown to the source; it is not set here"});
    return {};
  }
  const int own = vcpu.kernel.ioctl(vcpu.fd, KVM_GET_TSC_KHZ, nullptr);
  if (own < 0) {
    return fail(ErrorClass::kLocalFault, "the TSC of vCPU {} ran at {} kHz, and here: {}",
                vcpu.index, khz, errno_text(-own));
  }
  if (static_cast<std::uint32_t>(own) == khz) return {};
  const auto argument = static_cast<std::uintptr_t>(khz);
  const int done =
      vcpu.kernel.ioctl(vcpu.fd, KVM_SET_TSC_KHZ,
                        reinterpret_cast<void*>(argument));  // NOLINT(performance-no-int-to-ptr)
  if (done >= 0) return {};
  return fail(ErrorClass::kRefused, "the TSC of vCPU {} ran at {} kHz, runs at {} kHz here: {}",
              vcpu.index, khz, own, errno_text(-done));
}

// Where CPUID does not offer the TSC deadline, KVM takes a LAPIC in that mode without an error and
// ignores every deadline: the guest would wait for ever. The value tried is overwritten by the
// saved MSR.
Result<void> set_lapic(const VcpuPort& vcpu, const Bytes& lapic) {
  constexpr std::size_t kTimer = 0x320;
  constexpr std::uint32_t kModes = 3u << 17, kDeadlineMode = 2u << 17;
  SEALIFT_CHECK(set(vcpu, kLapic.name, kLapic.set, lapic));
  std::uint32_t timer = 0;
  std::memcpy(&timer, lapic.data() + kTimer, sizeof timer);
  if ((timer & kModes) != kDeadlineMode) return {};
  constexpr std::uint64_t kNever = 1ULL << 62;
  SEALIFT_TRY(const bool takes,
              takes_msr({vcpu.kernel, vcpu.fd, vcpu.index}, kMsrTscDeadline, kNever));
  if (takes) return {};
  return fail(ErrorClass::kRefused,
              "the LAPIC timer of vCPU {} is {:#x}, in the TSC deadline mode, "
              "which this vCPU has not",
              vcpu.index, timer);
}

// The guest's clock structure says "the host stopped you" until the guest clears it. Nobody's state
// depends on it.
void tell_of_pause(const VcpuPort& vcpu, const Bytes& msrs, StateNotes& notes) {
  constexpr std::uint32_t kSystemTime = 0x4b564d01, kSystemTimeOld = 0x12;
  if (((msr_in(msrs, kSystemTime) | msr_in(msrs, kSystemTimeOld)) & 1) == 0) return;
  const int told = vcpu.kernel.ioctl(vcpu.fd, KVM_KVMCLOCK_CTRL, nullptr);
  if (told < 0) {
    notes.push_back(
        {fmt::format("vCPU {} clock", vcpu.index),
         "the guest is not told of the pause: KVM_KVMCLOCK_CTRL: " + errno_text(-told)});
  }
}

}  // namespace

Result<StateNotes> load_vcpu_items(const VcpuPort& vcpu, const std::vector<StateBlob>& state) {
  SEALIFT_TRY(const Checked checked, check(vcpu, state));
  StateNotes notes;
  for (const auto& [item, bytes] : checked.first) {
    SEALIFT_CHECK(set(vcpu, item->name, item->set, *bytes));
  }
  SEALIFT_CHECK(set_tsc_khz(vcpu, checked.tsc_khz, notes));
  SEALIFT_CHECK(set(vcpu, kXsave, kKvmSetXsave, checked.xsave));
  if (checked.lapic != nullptr) {
    SEALIFT_CHECK(set_lapic(vcpu, *checked.lapic));
  }
  const MsrVcpu msr_vcpu{vcpu.kernel, vcpu.fd, vcpu.index};
  SEALIFT_CHECK(load_msrs(msr_vcpu, *checked.msrs, notes));
  for (const auto& [item, bytes] : checked.last) {
    SEALIFT_CHECK(set(vcpu, item->name, item->set, *bytes));
  }
  tell_of_pause(vcpu, *checked.msrs, notes);
  return notes;
}

}  // namespace sealift
