// The registers of a SEV-ES guest: LAUNCH_UPDATE_VMSA as KVM has it, and the calls that no kernel
// has (SoftSevConfig::kernel_moves_vmsa).
//
// MODEL CHOICE, after the commands for data and because nothing else is there to follow:
//   checks     SEV-ES guest (ENOTTY), struct (EFAULT), vCPU (EINVAL); SEND wants an encrypted VMSA
//              (EINVAL); then as SEND_UPDATE_DATA and RECEIVE_UPDATE_DATA, without pinning: the
//              VMSA is the kernel's.
//   ES state   the GHCB's address and whether it was registered, for each vCPU; the AP jump table
//              with vCPU 0, zero with others. Any state of the guest.

#include <cerrno>

#include "vmm_glue/model/sev/shim.h"

namespace sealift::sev {

std::uint64_t KvmShim::vmsa_physical(const SoftVcpu& vcpu) const {
  return guest_physical(reinterpret_cast<std::uint64_t>(vcpu.vmsa.get()));
}

// All of them, in order; the first failure ends it.
int KvmShim::launch_update_vmsa(Op& op) {
  for (SoftVcpu& vcpu : op.vm.vcpus) {
    MailboxLaunchUpdate update{
        .handle = op.vm.handle, .address = vmsa_physical(vcpu), .len = kVmsaBytes};
    const int result =
        psp_.run_for(op.vm.sev_fd, MailboxCommand::kLaunchUpdateVmsa, update, op.error);
    if (result != 0) return result;
    vcpu.encrypted = true;
  }
  return 0;
}

int KvmShim::send_update_vmsa(Op& op) {
  KvmSevUpdateVmsa params;
  if (!UserMemory::copy_in(op.data, params)) return -EFAULT;
  if (params.vcpu >= op.vm.vcpus.size() || !op.vm.vcpus[params.vcpu].encrypted) return -EINVAL;
  MailboxUpdate update{.handle = op.vm.handle};
  if (params.hdr_len == 0 || params.trans_len == 0) {
    const int result =
        psp_.run_for(op.vm.sev_fd, MailboxCommand::kSendUpdateVmsa, update, op.error);
    params.hdr_len = update.hdr_len;
    params.trans_len = update.trans_len;
    return user_.copy_out(params, op.data) ? result : -EFAULT;
  }
  if (params.trans_uaddr == 0 || params.hdr_uaddr == 0) return -EINVAL;
  if (const int bad = make_packet(params.hdr_len, params.trans_len); bad != 0) return bad;
  update.hdr_address = kernel_address(header_);
  update.hdr_len = params.hdr_len;
  update.guest_address = vmsa_physical(op.vm.vcpus[params.vcpu]);
  update.guest_len = kVmsaBytes;
  update.trans_address = kernel_address(transport_);
  update.trans_len = params.trans_len;
  const int result = psp_.run_for(op.vm.sev_fd, MailboxCommand::kSendUpdateVmsa, update, op.error);
  return result == 0 ? copy_out_packet(params.trans_uaddr, params.hdr_uaddr) : result;
}

int KvmShim::receive_update_vmsa(Op& op) {
  KvmSevUpdateVmsa params;
  if (!UserMemory::copy_in(op.data, params)) return -EFAULT;
  if (params.vcpu >= op.vm.vcpus.size()) return -EINVAL;
  int bad = UserMemory::copy_blob(params.hdr_uaddr, params.hdr_len, header_);
  if (bad == 0) bad = UserMemory::copy_blob(params.trans_uaddr, params.trans_len, transport_);
  if (bad != 0) return bad;
  SoftVcpu& vcpu = op.vm.vcpus[params.vcpu];
  MailboxUpdate update{.handle = op.vm.handle};
  update.hdr_address = kernel_address(header_);
  update.hdr_len = params.hdr_len;
  update.guest_address = vmsa_physical(vcpu);
  update.guest_len = kVmsaBytes;
  update.trans_address = kernel_address(transport_);
  update.trans_len = params.trans_len;
  const int result =
      psp_.run_for(op.vm.sev_fd, MailboxCommand::kReceiveUpdateVmsa, update, op.error);
  if (result == 0) vcpu.encrypted = true;
  return result;
}

int KvmShim::get_es_state(Op& op) {
  KvmSevEsState state;
  if (!UserMemory::copy_in(op.data, state)) return -EFAULT;
  if (state.vcpu >= op.vm.vcpus.size()) return -EINVAL;
  const GhcbState& ghcb = op.vm.vcpus[state.vcpu].ghcb;
  state.flags = ghcb.registered ? kEsStateGhcbRegistered : 0;
  state.ghcb_gpa = ghcb.gpa;
  state.ap_jump_table = state.vcpu == 0 ? op.vm.ap_jump_table : 0;
  return user_.copy_out(state, op.data) ? 0 : -EFAULT;
}

int KvmShim::set_es_state(Op& op) {
  KvmSevEsState state;
  if (!UserMemory::copy_in(op.data, state)) return -EFAULT;
  if (state.vcpu >= op.vm.vcpus.size()) return -EINVAL;
  if ((state.flags & ~kEsStateGhcbRegistered) != 0) return -EINVAL;
  if (state.ghcb_gpa % kPageBytes != 0) return -EINVAL;
  if (state.vcpu != 0 && state.ap_jump_table != 0) return -EINVAL;
  op.vm.vcpus[state.vcpu].ghcb = {.gpa = state.ghcb_gpa,
                                  .registered = (state.flags & kEsStateGhcbRegistered) != 0};
  if (state.vcpu == 0) op.vm.ap_jump_table = state.ap_jump_table;
  return 0;
}

}  // namespace sealift::sev
