#include "vmm_glue/model/sev/shim.h"

#include <algorithm>
#include <cerrno>

namespace sealift::sev {

KvmShim::KvmShim(Firmware& firmware, MemoryController& memory, PspDevice& psp, std::uint32_t asids)
    : firmware_(firmware), memory_(memory), psp_(psp), asid_used_(std::size_t{asids} + 1) {
  asid_used_[0] = true;
}

int KvmShim::ioctl(SoftVm& vm, unsigned long request, void* arg) {
  int result = -ENOTTY;  // what KVM says to an ioctl it does not know
  if (request == kKvmMemoryEncryptOp) result = memory_encrypt_op(vm, arg);
  if (request == kKvmMemoryEncryptRegRegion) result = register_region(vm, arg);
  if (request == kKvmMemoryEncryptUnregRegion) result = unregister_region(vm, arg);
  publish(vm);
  return result;
}

void KvmShim::publish(SoftVm& vm) const {
  const GuestContext* guest = firmware_.find(vm.handle);
  vm.state = guest != nullptr ? guest->state : GuestState::kUninit;
  vm.bound = guest != nullptr && guest->asid != 0;
}

int KvmShim::memory_encrypt_op(SoftVm& vm, void* arg) {
  if (arg == nullptr) return 0;  // "is SEV enabled?"
  const auto user = reinterpret_cast<std::uint64_t>(arg);
  KvmSevCmd cmd;
  copy_in(user, cmd);
  Op op{.vm = vm, .data = cmd.data, .sev_fd = cmd.sev_fd, .error = cmd.error};
  const int result = dispatch(static_cast<KvmCommand>(cmd.id), op);
  cmd.error = op.error;
  copy_out(cmd, user);
  return result;
}

int KvmShim::dispatch(KvmCommand command, Op& op) {
  if (command == KvmCommand::kInit) return init(op);
  if (command == KvmCommand::kEsInit) return -ENOTTY;
  // Every handler asks first whether this is a SEV guest; one of them says EINVAL instead.
  if (!op.vm.active) return command == KvmCommand::kReceiveUpdateData ? -EINVAL : -ENOTTY;
  switch (command) {
    case KvmCommand::kLaunchStart:
      return launch_start(op);
    case KvmCommand::kLaunchUpdateData:
      return launch_update_data(op);
    case KvmCommand::kLaunchMeasure:
      return launch_measure(op);
    case KvmCommand::kLaunchFinish:
      return handle_only(op, MailboxCommand::kLaunchFinish);
    case KvmCommand::kSendStart:
      return send_start(op);
    case KvmCommand::kSendUpdateData:
      return send_update_data(op);
    case KvmCommand::kSendFinish:
      return handle_only(op, MailboxCommand::kSendFinish);
    case KvmCommand::kSendCancel:
      return handle_only(op, MailboxCommand::kSendCancel);
    case KvmCommand::kReceiveStart:
      return receive_start(op);
    case KvmCommand::kReceiveUpdateData:
      return receive_update_data(op);
    case KvmCommand::kReceiveFinish:
      return handle_only(op, MailboxCommand::kReceiveFinish);
    case KvmCommand::kGuestStatus:
      return guest_status(op);
    default:
      return -EINVAL;  // VMSA, CERT_EXPORT: as KVM; SECRET, DBG_*, attestation: not modelled yet
  }
}

int KvmShim::init(Op& op) {
  if (op.vm.active) return -EBUSY;  // Linux 6.1; 6.12 says EINVAL
  const auto free = std::find(asid_used_.begin(), asid_used_.end(), false);
  if (free == asid_used_.end()) return -EBUSY;
  if (const int result = psp_.init_platform(op.error); result != 0) return result;
  *free = true;
  op.vm.asid = static_cast<std::uint32_t>(free - asid_used_.begin());
  op.vm.active = true;
  op.vm.view = std::make_unique<GuestView>(memory_, op.vm.asid);
  return 0;
}

int KvmShim::copy_blob(std::uint64_t user, std::uint32_t bytes, Bytes& out) {
  if (user == 0 || bytes == 0 || bytes > kFirmwareBlobBytesMax) return -EINVAL;
  const auto* from = reinterpret_cast<const std::byte*>(user);
  out.assign(from, from + bytes);
  return 0;
}

bool KvmShim::owns(const SoftVm& vm, std::uint64_t address, std::uint64_t bytes) const {
  return std::any_of(vm.regions.begin(), vm.regions.end(), [&](const KvmEncRegion& region) {
    const std::uint64_t end = region.addr + region.size;
    return address >= region.addr && address < end && bytes <= end - address;
  });
}

// KVM sets the C-bit in every guest address it gives to the firmware.
std::uint64_t KvmShim::guest_physical(std::uint64_t user) const {
  return memory_.physical(reinterpret_cast<const std::byte*>(user)) | kCBit;
}

int KvmShim::register_region(SoftVm& vm, void* arg) {
  KvmEncRegion region;
  if (!copy_in(reinterpret_cast<std::uint64_t>(arg), region)) return -EFAULT;
  if (!vm.active) return -ENOTTY;
  if (region.size == 0 || region.addr + region.size < region.addr) return -EINVAL;
  vm.regions.push_back(region);
  memory_.add_region(region.addr, region.size);
  return 0;
}

int KvmShim::unregister_region(SoftVm& vm, void* arg) {
  KvmEncRegion region;
  if (!copy_in(reinterpret_cast<std::uint64_t>(arg), region)) return -EFAULT;
  if (!vm.active) return -ENOTTY;
  const auto found =
      std::find_if(vm.regions.begin(), vm.regions.end(), [&](const KvmEncRegion& known) {
        return known.addr == region.addr && known.size == region.size;
      });
  if (found == vm.regions.end()) return -EINVAL;
  memory_.remove_region(region.addr, region.size);
  vm.regions.erase(found);
  return 0;
}

// sev_bind_asid; its failure decommissions the new guest.
int KvmShim::bind_asid(Op& op, std::uint32_t handle) {
  MailboxActivate activate{.handle = handle, .asid = op.vm.asid};
  const int result = psp_.run(MailboxCommand::kActivate, activate, op.error);
  if (result == 0) return 0;
  MailboxHandle decommission{.handle = handle};
  std::uint32_t ignored = 0;
  psp_.run(MailboxCommand::kDecommission, decommission, ignored);
  return result;
}

void KvmShim::unbind(std::uint32_t handle) {
  MailboxHandle buffer{.handle = handle};
  std::uint32_t ignored = 0;
  psp_.run(MailboxCommand::kDeactivate, buffer, ignored);
  psp_.run(MailboxCommand::kDecommission, buffer, ignored);
}

void KvmShim::destroy(SoftVm& vm) {
  for (const KvmEncRegion& region : vm.regions) memory_.remove_region(region.addr, region.size);
  vm.regions.clear();
  if (vm.handle != 0) unbind(vm.handle);
  vm.handle = 0;
  if (vm.asid != 0) asid_used_[vm.asid] = false;
  publish(vm);
}

int KvmShim::launch_start(Op& op) {
  KvmSevStart params;
  if (!copy_in(op.data, params)) return -EFAULT;
  MailboxStart start{.handle = params.handle, .policy = params.policy};
  Bytes pdh;
  Bytes session;
  if (params.pdh_uaddr != 0) {
    if (const int bad = copy_blob(params.pdh_uaddr, params.pdh_len, pdh)) return bad;
    start.pdh_address = kernel_address(pdh);
    start.pdh_len = params.pdh_len;
  }
  if (params.session_uaddr != 0) {
    if (const int bad = copy_blob(params.session_uaddr, params.session_len, session)) return bad;
    start.session_address = kernel_address(session);
    start.session_len = params.session_len;
  }
  int result = psp_.run_for(op.sev_fd, MailboxCommand::kLaunchStart, start, op.error);
  if (result == 0) result = bind_asid(op, start.handle);
  if (result != 0) return result;
  params.handle = start.handle;
  copy_out(params, op.data);
  op.vm.handle = start.handle;
  op.vm.sev_fd = op.sev_fd;
  return 0;
}

int KvmShim::launch_update_data(Op& op) {
  KvmSevLaunchUpdateData params;
  if (!copy_in(op.data, params)) return -EFAULT;
  if (params.len == 0 || params.uaddr + params.len < params.uaddr) return -EINVAL;
  if (!owns(op.vm, params.uaddr, params.len)) return -EFAULT;
  MailboxLaunchUpdate update{
      .handle = op.vm.handle, .address = guest_physical(params.uaddr), .len = params.len};
  return psp_.run_for(op.vm.sev_fd, MailboxCommand::kLaunchUpdateData, update, op.error);
}

int KvmShim::launch_measure(Op& op) {
  KvmSevLaunchMeasure params;
  if (!copy_in(op.data, params)) return -EFAULT;
  MailboxLaunchMeasure measure{.handle = op.vm.handle};
  const bool query = params.len == 0;
  Bytes blob;
  if (!query && params.uaddr != 0) {
    if (params.len > kFirmwareBlobBytesMax) return -EINVAL;
    blob.resize(params.len);
    measure.address = kernel_address(blob);
    measure.len = params.len;
  }
  const int result = psp_.run_for(op.vm.sev_fd, MailboxCommand::kLaunchMeasure, measure, op.error);
  if (!query && result != 0) return result;  // the length comes back from a query only
  if (!query && params.uaddr != 0) copy_out_bytes(blob, params.uaddr);
  params.len = measure.len;
  copy_out(params, op.data);
  return result;
}

int KvmShim::guest_status(Op& op) {
  MailboxGuestStatus buffer{.handle = op.vm.handle};
  const int result = psp_.run_for(op.vm.sev_fd, MailboxCommand::kGuestStatus, buffer, op.error);
  if (result != 0) return result;
  const KvmSevGuestStatus status{
      .handle = buffer.handle, .policy = buffer.policy, .state = buffer.state};
  return copy_out(status, op.data) ? 0 : -EFAULT;
}

int KvmShim::handle_only(Op& op, MailboxCommand id) {
  MailboxHandle buffer{.handle = op.vm.handle};
  return psp_.run_for(op.vm.sev_fd, id, buffer, op.error);
}

}  // namespace sealift::sev
