#include "vmm_glue/inguest/kvm_helper.h"

#include <fmt/core.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <time.h>
#include <unistd.h>

#include <cstring>

namespace sealift::inguest {
namespace {

// Completing an exit may raise another one; the bell's never does.
constexpr int kCompletionsMax = 8;

// A signal to the calling thread when the limit has passed, while it lives. The thread has it
// blocked, so that it ends KVM_RUN and nothing else.
class Alarm {
 public:
  explicit Alarm(std::chrono::milliseconds limit) {
    pthread_sigmask(SIG_SETMASK, nullptr, &before_);
    sigevent event{};
    event.sigev_notify = SIGEV_THREAD_ID;
    event.sigev_signo = helper_alarm_signal();
    event._sigev_un._tid = gettid();  // glibc 2.36 gives the member no public name
    if (timer_create(CLOCK_MONOTONIC, &event, &timer_) != 0) return;
    armed_ = true;
    const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(limit);
    itimerspec when{};
    when.it_value.tv_sec = seconds.count();
    when.it_value.tv_nsec = std::chrono::nanoseconds(limit - seconds).count();
    armed_ = timer_settime(timer_, 0, &when, nullptr) == 0;
  }
  Alarm(const Alarm&) = delete;
  Alarm& operator=(const Alarm&) = delete;
  ~Alarm() {
    if (armed_) timer_delete(timer_);
    (void)has_rung();  // discards
    pthread_sigmask(SIG_SETMASK, &before_, nullptr);
  }

  bool armed() const { return armed_; }
  bool has_rung() {
    sigset_t alarms;
    sigemptyset(&alarms);
    sigaddset(&alarms, helper_alarm_signal());
    const timespec at_once{};
    return sigtimedwait(&alarms, nullptr, &at_once) > 0;
  }

 private:
  sigset_t before_{};
  timer_t timer_{};
  bool armed_ = false;
};

std::string describe_error(int error, const KvmRun& run) {
  if (error == EFAULT && run.exit_reason == kKvmExitMemoryFault) {
    return fmt::format("memory fault at gpa {:#x}, flags {:#x}", run.exit.memory_fault.gpa,
                       run.exit.memory_fault.flags);
  }
  return fmt::format("KVM_RUN failed: {}", strerrorname_np(error));
}

}  // namespace

Result<void> KvmHelper::restart() {
  SEALIFT_CHECK(complete_exit());
  memory_.write_program();
  SEALIFT_CHECK(set_registers());
  return run_to_bell();
}

Result<void> KvmHelper::enter() {
  if (!at_bell_) {
    return fail(ErrorClass::kLocalFault, "the program ended before and was not started again");
  }
  return run_to_bell();
}

// A read that KVM has not completed would be completed into the registers that are set next.
Result<void> KvmHelper::complete_exit() {
  if (!at_bell_) return {};
  at_bell_ = false;
  vcpu_.set_immediate_exit(true);
  int error = 0;
  for (int i = 0; i < kCompletionsMax && error == 0; ++i) error = vcpu_.run();
  vcpu_.set_immediate_exit(false);
  if (error == EINTR) return {};
  return fail(
      ErrorClass::kLocalFault, "the last bell could not be completed: {}",
      error == 0 ? describe_exit(vcpu_.run_area()) : describe_error(error, vcpu_.run_area()));
}

Result<void> KvmHelper::set_registers() {
  KvmEntry entry;
  entry.rip = kProgramVa;
  entry.rsp = kDataVa - 8;  // as after a call: the ABI wants rsp + 8 on 16 bytes
  entry.cr3 = value(base_of(memory_.plan().plain.first + memory_.plan().tables_page));
  SEALIFT_CHECK(vcpu_.enter_at(entry));
  kvm_sregs sregs{};
  SEALIFT_TRY([[maybe_unused]] int got, SEALIFT_KVM(vcpu_.handle(), KVM_GET_SREGS, &sregs));
  sregs.fs.base = kDataVa;
  SEALIFT_TRY([[maybe_unused]] int set, SEALIFT_KVM(vcpu_.handle(), KVM_SET_SREGS, &sregs));
  return {};
}

Result<void> KvmHelper::run_to_bell() {
  at_bell_ = false;
  Alarm alarm(limit_);
  if (!alarm.armed()) return fail(ErrorClass::kLocalFault, "no timer: {}", strerrorname_np(errno));
  SEALIFT_CHECK(vcpu_.use_kick_signal(helper_alarm_signal()));
  for (;;) {
    const int error = vcpu_.run();
    const KvmRun& area = vcpu_.run_area();
    if (error == EINTR || error == EAGAIN || (error == 0 && area.exit_reason == kKvmExitIntr)) {
      if (!alarm.has_rung()) continue;  // a signal of the host program
      return fail(ErrorClass::kLocalFault, "the program does not answer within {} ms{}",
                  limit_.count(), where());
    }
    if (error != 0) {
      return fail(ErrorClass::kLocalFault, "the program ended: {}{}", describe_error(error, area),
                  where());
    }
    return answer_bell();
  }
}

Result<void> KvmHelper::answer_bell() {
  KvmRun& area = vcpu_.run_area();
  const KvmRun::Mmio& mmio = area.exit.mmio;
  if (area.exit_reason != kKvmExitMmio || mmio.is_write != 0 || mmio.len != sizeof(std::uint64_t) ||
      mmio.phys_addr != value(memory_.plan().bell)) {
    return fail(ErrorClass::kLocalFault, "the program ended: {}{}", describe_exit(area), where());
  }
  std::memset(area.exit.mmio.data, 0, sizeof area.exit.mmio.data);
  at_bell_ = true;
  return {};
}

std::string KvmHelper::where() const {
  kvm_regs regs{};
  if (!SEALIFT_KVM(vcpu_.handle(), KVM_GET_REGS, &regs)) return "";
  return fmt::format(" (rip {:#x})", std::uint64_t{regs.rip});
}

}  // namespace sealift::inguest
