#include "vmm_glue/vmm/serial.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "engine/assert.h"

namespace sealift {
namespace {

constexpr std::uint32_t kVersion = 1;
constexpr std::uint8_t kLineStatusIdle = 0x60;    // transmitter and holding register empty
constexpr std::uint8_t kInterruptIdNone = 0x01;   // no interrupt pending, no FIFO
constexpr std::uint8_t kModemStatusReady = 0xb0;  // carrier, data set ready, clear to send
constexpr std::uint16_t kLineStatus = 5, kModemStatus = 6, kInterruptId = 2;

}  // namespace

Result<std::unique_ptr<SerialPort>> SerialPort::open(const std::string& path) {
  int fd = -1;
  if (path == "-") {
    fd = ::fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 0);
  } else if (!path.empty()) {
    // Without O_NONBLOCK a pipe nobody reads would hold up the guest, and its migration.
    fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NONBLOCK, 0600);
  }
  if (fd < 0 && !path.empty()) {
    return fail(ErrorClass::kUsage, "serial output {} cannot be opened: {}", path,
                strerrorname_np(errno));
  }
  return std::unique_ptr<SerialPort>(new SerialPort(fd));
}

SerialPort::~SerialPort() {
  if (fd_ >= 0) close(fd_);
}

void SerialPort::write(std::uint16_t port, std::uint8_t byte) {
  SEALIFT_ASSERT(owns(port));
  const std::size_t reg = port - kFirstPort;
  const std::lock_guard lock(mutex_);
  if (divisor_latched() && reg < 2) {
    regs_[kDivisor + reg] = byte;
  } else if (reg == 0) {
    ++out_;
    if (fd_ < 0 || ::write(fd_, &byte, 1) != 1) ++dropped_;
  } else if (reg != kLineStatus && reg != kModemStatus && reg != kInterruptId) {
    regs_[reg] = byte;
  }
}

std::uint8_t SerialPort::read(std::uint16_t port) const {
  SEALIFT_ASSERT(owns(port));
  const std::size_t reg = port - kFirstPort;
  const std::lock_guard lock(mutex_);
  if (divisor_latched() && reg < 2) return regs_[kDivisor + reg];
  switch (reg) {
    case kInterruptId:
      return kInterruptIdNone;
    case kLineStatus:
      return kLineStatusIdle;
    case kModemStatus:
      return kModemStatusReady;
    default:
      return regs_[reg];  // of register 0: nothing was received
  }
}

std::uint64_t SerialPort::bytes_out() const {
  const std::lock_guard lock(mutex_);
  return out_;
}

std::uint64_t SerialPort::bytes_dropped() const {
  const std::lock_guard lock(mutex_);
  return dropped_;
}

StateBlob SerialPort::save() const {
  StateBlob blob{StateBlob::Kind::kDevice, 0, kStateName, kVersion, Bytes(kRegs)};
  const std::lock_guard lock(mutex_);
  std::memcpy(blob.bytes.data(), regs_.data(), kRegs);
  return blob;
}

Result<void> SerialPort::load(const StateBlob& blob) {
  if (blob.kind != StateBlob::Kind::kDevice || blob.name != kStateName || blob.index != 0 ||
      blob.version != kVersion || blob.bytes.size() != kRegs) {
    return fail(ErrorClass::kMalformed,
                "state '{}' of device {} version {} with {} bytes is no {} version {} with {}",
                blob.name, blob.index, blob.version, blob.bytes.size(), kStateName, kVersion,
                kRegs);
  }
  const std::lock_guard lock(mutex_);
  std::memcpy(regs_.data(), blob.bytes.data(), kRegs);
  return {};
}

}  // namespace sealift
