// Journal: what this side has done with the right to run one guest, durable.
//
// Spec:       docs/spec/journal.md.
// Owner:      the agent, one for each guest it has or receives. The Disk outlives it.
// Threads:    one at a time.
// Failure:    kLocalFault: the disk, or a damaged file (a person decides; nothing is skipped);
//             kRefused: somebody else uses the journal, or the record may not follow; kUsage: a
//             name it cannot hold; kPolicy: others may enter the directory. After a failed write or
//             sync the object is poisoned: every append fails with that first error, and only
//             opening anew says whether the record in flight is there.
// Invariants: a record whose append() succeeded is found by every later open(), in order, whatever
//             crashes. What open() shows is as durable. From Begun or Offered on, the records that
//             settle that migration need no more space.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/result.h"
#include "journal/disk.h"
#include "journal/replay.h"
#include "journal/standing.h"

namespace sealift {

inline constexpr std::size_t kSettledKept = 16;  // of the last migrations, at a compaction

class Journal {
 public:
  // Makes the directory (not its parents) and the file if they are missing, locks it, and writes
  // the file anew, compacted. On a full disk it fails and changes nothing.
  static Result<Journal> open(Disk& disk, const std::string& directory, std::string_view guest);

  // Returns once the record is durable.
  Result<void> append(const JournalRecord& record);

  const std::vector<JournalRecord>& records() const { return records_; }
  const Standings& standings() const { return standings_; }
  // Why the end of the file was cut off when it was opened, in words; empty: it was not.
  const std::string& torn() const { return torn_; }
  // Poisoned: only opening anew helps.
  bool failed() const { return poison_.has_value(); }

 private:
  Journal(Disk& disk, std::string directory, std::string_view guest, DiskFile lock);

  Result<void> load();
  Result<void> write_anew(const std::vector<JournalRecord>& kept, bool open);
  Result<void> compact();
  Result<void> prepare_space();

  Disk* disk_;
  std::string directory_;
  std::string guest_;
  std::string path_;
  DiskFile lock_;
  std::optional<DiskFile> file_;
  std::vector<JournalRecord> records_;
  Standings standings_;
  SlotPlace next_;
  std::string torn_;
  std::optional<Error> poison_;
};

// The guests that have a journal in `directory`: what a restarted agent asks about first. A
// directory that does not exist has none.
Result<std::vector<std::string>> guests_with_journal(Disk& disk, const std::string& directory);

}  // namespace sealift
