// TDG.VP.VMCALL<MapGPA>: KVM asks for each chunk of it by a hypercall exit. A model of that KVM
// and of a guest that retries drives handle_hypercall().
#include <gtest/gtest.h>

#include <random>

#include "vmm_glue/exits/hypercall.h"
#include "vmm_glue/exits/tdx_abi.h"
#include "vmm_glue/exits/vmgexit_test_support.h"

namespace sealift {
namespace {

using test::FakeGuest;
constexpr std::uint64_t kChunk = 2u << 20;
constexpr auto kShared = PageClass::kShared;
constexpr auto kPrivate = PageClass::kPrivate;

enum class Kernel { k616, k72 };
enum class Step { kExit, kGuestRuns, kRunFails };

// Modelled: the order of checks, chunks of at most 2 MiB from the start address, the shared bit,
// RETRY for a pending event, the answers each kernel takes, vendor hypercalls. R10 and R11 as the
// guest finds them.
class KvmModel {
 public:
  KvmModel(Kernel kernel, unsigned gpaw) : kernel_(kernel), gpaw_(gpaw) {}
  std::uint64_t shared_bit() const { return 1ULL << (gpaw_ - 1); }

  Step map_gpa(KvmRun& run, std::uint64_t gpa, std::uint64_t bytes) {
    if (gpa + bytes <= gpa || (gpa + bytes - 1) >> gpaw_ != 0) return end(kTdxInvalidOperand, gpa);
    if (((gpa ^ (gpa + bytes - 1)) & shared_bit()) != 0) return end(kTdxInvalidOperand, gpa);
    if (gpa % kPageBytes != 0 || bytes % kPageBytes != 0) return end(kTdxAlignError, gpa);
    next_ = gpa;
    end_ = gpa + bytes;
    return raise(run);
  }

  Step complete(KvmRun& run, bool event_pending) {
    const std::uint64_t ret = run.exit.hypercall.ret;
    if (ret != 0 && kernel_ == Kernel::k616) return end(kTdxInvalidOperand, next_);
    if (ret == 22) return end(kTdxInvalidOperand, next_);
    if (ret == 11) return end(kTdxRetry, next_);
    if (ret != 0) return Step::kRunFails;
    next_ += chunk_;
    if (next_ == end_) return end(kTdxSuccess, 0);
    if (event_pending) return end(kTdxRetry, next_);
    return raise(run);
  }

  // R10 = 12: one exit with the registers as they are; the answer goes to R10 as it is.
  static void vendor_call(KvmRun& run, std::uint64_t gpa, std::uint64_t pages,
                          std::uint64_t attributes) {
    run.exit_reason = kKvmExitHypercall;
    run.exit.hypercall = {12, {gpa, pages, attributes}, 0, 1};
  }

  std::uint64_t r10 = ~0ULL;
  std::uint64_t r11 = ~0ULL;
  std::uint64_t exits = 0;

 private:
  Step end(std::uint64_t status, std::uint64_t address) {
    r10 = status;
    r11 = address;
    return Step::kGuestRuns;
  }
  Step raise(KvmRun& run) {
    chunk_ = std::min(end_ - next_, kChunk);
    run.exit_reason = kKvmExitHypercall;
    run.exit.hypercall = {
        12,
        {next_ & ~shared_bit(), chunk_ / kPageBytes, (next_ & shared_bit()) != 0 ? 0u : 0x10u},
        0,
        1};
    ++exits;
    return Step::kExit;
  }

  Kernel const kernel_;
  unsigned const gpaw_;
  std::uint64_t next_ = 0;
  std::uint64_t end_ = 0;
  std::uint64_t chunk_ = 0;
};

// RAM: gfn 0..0x1fff and 0x100000..0x100fff.
struct Machine {
  explicit Machine(Kernel kernel = Kernel::k72, unsigned gpaw = 48)
      : guest({GfnRange{Gfn{0}, 0x2000}, GfnRange{Gfn{0x100000}, 0x1000}}),
        kvm(kernel, gpaw),
        rules{HypercallForm::kMapGpaRange, PageStateCaller::kTdx, kernel == Kernel::k72} {}

  // One TDVMCALL. `random` decides whether an event is pending after a chunk.
  Step call(std::uint64_t gpa, std::uint64_t bytes, std::mt19937_64* random = nullptr) {
    Step step = kvm.map_gpa(run, gpa, bytes);
    while (step == Step::kExit) {
      (void)handle_hypercall(run, rules, guest.layout, guest);
      step = kvm.complete(run, random != nullptr && (*random)() % 3 == 0);
    }
    return step;
  }
  // As a guest does: asks again for the rest while it is told RETRY.
  std::uint64_t map(std::uint64_t gpa, std::uint64_t bytes, std::mt19937_64& random) {
    const std::uint64_t end = gpa + bytes;
    for (int turn = 0; turn < 1000; ++turn) {
      EXPECT_EQ(call(gpa, end - gpa, &random), Step::kGuestRuns);
      if (kvm.r10 != kTdxRetry) return kvm.r10;
      EXPECT_GE(kvm.r11, gpa);
      EXPECT_LT(kvm.r11, end);
      gpa = kvm.r11;
    }
    ADD_FAILURE() << "RETRY without end";
    return kTdxRetry;
  }

