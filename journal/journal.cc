#include "journal/journal.h"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <set>
#include <utility>

#include "engine/assert.h"

namespace sealift {
namespace {

constexpr std::string_view kLockSuffix = ".lock";
constexpr std::string_view kNewSuffix = ".tmp";

// After the first record of a migration at most two more settle it, on either side.
constexpr std::size_t kSlotsToSettle = 2;
static_assert(1 + 3 * (kSettledKept + 2) + 1 + kSlotsToSettle <= kJournalSlotsMax,
              "after compaction there is room for another migration");

std::uint64_t offset_of(std::size_t slot) { return std::uint64_t{slot} * kSlotBytes; }

std::string parent_of(const std::string& directory) {
  const std::size_t end = directory.find_last_not_of('/');
  const std::size_t slash = directory.find_last_of('/', end);
  if (end == std::string::npos || slash == 0) return "/";
  return slash == std::string::npos ? "." : directory.substr(0, slash);
}

Result<void> sync_names(Disk& disk, const std::string& directory) {
  const int result = uninterrupted([&] { return disk.sync_directory(directory); });
  if (result == 0) return {};
  return fail(ErrorClass::kLocalFault, "syncing the directory {}: {}", directory,
              disk_error_text(result));
}

// None if there is no such directory.
Result<std::vector<std::string>> names_in(Disk& disk, const std::string& directory) {
  std::vector<std::string> names;
  const int listed = uninterrupted([&] {
    names.clear();
    return disk.list(directory, names);
  });
  if (listed >= 0 || listed == -ENOENT) return names;
  return fail(ErrorClass::kLocalFault, "listing {}: {}", directory, disk_error_text(listed));
}

// The parent is synced even if the directory was there: a crash may have come between.
Result<void> prepare_directory(Disk& disk, const std::string& directory) {
  const int made = uninterrupted([&] { return disk.make_directory(directory); });
  if (made == -EPERM) {
    return fail(ErrorClass::kPolicy,
                "the journal directory {} is not this user's alone; it needs mode 0700", directory);
  }
  if (made < 0) {
    return fail(ErrorClass::kLocalFault, "making the journal directory {}: {}", directory,
                disk_error_text(made));
  }
  return sync_names(disk, parent_of(directory));
}

constexpr std::size_t kLockBytesMax = 64;

Result<DiskFile> take_lock(Disk& disk, const std::string& path, std::string_view guest) {
  SEALIFT_TRY(DiskFile file, DiskFile::open(disk, path, Disk::Open::kCreate));
  SEALIFT_TRY(const bool ours, file.lock());
  if (!ours) {
    const auto text = file.read(kLockBytesMax);
    std::uint64_t pid = 0;
    if (text) {
      const auto* first = reinterpret_cast<const char*>(text->data());
      std::from_chars(first, first + text->size(), pid);
    }
    return fail(ErrorClass::kRefused, "the journal of guest \"{}\" is in use by process {} ({})",
                guest, pid, path);
  }
  const std::string pid = fmt::format("{:<20}\n", disk.process_id());
  // The lock holds without it (a full disk): the number is only for the message above.
  static_cast<void>(file.write(std::as_bytes(std::span(pid)), 0).has_value());
  return file;
}

std::optional<std::string> guest_of(std::string_view file_name) {
  if (!file_name.ends_with(kJournalSuffix)) return std::nullopt;
  file_name.remove_suffix(kJournalSuffix.size());
  std::string guest;
  for (std::size_t i = 0; i < file_name.size(); ++i) {
    unsigned char c = static_cast<unsigned char>(file_name[i]);
    if (c == '%') {
      const std::string_view digits = file_name.substr(i + 1, 2);
      const auto [end, error] =
          std::from_chars(digits.data(), digits.data() + digits.size(), c, 16);
      if (error != std::errc{} || end != digits.data() + 2) return std::nullopt;
      i += 2;
    }
    guest += static_cast<char>(c);
  }
  return guest;
}

// What is open, the last settled ones, and the last that moved the right: it says which generation
// is the latest.
std::vector<JournalRecord> worth_keeping(const std::vector<JournalRecord>& records,
                                         const Standings& standings) {
  const std::vector<JournalEntry>& entries = standings.entries();
  const auto mover = std::find_if(entries.rbegin(), entries.rend(),
                                  [](const JournalEntry& e) { return moves_right(e.last); });
  std::set<MigrationId> wanted;
  if (const JournalEntry* open = standings.open(); open != nullptr) {
    wanted.insert(open->right.migration);
  }
  if (mover != entries.rend()) wanted.insert(mover->right.migration);
  for (std::size_t i = entries.size() - std::min(entries.size(), kSettledKept); i < entries.size();
       ++i) {
    wanted.insert(entries[i].right.migration);
  }
  std::vector<JournalRecord> kept;
  std::copy_if(records.begin(), records.end(), std::back_inserter(kept),
               [&](const JournalRecord& r) { return wanted.contains(r.right.migration); });
  return kept;
}

}  // namespace

Journal::Journal(Disk& disk, std::string directory, std::string_view guest, DiskFile lock)
    : disk_(&disk),
      directory_(std::move(directory)),
      guest_(guest),
      path_(directory_ + "/" + journal_file_name(guest)),
      lock_(std::move(lock)) {}

Result<Journal> Journal::open(Disk& disk, const std::string& directory, std::string_view guest) {
  if (guest.empty() || guest.size() > kGuestNameBytesMax) {
    return fail(ErrorClass::kUsage, "the guest's name has {} bytes; a journal takes 1 to {}",
                guest.size(), kGuestNameBytesMax);
  }
  SEALIFT_CHECK(prepare_directory(disk, directory));
  const std::string path = directory + "/" + journal_file_name(guest);
  SEALIFT_TRY(DiskFile lock, take_lock(disk, path + std::string(kLockSuffix), guest));
  Journal journal(disk, directory, guest, std::move(lock));
  SEALIFT_TRY(const auto names, names_in(disk, directory));
  if (std::find(names.begin(), names.end(), journal_file_name(guest)) == names.end()) {
    SEALIFT_CHECK(journal.write_anew({}, false));
    return journal;
  }
  SEALIFT_CHECK(journal.load());
  return journal;
}

Result<void> Journal::load() {
  SEALIFT_TRY(file_, DiskFile::open(*disk_, path_, Disk::Open::kExisting));
  SEALIFT_TRY(const Bytes bytes, file_->read(kJournalBytesMax));
  Replay replayed = replay(bytes);
  if (replayed.damage) {
    return fail(ErrorClass::kLocalFault, "{}: {}", path_, replayed.damage->detail);
  }
  if (replayed.header.guest != guest_) {
    return fail(ErrorClass::kLocalFault, "{} is the journal of guest \"{}\", not of \"{}\"", path_,
                replayed.header.guest, guest_);
  }
  for (const JournalRecord& record : replayed.records) {
    if (auto added = standings_.add(record); !added) {
      return fail(ErrorClass::kLocalFault, "{} has records that cannot follow each other: {}",
                  path_, added.error().detail);
    }
  }
  records_ = std::move(replayed.records);
  next_ = replayed.next;
  torn_ = std::move(replayed.torn);
  // What was read may be in the page cache only: a process was killed before its sync, or a sync
  // failed, and then the pages are clean and lost and no other sync writes them. And to write over
  // a durable record risks it. So what was read becomes a new file, without the torn end.
  return compact();
}

// A file appears under its name whole and durable, or not at all.
Result<void> Journal::write_anew(const std::vector<JournalRecord>& kept, bool open) {
  const JournalHeader header{guest_, next_.sequence - kept.size()};
  Slot slot = encode_slot(header);
  SlotPlace place{checksum_of(slot), header.first_sequence};
  Bytes bytes(slot.begin(), slot.end());
  for (const JournalRecord& record : kept) {
    slot = encode_slot(record, place);
    place = {checksum_of(slot), place.sequence + 1};
    bytes.insert(bytes.end(), slot.begin(), slot.end());
  }
  const std::string path = path_ + std::string(kNewSuffix);
  SEALIFT_TRY(DiskFile file, DiskFile::open(*disk_, path, Disk::Open::kReplace));
  auto written = file.write(bytes, 0);
  if (written && open) written = file.reserve(bytes.size() + offset_of(kSlotsToSettle));
  if (written) written = file.sync();
  if (!written) {
    disk_->remove_file(path);  // in vain or not: the next one replaces it
    return written;
  }
  written = file.rename(path_);
  if (written) written = sync_names(*disk_, directory_);
  if (!written) {
    poison_ = written.error();  // which of the two files has the name is not known
    return written;
  }
  file_ = std::move(file);
  next_ = place;
  return {};
}

Result<void> Journal::compact() {
  std::vector<JournalRecord> kept = worth_keeping(records_, standings_);
  SEALIFT_CHECK(write_anew(kept, standings_.open() != nullptr));
  standings_ = Standings{};
  for (const JournalRecord& record : kept) {
    // The records of whole migrations were left out, which forbids nothing to the others.
    SEALIFT_ASSERT(standings_.add(record).has_value());
  }
  records_ = std::move(kept);
  return {};
}

// For the first record of a migration: space for it and for those that settle what is open then.
Result<void> Journal::prepare_space() {
  const auto slots = [&] { return 1 + records_.size() + 1 + kSlotsToSettle; };
  if (slots() > kJournalSlotsMax) SEALIFT_CHECK(compact());
  if (auto reserved = file_->reserve(offset_of(slots())); !reserved) {
    return fail(reserved.error().cls, "{}; no migration begins without room in the journal to end",
                reserved.error().detail);
  }
  return {};
}

Result<void> Journal::append(const JournalRecord& record) {
  if (poison_) {
    return fail(poison_->cls, "the journal {} failed before and is closed: {}", path_,
                poison_->detail);
  }
  SEALIFT_CHECK(check_right(record.right));
  if (record.right.guest != guest_) {
    return fail(ErrorClass::kUsage, "a record of guest \"{}\" for the journal of \"{}\"",
                record.right.guest, guest_);
  }
  SEALIFT_CHECK(standings_.check(record));
  if (standings_.find(record.right.migration) == nullptr) SEALIFT_CHECK(prepare_space());
  const Slot slot = encode_slot(record, next_);
  auto written = file_->write(slot, offset_of(1 + records_.size()));
  if (written) written = file_->sync();
  if (!written) {
    poison_ = written.error();
    return written;
  }
  auto as_read = decode_record(slot, next_);  // the reason may have been cut
  SEALIFT_ASSERT(as_read.has_value() && standings_.add(*as_read).has_value());
  records_.push_back(std::move(*as_read));
  next_ = {checksum_of(slot), next_.sequence + 1};
  return {};
}

Result<std::vector<std::string>> guests_with_journal(Disk& disk, const std::string& directory) {
  std::vector<std::string> guests;
  SEALIFT_TRY(const auto names, names_in(disk, directory));
  for (const std::string& name : names) {
    if (auto guest = guest_of(name)) guests.push_back(std::move(*guest));
  }
  std::sort(guests.begin(), guests.end());
  return guests;
}

}  // namespace sealift
