// The journal on a real disk: processes that are killed, a full and a read-only file system.
#include "journal/posix_disk.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <fstream>

#include "journal/journal.h"
#include "journal/test_records.h"

namespace sealift::test {
namespace {

using K = JournalKind;

class TempDirectory {
 public:
  TempDirectory() {
    std::string pattern = ::testing::TempDir() + "/sealift-journal-XXXXXX";
    if (::mkdtemp(pattern.data()) == nullptr) std::abort();
    path_ = pattern;
  }
  TempDirectory(const TempDirectory&) = delete;
  TempDirectory& operator=(const TempDirectory&) = delete;
  ~TempDirectory() { std::filesystem::remove_all(path_); }
  const std::string& path() const { return path_; }
  std::string journal() const { return path_ + "/journal"; }

 private:
  std::string path_;
};

// A small file system of its own, or the reason why not.
class SmallDisk {
 public:
  explicit SmallDisk(const std::string& path) : path_(path) {
    if (::mount("none", path.c_str(), "tmpfs", 0, "size=128k,mode=0700") != 0) error_ = errno;
  }
  SmallDisk(const SmallDisk&) = delete;
  SmallDisk& operator=(const SmallDisk&) = delete;
  ~SmallDisk() {
    if (error_ == 0) ::umount2(path_.c_str(), MNT_DETACH);
  }
  int error() const { return error_; }
  bool make_read_only() const {
    return ::mount("none", path_.c_str(), "tmpfs", MS_REMOUNT | MS_RDONLY, nullptr) == 0;
  }

 private:
  std::string path_;
  int error_ = 0;
};

// The nth record of a guest that is begun and kept for ever.
JournalRecord nth(std::uint64_t n) {
  JournalRecord record = record_of(n % 2 == 0 ? K::kBegun : K::kKept, 0, 0);
  for (std::size_t i = 0; i < 8; ++i) {
    record.right.migration[i] = static_cast<std::byte>((n / 2) >> (8 * i) & 0xff);
  }
  record.reason = std::to_string(n);
  return record;
}

// Appends from where the journal ends, and says each number once it is durable.
[[noreturn]] void append_until_killed(const std::string& directory, int report) {
  PosixDisk disk;
  auto journal = Journal::open(disk, directory, "web-1");
  if (!journal) ::_exit(2);
  const auto& records = journal->records();
  std::uint64_t n = records.empty() ? 0 : std::stoull(records.back().reason) + 1;
  for (;; ++n) {
    if (!journal->append(nth(n))) ::_exit(3);
    if (::write(report, &n, sizeof n) != sizeof n) ::_exit(4);
  }
}

// The last number that the child reported after `wanted` reports, or none; the child is dead then.
std::int64_t run_and_kill(const std::string& directory, int wanted) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) std::abort();
  const pid_t child = ::fork();
  if (child == 0) append_until_killed(directory, ends[1]);
  ::close(ends[1]);
  std::int64_t last = -1;
  std::uint64_t n = 0;
  for (int i = 0; i < wanted && ::read(ends[0], &n, sizeof n) == sizeof n; ++i) {
    last = static_cast<std::int64_t>(n);
  }
  ::kill(child, SIGKILL);
  int status = 0;
  ::waitpid(child, &status, 0);
  EXPECT_TRUE(WIFSIGNALED(status)) << "exit status " << WEXITSTATUS(status);
  while (::read(ends[0], &n, sizeof n) == sizeof n) last = static_cast<std::int64_t>(n);
  ::close(ends[0]);
  return last;
}

TEST(PosixDisk, AKilledAgentLosesNoDurableRecord) {
  const TempDirectory directory;
  std::int64_t before = -1;
  for (int run = 0; run < 100; ++run) {
    const std::int64_t reported = std::max(before, run_and_kill(directory.journal(), run % 4));
    PosixDisk disk;
    auto journal = Journal::open(disk, directory.journal(), "web-1");
    ASSERT_TRUE(journal.has_value()) << journal.error().detail;
    const auto& records = journal->records();
    const std::int64_t last = records.empty() ? -1 : std::stoll(records.back().reason);
    ASSERT_GE(last, reported);
    ASSERT_LE(last, reported + 1);
    for (std::size_t i = 0; i < records.size(); ++i) {
      const auto n = static_cast<std::uint64_t>(last) - (records.size() - 1 - i);
      ASSERT_TRUE(records[i] == nth(n)) << n;
    }
    before = last;
  }
  EXPECT_GT(before, 100);
}

