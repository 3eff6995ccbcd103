#include "vmm_glue/model/sev/shim.h"

#include <algorithm>
#include <array>
#include <cerrno>

#include "engine/assert.h"

namespace sealift::sev {
namespace {

constexpr std::uint64_t kGhcbSnp = 1u << 0;  // features that KVM from 6.11 on tells every guest
constexpr std::uint64_t kGhcbSnpApCreation = 1u << 1;
constexpr std::uint16_t kGhcbVersionMax = 2;

// Linux 6.1: sev_mem_enc_ioctl's is_cmd_allowed_from_mirror.
bool mirror_may(KvmCommand command) {
  return command == KvmCommand::kLaunchUpdateVmsa || command == KvmCommand::kGuestStatus ||
         command == KvmCommand::kDbgDecrypt || command == KvmCommand::kDbgEncrypt;
}

}  // namespace

KvmShim::KvmShim(const KvmShimConfig& config, const KvmShimParts& parts, FindVm find_vm)
    : config_(config),
      firmware_(parts.firmware),
      memory_(parts.memory),
      psp_(parts.psp),
      user_(parts.user),
      find_vm_(std::move(find_vm)),
      asids_(config.asids, config.sev_asid_min, [this] {
        std::uint32_t ignored = 0;
        return psp_.flush(ignored) == 0;
      }) {}

int KvmShim::ioctl(const std::shared_ptr<SoftVm>& vm, unsigned long request, void* arg) {
  if (vm->dead) return -EIO;
  int result = -ENOTTY;  // what KVM says to an ioctl it does not know
  if (request == kKvmMemoryEncryptOp) result = memory_encrypt_op(*vm, arg);
  if (request == kKvmMemoryEncryptRegRegion) result = register_region(*vm, arg);
  if (request == kKvmMemoryEncryptUnregRegion) result = unregister_region(*vm, arg);
  if (request == kKvmEnableCap) result = enable_cap(vm, arg);
  user_.forget_fault();
  publish(*vm);
  for (SoftVm* mirror : vm->mirrors) publish(*mirror);
  return result;
}

void KvmShim::publish(SoftVm& vm) const {
  const GuestContext* guest = firmware_.find(vm.handle);
  const GuestState state = guest != nullptr ? guest->state : GuestState::kUninit;
  const bool runs = state == GuestState::kRunning || state == GuestState::kSendUpdate;
  const bool bound = guest != nullptr && guest->asid != 0;
  const bool encrypted = !vm.es || std::all_of(vm.vcpus.begin(), vm.vcpus.end(),
                                               [](const SoftVcpu& vcpu) { return vcpu.encrypted; });
  vm.state = state;
  vm.may_run = runs && bound && encrypted && vm.active && !vm.terminated;
}

int KvmShim::memory_encrypt_op(SoftVm& vm, void* arg) {
  if (!config_.sev_enabled) return -ENOTTY;
  if (arg == nullptr) return 0;  // "is SEV enabled?"
  const auto user = reinterpret_cast<std::uint64_t>(arg);
  KvmSevCmd cmd;
  UserMemory::copy_in(user, cmd);
  if (vm.owner != nullptr && !mirror_may(static_cast<KvmCommand>(cmd.id))) return -EINVAL;
  Op op{.vm = vm,
        .command = static_cast<KvmCommand>(cmd.id),
        .data = cmd.data,
        .sev_fd = cmd.sev_fd,
        .error = cmd.error};
  const int result = dispatch(op);
  user_.forget_fault();
  cmd.error = op.error;
  return user_.copy_out(cmd, user) ? result : -EFAULT;
}

std::span<const KvmShim::Handler> KvmShim::handlers(bool moves_vmsa) {
  using enum KvmCommand;
  using S = KvmShim;
  constexpr auto kNothing = Handler::Needs::kNothing;
  constexpr auto kSev = Handler::Needs::kSev;
  constexpr auto kEs = Handler::Needs::kSevEs;
  static constexpr std::size_t kOfNoKernel = 4;  // the last rows
  static constexpr std::array kHandlers = {
      Handler{kInit, &S::init, kNothing},
      Handler{kEsInit, &S::init, kNothing},
      Handler{kInit2, &S::init2, kNothing},
      Handler{kLaunchStart, &S::launch_start},
      Handler{kLaunchUpdateData, &S::launch_update_data},
      Handler{kLaunchUpdateVmsa, &S::launch_update_vmsa, kEs},
      Handler{kLaunchSecret, &S::launch_secret},
      Handler{kLaunchMeasure, &S::launch_measure},
      Handler{kLaunchFinish, &S::finish},
      Handler{kSendStart, &S::send_start},
      Handler{kSendUpdateData, &S::send_update_data},
      Handler{kSendFinish, &S::finish},
      Handler{kSendCancel, &S::finish},
      Handler{kReceiveStart, &S::receive_start},
      Handler{kReceiveUpdateData, &S::receive_update_data, kSev, -EINVAL},
      Handler{kReceiveFinish, &S::finish},
      Handler{kGuestStatus, &S::guest_status},
      Handler{kDbgDecrypt, &S::debug_crypt},
      Handler{kDbgEncrypt, &S::debug_crypt},
      Handler{kGetAttestationReport, &S::attestation_report},
      Handler{kSendUpdateVmsa, &S::send_update_vmsa, kEs},
      Handler{kReceiveUpdateVmsa, &S::receive_update_vmsa, kEs},
      Handler{kGetEsState, &S::get_es_state, kEs},
      Handler{kSetEsState, &S::set_es_state, kEs},
  };
  return std::span(kHandlers).first(kHandlers.size() - (moves_vmsa ? 0 : kOfNoKernel));
}

int KvmShim::dispatch(Op& op) {
  if (op.command == KvmCommand::kEsInit && !config_.es_enabled) return -ENOTTY;
  if (op.command == KvmCommand::kInit2 && config_.kernel == KernelProfile::kLinux6_1) {
    return -EINVAL;
  }
  for (const Handler& handler : handlers(config_.moves_vmsa)) {
    if (handler.command != op.command) continue;
    if (handler.needs != Handler::Needs::kNothing && !op.vm.active) return handler.otherwise;
    if (handler.needs == Handler::Needs::kSevEs && !op.vm.es) return handler.otherwise;
    return (this->*handler.run)(op);
  }
  return -EINVAL;
}

// KVM_SEV_INIT and KVM_SEV_ES_INIT; the latter knows only the first version of the GHCB protocol.
int KvmShim::init(Op& op) {
  if (op.vm.type != VmType::kDefault) return -EINVAL;  // Linux 6.12; 6.1 has no other type
  return start_guest(op, op.command == KvmCommand::kEsInit, 1);
}

int KvmShim::init2(Op& op) {
  if (op.vm.type == VmType::kDefault || op.vm.active) return -EINVAL;
  KvmSevInit2 params;
  if (!UserMemory::copy_in(op.data, params)) return -EFAULT;
  const bool es = op.vm.type == VmType::kSevEs;
  if (!op.vm.vcpus.empty() || params.flags != 0 || params.vmsa_features != 0) return -EINVAL;
  if (params.ghcb_version > (es ? kGhcbVersionMax : 0)) return -EINVAL;
  return start_guest(op, es, params.ghcb_version == 0 ? kGhcbVersionMax : params.ghcb_version);
}

int KvmShim::start_guest(Op& op, bool es, std::uint16_t ghcb_version) {
  const bool old = config_.kernel == KernelProfile::kLinux6_1;
  if (!op.vm.vcpus.empty()) return -EINVAL;
  if (op.vm.active) return old ? -EBUSY : -EINVAL;
  const std::uint32_t first = es ? 1 : config_.sev_asid_min;
  const std::uint32_t last = es ? config_.sev_asid_min - 1 : config_.asids;
  if (!old && first > last) return -ENOTTY;
  const std::optional<std::uint32_t> asid = asids_.take(es);
  if (!asid.has_value()) return -EBUSY;
  if (const int result = psp_.init_platform(op.error); result != 0) {
    asids_.give_back(*asid);
    return result;
  }
  op.vm.asid = *asid;
  op.vm.es = es;
  op.vm.active = true;
  op.vm.ghcb = {.max = ghcb_version, .features = old ? 0 : kGhcbSnp | kGhcbSnpApCreation};
  op.vm.view = std::make_unique<GuestView>(memory_, *asid);
  return 0;
}

int KvmShim::count_pages(const SoftVm& vm, std::uint64_t address, std::uint64_t bytes,
                         std::uint64_t& pages) const {
  if (bytes == 0 || address + bytes < address) return -EINVAL;
  pages = ((address + bytes - 1) >> kPageShift) - (address >> kPageShift) + 1;
  const std::uint64_t limit = config_.memlock_limit_bytes;
  if (limit != kNoMemlockLimit && vm.pages_locked + pages > limit >> kPageShift) return -ENOMEM;
  return 0;
}

int KvmShim::pin_guest(SoftVm& vm, std::uint64_t address, std::uint64_t bytes, Pin& pin) const {
  std::uint64_t pages = 0;
  if (const int bad = count_pages(vm, address, bytes, pages); bad != 0) return bad;
  if (!owns(vm.owner != nullptr ? *vm.owner : vm, address, bytes)) return -ENOMEM;
  pin = Pin(vm, pages);
  return 0;
}

bool KvmShim::owns(const SoftVm& vm, std::uint64_t address, std::uint64_t bytes) {
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
  if (!UserMemory::copy_in(reinterpret_cast<std::uint64_t>(arg), region)) return -EFAULT;
  if (!vm.active) return -ENOTTY;
  if (vm.owner != nullptr) return -EINVAL;
  std::uint64_t pages = 0;
  if (const int bad = count_pages(vm, region.addr, region.size, pages); bad != 0) return bad;
  vm.pages_locked += pages;
  vm.regions.push_back(region);
  memory_.add_region(region.addr, region.size);
  return 0;
}

int KvmShim::unregister_region(SoftVm& vm, void* arg) {
  KvmEncRegion region;
  if (!UserMemory::copy_in(reinterpret_cast<std::uint64_t>(arg), region)) return -EFAULT;
  if (vm.owner != nullptr) return -EINVAL;
  if (!vm.active) return -ENOTTY;
  const auto found =
      std::find_if(vm.regions.begin(), vm.regions.end(), [&](const KvmEncRegion& known) {
        return known.addr == region.addr && known.size == region.size;
      });
  if (found == vm.regions.end()) return -EINVAL;
  firmware_.wbinvd();
  memory_.remove_region(region.addr, region.size);
  const std::uint64_t last = region.addr + region.size - 1;
  vm.pages_locked -= (last >> kPageShift) - (region.addr >> kPageShift) + 1;
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

std::uint32_t KvmShim::create_vcpu(SoftVm& vm) {
  SEALIFT_ASSERT(!vm.dead);
  SoftVcpu vcpu;
  if (vm.es) {
    vcpu.vmsa = std::make_unique<VmsaPage>();
    memory_.add_region(reinterpret_cast<std::uint64_t>(vcpu.vmsa.get()), kVmsaBytes);
  }
  vm.vcpus.push_back(std::move(vcpu));
  publish(vm);
  return static_cast<std::uint32_t>(vm.vcpus.size() - 1);
}

GhcbReply KvmShim::ghcb_msr(SoftVm& vm, std::uint32_t vcpu, std::uint64_t value) {
  const GhcbReply reply = answer_ghcb_msr(vm.vcpus.at(vcpu).ghcb, vm.ghcb, value);
  if (reply.termination.has_value()) vm.terminated = true;
  publish(vm);
  return reply;
}

void KvmShim::release(std::shared_ptr<SoftVm> vm) {
  if (vm.use_count() > 1) return;  // a mirror holds it
  tear_down(*vm);
  std::shared_ptr<SoftVm> owner = std::move(vm->owner);
  if (owner == nullptr) return;
  std::erase(owner->mirrors, vm.get());
  vm.reset();
  // Its fd may be closed already: this was what kept it.
  release(std::move(owner));
}

// sev_vm_destroy: an owner's context goes with it, a mirror has none of its own.
void KvmShim::tear_down(SoftVm& vm) {
  for (const SoftVcpu& vcpu : vm.vcpus) {
    if (vcpu.vmsa == nullptr) continue;
    memory_.remove_region(reinterpret_cast<std::uint64_t>(vcpu.vmsa.get()), kVmsaBytes);
  }
  vm.vcpus.clear();
  if (!vm.active || vm.owner != nullptr) return;
  firmware_.wbinvd();
  for (const KvmEncRegion& region : vm.regions) memory_.remove_region(region.addr, region.size);
  vm.regions.clear();
  vm.pages_locked = 0;
  if (vm.handle != 0) unbind(vm.handle);
  asids_.give_back(vm.asid);
}

}  // namespace sealift::sev
