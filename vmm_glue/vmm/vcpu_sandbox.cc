#include "vmm_glue/vmm/vcpu_sandbox.h"

#include <seccomp.h>
#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <memory>

namespace sealift {
namespace {

constexpr int kAllowed[] = {
    SCMP_SYS(write),
    SCMP_SYS(writev),  // the serial port, a log line
    SCMP_SYS(madvise),
    SCMP_SYS(fallocate),  // discarding the other side of a conversion
    SCMP_SYS(futex),
    SCMP_SYS(sched_yield),  // locks
    SCMP_SYS(clock_gettime),
    SCMP_SYS(clock_nanosleep),
    SCMP_SYS(nanosleep),
    SCMP_SYS(rt_sigtimedwait),
    SCMP_SYS(rt_sigprocmask),
    SCMP_SYS(rt_sigreturn),  // kicks
    SCMP_SYS(tgkill),
    SCMP_SYS(getpid),
    SCMP_SYS(gettid),        // kicking the other vCPUs, abort()
    SCMP_SYS(rt_sigaction),  // abort()
    SCMP_SYS(munmap),
    SCMP_SYS(mremap),
    SCMP_SYS(brk),  // malloc; mmap and mprotect: below
    SCMP_SYS(restart_syscall),
    SCMP_SYS(exit),
    SCMP_SYS(exit_group),
    SCMP_SYS(rseq),
    SCMP_SYS(set_robust_list),
    SCMP_SYS(membarrier),
};

struct Masked {
  int call;
  unsigned argument;
  std::uint64_t mask;
  std::uint64_t wanted;
};
constexpr Masked kAllowedMasked[] = {
    {SCMP_SYS(ioctl), 1, 0xff00, 0xae00},  // KVM's own requests: KVM_RUN and what serves an exit
    {SCMP_SYS(mmap), 2, PROT_EXEC, 0},     // malloc, never code
    {SCMP_SYS(mprotect), 2, PROT_EXEC, 0},
};

}  // namespace

Result<void> enter_vcpu_sandbox() {
  const std::unique_ptr<void, void (*)(scmp_filter_ctx)> filter(seccomp_init(SCMP_ACT_KILL_PROCESS),
                                                                &seccomp_release);
  if (!filter) return fail(ErrorClass::kLocalFault, "no seccomp filter could be made");
  for (const int call : kAllowed) {
    if (const int error = seccomp_rule_add(filter.get(), SCMP_ACT_ALLOW, call, 0); error != 0) {
      return fail(ErrorClass::kLocalFault, "seccomp rule for system call {} failed: {}", call,
                  strerrorname_np(-error));
    }
  }
  // Refused rather than fatal: glibc's free() looks at /proc/sys/vm/overcommit_memory when it gives
  // memory back for the first time, and does without where it cannot.
  if (const int error = seccomp_rule_add(filter.get(), SCMP_ACT_ERRNO(EPERM), SCMP_SYS(openat), 0);
      error != 0) {
    return fail(ErrorClass::kLocalFault, "seccomp rule for openat failed: {}",
                strerrorname_np(-error));
  }
  for (const Masked& rule : kAllowedMasked) {
    const scmp_arg_cmp compare =
        SCMP_CMP64(rule.argument, SCMP_CMP_MASKED_EQ, rule.mask, rule.wanted);
    if (const int error =
            seccomp_rule_add_array(filter.get(), SCMP_ACT_ALLOW, rule.call, 1, &compare);
        error != 0) {
      return fail(ErrorClass::kLocalFault, "seccomp rule for system call {} failed: {}", rule.call,
                  strerrorname_np(-error));
    }
  }
  if (const int error = seccomp_load(filter.get()); error != 0) {
    return fail(ErrorClass::kLocalFault, "a vCPU thread could not be sandboxed: seccomp: {}",
                strerrorname_np(-error));
  }
  return {};
}

}  // namespace sealift
