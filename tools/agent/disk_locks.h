// DiskLocks: exclusive advisory locks on the files and block devices that a guest's disks are.
//
// Open file description locks over the whole file: they conflict with those of every process that
// locks the same file, QEMU's image locks among them, and end with this process. They stop nobody
// who does not lock. Between hosts they work where the file system forwards them (NFSv4 does).
//
// Spec:    docs/spec/handover.md, "Disks and their locks"; fcntl(2), F_OFD_SETLK.
// Owner:   RightResources. Threads: one at a time.
// Failure: kUsage (a disk named twice), kRefused (somebody else has the lock; the text names who,
//          where this host can tell), kLocalFault (the file cannot be opened or locked).
// Invariant: all disks are locked, or none.
#pragma once

#include <string>
#include <vector>

#include "engine/result.h"
#include "transport/fd.h"

namespace sealift {

class DiskLocks {
 public:
  explicit DiskLocks(std::vector<std::string> paths) : paths_(std::move(paths)) {}

  // That the disks are there and could be locked by somebody; takes no lock.
  Result<void> check() const;
  // Takes all locks without waiting. Nothing to do if they are held.
  Result<void> acquire();
  void release();

  bool held() const { return !files_.empty(); }
  const std::vector<std::string>& paths() const { return paths_; }

 private:
  std::vector<std::string> paths_;
  std::vector<UniqueFd> files_;  // one for each path while they are held
};

}  // namespace sealift
