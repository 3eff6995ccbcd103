// The requests of this folder on the machine's own KVM, where it has them. The guest never runs: a
// VM of type KVM_X86_SW_PROTECTED_VM gives private memory without hardware for it.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/kvm.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <vector>

#include "vmm_glue/exits/gmem_converter.h"
#include "vmm_glue/exits/hypercall_setup.h"
#include "vmm_glue/exits/memory_attributes.h"

namespace sealift {
namespace {

constexpr std::uintptr_t kSwProtected = 1;
constexpr std::uintptr_t kCapVmTypes = 235;
constexpr std::uint64_t kBytes = 64 * kPageBytes;

class OnKvm : public testing::Test {
 protected:
  void SetUp() override {
    kvm_ = ::open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (kvm_ < 0) GTEST_SKIP() << "/dev/kvm: " << errno_text(errno);
  }
  void TearDown() override {
    for (const int fd : {gmem_, vm_, kvm_}) {
      if (fd >= 0) ::close(fd);
    }
    if (shared_ != nullptr) ::munmap(shared_, kBytes);
  }
  int number(int fd, unsigned long request, std::uintptr_t argument) {
    return io_.ioctl(fd, request, reinterpret_cast<void*>(argument));
  }

  KernelIoctl io_;
  int kvm_ = -1;
  int vm_ = -1;
  int gmem_ = -1;
  std::byte* shared_ = nullptr;
};

TEST_F(OnKvm, PageStateIsSetUpAsTheGuestWillSeeIt) {
  vm_ = number(kvm_, KVM_CREATE_VM, 0);
  if (vm_ < 0) GTEST_SKIP() << "KVM_CREATE_VM: " << errno_text(-vm_);
  const auto trap = trap_migration_control(io_, vm_);
  ASSERT_TRUE(trap) << trap.error().detail;
  const auto exits = enable_page_state_exits(io_, vm_);
  ASSERT_TRUE(exits) << exits.error().detail;
}

// Pages of the shared side that take memory.
std::size_t resident(const std::byte* at, std::uint64_t pages) {
  std::vector<unsigned char> in_core(pages);
  EXPECT_EQ(::mincore(const_cast<std::byte*>(at), pages * kPageBytes, in_core.data()), 0);
  return static_cast<std::size_t>(
      std::count_if(in_core.begin(), in_core.end(), [](unsigned char c) { return (c & 1) != 0; }));
}

TEST_F(OnKvm, ConversionsReachKvmAndGiveMemoryBack) {
  const int types = number(kvm_, KVM_CHECK_EXTENSION, kCapVmTypes);
  if (types < 0 || (types >> kSwProtected & 1) == 0) {
    GTEST_SKIP() << "KVM_CAP_VM_TYPES gives " << types << ": no software-protected VMs";
  }
  vm_ = number(kvm_, KVM_CREATE_VM, kSwProtected);
  ASSERT_GE(vm_, 0) << errno_text(-vm_);
  const auto gmem = create_guest_memfd(io_, vm_, kBytes, 0);
  ASSERT_TRUE(gmem) << gmem.error().detail;
  gmem_ = *gmem;
  void* mapped =
      ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(mapped, MAP_FAILED);
  shared_ = static_cast<std::byte*>(mapped);
  std::memset(shared_, 0x5a, kBytes);
  KvmUserMemoryRegion2 region{};
  region.flags = kKvmMemGuestMemfd;
  region.memory_size = kBytes;
  region.userspace_addr = reinterpret_cast<std::uintptr_t>(shared_);
  region.guest_memfd = static_cast<std::uint32_t>(gmem_);
  const auto set = set_user_memory_region2(io_, vm_, region);
  ASSERT_TRUE(set) << set.error().detail;

  PageMap map(kBytes / kPageBytes);
  DirtySet dirty(map.span_pages());
  KernelDiscard discard;
  GmemSlot slot;
  slot.range = GfnRange{Gfn{0}, map.span_pages()};
  slot.shared = shared_;
  slot.guest_memfd = gmem_;
  auto converter = GmemConverter::make({io_, vm_, discard, map, dirty, {}}, {slot});
  ASSERT_TRUE(converter) << converter.error().detail;
  const auto applied = (*converter)->apply_map();
  ASSERT_TRUE(applied) << applied.error().detail;

  const GfnRange eight{Gfn{8}, 8};
  EXPECT_EQ((*converter)->convert(eight, PageClass::kShared), Converted::kDone);
  EXPECT_EQ(resident(shared_, map.span_pages()), map.span_pages());
  EXPECT_EQ((*converter)->convert(eight, PageClass::kPrivate), Converted::kDone);
  EXPECT_EQ(resident(shared_, map.span_pages()), map.span_pages() - 8);
  EXPECT_EQ((*converter)->convert(GfnRange{Gfn{63}, 2}, PageClass::kShared), Converted::kFailed);
  const GmemCounters counters = (*converter)->counters();
  EXPECT_EQ(counters.conversions, 2u);
  EXPECT_EQ(counters.refused_attributes + counters.failed_discards, 0u) << counters.last_error;
}

}  // namespace
}  // namespace sealift
