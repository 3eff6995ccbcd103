// What user space asks of the PSP: /dev/sev, and its memory.

#include "vmm_glue/model/sev/psp_device_user.h"

#include <algorithm>
#include <cerrno>
#include <limits>

#include "vmm_glue/model/sev/psp_device.h"

namespace sealift::sev {
namespace {

constexpr std::uint32_t kDeprecatedIdBytes = 128;      // two sockets of 64 (sev_user_data_get_id)
constexpr std::uint32_t kPageAllocatorMax = 4u << 20;  // what GET_ID2 may ask for

}  // namespace

bool UserMemory::copy_out_bytes(ByteView bytes, std::uint64_t user) {
  if (user == 0 || std::exchange(fails_next_, false)) return false;
  std::copy(bytes.begin(), bytes.end(), reinterpret_cast<std::byte*>(user));
  return true;
}

int UserMemory::copy_blob(std::uint64_t user, std::uint32_t bytes, Bytes& out) {
  if (user == 0 || bytes == 0 || bytes > kFirmwareBlobBytesMax) return -EINVAL;
  const auto* from = reinterpret_cast<const std::byte*>(user);
  out.assign(from, from + bytes);
  return 0;
}

std::uint64_t kernel_address(const Bytes& bytes) {
  return reinterpret_cast<std::uint64_t>(bytes.data());
}

// One SEV_ISSUE_CMD under way.
struct PspDevice::Request {
  SevIssueCmd cmd;
  bool writable = false;
  std::uint32_t error = 0;
};

int PspDevice::ioctl(int fd, unsigned long request, void* arg) {
  if (health_ == Health::kGone) return -ENODEV;
  if (request != kSevIssueCmd) return -EINVAL;
  const auto user = reinterpret_cast<std::uint64_t>(arg);
  Request asked{.cmd = {}, .writable = fds_.at(fd)};
  if (!UserMemory::copy_in(user, asked.cmd)) return -EFAULT;
  if (asked.cmd.cmd > static_cast<std::uint32_t>(SevDeviceCommand::kGetId2)) return -EINVAL;
  asked.error = asked.cmd.error;
  const int result = dispatch(asked);
  user_.forget_fault();
  asked.cmd.error = asked.error;
  return user_.copy_out(asked.cmd, user) ? result : -EFAULT;
}

int PspDevice::dispatch(Request& request) {
  switch (static_cast<SevDeviceCommand>(request.cmd.cmd)) {
    case SevDeviceCommand::kFactoryReset:
      return factory_reset(request);
    case SevDeviceCommand::kPlatformStatus:
      return platform_status(request);
    case SevDeviceCommand::kPekGen:
      return generate(request, MailboxCommand::kPekGen);
    case SevDeviceCommand::kPekCsr:
      return pek_csr(request);
    case SevDeviceCommand::kPdhGen:
      return generate(request, MailboxCommand::kPdhGen);
    case SevDeviceCommand::kPdhCertExport:
      return pdh_cert_export(request);
    case SevDeviceCommand::kPekCertImport:
      return pek_cert_import(request);
    case SevDeviceCommand::kGetId:
      return get_id(request);
    case SevDeviceCommand::kGetId2:
      return get_id2(request);
  }
  return -EINVAL;
}

// PLATFORM_RESET wants UNINIT: a platform with guests is EBUSY, one without is shut down first.
int PspDevice::factory_reset(Request& request) {
  if (!request.writable) return -EPERM;
  MailboxPlatformStatus status;
  int result = run(MailboxCommand::kPlatformStatus, status, request.error);
  if (result != 0) return result;
  if (status.state == static_cast<std::uint8_t>(PlatformState::kWorking)) return -EBUSY;
  if (status.state == static_cast<std::uint8_t>(PlatformState::kInit)) {
    result = run(MailboxCommand::kShutdown, request.error);
    if (result != 0) return result;
    initialised_ = false;
  }
  return run(MailboxCommand::kPlatformReset, request.error);
}

// The kernel passes its 12-byte buffer through: the user's struct has the mailbox's layout.
int PspDevice::platform_status(Request& request) {
  static_assert(sizeof(MailboxPlatformStatus) == sizeof(SevPlatformStatus));
  MailboxPlatformStatus status;
  const int result = run(MailboxCommand::kPlatformStatus, status, request.error);
  if (result != 0) return result;
  return user_.copy_out(status, request.cmd.data) ? 0 : -EFAULT;
}

int PspDevice::generate(Request& request, MailboxCommand id) {
  if (!request.writable) return -EPERM;
  if (const int result = init_platform(request.error); result != 0) return result;
  return run(id, request.error);
}

int PspDevice::pek_csr(Request& request) {
  if (!request.writable) return -EPERM;
  SevPekCsr asked;
  if (!UserMemory::copy_in(request.cmd.data, asked)) return -EFAULT;
  MailboxBlob buffer;
  Bytes blob;
  if (asked.address != 0 && asked.length != 0) {
    if (asked.length > kFirmwareBlobBytesMax) return -EFAULT;
    blob.resize(asked.length);
    buffer = {.address = kernel_address(blob), .len = asked.length};
  }
  int result = init_platform(request.error);
  if (result != 0) return result;
  result = run(MailboxCommand::kPekCsr, buffer, request.error);
  asked.length = buffer.len;
  if (!user_.copy_out(asked, request.cmd.data)) return -EFAULT;
  if (result != 0 || blob.empty()) return result;
  return user_.copy_out_bytes(ByteView(blob).first(buffer.len), asked.address) ? 0 : -EFAULT;
}

int PspDevice::pdh_cert_export(Request& request) {
  if (!initialised_ && !request.writable) return -EPERM;
  if (const int result = init_platform(request.error); result != 0) return result;
  SevPdhCertExport asked;
  if (!UserMemory::copy_in(request.cmd.data, asked)) return -EFAULT;
  MailboxPdhCertExport buffer;
  Bytes pdh;
  Bytes chain;
  const bool query = asked.pdh_cert_address == 0 || asked.pdh_cert_len == 0 ||
                     asked.cert_chain_address == 0 || asked.cert_chain_len == 0;
  if (!query) {
    if (asked.pdh_cert_len > kFirmwareBlobBytesMax ||
        asked.cert_chain_len > kFirmwareBlobBytesMax) {
      return -EFAULT;
    }
    pdh.resize(asked.pdh_cert_len);
    chain.resize(asked.cert_chain_len);
    buffer.pdh_address = kernel_address(pdh);
    buffer.pdh_len = asked.pdh_cert_len;
    buffer.chain_address = kernel_address(chain);
    buffer.chain_len = asked.cert_chain_len;
  }
  const int result = run(MailboxCommand::kPdhCertExport, buffer, request.error);
  asked.pdh_cert_len = buffer.pdh_len;
  asked.cert_chain_len = buffer.chain_len;
  if (!user_.copy_out(asked, request.cmd.data)) return -EFAULT;
  if (result != 0) return result;
  const bool copied =
      user_.copy_out_bytes(ByteView(pdh).first(buffer.pdh_len), asked.pdh_cert_address) &&
      user_.copy_out_bytes(ByteView(chain).first(buffer.chain_len), asked.cert_chain_address);
  return copied ? 0 : -EFAULT;
}

int PspDevice::pek_cert_import(Request& request) {
  if (!request.writable) return -EPERM;
  SevPekCertImport asked;
  if (!UserMemory::copy_in(request.cmd.data, asked)) return -EFAULT;
  Bytes pek;
  Bytes oca;
  int result = UserMemory::copy_blob(asked.pek_cert_address, asked.pek_cert_len, pek);
  if (result == 0) {
    result = UserMemory::copy_blob(asked.oca_cert_address, asked.oca_cert_len, oca);
  }
  if (result == 0) result = init_platform(request.error);
  if (result != 0) return result;
  MailboxPekCertImport buffer;
  buffer.pek_address = kernel_address(pek);
  buffer.pek_len = asked.pek_cert_len;
  buffer.oca_address = kernel_address(oca);
  buffer.oca_len = asked.oca_cert_len;
  return run(MailboxCommand::kPekCertImport, buffer, request.error);
}

int PspDevice::get_id(Request& request) {
  Bytes blob(kDeprecatedIdBytes);
  MailboxBlob buffer{.address = kernel_address(blob), .len = kDeprecatedIdBytes};
  const int result = run(MailboxCommand::kGetId, buffer, request.error);
  if (result != 0) return result;
  const ByteView id = ByteView(blob).first(std::min(buffer.len, kDeprecatedIdBytes));
  return user_.copy_out_bytes(id, request.cmd.data) ? 0 : -EFAULT;
}

// Any length may be asked for; the firmware says the right one.
int PspDevice::get_id2(Request& request) {
  SevGetId2 asked;
  if (!UserMemory::copy_in(request.cmd.data, asked)) return -EFAULT;
  MailboxBlob buffer;
  Bytes blob;
  if (asked.address != 0 && asked.length != 0) {
    if (asked.length > kPageAllocatorMax) return -ENOMEM;
    blob.resize(asked.length);
    buffer = {.address = kernel_address(blob), .len = asked.length};
  }
  const int result = run(MailboxCommand::kGetId, buffer, request.error);
  asked.length = buffer.len;
  if (!user_.copy_out(asked, request.cmd.data)) return -EFAULT;
  const std::size_t bytes = std::min<std::size_t>(buffer.len, blob.size());
  if (!blob.empty() && !user_.copy_out_bytes(ByteView(blob).first(bytes), asked.address)) {
    return -EFAULT;
  }
  return result;
}

}  // namespace sealift::sev
