// SEND_START, SEND_UPDATE_DATA, RECEIVE_START and RECEIVE_UPDATE_DATA.

#include <cerrno>

#include "vmm_glue/model/sev/shim.h"

namespace sealift::sev {
namespace {

// kmalloc's limit: SEND_UPDATE_DATA has no other (Linux 6.1 sev.c, sev_send_update_data).
constexpr std::uint32_t kKmallocBytesMax = 4u << 20;

// One command moves at most what lies in one page.
bool crosses_page(std::uint64_t address, std::uint32_t bytes) {
  return bytes > kPageBytes || address % kPageBytes + bytes > kPageBytes;
}

}  // namespace

int KvmShim::make_packet(std::uint32_t hdr_len, std::uint32_t trans_len) {
  if (hdr_len > kKmallocBytesMax || trans_len > kKmallocBytesMax) return -ENOMEM;
  header_.assign(hdr_len, std::byte{0});
  transport_.assign(trans_len, std::byte{0});
  return 0;
}

int KvmShim::copy_out_packet(std::uint64_t trans_uaddr, std::uint64_t hdr_uaddr) {
  const bool copied =
      user_.copy_out_bytes(transport_, trans_uaddr) && user_.copy_out_bytes(header_, hdr_uaddr);
  return copied ? 0 : -EFAULT;
}

int KvmShim::send_start_query(Op& op, KvmSevSendStart& params) {
  MailboxSendStart query{.handle = op.vm.handle};
  const int result = psp_.run_for(op.vm.sev_fd, MailboxCommand::kSendStart, query, op.error);
  params.session_len = query.session_len;
  return user_.copy_out(params, op.data) ? result : -EFAULT;
}

int KvmShim::send_start(Op& op) {
  KvmSevSendStart params;
  if (!UserMemory::copy_in(op.data, params)) return -EFAULT;
  if (params.session_len == 0) return send_start_query(op, params);
  if (params.pdh_cert_uaddr == 0 || params.pdh_cert_len == 0 || params.session_uaddr == 0 ||
      params.session_len > kFirmwareBlobBytesMax) {
    return -EINVAL;
  }
  Bytes session(params.session_len);
  Bytes pdh;
  Bytes plat;
  Bytes amd;
  int bad = UserMemory::copy_blob(params.pdh_cert_uaddr, params.pdh_cert_len, pdh);
  if (bad == 0) bad = UserMemory::copy_blob(params.plat_certs_uaddr, params.plat_certs_len, plat);
  if (bad == 0) bad = UserMemory::copy_blob(params.amd_certs_uaddr, params.amd_certs_len, amd);
  if (bad != 0) return bad;

  MailboxSendStart start{.handle = op.vm.handle};
  start.pdh_address = kernel_address(pdh);
  start.pdh_len = params.pdh_cert_len;
  start.plat_address = kernel_address(plat);
  start.plat_len = params.plat_certs_len;
  start.amd_address = kernel_address(amd);
  start.amd_len = params.amd_certs_len;
  start.session_address = kernel_address(session);
  start.session_len = params.session_len;
  const int result = psp_.run_for(op.vm.sev_fd, MailboxCommand::kSendStart, start, op.error);
  // The guest is in SEND_UPDATE then: its owner has to cancel.
  if (result == 0 && !user_.copy_out_bytes(session, params.session_uaddr)) return -EFAULT;
  params.policy = start.policy;
  params.session_len = start.session_len;
  return user_.copy_out(params, op.data) ? result : -EFAULT;
}

int KvmShim::send_update_query(Op& op, KvmSevUpdateData& params) {
  MailboxUpdate query{.handle = op.vm.handle};
  const int result = psp_.run_for(op.vm.sev_fd, MailboxCommand::kSendUpdateData, query, op.error);
  params.hdr_len = query.hdr_len;
  params.trans_len = query.trans_len;
  return user_.copy_out(params, op.data) ? result : -EFAULT;
}

int KvmShim::send_update_data(Op& op) {
  KvmSevUpdateData params;
  if (!UserMemory::copy_in(op.data, params)) return -EFAULT;
  if (params.hdr_len == 0 || params.trans_len == 0) return send_update_query(op, params);
  if (params.trans_uaddr == 0 || params.guest_uaddr == 0 || params.guest_len == 0 ||
      params.hdr_uaddr == 0 || crosses_page(params.guest_uaddr, params.guest_len)) {
    return -EINVAL;
  }
  Pin pin;
  int bad = pin_guest(op.vm, params.guest_uaddr, params.guest_len, pin);
  if (bad == 0) bad = make_packet(params.hdr_len, params.trans_len);
  if (bad != 0) return bad;
  MailboxUpdate update{.handle = op.vm.handle};
  update.hdr_address = kernel_address(header_);
  update.hdr_len = params.hdr_len;
  update.guest_address = guest_physical(params.guest_uaddr);
  update.guest_len = params.guest_len;
  update.trans_address = kernel_address(transport_);
  update.trans_len = params.trans_len;
  const int result = psp_.run_for(op.vm.sev_fd, MailboxCommand::kSendUpdateData, update, op.error);
  return result == 0 ? copy_out_packet(params.trans_uaddr, params.hdr_uaddr) : result;
}

int KvmShim::receive_start(Op& op) {
  KvmSevStart params;
  if (!UserMemory::copy_in(op.data, params)) return -EFAULT;
  if (params.pdh_uaddr == 0 || params.pdh_len == 0 || params.session_uaddr == 0 ||
      params.session_len == 0) {
    return -EINVAL;
  }
  Bytes pdh;
  Bytes session;
  int bad = UserMemory::copy_blob(params.pdh_uaddr, params.pdh_len, pdh);
  if (bad == 0) bad = UserMemory::copy_blob(params.session_uaddr, params.session_len, session);
  if (bad != 0) return bad;
  MailboxStart start{.handle = params.handle, .policy = params.policy};
  start.pdh_address = kernel_address(pdh);
  start.pdh_len = params.pdh_len;
  start.session_address = kernel_address(session);
  start.session_len = params.session_len;
  const int result = psp_.run_for(op.sev_fd, MailboxCommand::kReceiveStart, start, op.error);
  return result == 0 ? adopt_guest(op, params, start.handle) : result;
}

int KvmShim::receive_update_data(Op& op) {
  KvmSevUpdateData params;
  if (!UserMemory::copy_in(op.data, params)) return -EFAULT;
  if (params.hdr_uaddr == 0 || params.hdr_len == 0 || params.guest_uaddr == 0 ||
      params.guest_len == 0 || params.trans_uaddr == 0 || params.trans_len == 0 ||
      crosses_page(params.guest_uaddr, params.guest_len)) {
    return -EINVAL;
  }
  int bad = UserMemory::copy_blob(params.hdr_uaddr, params.hdr_len, header_);
  if (bad == 0) bad = UserMemory::copy_blob(params.trans_uaddr, params.trans_len, transport_);
  Pin pin;
  if (bad == 0) bad = pin_guest(op.vm, params.guest_uaddr, params.guest_len, pin);
  if (bad != 0) return bad;
  MailboxUpdate update{.handle = op.vm.handle};
  update.hdr_address = kernel_address(header_);
  update.hdr_len = params.hdr_len;
  update.guest_address = guest_physical(params.guest_uaddr);
  update.guest_len = params.guest_len;
  update.trans_address = kernel_address(transport_);
  update.trans_len = params.trans_len;
  return psp_.run_for(op.vm.sev_fd, MailboxCommand::kReceiveUpdateData, update, op.error);
}

}  // namespace sealift::sev
