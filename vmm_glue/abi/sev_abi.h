// The kernel's SEV interface, spelled out by ourselves: KVM_MEMORY_ENCRYPT_OP and /dev/sev.
//
// Spec:    Linux 6.1 include/uapi/linux/{kvm,psp-sev}.h and Documentation/virt/kvm/x86/
//          amd-memory-encryption.rst. abi/sev_abi.cc compares every size, offset and number with
//          the system's headers, so a header that disagrees fails the build.
// Plain values: no ownership, no threads, no failure. The `pad` members are what natural alignment
// leaves free; they are zero, so that no stack bytes reach the kernel (Linux 6.12 names them too).
#pragma once

#include <cstddef>
#include <cstdint>

namespace sealift::sev {

// ---- ioctl numbers -----------------------------------------------------------------------------
inline constexpr unsigned long kKvmMemoryEncryptOp = 0xc008aeba;
inline constexpr unsigned long kKvmMemoryEncryptRegRegion = 0x8010aebb;
inline constexpr unsigned long kKvmMemoryEncryptUnregRegion = 0x8010aebc;
inline constexpr unsigned long kSevIssueCmd = 0xc0105300;

// KVM refuses a blob longer than this (SEV_FW_BLOB_MAX_SIZE, Linux 6.1 include/linux/psp-sev.h).
inline constexpr std::uint32_t kFirmwareBlobBytesMax = 0x4000;
// kvm_sev_cmd.error of a call that never reached the firmware, when the caller presets it so.
inline constexpr std::uint32_t kNoFirmwareCall = 0xffffffff;

// ---- KVM_MEMORY_ENCRYPT_OP ---------------------------------------------------------------------
enum class KvmCommand : std::uint32_t {
  kInit = 0,
  kEsInit = 1,
  kLaunchStart = 2,
  kLaunchUpdateData = 3,
  kLaunchUpdateVmsa = 4,
  kLaunchSecret = 5,
  kLaunchMeasure = 6,
  kLaunchFinish = 7,
  kSendStart = 8,
  kSendUpdateData = 9,
  kSendUpdateVmsa = 10,  // reserved number: KVM answers EINVAL
  kSendFinish = 11,
  kReceiveStart = 12,
  kReceiveUpdateData = 13,
  kReceiveUpdateVmsa = 14,  // reserved number: KVM answers EINVAL
  kReceiveFinish = 15,
  kGuestStatus = 16,
  kDbgDecrypt = 17,
  kDbgEncrypt = 18,
  kCertExport = 19,  // reserved number: KVM answers EINVAL
  kGetAttestationReport = 20,
  kSendCancel = 21,
  kInit2 = 22,  // Linux 6.10 on
  // MODEL CHOICE: no kernel has these two (EINVAL). What KVM keeps of a SEV-ES guest outside the
  // VMSA has to move too, and mainline has no call for it.
  kGetEsState = 0x5ea0,
  kSetEsState = 0x5ea1,
};

struct KvmSevCmd {
  std::uint32_t id = 0;
  std::uint32_t pad = 0;
  std::uint64_t data = 0;  // user pointer to the command's own struct
  std::uint32_t error = kNoFirmwareCall;
  std::uint32_t sev_fd = 0;
};
static_assert(sizeof(KvmSevCmd) == 24 && offsetof(KvmSevCmd, data) == 8 &&
              offsetof(KvmSevCmd, error) == 16 && offsetof(KvmSevCmd, sev_fd) == 20);

// LAUNCH_START and RECEIVE_START have the same shape.
struct KvmSevStart {
  std::uint32_t handle = 0;  // in: 0, or the guest to share a key with; out: the new handle
  std::uint32_t policy = 0;
  std::uint64_t pdh_uaddr = 0;
  std::uint32_t pdh_len = 0;
  std::uint32_t pad0 = 0;
  std::uint64_t session_uaddr = 0;
  std::uint32_t session_len = 0;
  std::uint32_t pad1 = 0;
};
static_assert(sizeof(KvmSevStart) == 40 && offsetof(KvmSevStart, pdh_uaddr) == 8 &&
              offsetof(KvmSevStart, session_uaddr) == 24);

struct KvmSevLaunchUpdateData {
  std::uint64_t uaddr = 0;
  std::uint32_t len = 0;
  std::uint32_t pad = 0;
};
static_assert(sizeof(KvmSevLaunchUpdateData) == 16);

struct KvmSevLaunchMeasure {
  std::uint64_t uaddr = 0;
  std::uint32_t len = 0;  // in/out; 0 asks for the length
  std::uint32_t pad = 0;
};
static_assert(sizeof(KvmSevLaunchMeasure) == 16);

struct KvmSevSendStart {
  std::uint32_t policy = 0;  // out
  std::uint32_t pad0 = 0;
  std::uint64_t pdh_cert_uaddr = 0;
  std::uint32_t pdh_cert_len = 0;
  std::uint32_t pad1 = 0;
  std::uint64_t plat_certs_uaddr = 0;
  std::uint32_t plat_certs_len = 0;
  std::uint32_t pad2 = 0;
  std::uint64_t amd_certs_uaddr = 0;
  std::uint32_t amd_certs_len = 0;
  std::uint32_t pad3 = 0;
  std::uint64_t session_uaddr = 0;
  std::uint32_t session_len = 0;  // in/out; 0 asks for the length
  std::uint32_t pad4 = 0;
};
static_assert(sizeof(KvmSevSendStart) == 72 && offsetof(KvmSevSendStart, pdh_cert_uaddr) == 8 &&
              offsetof(KvmSevSendStart, plat_certs_uaddr) == 24 &&
              offsetof(KvmSevSendStart, amd_certs_uaddr) == 40 &&
              offsetof(KvmSevSendStart, session_uaddr) == 56 &&
              offsetof(KvmSevSendStart, session_len) == 64);

// SEND_UPDATE_DATA and RECEIVE_UPDATE_DATA have the same shape.
struct KvmSevUpdateData {
  std::uint64_t hdr_uaddr = 0;
  std::uint32_t hdr_len = 0;
  std::uint32_t pad0 = 0;
  std::uint64_t guest_uaddr = 0;  // virtual address of the guest page in the caller
  std::uint32_t guest_len = 0;
  std::uint32_t pad1 = 0;
  std::uint64_t trans_uaddr = 0;
  std::uint32_t trans_len = 0;
  std::uint32_t pad2 = 0;
};
static_assert(sizeof(KvmSevUpdateData) == 48 && offsetof(KvmSevUpdateData, guest_uaddr) == 16 &&
              offsetof(KvmSevUpdateData, trans_uaddr) == 32);

// MODEL CHOICE: the kernel reserves the numbers of SEND_UPDATE_VMSA and RECEIVE_UPDATE_VMSA without
// a struct; this one follows SEND_UPDATE_DATA, with the vCPU in place of the address.
struct KvmSevUpdateVmsa {
  std::uint32_t vcpu = 0;
  std::uint32_t pad0 = 0;
  std::uint64_t hdr_uaddr = 0;
  std::uint32_t hdr_len = 0;  // 0 asks for the lengths (SEND)
  std::uint32_t pad1 = 0;
  std::uint64_t trans_uaddr = 0;
  std::uint32_t trans_len = 0;
  std::uint32_t pad2 = 0;
};
static_assert(sizeof(KvmSevUpdateVmsa) == 40);

// MODEL CHOICE: see KvmCommand::kGetEsState. One vCPU's share of what KVM keeps by itself.
struct KvmSevEsState {
  std::uint32_t vcpu = 0;
  std::uint32_t flags = 0;          // bit 0: ghcb_gpa is registered
  std::uint64_t ghcb_gpa = 0;       // GHCB MSR protocol, request 0x012
  std::uint64_t ap_jump_table = 0;  // of the whole guest; GHCB exit 0x80000005. 0: none
};
static_assert(sizeof(KvmSevEsState) == 24);
inline constexpr std::uint32_t kEsStateGhcbRegistered = 1u << 0;

struct KvmSevInit2 {
  std::uint64_t vmsa_features = 0;
  std::uint32_t flags = 0;  // must be 0
  std::uint16_t ghcb_version = 0;
  std::uint16_t pad0 = 0;
  std::uint32_t pad1[8] = {};
};
static_assert(sizeof(KvmSevInit2) == 48 && offsetof(KvmSevInit2, ghcb_version) == 12);

struct KvmSevLaunchSecret {
  std::uint64_t hdr_uaddr = 0;
  std::uint32_t hdr_len = 0;
  std::uint32_t pad0 = 0;
  std::uint64_t guest_uaddr = 0;
  std::uint32_t guest_len = 0;
  std::uint32_t pad1 = 0;
  std::uint64_t trans_uaddr = 0;
  std::uint32_t trans_len = 0;
  std::uint32_t pad2 = 0;
};
static_assert(sizeof(KvmSevLaunchSecret) == 48);

struct KvmSevDbg {
  std::uint64_t src_uaddr = 0;
  std::uint64_t dst_uaddr = 0;
  std::uint32_t len = 0;
  std::uint32_t pad = 0;
};
static_assert(sizeof(KvmSevDbg) == 24);

struct KvmSevAttestationReport {
  std::uint8_t mnonce[16] = {};
  std::uint64_t uaddr = 0;
  std::uint32_t len = 0;  // in/out; 0 asks for the length
  std::uint32_t pad = 0;
};
static_assert(sizeof(KvmSevAttestationReport) == 32);

struct KvmSevGuestStatus {
  std::uint32_t handle = 0;
  std::uint32_t policy = 0;
  std::uint32_t state = 0;  // 32 bits in the header, whatever the kernel's document says
};
static_assert(sizeof(KvmSevGuestStatus) == 12);

// KVM_ENABLE_CAP on a VM, for KVM_CAP_VM_COPY_ENC_CONTEXT_FROM and
// KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM.
inline constexpr unsigned long kKvmEnableCap = 0x4068aea3;
inline constexpr std::uint32_t kCapCopyEncContextFrom = 197;
inline constexpr std::uint32_t kCapMoveEncContextFrom = 206;
struct KvmEnableCap {
  std::uint32_t cap = 0;
  std::uint32_t flags = 0;
  std::uint64_t args[4] = {};  // [0]: fd of the source VM
  std::uint8_t pad[64] = {};
};
static_assert(sizeof(KvmEnableCap) == 104);

struct KvmEncRegion {
  std::uint64_t addr = 0;
  std::uint64_t size = 0;
};
static_assert(sizeof(KvmEncRegion) == 16);

// State of a guest as GUEST_STATUS gives it. The kernel's document exchanges 4 and 5; the firmware
// (AMD sev-tool, QEMU's enum) has these.
enum class GuestState : std::uint32_t {
  kUninit = 0,
  kLaunchUpdate = 1,
  kLaunchSecret = 2,
  kRunning = 3,
  kSendUpdate = 4,
  kReceiveUpdate = 5,
  kSent = 6,
};

// Guest policy word (AMD SEV API 55766 as read in Linux 6.1 amd-memory-encryption.rst, sev-tool).
inline constexpr std::uint32_t kPolicyNoDebug = 1u << 0;
inline constexpr std::uint32_t kPolicyNoKeySharing = 1u << 1;
inline constexpr std::uint32_t kPolicyEs = 1u << 2;
inline constexpr std::uint32_t kPolicyNoSend = 1u << 3;
inline constexpr std::uint32_t kPolicyDomain = 1u << 4;
inline constexpr std::uint32_t kPolicySev = 1u << 5;
inline constexpr std::uint32_t kPolicyReserved = 0x0000ffc0;
constexpr std::uint8_t policy_api_major(std::uint32_t policy) {
  return static_cast<std::uint8_t>(policy >> 16);
}
constexpr std::uint8_t policy_api_minor(std::uint32_t policy) {
  return static_cast<std::uint8_t>(policy >> 24);
}

// ---- /dev/sev ----------------------------------------------------------------------------------
enum class SevDeviceCommand : std::uint32_t {
  kFactoryReset = 0,
  kPlatformStatus = 1,
  kPekGen = 2,
  kPekCsr = 3,
  kPdhGen = 4,
  kPdhCertExport = 5,
  kPekCertImport = 6,
  kGetId = 7,
  kGetId2 = 8,
};

#pragma pack(push, 1)
struct SevIssueCmd {
  std::uint32_t cmd = 0;
  std::uint64_t data = 0;
  std::uint32_t error = kNoFirmwareCall;
};
struct SevPlatformStatus {
  std::uint8_t api_major = 0;
  std::uint8_t api_minor = 0;
  std::uint8_t state = 0;
  std::uint32_t flags = 0;  // bit 0: externally owned; bit 8: SEV-ES configured
  std::uint8_t build = 0;
  std::uint32_t guest_count = 0;
};
struct SevPdhCertExport {
  std::uint64_t pdh_cert_address = 0;
  std::uint32_t pdh_cert_len = 0;  // in/out
  std::uint64_t cert_chain_address = 0;
  std::uint32_t cert_chain_len = 0;  // in/out
};
struct SevPekCsr {
  std::uint64_t address = 0;
  std::uint32_t length = 0;  // in/out
};
struct SevPekCertImport {
  std::uint64_t pek_cert_address = 0;
  std::uint32_t pek_cert_len = 0;
  std::uint64_t oca_cert_address = 0;
  std::uint32_t oca_cert_len = 0;
};
struct SevGetId2 {
  std::uint64_t address = 0;
  std::uint32_t length = 0;  // in/out
};
#pragma pack(pop)
static_assert(sizeof(SevPekCsr) == 12 && sizeof(SevPekCertImport) == 24 && sizeof(SevGetId2) == 12);
static_assert(sizeof(SevIssueCmd) == 16 && offsetof(SevIssueCmd, data) == 4 &&
              offsetof(SevIssueCmd, error) == 12);
static_assert(sizeof(SevPlatformStatus) == 12 && offsetof(SevPlatformStatus, flags) == 3 &&
              offsetof(SevPlatformStatus, build) == 7);
static_assert(sizeof(SevPdhCertExport) == 24 && offsetof(SevPdhCertExport, pdh_cert_len) == 8 &&
              offsetof(SevPdhCertExport, cert_chain_address) == 12);

inline constexpr std::uint32_t kStatusFlagExternallyOwned = 1u << 0;
inline constexpr std::uint32_t kStatusFlagEs = 1u << 8;

// ---- sizes of the firmware's own objects (checked by the drivers, not by the kernel)
// --------------
inline constexpr std::uint32_t kCertificateBytes = 2084;
inline constexpr std::uint32_t kChainBytes = 3 * kCertificateBytes;  // PEK, OCA, CEK
inline constexpr std::uint32_t kSessionBytes = 128;
inline constexpr std::uint32_t kPacketHeaderBytes = 52;
inline constexpr std::uint32_t kVmsaBytes = 4096;
inline constexpr std::uint32_t kAttestationBytes = 208;
inline constexpr std::uint32_t kMeasurementBytes = 48;  // HMAC, then the firmware's nonce
static_assert(kChainBytes == 6252);

}  // namespace sealift::sev
