#include "vmm_glue/vmm/kvm_vm_state.h"

#include <fmt/core.h>
#include <linux/kvm.h>
#include <time.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string_view>

namespace sealift {
namespace {

constexpr std::uint32_t kVersion = 1;
constexpr std::uint32_t kChips = 3;  // PIC master, PIC slave, IOAPIC
constexpr std::string_view kOurs = "kvm.", kIrqchip = "kvm.irqchip", kPit = "kvm.pit2",
                           kClock = "kvm.clock";

// A blackout is much shorter; hosts whose wall clocks are further apart are not synchronised.
constexpr std::uint64_t kDowntimeMaxNs = 60'000'000'000;

struct Device {
  std::string_view name;
  std::uint32_t index;
  unsigned long set;
  std::uint64_t bytes;
};

// In the order of loading.
std::vector<Device> devices_of(const VmParts& parts) {
  std::vector<Device> devices;
  for (std::uint32_t chip = 0; parts.irqchip && chip < kChips; ++chip) {
    devices.push_back({kIrqchip, chip, KVM_SET_IRQCHIP, sizeof(kvm_irqchip)});
  }
  if (parts.pit) devices.push_back({kPit, 0, KVM_SET_PIT2, sizeof(kvm_pit_state2)});
  devices.push_back({kClock, 0, KVM_SET_CLOCK, sizeof(kvm_clock_data)});
  return devices;
}

template <class State>
Result<StateBlob> save_one(HostIoctl& kernel, int vm, std::string_view name, unsigned long request,
                           std::uint32_t index, State state) {
  const int got = kernel.ioctl(vm, request, &state);
  if (got < 0) {
    return fail(ErrorClass::kLocalFault, "state '{}' {} of the VM cannot be read: {}", name, index,
                errno_text(-got));
  }
  Bytes bytes(sizeof state);
  std::memcpy(bytes.data(), &state, sizeof state);
  return StateBlob{StateBlob::Kind::kDevice, index, std::string(name), kVersion, std::move(bytes)};
}

Result<void> check_one(const Device& device, const StateBlob& blob) {
  if (blob.version != kVersion) {
    return fail(ErrorClass::kRefused, "state '{}' {} has version {} instead of {}", device.name,
                device.index, blob.version, kVersion);
  }
  if (blob.bytes.size() != device.bytes) {
    return fail(ErrorClass::kMalformed, "state '{}' {} has {} bytes instead of {}", device.name,
                device.index, blob.bytes.size(), device.bytes);
  }
  std::uint32_t chip = 0;
  if (device.name == kIrqchip) std::memcpy(&chip, blob.bytes.data(), sizeof chip);
  if (device.name == kIrqchip && chip != device.index) {
    return fail(ErrorClass::kMalformed, "state '{}' {} says that it is chip {}", device.name,
                device.index, chip);
  }
  return {};
}

using Found = std::vector<std::pair<Device, const StateBlob*>>;

Result<Found> find_all(const VmParts& parts, const std::vector<StateBlob>& state) {
  std::vector<const StateBlob*> left;
  for (const StateBlob& blob : state) {
    if (blob.kind == StateBlob::Kind::kDevice && blob.name.starts_with(kOurs))
      left.push_back(&blob);
  }
  Found found;
  for (const Device& device : devices_of(parts)) {
    const auto it = std::stable_partition(left.begin(), left.end(), [&](const StateBlob* blob) {
      return blob->name != device.name || blob->index != device.index;
    });
    if (left.end() - it != 1) {
      return fail(ErrorClass::kRefused, "state '{}' {} of the VM comes {} times instead of once",
                  device.name, device.index, left.end() - it);
    }
    SEALIFT_CHECK(check_one(device, **it));
    found.emplace_back(device, *it);
    left.pop_back();
  }
  if (left.empty()) return found;
  return fail(ErrorClass::kRefused, "state '{}' {} belongs to no part of this VM",
              left.front()->name, left.front()->index);
}

// KVM_SET_CLOCK takes no flag but KVM_CLOCK_REALTIME.
kvm_clock_data clock_to_set(HostIoctl& kernel, int vm, const VmParts& parts, const Bytes& bytes,
                            StateNotes& notes) {
  kvm_clock_data saved{};
  std::memcpy(&saved, bytes.data(), sizeof saved);
  kvm_clock_data clock{};
  clock.clock = saved.clock;
  if (!parts.count_downtime) return clock;
  const auto refuse = [&](std::string why) {
    notes.push_back({"clock", "the downtime is not counted: " + std::move(why)});
    return clock;
  };
  if ((saved.flags & KVM_CLOCK_REALTIME) == 0) {
    return refuse("the source's KVM gives no wall clock time with its clock");
  }
  const int own =
      kernel.ioctl(vm, KVM_CHECK_EXTENSION,
                   reinterpret_cast<void*>(std::uintptr_t{KVM_CAP_ADJUST_CLOCK}));  // NOLINT
  if (own < 0 || (own & KVM_CLOCK_REALTIME) == 0) {
    return refuse("this KVM cannot add it");
  }
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  const auto now_ns = static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000 +
                      static_cast<std::uint64_t>(now.tv_nsec);
  if (now_ns < saved.realtime || now_ns - saved.realtime > kDowntimeMaxNs) {
    return refuse(
        fmt::format("the hosts' wall clocks are apart, it is {} ns here and was {} ns "
                    "there when the clock was read",
                    now_ns, std::uint64_t{saved.realtime}));
  }
  clock.flags = KVM_CLOCK_REALTIME;
  clock.realtime = saved.realtime;
  return clock;
}

}  // namespace

Result<std::vector<StateBlob>> save_vm_state(HostIoctl& kernel, int vm, const VmParts& parts) {
  std::vector<StateBlob> state;
  // The clock first: what follows is downtime.
  SEALIFT_TRY(StateBlob clock, save_one(kernel, vm, kClock, KVM_GET_CLOCK, 0, kvm_clock_data{}));
  state.push_back(std::move(clock));
  for (std::uint32_t chip = 0; parts.irqchip && chip < kChips; ++chip) {
    kvm_irqchip which{};
    which.chip_id = chip;
    SEALIFT_TRY(StateBlob blob, save_one(kernel, vm, kIrqchip, KVM_GET_IRQCHIP, chip, which));
    state.push_back(std::move(blob));
  }
  if (parts.pit) {
    SEALIFT_TRY(StateBlob pit, save_one(kernel, vm, kPit, KVM_GET_PIT2, 0, kvm_pit_state2{}));
    state.push_back(std::move(pit));
  }
  return state;
}

Result<StateNotes> load_vm_state(HostIoctl& kernel, int vm, const VmParts& parts,
                                 const std::vector<StateBlob>& state) {
  SEALIFT_TRY(const Found found, find_all(parts, state));
  StateNotes notes;
  for (const auto& [device, blob] : found) {
    Bytes bytes = blob->bytes;  // ioctl takes no const
    if (device.name == kClock) {
      const kvm_clock_data clock = clock_to_set(kernel, vm, parts, bytes, notes);
      std::memcpy(bytes.data(), &clock, sizeof clock);
    }
    const int done = kernel.ioctl(vm, device.set, bytes.data());
    if (done < 0) {
      return fail(done == -EINVAL ? ErrorClass::kRefused : ErrorClass::kLocalFault,
                  "state '{}' {} of the VM cannot be set: {}", device.name, device.index,
                  errno_text(-done));
    }
  }
  return notes;
}

}  // namespace sealift
