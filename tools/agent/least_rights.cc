#include "tools/agent/least_rights.h"

#include <cap-ng.h>
#include <seccomp.h>
#include <sys/prctl.h>

#include <cerrno>
#include <cstring>
#include <memory>

namespace sealift {

Result<void> drop_privileges() {
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) {
    return fail(ErrorClass::kLocalFault, "PR_SET_NO_NEW_PRIVS failed: {}", strerrorname_np(errno));
  }
  capng_clear(CAPNG_SELECT_CAPS);
  if (const int error = capng_apply(CAPNG_SELECT_CAPS); error != 0) {
    return fail(ErrorClass::kLocalFault,
                "the process's capabilities cannot be dropped: capng_apply gave {}", error);
  }
  return {};
}

Result<void> forbid_programs() {
  const std::unique_ptr<void, void (*)(scmp_filter_ctx)> filter(seccomp_init(SCMP_ACT_ALLOW),
                                                                &seccomp_release);
  int error = filter ? 0 : -ENOMEM;
  for (const int call : {SCMP_SYS(execve), SCMP_SYS(execveat)}) {
    if (error == 0) error = seccomp_rule_add(filter.get(), SCMP_ACT_ERRNO(EPERM), call, 0);
  }
  if (error == 0) error = seccomp_load(filter.get());
  if (error == 0) return {};
  return fail(ErrorClass::kLocalFault, "starting programs cannot be forbidden: seccomp: {}",
              strerrorname_np(-error));
}

}  // namespace sealift
