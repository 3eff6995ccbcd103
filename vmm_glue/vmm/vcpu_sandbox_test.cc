// The sandbox of vCPU threads: what serving an exit needs works, everything else ends the process.
#include "vmm_glue/vmm/vcpu_sandbox.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <thread>
#include <vector>

namespace sealift {
namespace {

// Does `forbidden` in a sandboxed thread of a child process.
template <class Forbidden>
void expect_killed(Forbidden forbidden) {
  EXPECT_EXIT(
      {
        std::jthread vcpu([&] {
          if (enter_vcpu_sandbox()) forbidden();
        });
        vcpu.join();
        _exit(0);
      },
      testing::KilledBySignal(SIGSYS), "");
}

// The same for what ends in the program's own way.
template <class Allowed>
void expect_lives(Allowed allowed) {
  EXPECT_EXIT(
      {
        std::jthread vcpu([&] {
          if (!enter_vcpu_sandbox()) _exit(3);
          allowed();
        });
        vcpu.join();
        _exit(0);
      },
      testing::ExitedWithCode(0), "");
}

class VcpuSandbox : public testing::Test {
 protected:
  void SetUp() override {
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
    GTEST_SKIP() << "a sanitizer's runtime makes system calls of its own";
#endif
    GTEST_FLAG_SET(death_test_style, "threadsafe");
  }
};

TEST_F(VcpuSandbox, OpensNoFile) {
  expect_lives([] {
    errno = 0;
    if (open("/etc/passwd", O_RDONLY | O_CLOEXEC) != -1 || errno != EPERM) _exit(2);
  });
}

// glibc's malloc looks into /proc when it gives memory of a thread's arena back for the first time.
TEST_F(VcpuSandbox, MemoryCanBeFreed) {
  expect_lives([] {
    std::vector<std::unique_ptr<std::vector<char>>> blocks;
    for (int i = 0; i < 2000; ++i) {
      blocks.push_back(std::make_unique<std::vector<char>>(64 << 10, 'x'));
    }
    while (!blocks.empty()) blocks.pop_back();
  });
}

TEST_F(VcpuSandbox, MakesNoDescriptor) {
  expect_killed([] { (void)eventfd(0, EFD_CLOEXEC); });
}

TEST_F(VcpuSandbox, MapsNoCode) {
  expect_killed(
      [] { (void)mmap(nullptr, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); });
}

TEST_F(VcpuSandbox, StartsNoProgram) {
  expect_killed([] {
    char path[] = "/bin/true";
    char* argv[] = {path, nullptr};
    execv(path, argv);
  });
}

TEST_F(VcpuSandbox, LeavesWhatAnExitNeedsAndTheOtherThreads) {
  bool entered = false;
  std::jthread vcpu([&] {
    entered = enter_vcpu_sandbox().has_value();
    std::vector<std::unique_ptr<char[]>> memory;
    for (int i = 0; i < 64; ++i) memory.push_back(std::make_unique<char[]>(1u << 20));
    void* page = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    EXPECT_EQ(madvise(page, 4096, MADV_DONTNEED), 0);
    EXPECT_EQ(munmap(page, 4096), 0);
    std::this_thread::yield();
    EXPECT_EQ(pthread_kill(pthread_self(), 0), 0);
  });
  vcpu.join();
  EXPECT_TRUE(entered);
  const int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);  // this thread is free
  EXPECT_GE(fd, 0);
  close(fd);
}

}  // namespace
}  // namespace sealift
