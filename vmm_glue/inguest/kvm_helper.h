// KvmHelper: the helper program on a vCPU of the guest's VM.
//
// Owner:   the VM; the vCPU (its own, that the guest never runs on) and the memory outlive it.
// Threads: one at a time, any. The thread has helper_alarm_signal() while the program runs.
// Failure: kLocalFault: the exit that is not the bell, with rip; no bell within the limit. After a
//          failure enter() fails at once, and restart() may help.
// Invariants:
//   I1  restart() puts code and tables back as they were made: a guest that wrote to them while it
//       ran does not change what the program does. Its secret memory a guest can read: it only
//       betrays itself.
//   I2  No exit is half done when registers are set: restart() completes it first.
#pragma once

#include <signal.h>

#include <chrono>

#include "vmm_glue/inguest/helper_memory.h"
#include "vmm_glue/inguest/helper_vcpu.h"
#include "vmm_glue/vmm/kvm_vcpu.h"

namespace sealift::inguest {

inline int helper_alarm_signal() { return SIGRTMIN + 4; }

class KvmHelper final : public HelperVcpu {
 public:
  // `limit` is for one entry: milliseconds are usual, under pure emulation a hundred.
  KvmHelper(KvmVcpu& vcpu, const HelperMemory& memory,
            std::chrono::milliseconds limit = std::chrono::seconds(10))
      : vcpu_(vcpu), memory_(memory), limit_(limit) {}
  KvmHelper(const KvmHelper&) = delete;
  KvmHelper& operator=(const KvmHelper&) = delete;

  Result<void> restart() override;
  Result<void> enter() override;
  MutableBytes shared() override { return memory_.plain().first(kSharedPages * kPageBytes); }

 private:
  Result<void> complete_exit();
  Result<void> set_registers();
  Result<void> run_to_bell();
  Result<void> answer_bell();
  std::string where() const;

  KvmVcpu& vcpu_;
  const HelperMemory& memory_;
  const std::chrono::milliseconds limit_;
  bool at_bell_ = false;
};

}  // namespace sealift::inguest
