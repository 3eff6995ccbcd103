// The commands with which a guest is launched, measured and looked at.

#include <cerrno>

#include "vmm_glue/model/sev/shim.h"

namespace sealift::sev {
namespace {

MailboxCommand finish_of(KvmCommand command) {
  if (command == KvmCommand::kSendFinish) return MailboxCommand::kSendFinish;
  if (command == KvmCommand::kSendCancel) return MailboxCommand::kSendCancel;
  if (command == KvmCommand::kReceiveFinish) return MailboxCommand::kReceiveFinish;
  return MailboxCommand::kLaunchFinish;
}

}  // namespace

// LAUNCH_FINISH, SEND_FINISH, SEND_CANCEL and RECEIVE_FINISH: nothing but the handle.
int KvmShim::finish(Op& op) {
  MailboxHandle buffer{.handle = op.vm.handle};
  return psp_.run_for(op.vm.sev_fd, finish_of(op.command), buffer, op.error);
}

int KvmShim::adopt_guest(Op& op, KvmSevStart& params, std::uint32_t handle) {
  // KVM does not ask whether the VM has a handle already: a second success would leak the first
  // guest. Its ASID is still bound, so that ACTIVATE refuses.
  if (const int result = bind_asid(op, handle); result != 0) return result;
  params.handle = handle;
  if (!user_.copy_out(params, op.data)) {
    unbind(handle);
    return -EFAULT;
  }
  op.vm.handle = handle;
  op.vm.sev_fd = op.sev_fd;
  return 0;
}

int KvmShim::launch_start(Op& op) {
  KvmSevStart params;
  if (!UserMemory::copy_in(op.data, params)) return -EFAULT;
  MailboxStart start{.handle = params.handle, .policy = params.policy};
  Bytes pdh;
  Bytes session;
  if (params.pdh_uaddr != 0) {
    if (const int bad = UserMemory::copy_blob(params.pdh_uaddr, params.pdh_len, pdh)) return bad;
    start.pdh_address = kernel_address(pdh);
    start.pdh_len = params.pdh_len;
  }
  if (params.session_uaddr != 0) {
    const int bad = UserMemory::copy_blob(params.session_uaddr, params.session_len, session);
    if (bad != 0) return bad;
    start.session_address = kernel_address(session);
    start.session_len = params.session_len;
  }
  const int result = psp_.run_for(op.sev_fd, MailboxCommand::kLaunchStart, start, op.error);
  return result == 0 ? adopt_guest(op, params, start.handle) : result;
}

int KvmShim::launch_update_data(Op& op) {
  KvmSevLaunchUpdateData params;
  if (!UserMemory::copy_in(op.data, params)) return -EFAULT;
  Pin pin;
  if (const int bad = pin_guest(op.vm, params.uaddr, params.len, pin); bad != 0) return bad;
  MailboxLaunchUpdate update{
      .handle = op.vm.handle, .address = guest_physical(params.uaddr), .len = params.len};
  return psp_.run_for(op.vm.sev_fd, MailboxCommand::kLaunchUpdateData, update, op.error);
}

int KvmShim::launch_secret(Op& op) {
  KvmSevLaunchSecret params;
  if (!UserMemory::copy_in(op.data, params)) return -EFAULT;
  Pin pin;
  int bad = pin_guest(op.vm, params.guest_uaddr, params.guest_len, pin);
  if (bad == 0) bad = UserMemory::copy_blob(params.trans_uaddr, params.trans_len, transport_);
  if (bad == 0) bad = UserMemory::copy_blob(params.hdr_uaddr, params.hdr_len, header_);
  if (bad != 0) return bad;
  MailboxUpdate secret{.handle = op.vm.handle};
  secret.hdr_address = kernel_address(header_);
  secret.hdr_len = params.hdr_len;
  secret.guest_address = guest_physical(params.guest_uaddr);
  secret.guest_len = params.guest_len;
  secret.trans_address = kernel_address(transport_);
  secret.trans_len = params.trans_len;
  return psp_.run_for(op.vm.sev_fd, MailboxCommand::kLaunchSecret, secret, op.error);
}

int KvmShim::launch_measure(Op& op) {
  KvmSevLaunchMeasure params;
  if (!UserMemory::copy_in(op.data, params)) return -EFAULT;
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
  const bool copied = blob.empty() || user_.copy_out_bytes(blob, params.uaddr);
  params.len = measure.len;
  return user_.copy_out(params, op.data) && copied ? result : -EFAULT;
}

int KvmShim::attestation_report(Op& op) {
  KvmSevAttestationReport params;
  if (!UserMemory::copy_in(op.data, params)) return -EFAULT;
  MailboxAttestation report{.handle = op.vm.handle};
  const bool query = params.len == 0;
  Bytes blob;
  if (!query && params.uaddr != 0) {
    if (params.len > kFirmwareBlobBytesMax) return -EINVAL;
    blob.resize(params.len);
    report.address = kernel_address(blob);
    report.len = params.len;
    std::memcpy(report.mnonce, params.mnonce, sizeof(report.mnonce));
  }
  const int result = psp_.run_for(op.vm.sev_fd, MailboxCommand::kAttestation, report, op.error);
  if (!query && result != 0) return result;
  const bool copied = blob.empty() || user_.copy_out_bytes(blob, params.uaddr);
  params.len = report.len;
  return user_.copy_out(params, op.data) && copied ? result : -EFAULT;
}

int KvmShim::guest_status(Op& op) {
  MailboxGuestStatus buffer{.handle = op.vm.handle};
  const int result = psp_.run_for(op.vm.sev_fd, MailboxCommand::kGuestStatus, buffer, op.error);
  if (result != 0) return result;
  const KvmSevGuestStatus status{
      .handle = buffer.handle, .policy = buffer.policy, .state = buffer.state};
  return user_.copy_out(status, op.data) ? 0 : -EFAULT;
}

}  // namespace sealift::sev
