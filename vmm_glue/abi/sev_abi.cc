#include "vmm_glue/abi/sev_abi.h"

#include <linux/kvm.h>
#include <linux/psp-sev.h>

namespace sealift::sev {
namespace {

// The system's headers are the kernel's word; ours must say the same.
#define SEALIFT_SAME_SIZE(theirs, ours) static_assert(sizeof(theirs) == sizeof(ours))
#define SEALIFT_SAME_FIELD(theirs, field, ours, our_field)              \
  static_assert(offsetof(theirs, field) == offsetof(ours, our_field) && \
                sizeof(theirs::field) == sizeof(ours::our_field))

constexpr bool same(std::uint32_t theirs, KvmCommand ours) {
  return theirs == static_cast<std::uint32_t>(ours);
}
constexpr bool same(std::uint32_t theirs, SevDeviceCommand ours) {
  return theirs == static_cast<std::uint32_t>(ours);
}

static_assert(KVM_MEMORY_ENCRYPT_OP == kKvmMemoryEncryptOp);
static_assert(KVM_MEMORY_ENCRYPT_REG_REGION == kKvmMemoryEncryptRegRegion);
static_assert(KVM_MEMORY_ENCRYPT_UNREG_REGION == kKvmMemoryEncryptUnregRegion);
static_assert(SEV_ISSUE_CMD == kSevIssueCmd);
static_assert(KVM_ENABLE_CAP == kKvmEnableCap);
static_assert(KVM_CAP_VM_COPY_ENC_CONTEXT_FROM == kCapCopyEncContextFrom);
static_assert(KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM == kCapMoveEncContextFrom);

static_assert(same(KVM_SEV_INIT, KvmCommand::kInit));
static_assert(same(KVM_SEV_ES_INIT, KvmCommand::kEsInit));
static_assert(same(KVM_SEV_LAUNCH_START, KvmCommand::kLaunchStart));
static_assert(same(KVM_SEV_LAUNCH_UPDATE_DATA, KvmCommand::kLaunchUpdateData));
static_assert(same(KVM_SEV_LAUNCH_UPDATE_VMSA, KvmCommand::kLaunchUpdateVmsa));
static_assert(same(KVM_SEV_LAUNCH_SECRET, KvmCommand::kLaunchSecret));
static_assert(same(KVM_SEV_LAUNCH_MEASURE, KvmCommand::kLaunchMeasure));
static_assert(same(KVM_SEV_LAUNCH_FINISH, KvmCommand::kLaunchFinish));
static_assert(same(KVM_SEV_SEND_START, KvmCommand::kSendStart));
static_assert(same(KVM_SEV_SEND_UPDATE_DATA, KvmCommand::kSendUpdateData));
static_assert(same(KVM_SEV_SEND_UPDATE_VMSA, KvmCommand::kSendUpdateVmsa));
static_assert(same(KVM_SEV_SEND_FINISH, KvmCommand::kSendFinish));
static_assert(same(KVM_SEV_RECEIVE_START, KvmCommand::kReceiveStart));
static_assert(same(KVM_SEV_RECEIVE_UPDATE_DATA, KvmCommand::kReceiveUpdateData));
static_assert(same(KVM_SEV_RECEIVE_UPDATE_VMSA, KvmCommand::kReceiveUpdateVmsa));
static_assert(same(KVM_SEV_RECEIVE_FINISH, KvmCommand::kReceiveFinish));
static_assert(same(KVM_SEV_GUEST_STATUS, KvmCommand::kGuestStatus));
static_assert(same(KVM_SEV_DBG_DECRYPT, KvmCommand::kDbgDecrypt));
static_assert(same(KVM_SEV_DBG_ENCRYPT, KvmCommand::kDbgEncrypt));
static_assert(same(KVM_SEV_CERT_EXPORT, KvmCommand::kCertExport));
static_assert(same(KVM_SEV_GET_ATTESTATION_REPORT, KvmCommand::kGetAttestationReport));
static_assert(same(KVM_SEV_SEND_CANCEL, KvmCommand::kSendCancel));

static_assert(same(SEV_FACTORY_RESET, SevDeviceCommand::kFactoryReset));
static_assert(same(SEV_PLATFORM_STATUS, SevDeviceCommand::kPlatformStatus));
static_assert(same(SEV_PEK_GEN, SevDeviceCommand::kPekGen));
static_assert(same(SEV_PEK_CSR, SevDeviceCommand::kPekCsr));
static_assert(same(SEV_PDH_GEN, SevDeviceCommand::kPdhGen));
static_assert(same(SEV_PDH_CERT_EXPORT, SevDeviceCommand::kPdhCertExport));
static_assert(same(SEV_PEK_CERT_IMPORT, SevDeviceCommand::kPekCertImport));
static_assert(same(SEV_GET_ID, SevDeviceCommand::kGetId));
static_assert(same(SEV_GET_ID2, SevDeviceCommand::kGetId2));
static_assert(SEV_STATUS_FLAGS_CONFIG_ES == kStatusFlagEs);

SEALIFT_SAME_SIZE(kvm_sev_cmd, KvmSevCmd);
SEALIFT_SAME_FIELD(kvm_sev_cmd, id, KvmSevCmd, id);
SEALIFT_SAME_FIELD(kvm_sev_cmd, data, KvmSevCmd, data);
SEALIFT_SAME_FIELD(kvm_sev_cmd, error, KvmSevCmd, error);
SEALIFT_SAME_FIELD(kvm_sev_cmd, sev_fd, KvmSevCmd, sev_fd);

SEALIFT_SAME_SIZE(kvm_sev_launch_start, KvmSevStart);
SEALIFT_SAME_FIELD(kvm_sev_launch_start, dh_uaddr, KvmSevStart, pdh_uaddr);
SEALIFT_SAME_FIELD(kvm_sev_launch_start, session_uaddr, KvmSevStart, session_uaddr);
SEALIFT_SAME_SIZE(kvm_sev_receive_start, KvmSevStart);
SEALIFT_SAME_FIELD(kvm_sev_receive_start, handle, KvmSevStart, handle);
SEALIFT_SAME_FIELD(kvm_sev_receive_start, policy, KvmSevStart, policy);
SEALIFT_SAME_FIELD(kvm_sev_receive_start, pdh_uaddr, KvmSevStart, pdh_uaddr);
SEALIFT_SAME_FIELD(kvm_sev_receive_start, pdh_len, KvmSevStart, pdh_len);
SEALIFT_SAME_FIELD(kvm_sev_receive_start, session_uaddr, KvmSevStart, session_uaddr);
SEALIFT_SAME_FIELD(kvm_sev_receive_start, session_len, KvmSevStart, session_len);

SEALIFT_SAME_SIZE(kvm_sev_launch_update_data, KvmSevLaunchUpdateData);
SEALIFT_SAME_FIELD(kvm_sev_launch_update_data, len, KvmSevLaunchUpdateData, len);
SEALIFT_SAME_SIZE(kvm_sev_launch_measure, KvmSevLaunchMeasure);
SEALIFT_SAME_FIELD(kvm_sev_launch_measure, len, KvmSevLaunchMeasure, len);

SEALIFT_SAME_SIZE(kvm_sev_launch_secret, KvmSevLaunchSecret);
SEALIFT_SAME_FIELD(kvm_sev_launch_secret, hdr_uaddr, KvmSevLaunchSecret, hdr_uaddr);
SEALIFT_SAME_FIELD(kvm_sev_launch_secret, hdr_len, KvmSevLaunchSecret, hdr_len);
SEALIFT_SAME_FIELD(kvm_sev_launch_secret, guest_uaddr, KvmSevLaunchSecret, guest_uaddr);
SEALIFT_SAME_FIELD(kvm_sev_launch_secret, guest_len, KvmSevLaunchSecret, guest_len);
SEALIFT_SAME_FIELD(kvm_sev_launch_secret, trans_uaddr, KvmSevLaunchSecret, trans_uaddr);
SEALIFT_SAME_FIELD(kvm_sev_launch_secret, trans_len, KvmSevLaunchSecret, trans_len);
SEALIFT_SAME_SIZE(kvm_sev_attestation_report, KvmSevAttestationReport);
SEALIFT_SAME_FIELD(kvm_sev_attestation_report, mnonce, KvmSevAttestationReport, mnonce);
SEALIFT_SAME_FIELD(kvm_sev_attestation_report, uaddr, KvmSevAttestationReport, uaddr);
SEALIFT_SAME_FIELD(kvm_sev_attestation_report, len, KvmSevAttestationReport, len);
SEALIFT_SAME_SIZE(kvm_sev_dbg, KvmSevDbg);
SEALIFT_SAME_FIELD(kvm_sev_dbg, src_uaddr, KvmSevDbg, src_uaddr);
SEALIFT_SAME_FIELD(kvm_sev_dbg, dst_uaddr, KvmSevDbg, dst_uaddr);
SEALIFT_SAME_FIELD(kvm_sev_dbg, len, KvmSevDbg, len);
SEALIFT_SAME_SIZE(kvm_enable_cap, KvmEnableCap);
SEALIFT_SAME_FIELD(kvm_enable_cap, cap, KvmEnableCap, cap);
SEALIFT_SAME_FIELD(kvm_enable_cap, flags, KvmEnableCap, flags);
SEALIFT_SAME_FIELD(kvm_enable_cap, args, KvmEnableCap, args);

SEALIFT_SAME_SIZE(kvm_sev_send_start, KvmSevSendStart);
SEALIFT_SAME_FIELD(kvm_sev_send_start, policy, KvmSevSendStart, policy);
SEALIFT_SAME_FIELD(kvm_sev_send_start, pdh_cert_uaddr, KvmSevSendStart, pdh_cert_uaddr);
SEALIFT_SAME_FIELD(kvm_sev_send_start, pdh_cert_len, KvmSevSendStart, pdh_cert_len);
SEALIFT_SAME_FIELD(kvm_sev_send_start, plat_certs_uaddr, KvmSevSendStart, plat_certs_uaddr);
SEALIFT_SAME_FIELD(kvm_sev_send_start, plat_certs_len, KvmSevSendStart, plat_certs_len);
SEALIFT_SAME_FIELD(kvm_sev_send_start, amd_certs_uaddr, KvmSevSendStart, amd_certs_uaddr);
SEALIFT_SAME_FIELD(kvm_sev_send_start, amd_certs_len, KvmSevSendStart, amd_certs_len);
SEALIFT_SAME_FIELD(kvm_sev_send_start, session_uaddr, KvmSevSendStart, session_uaddr);
SEALIFT_SAME_FIELD(kvm_sev_send_start, session_len, KvmSevSendStart, session_len);

SEALIFT_SAME_SIZE(kvm_sev_send_update_data, KvmSevUpdateData);
SEALIFT_SAME_FIELD(kvm_sev_send_update_data, hdr_uaddr, KvmSevUpdateData, hdr_uaddr);
SEALIFT_SAME_FIELD(kvm_sev_send_update_data, hdr_len, KvmSevUpdateData, hdr_len);
SEALIFT_SAME_FIELD(kvm_sev_send_update_data, guest_uaddr, KvmSevUpdateData, guest_uaddr);
SEALIFT_SAME_FIELD(kvm_sev_send_update_data, guest_len, KvmSevUpdateData, guest_len);
SEALIFT_SAME_FIELD(kvm_sev_send_update_data, trans_uaddr, KvmSevUpdateData, trans_uaddr);
SEALIFT_SAME_FIELD(kvm_sev_send_update_data, trans_len, KvmSevUpdateData, trans_len);
SEALIFT_SAME_SIZE(kvm_sev_receive_update_data, KvmSevUpdateData);
SEALIFT_SAME_FIELD(kvm_sev_receive_update_data, hdr_uaddr, KvmSevUpdateData, hdr_uaddr);
SEALIFT_SAME_FIELD(kvm_sev_receive_update_data, guest_uaddr, KvmSevUpdateData, guest_uaddr);
SEALIFT_SAME_FIELD(kvm_sev_receive_update_data, trans_uaddr, KvmSevUpdateData, trans_uaddr);
SEALIFT_SAME_FIELD(kvm_sev_receive_update_data, trans_len, KvmSevUpdateData, trans_len);

SEALIFT_SAME_SIZE(kvm_sev_guest_status, KvmSevGuestStatus);
SEALIFT_SAME_FIELD(kvm_sev_guest_status, policy, KvmSevGuestStatus, policy);
SEALIFT_SAME_FIELD(kvm_sev_guest_status, state, KvmSevGuestStatus, state);
SEALIFT_SAME_SIZE(kvm_enc_region, KvmEncRegion);
SEALIFT_SAME_FIELD(kvm_enc_region, size, KvmEncRegion, size);

SEALIFT_SAME_SIZE(sev_issue_cmd, SevIssueCmd);
SEALIFT_SAME_FIELD(sev_issue_cmd, data, SevIssueCmd, data);
SEALIFT_SAME_FIELD(sev_issue_cmd, error, SevIssueCmd, error);
SEALIFT_SAME_SIZE(sev_user_data_status, SevPlatformStatus);
SEALIFT_SAME_FIELD(sev_user_data_status, state, SevPlatformStatus, state);
SEALIFT_SAME_FIELD(sev_user_data_status, flags, SevPlatformStatus, flags);
SEALIFT_SAME_FIELD(sev_user_data_status, build, SevPlatformStatus, build);
SEALIFT_SAME_FIELD(sev_user_data_status, guest_count, SevPlatformStatus, guest_count);
SEALIFT_SAME_SIZE(sev_user_data_pdh_cert_export, SevPdhCertExport);
SEALIFT_SAME_FIELD(sev_user_data_pdh_cert_export, pdh_cert_address, SevPdhCertExport,
                   pdh_cert_address);
SEALIFT_SAME_FIELD(sev_user_data_pdh_cert_export, pdh_cert_len, SevPdhCertExport, pdh_cert_len);
SEALIFT_SAME_FIELD(sev_user_data_pdh_cert_export, cert_chain_address, SevPdhCertExport,
                   cert_chain_address);
SEALIFT_SAME_FIELD(sev_user_data_pdh_cert_export, cert_chain_len, SevPdhCertExport, cert_chain_len);
SEALIFT_SAME_SIZE(sev_user_data_pek_csr, SevPekCsr);
SEALIFT_SAME_FIELD(sev_user_data_pek_csr, address, SevPekCsr, address);
SEALIFT_SAME_FIELD(sev_user_data_pek_csr, length, SevPekCsr, length);
SEALIFT_SAME_SIZE(sev_user_data_pek_cert_import, SevPekCertImport);
SEALIFT_SAME_FIELD(sev_user_data_pek_cert_import, pek_cert_address, SevPekCertImport,
                   pek_cert_address);
SEALIFT_SAME_FIELD(sev_user_data_pek_cert_import, pek_cert_len, SevPekCertImport, pek_cert_len);
SEALIFT_SAME_FIELD(sev_user_data_pek_cert_import, oca_cert_address, SevPekCertImport,
                   oca_cert_address);
SEALIFT_SAME_FIELD(sev_user_data_pek_cert_import, oca_cert_len, SevPekCertImport, oca_cert_len);
SEALIFT_SAME_SIZE(sev_user_data_get_id2, SevGetId2);
SEALIFT_SAME_FIELD(sev_user_data_get_id2, address, SevGetId2, address);
SEALIFT_SAME_FIELD(sev_user_data_get_id2, length, SevGetId2, length);

// KvmCommand::kInit2 and KvmSevInit2 are younger than the oldest header we build with (Linux 6.1).

}  // namespace
}  // namespace sealift::sev
