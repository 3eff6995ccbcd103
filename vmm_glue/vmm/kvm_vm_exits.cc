// KvmVm: running the vCPUs, and what each exit means.
#include <fmt/core.h>
#include <linux/kvm.h>
#include <signal.h>

#include <array>
#include <chrono>
#include <cstring>

#include "vmm_glue/exits/drain.h"
#include "vmm_glue/vmm/kvm_vm.h"
#include "vmm_glue/vmm/vcpu_sandbox.h"

namespace sealift {
namespace {

constexpr std::chrono::microseconds kYieldTime{1000};
// Never delivered: the vCPU threads block it, and a run ends when it is pending
// (KvmVcpu::use_kick_signal).
int kick_signal() { return SIGRTMIN + 3; }

void discard_kick() {
  sigset_t kicks;
  sigemptyset(&kicks);
  sigaddset(&kicks, kick_signal());
  const timespec at_once{};
  while (sigtimedwait(&kicks, nullptr, &at_once) > 0) {
  }
}

}  // namespace

Result<void> KvmVm::start_thread(std::uint32_t vcpu) {
  SEALIFT_CHECK(vcpus_[vcpu]->use_kick_signal(kick_signal()));
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
  return {};  // a sanitizer's runtime makes system calls of its own
#else
  return enter_vcpu_sandbox();
#endif
}

void KvmVm::run(std::uint32_t vcpu) {
  for (;;) {
    vcpus_[vcpu]->set_immediate_exit(false);
    // kick() stores immediate_exit after should_stop() has become true: if our store came later, we
    // see the stop here.
    if (control_.should_stop()) break;
    control_.pay_throttle(vcpu);
    if (!serve(vcpu, vcpus_[vcpu]->run())) return;
  }
  drain(vcpu);
}

// A kick is never lost: before KVM_RUN polls immediate_exit that byte ends the run, after it the
// pending signal does.
void KvmVm::kick(std::uint32_t vcpu, pthread_t thread) {
  vcpus_[vcpu]->set_immediate_exit(true);
  pthread_kill(thread, kick_signal());
}

// KvmVm's side of drain_vcpu().
class KvmVm::Draining final : public DrainTarget {
 public:
  Draining(KvmVm& vm, std::uint32_t vcpu) : vm_(vm), vcpu_(vcpu) {}
  int complete() override {
    vm_.vcpus_[vcpu_]->set_immediate_exit(true);  // a kick's store may have been cleared since
    return vm_.vcpus_[vcpu_]->run();
  }
  Result<void> serve(int run_errno) override {
    if (vm_.serve(vcpu_, run_errno)) return {};
    return fail(ErrorClass::kLocalFault, "{}", vm_.control_.reason());
  }

