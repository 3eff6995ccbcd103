// What only a real vCPU can show: programs that end, hang or were overwritten, and the speed.
#include "vmm_glue/inguest/kvm_helper.h"

#include <algorithm>
#include <initializer_list>

#include "vmm_glue/inguest/test_support.h"

namespace sealift::inguest {
namespace {

using namespace test;

class OnKvm : public testing::Test {
 protected:
  void SetUp() override {
    const auto probe = probe_kvm();
    if (!probe) GTEST_SKIP() << probe.error().detail;
    RecordProperty("back_end", *probe);
    ram = std::make_unique<TestRam>(small_layout());
    side = std::make_unique<KvmSide>(*ram, std::chrono::milliseconds(300));
    importer = std::make_unique<InGuestImporter>(side->helper(), ram->layout());
  }
  std::byte* code() { return side->memory().plain().data() + kSharedPages * kPageBytes; }
  // What happens when the program, at its bell, finds other code: it slides into `bytes`.
  std::string end_of(std::initializer_list<std::uint8_t> bytes) {
    constexpr std::size_t kSlide = 0x400;
    constexpr std::byte kNop{0x90};
    must(side->helper().restart());
    std::fill_n(code(), kSlide, kNop);
    std::transform(bytes.begin(), bytes.end(), code() + kSlide,
                   [](std::uint8_t b) { return std::byte{b}; });
    const auto entered = side->helper().enter();
    EXPECT_FALSE(entered.has_value());
    return why(entered);
  }
  std::unique_ptr<TestRam> ram;
  std::unique_ptr<KvmSide> side;
  std::unique_ptr<InGuestImporter> importer;
};

TEST_F(OnKvm, ATripleFaultIsAClearError) {
  must(importer->identity());
  const std::string why = end_of({0x0f, 0x0b});
  EXPECT_NE(why.find("the program ended: triple fault"), std::string::npos) << why;
}

TEST_F(OnKvm, AProgramThatNeverRingsIsAClearError) {
  const std::string why = end_of({0xeb, 0xfe});
  EXPECT_NE(why.find("does not answer within 300 ms"), std::string::npos) << why;
  const auto again = side->helper().enter();
  EXPECT_EQ(test::why(again), "the program ended before and was not started again");
}

// A read of gpa 0xa0000, where there is no memory, is not the bell.
TEST_F(OnKvm, AnotherExitIsAClearError) {
  // mov rdi, kWindowVa + 0xa0000; mov rax, [rdi]
  const std::string why = end_of({0x48, 0xbf, 0, 0, 0x0a, 0, 0, 0x40, 0, 0, 0x48, 0x8b, 0x07});
  EXPECT_NE(why.find("the program ended: MMIO read of 8 bytes at gpa 0xa0000"), std::string::npos)
      << why;
}

TEST_F(OnKvm, RestartRepairsAnOverwrittenProgram) {
  (void)end_of({0xeb, 0xfe});
  EXPECT_TRUE(importer->identity().has_value());
}

TEST_F(OnKvm, AnErrorOfTheHelperNamesTheCall) {
  must(importer->identity());
  std::fill_n(code(), 0x400, std::byte{0x0b});
  Bytes start(104);
  start[0] = std::byte{1};
  start[8] = std::byte{9};
  const auto begun = importer->begin(start);
  ASSERT_FALSE(begun.has_value());
  EXPECT_EQ(begun.error().cls, ErrorClass::kLocalFault);
  EXPECT_NE(why(begun).find("The in-guest helper failed at accept: the program"), std::string::npos)
      << why(begun);
}

// The one on whose thread the helper ran gets its signal mask back.
TEST_F(OnKvm, LeavesTheThreadsSignalsAsTheyWere) {
  sigset_t before;
  sigset_t after;
  pthread_sigmask(SIG_SETMASK, nullptr, &before);
  must(importer->identity());
  pthread_sigmask(SIG_SETMASK, nullptr, &after);
  EXPECT_EQ(sigismember(&before, helper_alarm_signal()), 0);
  EXPECT_EQ(sigismember(&after, helper_alarm_signal()), 0);
}

// Neither half of a key pair's secret, nor the page key, is in memory that the VMM shares with the
// program: the pages it exports stay ciphertext there.
TEST_F(OnKvm, ThePlainSlotHoldsNoPage) {
  ram->fill(3);
  InGuestExporter exporter(side->helper(), ram->layout());
  TestRam other_ram(small_layout());
  KvmSide other(other_ram);
  InGuestImporter there(other.helper(), other_ram.layout());
  must(there.begin(must(exporter.begin(must(there.identity())))));
  must(exporter.guest_paused());
  const std::vector<Gfn> gfns = {Gfn{4}, Gfn{5}};
  must(there.import_batch(must(exporter.export_batch(0, 1, gfns)).batch));
  const Bytes page = ram->page(Gfn{4});
  EXPECT_EQ(other_ram.page(Gfn{4}), page);
  for (KvmSide* one : {side.get(), &other}) {
    const MutableBytes plain = one->memory().plain();
    EXPECT_EQ(std::search(plain.begin(), plain.end(), page.begin(), page.begin() + 16),
              plain.end());
  }
}

TEST_F(OnKvm, ReportsItsSpeed) {
  const MemoryLayout layout = must(MemoryLayout::make({{Gfn{0}, 8192}}));
  TestRam from_ram(layout);
  TestRam to_ram(layout);
  KvmSide from(from_ram);
  KvmSide to(to_ram);
  from_ram.fill(1);
  InGuestExporter exporter(from.helper(), layout);
  InGuestImporter there(to.helper(), layout);
  must(there.begin(must(exporter.begin(must(there.identity())))));
  must(exporter.guest_paused());
  const std::vector<Gfn> gfns = from_ram.gfns();
  using Clock = std::chrono::steady_clock;
  Clock::duration out{};
  Clock::duration in{};
  for (std::size_t at = 0; at < gfns.size(); at += 512) {
    const auto start = Clock::now();
    const auto batch = must(exporter.export_batch(0, 1, std::span(gfns).subspan(at, 512))).batch;
    const auto middle = Clock::now();
    must(there.import_batch(batch));
    out += middle - start;
    in += Clock::now() - middle;
  }
  must(there.seal(must(exporter.seal())));
  EXPECT_EQ(std::memcmp(from_ram.all().data(), to_ram.all().data(), from_ram.all().size()), 0);
  const auto rate = [&](Clock::duration took) {
    return static_cast<int>(static_cast<double>(gfns.size()) /
                            std::chrono::duration<double>(took).count());
  };
  RecordProperty("exported_pages_per_s", rate(out));
  RecordProperty("imported_pages_per_s", rate(in));
  fmt::print("in-guest: {} pages/s exported, {} pages/s imported\n", rate(out), rate(in));
}

// --- Memory that the host cannot read ---

// The whole way of a guest's pages from one helper to the other.
void transfer(KvmSide& from, KvmSide& to, TestRam& ram) {
  InGuestExporter exporter(from.helper(), ram.layout());
  InGuestImporter there(to.helper(), ram.layout());
  must(there.begin(must(exporter.begin(must(there.identity())))));
  must(exporter.guest_paused());
  must(there.import_batch(must(exporter.export_batch(0, 1, ram.gfns())).batch));
  must(there.seal(must(exporter.seal())));
  must(there.commit());
  must(exporter.release());
}

TEST_F(OnKvm, PagesPassThroughAGuestWhoseMemoryTheHostCannotRead) {
  const KvmSystem system = must(KvmSystem::open());
  const auto types = system.handle.call("KVM_CHECK_EXTENSION", KVM_CHECK_EXTENSION, 235UL);
  if (!types || (*types & 1 << KvmSide::kSwProtectedVm) == 0) {
    GTEST_SKIP() << "this KVM has no KVM_X86_SW_PROTECTED_VM (KVM_CAP_VM_TYPES is "
                 << (types ? *types : 0) << ")";
  }
  constexpr auto kLimit = std::chrono::seconds(60);
  TestRam first(small_layout());
  TestRam shared_side(small_layout());
  TestRam last(small_layout());
  first.fill(5);
  KvmSide a(first, kLimit);
  KvmSide hidden(shared_side, kLimit, SecretMemory::kGuestMemfd);
  KvmSide hidden_too(shared_side, kLimit, SecretMemory::kGuestMemfd);
  KvmSide z(last, kLimit);
  transfer(a, hidden, first);
  transfer(hidden, hidden_too, first);
  transfer(hidden_too, z, first);
  EXPECT_EQ(std::memcmp(first.all().data(), last.all().data(), first.all().size()), 0);
  for (const std::byte byte : shared_side.all()) {
    ASSERT_EQ(byte, std::byte{0}) << "a private page was written to the shared side";
  }
}

}  // namespace
}  // namespace sealift::inguest
