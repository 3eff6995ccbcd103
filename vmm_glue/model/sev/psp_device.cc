#include "vmm_glue/model/sev/psp_device.h"

#include <algorithm>
#include <cerrno>
#include <thread>

namespace sealift::sev {

bool copy_out_bytes(ByteView bytes, std::uint64_t user) {
  if (user == 0) return false;
  std::copy(bytes.begin(), bytes.end(), reinterpret_cast<std::byte*>(user));
  return true;
}

std::uint64_t kernel_address(const Bytes& bytes) {
  return reinterpret_cast<std::uint64_t>(bytes.data());
}

PspDevice::PspDevice(Firmware& firmware, Latency latency, FaultHook fault)
    : firmware_(firmware), latency_(std::move(latency)), fault_(std::move(fault)) {}

int PspDevice::not_open() { return -EBADF; }

std::uint64_t PspDevice::issued(MailboxCommand id) const {
  const auto found = issued_.find(id);
  return found == issued_.end() ? 0 : found->second;
}

int PspDevice::run_bytes(MailboxCommand id, MutableBytes buffer, std::uint32_t& error) {
  const std::uint64_t nth = issued_[id]++;
  if (const auto slow = latency_.find(id); slow != latency_.end()) {
    std::this_thread::sleep_for(slow->second);  // tidy: allow (the hardware's own slowness)
  }
  const auto forced = fault_ ? fault_(id, nth) : std::nullopt;
  error = forced ? *forced : static_cast<std::uint32_t>(firmware_.command(id, buffer));
  return error == 0 ? 0 : -EIO;
}

int PspDevice::init_platform(std::uint32_t& error) {
  if (firmware_.state() != PlatformState::kUninit) return 0;
  MailboxInit init;
  return run(MailboxCommand::kInit, init, error);
}

int PspDevice::ioctl(unsigned long request, void* arg) {
  if (request != kSevIssueCmd) return -EINVAL;
  const auto user = reinterpret_cast<std::uint64_t>(arg);
  SevIssueCmd cmd;
  if (!copy_in(user, cmd)) return -EFAULT;
  int result = 0;
  switch (static_cast<SevDeviceCommand>(cmd.cmd)) {
    case SevDeviceCommand::kPlatformStatus:
      result = platform_status(cmd);
      break;
    case SevDeviceCommand::kPdhCertExport:
      result = pdh_cert_export(cmd);
      break;
    default:
      return -EINVAL;  // the other commands are not modelled yet
  }
  copy_out(cmd, user);
  return result;
}

// The kernel passes its 12-byte buffer through: the user's struct has the mailbox's layout.
int PspDevice::platform_status(SevIssueCmd& cmd) {
  static_assert(sizeof(MailboxPlatformStatus) == sizeof(SevPlatformStatus));
  MailboxPlatformStatus status;
  std::uint32_t error = 0;
  const int result = run(MailboxCommand::kPlatformStatus, status, error);
  cmd.error = error;
  if (result != 0) return result;
  return copy_out(status, cmd.data) ? 0 : -EFAULT;
}

int PspDevice::pdh_cert_export(SevIssueCmd& cmd) {
  std::uint32_t error = cmd.error;
  if (const int result = init_platform(error); result != 0) {
    cmd.error = error;
    return result;
  }
  SevPdhCertExport request;
  if (!copy_in(cmd.data, request)) return -EFAULT;
  MailboxPdhCertExport buffer;
  Bytes pdh;
  Bytes chain;
  const bool query = request.pdh_cert_address == 0 || request.pdh_cert_len == 0 ||
                     request.cert_chain_address == 0 || request.cert_chain_len == 0;
  if (!query) {
    if (request.pdh_cert_len > kFirmwareBlobBytesMax ||
        request.cert_chain_len > kFirmwareBlobBytesMax) {
      return -EFAULT;
    }
    pdh.resize(request.pdh_cert_len);
    chain.resize(request.cert_chain_len);
    buffer.pdh_address = kernel_address(pdh);
    buffer.pdh_len = request.pdh_cert_len;
    buffer.chain_address = kernel_address(chain);
    buffer.chain_len = request.cert_chain_len;
  }
  const int result = run(MailboxCommand::kPdhCertExport, buffer, error);
  cmd.error = error;
  request.pdh_cert_len = buffer.pdh_len;
  request.cert_chain_len = buffer.chain_len;
  copy_out(request, cmd.data);
  if (result != 0) return result;
  copy_out_bytes(ByteView(pdh).first(buffer.pdh_len), request.pdh_cert_address);
  copy_out_bytes(ByteView(chain).first(buffer.chain_len), request.cert_chain_address);
  return 0;
}

}  // namespace sealift::sev