 private:
  KvmVm& vm_;
  std::uint32_t vcpu_;
};

bool KvmVm::drain(std::uint32_t vcpu) {
  Draining target(*this, vcpu);
  auto drained = drain_vcpu(target, drain_runs_max(layout_));
  discard_kick();
  if (!drained) return end(vcpu, drained.error().detail);
  exits_->completed(vcpu);
  return true;
}

bool KvmVm::serve(std::uint32_t vcpu, int run_errno) {
  if (run_errno == EINTR || run_errno == EAGAIN) {
    discard_kick();
    return true;
  }
  KvmRun& area = vcpus_[vcpu]->run_area();
  const ServedExit served = exits_->serve(vcpu, run_errno, area);
  switch (served.kind) {
    case ServedExit::Kind::kNotOurs:
      if (run_errno == 0) return serve_own(vcpu);
      return end(vcpu, fmt::format("KVM_RUN failed: {}", strerrorname_np(run_errno)));
    case ServedExit::Kind::kServed:
      return true;
    case ServedExit::Kind::kLater:
      control_.nap(kYieldTime);
      return true;
    case ServedExit::Kind::kMustDrain:
      return drain(vcpu);
    case ServedExit::Kind::kGuestEnded:
    case ServedExit::Kind::kFatal:
      return end(vcpu, served.why);
  }
  return false;
}

// Exits of the machine rather than of a confidential guest.
bool KvmVm::serve_own(std::uint32_t vcpu) {
  KvmRun& area = vcpus_[vcpu]->run_area();
  switch (area.exit_reason) {
    case kKvmExitIntr:
      return true;
    case kKvmExitIo:
      return serve_io(vcpu);
    case kKvmExitMmio:
      return serve_mmio(vcpu);
    case kKvmExitDirtyRingFull:
      if (auto emptied = tracker_->on_ring_full(vcpu); !emptied) {
        return end(vcpu, emptied.error().detail);
      }
      return true;
    default:
      return end(vcpu, describe_exit(area));
  }
}

// Ports without a device read all ones and swallow writes, as on an ISA bus.
bool KvmVm::serve_io(std::uint32_t vcpu) {
  KvmRun& area = vcpus_[vcpu]->run_area();
  const KvmRun::Io io = area.exit.io;
  const std::uint64_t bytes = std::uint64_t{io.size} * io.count;
  if (io.data_offset > system_.run_bytes || bytes > system_.run_bytes - io.data_offset) {
    return end(vcpu,
               fmt::format("port I/O with data at {:#x}, outside struct kvm_run", io.data_offset));
  }
  auto* data = reinterpret_cast<std::uint8_t*>(&area) + io.data_offset;
  for (std::uint64_t i = 0; i < bytes; ++i) {
    // A wide access to a device of bytes reaches the ports above it.
    const auto port = static_cast<std::uint16_t>(io.port + i % io.size);
    const bool has_device = SerialPort::owns(port);
    if (io.direction != 0) {
      if (has_device) serial_->write(port, data[i]);
    } else {
      data[i] = has_device ? serial_->read(port) : 0xff;
    }
  }
  return true;
}

// The checker's own addresses, at CPL3; elsewhere there is nothing.
bool KvmVm::serve_mmio(std::uint32_t vcpu) {
  KvmRun& area = vcpus_[vcpu]->run_area();
  const KvmRun::Mmio mmio = area.exit.mmio;
  if (config_.program != Program::kChecker) {
    if (mmio.is_write == 0) std::memset(area.exit.mmio.data, 0xff, sizeof mmio.data);
    return true;
  }
  std::uint64_t answer = 0;
  if (mmio.is_write != 0 || mmio.len != 8) return end(vcpu, describe_exit(area));
  if (!serve_checker(vcpu, mmio.phys_addr, answer)) return false;
  std::memcpy(area.exit.mmio.data, &answer, sizeof answer);
  return true;
}

// The registers at the read are those of the instruction it stands for, so the exit is made into
// the one that hardware would give, and goes to the same decoder.
bool KvmVm::serve_checker(std::uint32_t vcpu, std::uint64_t gpa, std::uint64_t& answer) {
  kvm_regs regs{};
  if (auto got = SEALIFT_KVM(vcpus_[vcpu]->handle(), KVM_GET_REGS, &regs); !got) {
    return end(vcpu, got.error().detail);
  }
  KvmRun exit{};
  switch (gpa) {
    case guest::kHypercallGpa:
      exit.exit_reason = kKvmExitHypercall;
      exit.exit.hypercall.nr = regs.rax;
      exit.exit.hypercall.args[0] = regs.rbx;
      exit.exit.hypercall.args[1] = regs.rcx;
      exit.exit.hypercall.args[2] = regs.rdx;
      exit.exit.hypercall.args[3] = regs.rsi;
      (void)exits_->serve(vcpu, 0, exit);
      answer = exit.exit.hypercall.ret;
      return true;
    case guest::kWriteMsrGpa:
      exit.exit_reason = kKvmExitWrmsr;
      exit.exit.msr.index = static_cast<std::uint32_t>(regs.rbx);
      exit.exit.msr.data = regs.rcx;
      (void)exits_->serve(vcpu, 0, exit);
      answer = exit.exit.msr.error;
      return true;
    case guest::kReadMsrGpa: {
      // Any index: what a CPL3 guest reads here is the vCPU's own.
      auto word = vcpus_[vcpu]->read_msr(static_cast<std::uint32_t>(regs.rbx));
      answer = word.value_or(0);
      return true;
    }
    case guest::kDoorbellGpa:
      return serve_doorbell(regs.rbx);
    default:
      return end(vcpu, describe_exit(vcpus_[vcpu]->run_area()));
  }
}

bool KvmVm::serve_doorbell(std::uint64_t bell) {
  if (bell == static_cast<std::uint64_t>(guest::Doorbell::kYield)) {
    control_.nap(kYieldTime);
  } else {
    control_.ring();
  }
  return true;
}

bool KvmVm::end(std::uint32_t vcpu, const std::string& why) {
  kvm_regs regs{};
  const bool has_regs = SEALIFT_KVM(vcpus_[vcpu]->handle(), KVM_GET_REGS, &regs).has_value();
  control_.terminate(
      has_regs ? fmt::format("vCPU {} at rip {:#x}: {}", vcpu, std::uint64_t{regs.rip}, why)
               : fmt::format("vCPU {}: {}", vcpu, why));
  return false;
}

}  // namespace sealift
