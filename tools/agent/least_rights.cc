#include "tools/agent/least_rights.h"

#include <cap-ng.h>
#include <sys/prctl.h>

#include <cerrno>
#include <cstring>

namespace sealift {

Result<void> drop_privileges(bool keep_userfaultfd) {
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) {
    return fail(ErrorClass::kLocalFault, "PR_SET_NO_NEW_PRIVS failed: {}", strerrorname_np(errno));
  }
  if (capng_get_caps_process() != 0) {
    return fail(ErrorClass::kLocalFault, "the process's capabilities cannot be read");
  }
  const bool may_keep =
      keep_userfaultfd && capng_have_capability(CAPNG_PERMITTED, CAP_SYS_PTRACE) != 0;
  capng_clear(CAPNG_SELECT_CAPS);
  if (may_keep) {
    capng_update(CAPNG_ADD, static_cast<capng_type_t>(CAPNG_EFFECTIVE | CAPNG_PERMITTED),
                 CAP_SYS_PTRACE);
  }
  if (const int error = capng_apply(CAPNG_SELECT_CAPS); error != 0) {
    return fail(ErrorClass::kLocalFault, "the process's capabilities cannot be dropped ({})",
                error);
  }
  return {};
}

}  // namespace sealift
