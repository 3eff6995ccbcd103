// UserMemory: copy_from_user and copy_to_user of the modelled kernel.
//
// MODEL CHOICE: a user pointer is a pointer of this process. Null is EFAULT; any other bad one
// crashes, as it would in the caller. A copy that faults later is made by Fault::copy_out().
//
// Owner: one SoftSevHost. Threads: the host's mailbox mutex is held. Failure: false is a fault.
#pragma once

#include <cstdint>
#include <cstring>

#include "engine/types.h"
#include "vmm_glue/abi/sev_abi.h"

namespace sealift::sev {

class UserMemory {
 public:
  template <class T>
  static bool copy_in(std::uint64_t user, T& out) {
    if (user == 0) return false;
    std::memcpy(&out, reinterpret_cast<const void*>(user), sizeof(T));
    return true;
  }
  template <class T>
  bool copy_out(const T& value, std::uint64_t user) {
    return copy_out_bytes({reinterpret_cast<const std::byte*>(&value), sizeof(T)}, user);
  }
  bool copy_out_bytes(ByteView bytes, std::uint64_t user);

  // psp_copy_user_blob: EINVAL for null, empty or more than 16 KiB. 0 or -errno.
  static int copy_blob(std::uint64_t user, std::uint32_t bytes, Bytes& out);

  void fail_next_copy_out() { fails_next_ = true; }
  void forget_fault() { fails_next_ = false; }

 private:
  bool fails_next_ = false;
};

// How the mailbox names a buffer of the kernel.
std::uint64_t kernel_address(const Bytes& bytes);

}  // namespace sealift::sev