  FakeGuest guest;
  KvmModel kvm;
  HypercallRules rules;
  KvmRun run{};
};

TEST(TdxMapGpa, RetriesEndInTheExactMap) {
  for (unsigned seed = 0; seed < 200; ++seed) {
    std::mt19937_64 random(seed);
    Machine m(Kernel::k72, seed % 2 == 0 ? 48 : 52);
    PageMap expected(m.guest.layout.span_pages());
    for (int i = 0; i < 64; ++i)
      m.guest.answers.push_back(random() % 4 == 0 ? Converted::kLater : Converted::kDone);
    for (int i = 0; i < 4; ++i) {
      const std::uint64_t first = random() % 0x1800;
      const std::uint64_t pages = 1 + random() % 0x800;
      const PageClass cls = random() % 3 != 0 ? kShared : kPrivate;
      const std::uint64_t bit = cls == kShared ? m.kvm.shared_bit() : 0;
      ASSERT_EQ(m.map(first << 12 | bit, pages << 12, random), kTdxSuccess) << seed;
      expected.convert({Gfn{first}, pages}, cls);
      ASSERT_EQ(m.guest.map.shared_ranges(), expected.shared_ranges()) << seed;
    }
  }
}

TEST(TdxMapGpa, ChunksFollowTheStartAddress) {
  Machine m;
  EXPECT_EQ(m.call(m.kvm.shared_bit() | 0x7000, 5 << 20), Step::kGuestRuns);
  EXPECT_EQ(m.kvm.r10, kTdxSuccess);
  ASSERT_EQ(m.guest.calls.size(), 3u);
  EXPECT_EQ(m.guest.calls[0].first, (GfnRange{Gfn{7}, 512}));
  EXPECT_EQ(m.guest.calls[1].first, (GfnRange{Gfn{519}, 512}));
  EXPECT_EQ(m.guest.calls[2].first, (GfnRange{Gfn{1031}, 256}));
}

TEST(TdxMapGpa, LaterNamesTheChunkToRepeat) {
  for (const Kernel kernel : {Kernel::k616, Kernel::k72}) {
    Machine m(kernel);
    m.guest.answers = {Converted::kDone, Converted::kLater};
    const std::uint64_t gpa = m.kvm.shared_bit() | 0x7000;
    EXPECT_EQ(m.call(gpa, 5 << 20), Step::kGuestRuns);
    EXPECT_EQ(m.kvm.r10, kernel == Kernel::k72 ? kTdxRetry : kTdxInvalidOperand);
    EXPECT_EQ(m.kvm.r11, gpa + kChunk);
    EXPECT_EQ(m.guest.map.shared_ranges(), (std::vector{GfnRange{Gfn{7}, 512}}));
  }
}

TEST(TdxMapGpa, FailureLeavesTheChunkAsItWas) {
  Machine m;
  m.guest.answers = {Converted::kDone, Converted::kFailed};
  const std::uint64_t gpa = m.kvm.shared_bit();
  EXPECT_EQ(m.call(gpa, 8 << 20), Step::kGuestRuns);
  EXPECT_EQ(m.kvm.r10, kTdxInvalidOperand);
  EXPECT_EQ(m.kvm.r11, gpa + kChunk);
  EXPECT_EQ(m.guest.map.shared_ranges(), (std::vector{GfnRange{Gfn{0}, 512}}));
  EXPECT_EQ(m.kvm.exits, 2u);
}

TEST(TdxMapGpa, RangeThatLeavesRamStopsAtThatChunk) {
  Machine m;
  const std::uint64_t gpa = m.kvm.shared_bit() | 0x1f00ULL << 12;
  EXPECT_EQ(m.call(gpa, 4 << 20), Step::kGuestRuns);
  EXPECT_EQ(m.kvm.r10, kTdxInvalidOperand);
  EXPECT_EQ(m.kvm.r11, gpa);
  EXPECT_EQ(m.guest.map.shared_pages(), 0u);
}

TEST(TdxMapGpa, MmioMayBecomeSharedButNotPrivate) {
  Machine m;
  const std::uint64_t mmio = 0x80000ULL << 12;
  EXPECT_EQ(m.call(m.kvm.shared_bit() | mmio, 4 << 20), Step::kGuestRuns);
  EXPECT_EQ(m.kvm.r10, kTdxSuccess);
  EXPECT_EQ(m.call(mmio, 4 << 20), Step::kGuestRuns);
  EXPECT_EQ(m.kvm.r10, kTdxInvalidOperand);
  EXPECT_EQ(m.kvm.r11, mmio);
  EXPECT_TRUE(m.guest.calls.empty());
}

TEST(TdxMapGpa, VendorCallTakesTheAddressAsItIs) {
  Machine m;
  KvmModel::vendor_call(m.run, 0x7000, 0x1000, 0);
  (void)handle_hypercall(m.run, m.rules, m.guest.layout, m.guest);
  EXPECT_EQ(m.run.exit.hypercall.ret, 0u);
  EXPECT_EQ(m.guest.calls.at(0), (std::pair{GfnRange{Gfn{7}, 0x1000}, kShared}));
  KvmModel::vendor_call(m.run, m.kvm.shared_bit() | 0x7000, 1, 0x10);  // the bit is no address bit
  (void)handle_hypercall(m.run, m.rules, m.guest.layout, m.guest);
  EXPECT_NE(m.run.exit.hypercall.ret, 0u);
  EXPECT_EQ(m.guest.calls.size(), 1u);
}

}  // namespace
}  // namespace sealift
