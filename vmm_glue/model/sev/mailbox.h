// The command buffers of the PSP mailbox, packed as the firmware takes them.
//
// Spec: AMD SEV API 55766 as read in Linux 6.1 include/linux/psp-sev.h and AMD sev-tool. Addresses
// are system physical. In the model the address of a guest page is one of MemoryController (with
// the C-bit, as KVM passes it), and the address of a kernel buffer is a pointer of this process.
// The guest's side of DBG_DECRYPT is the source, that of DBG_ENCRYPT the destination; the other
// side is a kernel buffer. Plain values: no ownership, no threads, no failure.
#pragma once

#include <cstddef>
#include <cstdint>

namespace sealift::sev {

enum class MailboxCommand : std::uint16_t {
  kInit = 0x01,
  kShutdown = 0x02,
  kPlatformReset = 0x03,
  kPlatformStatus = 0x04,
  kPekGen = 0x05,
  kPekCsr = 0x06,
  kPekCertImport = 0x07,
  kPdhCertExport = 0x08,
  kPdhGen = 0x09,
  kDfFlush = 0x0a,
  kGetId = 0x0c,
  kNop = 0x0e,
  kDecommission = 0x20,
  kActivate = 0x21,
  kDeactivate = 0x22,
  kGuestStatus = 0x23,
  kLaunchStart = 0x30,
  kLaunchUpdateData = 0x31,
  kLaunchUpdateVmsa = 0x32,
  kLaunchMeasure = 0x33,
  kLaunchSecret = 0x34,
  kLaunchFinish = 0x35,
  kAttestation = 0x36,
  kSendStart = 0x40,
  kSendUpdateData = 0x41,
  kSendUpdateVmsa = 0x42,
  kSendFinish = 0x43,
  kSendCancel = 0x44,
  kReceiveStart = 0x50,
  kReceiveUpdateData = 0x51,
  kReceiveUpdateVmsa = 0x52,
  kReceiveFinish = 0x53,
  kDbgDecrypt = 0x60,
  kDbgEncrypt = 0x61,
};

#pragma pack(push, 1)
struct MailboxInit {
  std::uint32_t flags = 0;  // bit 0: SEV-ES
  std::uint32_t reserved = 0;
  std::uint64_t tmr_address = 0;
  std::uint32_t tmr_len = 0;
};
struct MailboxPlatformStatus {
  std::uint8_t api_major = 0;
  std::uint8_t api_minor = 0;
  std::uint8_t state = 0;
  std::uint8_t flags = 0;
  std::uint16_t config = 0;
  std::uint8_t reserved = 0;
  std::uint8_t build = 0;
  std::uint32_t guest_count = 0;
};
struct MailboxPdhCertExport {
  std::uint64_t pdh_address = 0;
  std::uint32_t pdh_len = 0;  // in/out
  std::uint32_t reserved = 0;
  std::uint64_t chain_address = 0;
  std::uint32_t chain_len = 0;  // in/out
};
struct MailboxPekCertImport {
  std::uint64_t pek_address = 0;
  std::uint32_t pek_len = 0;
  std::uint32_t reserved = 0;
  std::uint64_t oca_address = 0;
  std::uint32_t oca_len = 0;
};
struct MailboxBlob {  // PEK_CSR, GET_ID
  std::uint64_t address = 0;
  std::uint32_t len = 0;  // in/out
};
// SHUTDOWN, PLATFORM_RESET, PEK_GEN, PDH_GEN, DF_FLUSH and NOP have no buffer: zero bytes.
struct MailboxHandle {  // FINISH, CANCEL, DEACTIVATE, DECOMMISSION
  std::uint32_t handle = 0;
};
struct MailboxActivate {
  std::uint32_t handle = 0;
  std::uint32_t asid = 0;
};
struct MailboxGuestStatus {
  std::uint32_t handle = 0;
  std::uint32_t policy = 0;  // out
  std::uint32_t asid = 0;    // out
  std::uint8_t state = 0;    // out
};
struct MailboxStart {        // LAUNCH_START, RECEIVE_START
  std::uint32_t handle = 0;  // in/out
  std::uint32_t policy = 0;
  std::uint64_t pdh_address = 0;
  std::uint32_t pdh_len = 0;
  std::uint32_t reserved = 0;
  std::uint64_t session_address = 0;
  std::uint32_t session_len = 0;
};
struct MailboxLaunchUpdate {
  std::uint32_t handle = 0;
  std::uint32_t reserved = 0;
  std::uint64_t address = 0;
  std::uint32_t len = 0;
};
struct MailboxLaunchMeasure {
  std::uint32_t handle = 0;
  std::uint32_t reserved = 0;
  std::uint64_t address = 0;
  std::uint32_t len = 0;  // in/out
};
struct MailboxSendStart {
  std::uint32_t handle = 0;
  std::uint32_t policy = 0;  // out
  std::uint64_t pdh_address = 0;
  std::uint32_t pdh_len = 0;
  std::uint32_t reserved0 = 0;
  std::uint64_t plat_address = 0;
  std::uint32_t plat_len = 0;
  std::uint32_t reserved1 = 0;
  std::uint64_t amd_address = 0;
  std::uint32_t amd_len = 0;
  std::uint32_t reserved2 = 0;
  std::uint64_t session_address = 0;
  std::uint32_t session_len = 0;  // in/out
};
struct MailboxUpdate {  // SEND_UPDATE_*, RECEIVE_UPDATE_*, LAUNCH_SECRET
  std::uint32_t handle = 0;
  std::uint32_t reserved0 = 0;
  std::uint64_t hdr_address = 0;
  std::uint32_t hdr_len = 0;  // in/out for SEND
  std::uint32_t reserved1 = 0;
  std::uint64_t guest_address = 0;
  std::uint32_t guest_len = 0;
  std::uint32_t reserved2 = 0;
  std::uint64_t trans_address = 0;
  std::uint32_t trans_len = 0;
};
struct MailboxAttestation {
  std::uint32_t handle = 0;
  std::uint32_t reserved = 0;
  std::uint64_t address = 0;
  std::uint8_t mnonce[16] = {};
  std::uint32_t len = 0;  // in/out
};
struct MailboxDbg {
  std::uint32_t handle = 0;
  std::uint32_t reserved = 0;
  std::uint64_t source_address = 0;
  std::uint64_t destination_address = 0;
  std::uint32_t len = 0;
};
#pragma pack(pop)

static_assert(sizeof(MailboxInit) == 20 && sizeof(MailboxPlatformStatus) == 12);
static_assert(sizeof(MailboxPdhCertExport) == 28 && sizeof(MailboxHandle) == 4);
static_assert(sizeof(MailboxActivate) == 8 && sizeof(MailboxGuestStatus) == 13);
static_assert(sizeof(MailboxStart) == 36 && sizeof(MailboxLaunchUpdate) == 20);
static_assert(sizeof(MailboxLaunchMeasure) == 20 && sizeof(MailboxSendStart) == 68);
static_assert(sizeof(MailboxUpdate) == 52 && sizeof(MailboxAttestation) == 36);
static_assert(sizeof(MailboxDbg) == 28 && sizeof(MailboxPekCertImport) == 28);
static_assert(sizeof(MailboxBlob) == 12);
static_assert(offsetof(MailboxSendStart, session_address) == 56);
static_assert(offsetof(MailboxUpdate, trans_address) == 40);

}  // namespace sealift::sev
