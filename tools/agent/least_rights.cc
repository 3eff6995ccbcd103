#include "tools/agent/least_rights.h"

#include <cap-ng.h>
#include <sys/prctl.h>

#include <cerrno>
#include <cstring>

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

}  // namespace sealift
