// SerialPort: COM1, a 16550 UART as far as a guest that prints needs it: output, line status and
// registers that read back. Nothing is ever received and no interrupt is raised.
//
// Spec:    National Semiconductor PC16550D; I/O ports 0x3f8 to 0x3ff.
// Owner:   the VM.
// Threads: any vCPU thread.
// Failure: open() fails with kUsage. A byte that cannot be written is dropped and counted: a full
//          disk or a closed terminal must not stop a guest.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>

#include "engine/guest_port.h"
#include "engine/result.h"

namespace sealift {

class SerialPort {
 public:
  static constexpr std::uint16_t kFirstPort = 0x3f8;
  static constexpr std::uint16_t kPorts = 8;
  static bool owns(std::uint16_t port) { return port >= kFirstPort && port < kFirstPort + kPorts; }

  // `path`: a file to append to, "-" for standard error, empty to drop all output.
  static Result<std::unique_ptr<SerialPort>> open(const std::string& path);
  SerialPort(const SerialPort&) = delete;
  SerialPort& operator=(const SerialPort&) = delete;
  ~SerialPort();

  // REQUIRES: owns(port).
  void write(std::uint16_t port, std::uint8_t byte);
  std::uint8_t read(std::uint16_t port) const;

  std::uint64_t bytes_out() const;      // printed by the guest on this host
  std::uint64_t bytes_dropped() const;  // of them, not written

  static constexpr const char* kStateName = "uart16550";
  StateBlob save() const;
  // kMalformed when it is not what save() makes.
  Result<void> load(const StateBlob& blob);

 private:
  explicit SerialPort(int fd) : fd_(fd) {}
  bool divisor_latched() const { return (regs_[kLineControl] & 0x80) != 0; }

  // Registers that keep what the guest wrote; index: port offset.
  enum : std::size_t { kInterruptEnable = 1, kLineControl = 3, kModemControl = 4, kScratch = 7 };
  static constexpr std::size_t kDivisor = 8;  // and 9
  static constexpr std::size_t kRegs = 10;

  int const fd_;  // -1: output is dropped
  mutable std::mutex mutex_;
  std::array<std::uint8_t, kRegs> regs_{};
  std::uint64_t out_ = 0;
  std::uint64_t dropped_ = 0;
};

}  // namespace sealift
