// The modelled memory: what key and address do to bytes, and what one access costs.

#include <gtest/gtest.h>

#include <atomic>
#include <cstdio>
#include <ctime>
#include <thread>

#include "vmm_glue/host_copy.h"
#include "vmm_glue/sev/test_support.h"

namespace sealift::sev {
namespace {

class SevMemory : public testing::Test {
 protected:
  SevMemory() : guest(host, 4) { guest.launch_with_pattern(0); }
  PrivateMemory& view() { return host.guest_view(guest.vm.vm_fd); }
  SoftSevHost host;
  TestGuest guest;
};

TEST_F(SevMemory, EveryAlignmentAndSizeReadsBackWhatWasWritten) {
  Bytes mirror = guest.plain;
  std::byte* base = guest.ram.all().data();
  std::uint64_t seed = 1;
  for (std::size_t at : {0u, 8u, 16u, 24u, 4080u, 4088u, 4096u}) {
    for (std::size_t bytes : {8u, 16u, 24u, 32u, 40u, 4096u, 4104u, 8200u}) {
      Bytes data(bytes);
      for (std::byte& byte : data)
        byte = std::byte((seed = seed * 6364136223846793005ULL + 1) >> 56);
      view().store(base + at, data);
      std::copy(data.begin(), data.end(), mirror.begin() + static_cast<std::ptrdiff_t>(at));
      Bytes back(bytes);
      view().load(base + at, back);
      ASSERT_EQ(back, data) << at << " " << bytes;
      ASSERT_EQ(guest.guest_sees(), mirror) << at << " " << bytes;
    }
  }
}

TEST_F(SevMemory, CiphertextIsBoundToItsAddress) {
  // The same plain text at two addresses has two ciphertexts, and one moved to the other is
  // garbage.
  const Bytes same(kPageBytes, std::byte{0x11});
  view().store(guest.ram.page(0).data(), same);
  view().store(guest.ram.page(1).data(), same);
  const Bytes host_view = guest.host_sees();
  EXPECT_FALSE(std::equal(host_view.begin(), host_view.begin() + kPageBytes,
                          host_view.begin() + kPageBytes));
  copy_to_guest(guest.ram.page(1).data(), ByteView(host_view).first(kPageBytes));
  Bytes seen(kPageBytes);
  view().load(guest.ram.page(1).data(), seen);
  EXPECT_NE(seen, same);
}

TEST_F(SevMemory, AnotherGuestsKeyReadsGarbage) {
  TestGuest other(host, 4);
  const MutableBytes shared = guest.ram.all();
  KvmEncRegion region{.addr = reinterpret_cast<std::uint64_t>(shared.data()),
                      .size = shared.size()};
  other.launch_with_pattern(0);
  ASSERT_EQ(host.ioctl(other.vm.vm_fd, kKvmMemoryEncryptRegRegion, &region), 0);
  Bytes seen(kPageBytes);
  host.guest_view(other.vm.vm_fd).load(shared.data(), seen);
  EXPECT_FALSE(std::equal(seen.begin(), seen.end(), guest.plain.begin()));
}

TEST_F(SevMemory, WithoutEncryptionTheHostSeesPlainText) {
  SoftSevHost bare({.firmware = {.encrypts_memory = false}});
  TestGuest open(bare, 2);
  open.launch_with_pattern(0);
  EXPECT_EQ(open.host_sees(), open.plain);
  EXPECT_EQ(open.guest_sees(), open.plain);
}

TEST_F(SevMemory, DestroyingTheVmTakesTheKeyAway) {
  auto second = std::make_unique<TestGuest>(host, 1);
  second->launch_with_pattern(0);
  EXPECT_EQ(host.commands_issued(MailboxCommand::kDecommission), 0u);
  second.reset();
  EXPECT_EQ(host.commands_issued(MailboxCommand::kDecommission), 1u);
  EXPECT_EQ(guest.guest_sees(), guest.plain);
}

// vCPUs write while the firmware exports: no lock is common to both, and TSan finds nothing.
TEST_F(SevMemory, ViewsWorkWhileTheMailboxIsBusy) {
  SoftSevHost target_host;
  TestGuest target(target_host, 4);
  target.prepare();
  SevExporter exporter(guest.vm, guest.ram.lookup(), {});
  SevImporter importer(target.vm, target.ram.lookup(), {});
  must(importer.begin(must(exporter.begin(must(importer.identity())))));
  std::atomic<bool> stop{false};
  PrivateMemory& memory = view();
  const auto vcpu = [&](std::uint64_t index) {
    Bytes word(16);
    while (!stop) {
      memory.store(guest.ram.page(index).data(), word);
      memory.load(guest.ram.page(index).data(), word);
      word[0] = static_cast<std::byte>(std::to_integer<unsigned>(word[0]) + 1);
    }
  };
  std::jthread first(vcpu, 0);
  std::jthread second(vcpu, 1);
  for (int round = 0; round < 20; ++round) {
    must(importer.import_batch(must(exporter.export_batch(0, 0, guest.gfns())).batch));
    EXPECT_TRUE(host.may_run(guest.vm.vm_fd));
  }
  stop = true;
  first.join();
  second.join();
  must(importer.import_batch(must(exporter.export_batch(0, 0, guest.gfns())).batch));
  EXPECT_EQ(target.guest_sees(), guest.guest_sees());
}

// Processor time, so that a busy machine does not count.
template <class Body>
double nanoseconds_each(int count, Body body) {
  const std::clock_t start = std::clock();
  for (int i = 0; i < count; ++i) body();
  return static_cast<double>(std::clock() - start) * 1e9 / CLOCKS_PER_SEC / count;
}

TEST_F(SevMemory, Cost) {
  std::byte* base = guest.ram.all().data();
  PrivateMemory& memory = view();
  Bytes word(8);
  Bytes page(kPageBytes);
  std::printf("SEV memory: 8-byte load %.0f ns, store %.0f ns; page load %.0f ns, store %.0f ns\n",
              nanoseconds_each(20000, [&] { memory.load(base, word); }),
              nanoseconds_each(20000, [&] { memory.store(base, word); }),
              nanoseconds_each(2000, [&] { memory.load(base, page); }),
              nanoseconds_each(2000, [&] { memory.store(base, page); }));
}

}  // namespace
}  // namespace sealift::sev