TEST(PosixDisk, AnotherProcessIsRefusedByItsNumber) {
  const TempDirectory directory;
  PosixDisk disk;
  auto journal = Journal::open(disk, directory.journal(), "web-1");
  ASSERT_TRUE(journal.has_value()) << journal.error().detail;
  const pid_t child = ::fork();
  if (child == 0) {
    // flock belongs to the open file, which the child has inherited; its own open is another one.
    PosixDisk other;
    const auto second = Journal::open(other, directory.journal(), "web-1");
    const std::string wanted = fmt::format("in use by process {} ", ::getppid());
    ::_exit(!second && second.error().detail.find(wanted) != std::string::npos ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  const auto second = Journal::open(disk, directory.journal(), "web-1");
  ASSERT_FALSE(second.has_value());
  EXPECT_EQ(second.error().cls, ErrorClass::kRefused);
}

TEST(PosixDisk, TheDirectoryIsTheUsersAlone) {
  const TempDirectory directory;
  PosixDisk disk;
  ASSERT_TRUE(Journal::open(disk, directory.journal(), "web-1").has_value());
  struct stat info{};
  ASSERT_EQ(::stat(directory.journal().c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 0700U);
  ASSERT_EQ(::stat((directory.journal() + "/web-1.journal").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 0600U);
  ASSERT_EQ(::chmod(directory.journal().c_str(), 0750), 0);
  const auto refused = Journal::open(disk, directory.journal(), "web-1");
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().cls, ErrorClass::kPolicy);
  EXPECT_EQ(refused.error().detail, "the journal directory " + directory.journal() +
                                        " is not this user's alone; it needs mode 0700");
}

TEST(PosixDisk, WhatIsNoRegularFileIsRefused) {
  const TempDirectory directory;
  PosixDisk disk;
  ASSERT_TRUE(Journal::open(disk, directory.journal(), "web-1").has_value());
  const std::string path = directory.journal() + "/web-1.journal";
  std::filesystem::rename(path, path + ".moved");
  std::filesystem::create_symlink(path + ".moved", path);
  const auto link = Journal::open(disk, directory.journal(), "web-1");
  ASSERT_FALSE(link.has_value());
  EXPECT_NE(link.error().detail.find("Too many levels of symbolic links"), std::string::npos);
  std::filesystem::remove(path);
  ASSERT_EQ(::mkfifo(path.c_str(), 0600), 0);
  const auto fifo = Journal::open(disk, directory.journal(), "web-1");
  ASSERT_FALSE(fifo.has_value());
  EXPECT_NE(fifo.error().detail.find("Invalid argument"), std::string::npos);
}

TEST(PosixDisk, WhatBeganCanEndOnAFullFileSystem) {
  const TempDirectory directory;
  const SmallDisk small(directory.path());
  if (small.error() != 0) {
    GTEST_SKIP() << "a tmpfs cannot be mounted: " << disk_error_text(-small.error());
  }
  PosixDisk disk;
  auto journal = Journal::open(disk, directory.journal(), "web-1");
  ASSERT_TRUE(journal.has_value()) << journal.error().detail;
  ASSERT_TRUE(journal->append(record_of(K::kOffered, 1, 0)).has_value());
  std::ofstream filler(directory.path() + "/filler", std::ios::binary);
  while (filler.put('x').flush()) {
  }
  ASSERT_TRUE(journal->append(record_of(K::kReady, 1, 0)).has_value());
  ASSERT_TRUE(journal->append(record_of(K::kTaken, 1, 0)).has_value());
  const auto next = journal->append(record_of(K::kBegun, 2, 1));
  ASSERT_FALSE(next.has_value());
  EXPECT_NE(next.error().detail.find("No space left on device"), std::string::npos);
  filler.close();
  std::filesystem::remove(directory.path() + "/filler");
  EXPECT_TRUE(journal->append(record_of(K::kBegun, 2, 1)).has_value());
}

TEST(PosixDisk, AReadOnlyFileSystemIsSaidSo) {
  const TempDirectory directory;
  const SmallDisk small(directory.path());
  if (small.error() != 0) {
    GTEST_SKIP() << "a tmpfs cannot be mounted: " << disk_error_text(-small.error());
  }
  PosixDisk disk;
  ASSERT_TRUE(Journal::open(disk, directory.journal(), "web-1").has_value());
  ASSERT_TRUE(small.make_read_only());
  const auto refused = Journal::open(disk, directory.journal(), "web-1");
  ASSERT_FALSE(refused.has_value());
  EXPECT_NE(refused.error().detail.find("Read-only file system"), std::string::npos)
      << refused.error().detail;
}

TEST(PosixDisk, ARelativeDirectoryHasAParentToo) {
  const TempDirectory directory;
  const std::filesystem::path before = std::filesystem::current_path();
  std::filesystem::current_path(directory.path());
  PosixDisk disk;
  for (const char* name : {"plain", "slash/", "./dot"}) {
    const auto journal = Journal::open(disk, name, "web-1");
    EXPECT_TRUE(journal.has_value()) << journal.error().detail;
  }
  std::filesystem::current_path(before);
  const auto orphan = Journal::open(disk, directory.path() + "/no/such", "web-1");
  ASSERT_FALSE(orphan.has_value());
  EXPECT_NE(orphan.error().detail.find("No such file or directory"), std::string::npos);
}

}  // namespace
}  // namespace sealift::test
