// The landed form of SNP page-state changes: KVM parses the buffer and asks for each run of it by a
// hypercall exit. A model of that KVM drives handle_hypercall() through whole buffers.
#include <gtest/gtest.h>

#include <random>

#include "vmm_glue/exits/hypercall.h"
#include "vmm_glue/exits/psc.h"
#include "vmm_glue/exits/vmgexit_test_support.h"

namespace sealift {
namespace {

using test::FakeGuest;
constexpr std::uint64_t kBuffer = 0x3800;
constexpr std::uint64_t kEntriesInPage = 253;
constexpr auto kShared = PageClass::kShared;

enum class Kernel { k612, k72 };
enum class Step { kExit, kGuestRuns, kRunFails };

// Modelled: merging, partial 2M entries with the hint left at 2M, a completion that raises the next
// exit, stale `ret` (6.12) and `flags`, the answers each kernel takes, end_entry latched (7.2) or
// read again (6.12). Not modelled: RMP changes.
class KvmModel {
 public:
  KvmModel(Kernel kernel, FakeGuest& guest) : kernel_(kernel), guest_(guest) {}

  Step vmgexit(KvmRun& run) {
    latched_end_ = header().end_entry;
    return next_run(run);
  }

  Step complete(KvmRun& run) {
    const std::uint64_t ret = run.exit.hypercall.ret;
    if (ret != 0) {
      if (kernel_ == Kernel::k72 && ret != 22 && ret != 11) return Step::kRunFails;
      return finish(kPscFailed);
    }
    for (std::size_t i = first_; i < end_; ++i) put_entry(i, entry(i).completed());
    put_current(end_);
    return next_run(run);
  }

  std::uint64_t sw_exit_info_2 = ~0ULL;
  std::uint64_t exits = 0;
  std::uint64_t largest_exit_pages = 0;
  bool saw_unaligned_2m_hint = false;

 private:
  PscHeader header() const { return guest_.peek<PscHeader>(kBuffer); }
  PscEntry entry(std::size_t i) const { return guest_.peek<PscEntry>(kBuffer + 8 + 8 * i); }
  void put_entry(std::size_t i, PscEntry e) { guest_.poke_word(kBuffer + 8 + 8 * i, e); }
  void put_current(std::size_t i) { guest_.poke_word(kBuffer, static_cast<std::uint16_t>(i)); }

  Step finish(std::uint64_t info) {
    sw_exit_info_2 = info;
    return Step::kGuestRuns;
  }

  Step next_run(KvmRun& run) {
    for (;;) {
      const std::uint16_t end = kernel_ == Kernel::k72 ? latched_end_ : header().end_entry;
      if (end >= kEntriesInPage) return finish(kPscHeaderInvalid);
      first_ = header().cur_entry;
      for (; first_ <= end; ++first_, put_current(first_)) {
        const PscEntry e = entry(first_);
        if (e.cur_page() > e.pages() || value(e.gfn()) % e.pages() != 0)
          return finish(kPscEntryInvalid);
        if (e.cur_page() < e.pages()) break;
      }
      if (first_ > end) return finish(kPscDone);
      const GfnRange pages = merge(end);
      const PscEntry head = entry(first_);
      if (head.operation() == PscOperation::kPrivate || head.operation() == PscOperation::kShared)
        return raise(run, head, pages);
      for (std::size_t i = first_; i < end_; ++i) put_entry(i, entry(i).completed());
      put_current(end_);
    }
  }

  GfnRange merge(std::size_t end) {
    const PscEntry head = entry(first_);
    GfnRange pages{head.gfn() + head.cur_page(), head.pages() - head.cur_page()};
    for (end_ = first_ + 1; end_ <= end; ++end_) {
      const PscEntry e = entry(end_);
      if (e.operation() != head.operation() || e.pages() != head.pages()) break;
      if (e.cur_page() != 0 || e.gfn() != end_of(pages)) break;
      pages.pages += e.pages();
    }
    return pages;
  }

  Step raise(KvmRun& run, PscEntry head, GfnRange pages) {
    const bool huge = head.pages() == 512;
    run.exit_reason = kKvmExitHypercall;
    run.exit.hypercall.nr = 12;
    run.exit.hypercall.args[0] = value(base_of(pages.first));
    run.exit.hypercall.args[1] = pages.pages;
    run.exit.hypercall.args[2] =
        (head.operation() == PscOperation::kPrivate ? 0x10u : 0u) | (huge ? 1u : 0u);
    if (kernel_ == Kernel::k72) run.exit.hypercall.ret = 0;
    ++exits;
    largest_exit_pages = std::max(largest_exit_pages, pages.pages);
    saw_unaligned_2m_hint |= huge && value(pages.first) % 512 != 0;
    return Step::kExit;
  }

  Kernel const kernel_;
  FakeGuest& guest_;
  std::uint16_t latched_end_ = 0;
  std::size_t first_ = 0;
  std::size_t end_ = 0;
};

struct Machine {
  explicit Machine(Kernel kernel)
      : guest({GfnRange{Gfn{0}, 0x1000}, GfnRange{Gfn{0x1200}, 0x1fe00}}),
        kvm(kernel, guest),
        rules{HypercallForm::kMapGpaRange, PageStateCaller::kSnp, kernel == Kernel::k72} {
    guest.share({Gfn{3}, 1});
    run.exit.hypercall.ret = 0xdead;
    run.exit.hypercall.flags = 0xdead;
  }
  void put(PscHeader header, const std::vector<std::uint64_t>& entries) {
    guest.poke_word(kBuffer, header);
    for (std::size_t i = 0; i < entries.size(); ++i)
      guest.poke_word(kBuffer + 8 + 8 * i, entries[i]);
  }
  // One VMGEXIT, with as many KVM_RUNs as it takes.
  Step change(const std::function<void()>& between = {}) {
    Step step = kvm.vmgexit(run);
    while (step == Step::kExit) {
      (void)handle_hypercall(run, rules, guest.layout, guest);
      if (between) between();
      step = kvm.complete(run);
    }
    return step;
  }
  std::uint16_t current() const { return guest.peek<PscHeader>(kBuffer).cur_entry; }

  FakeGuest guest;
  KvmModel kvm;
  HypercallRules rules;
  KvmRun run{};
};

constexpr std::uint64_t entry_of(std::uint64_t op, std::uint64_t gfn, bool huge,
                                 std::uint64_t cur) {
  return (huge ? 1ULL << 56 : 0) | op << 52 | gfn << 12 | cur;
}

std::vector<GfnRange> expected(const std::vector<std::uint64_t>& words, std::size_t done) {
  PageMap map(0x21000);
  map.convert({Gfn{3}, 1}, kShared);
  for (std::size_t i = 0; i < done; ++i) {
    const PscEntry e{words[i]};
    PageClass cls{};
    const GfnRange pages{e.gfn() + e.cur_page(), e.pages() - e.cur_page()};
    if (pages.pages != 0 && class_wanted(e.operation(), cls)) map.convert(pages, cls);
  }
  return map.shared_ranges();
}

class SnpPscModel : public testing::TestWithParam<Kernel> {};
INSTANTIATE_TEST_SUITE_P(Kernels, SnpPscModel, testing::Values(Kernel::k612, Kernel::k72),
                         [](const auto& p) { return p.param == Kernel::k72 ? "v72" : "v612"; });

TEST_P(SnpPscModel, FullBufferIsOneExitOf506Mib) {
  Machine m(GetParam());
  std::vector<std::uint64_t> entries;
  for (std::uint64_t i = 0; i < 253; ++i) entries.push_back(entry_of(2, 0x1200 + 512 * i, true, 0));
  m.put({0, 252, 0}, entries);
  EXPECT_EQ(m.change(), Step::kGuestRuns);
  EXPECT_EQ(m.kvm.sw_exit_info_2, 0u);
  EXPECT_EQ(m.kvm.exits, 1u);
  EXPECT_EQ(m.kvm.largest_exit_pages, 129536u);
  EXPECT_EQ(m.current(), 253);
  EXPECT_EQ(m.guest.map.shared_ranges(), expected(entries, 253));
}

// Some gfns lie in the hole or past RAM, and the platform refuses at times.
TEST_P(SnpPscModel, RandomBuffersLeaveExactlyWhatWasDone) {
  std::uint64_t failures = 0;
  std::uint64_t partial_2m_exits = 0;
  for (unsigned seed = 0; seed < 400; ++seed) {
    std::mt19937_64 random(seed);
    Machine m(GetParam());
    std::vector<std::uint64_t> entries;
    std::uint64_t gfn = 0x10;
    const std::size_t count = 1 + random() % 40;
    while (entries.size() < count) {
      const bool huge = random() % 2 == 0;
      if (random() % 3 == 0) gfn = 0x10 + random() % (seed % 4 == 0 ? 0x21400 : 0xe00);
      if (huge) gfn = (gfn + 511) / 512 * 512;
      const std::uint64_t cur = random() % 4 != 0 ? 0 : random() % (huge ? 513 : 2);
      entries.push_back(entry_of(1 + random() % 4 % 3, gfn, huge, cur));
      gfn += huge ? 512 : 1;
    }
    if (seed % 5 == 0) m.guest.answers.assign(random() % 8, Converted::kDone);
    if (seed % 5 == 0) m.guest.answers.push_back(seed % 2 ? Converted::kFailed : Converted::kLater);
    m.put({0, static_cast<std::uint16_t>(count - 1), 0}, entries);
    ASSERT_EQ(m.change(), Step::kGuestRuns) << seed;
    const bool failed = m.kvm.sw_exit_info_2 != 0;
    ASSERT_TRUE(!failed || m.kvm.sw_exit_info_2 == kPscFailed) << seed;
    ASSERT_TRUE(failed || m.current() == count) << seed;
    ASSERT_EQ(m.guest.map.shared_ranges(), expected(entries, m.current())) << seed;
    failures += failed;
    partial_2m_exits += m.kvm.saw_unaligned_2m_hint;
  }
  EXPECT_GT(failures, 20u);
  EXPECT_GT(partial_2m_exits, 20u);
}

// Our own parser and KVM's, on the same buffer: the same map, answer and bytes in the buffer.
TEST_P(SnpPscModel, FirstPostedFormEndsAlike) {
  for (unsigned seed = 0; seed < 200; ++seed) {
    std::mt19937_64 random(seed);
    std::vector<std::uint64_t> entries;
    std::uint64_t gfn = 0x1200;
    for (std::size_t i = 0; i < 60; ++i) {
      const bool huge = random() % 2 == 0;
      if (random() % 4 == 0) gfn += random() % 100;
      if (huge) gfn = (gfn + 511) / 512 * 512;
      const bool bad = seed % 3 == 0 && i == 50;
      entries.push_back(entry_of(1 + random() % 2, gfn, huge,
                                 bad                 ? 600
                                 : random() % 8 == 0 ? 1
                                                     : 0));
      gfn += huge ? 512 : 1;
    }
    Machine landed(GetParam());
    Machine posted(GetParam());
    landed.put({0, 59, 0}, entries);
    posted.put({0, 59, 0}, entries);
    ASSERT_EQ(landed.change(), Step::kGuestRuns);
    Bytes copy(2032);
    ASSERT_TRUE(posted.guest.read(Gpa{kBuffer}, copy));
    const auto out =
        change_page_states(copy, Gpa{kBuffer}, posted.guest.layout, posted.guest, posted.guest);
    ASSERT_EQ(out.answer, landed.kvm.sw_exit_info_2) << seed;
    ASSERT_EQ(posted.guest.map.digest(), landed.guest.map.digest()) << seed;
    using Buffer = std::array<std::uint64_t, 254>;
    ASSERT_EQ(posted.guest.peek<Buffer>(kBuffer), landed.guest.peek<Buffer>(kBuffer)) << seed;
  }
}

// Another vCPU raises end_entry while the first run is served.
TEST_P(SnpPscModel, GuestThatExtendsTheBufferMeanwhile) {
  Machine m(GetParam());
  const std::vector<std::uint64_t> entries{entry_of(2, 16, false, 0), entry_of(2, 32, false, 0),
                                           entry_of(2, 48, false, 0)};
  m.put({0, 0, 0}, entries);
  ASSERT_EQ(m.change([&m] { m.guest.poke_word(kBuffer + 2, std::uint16_t{2}); }), Step::kGuestRuns);
  EXPECT_EQ(m.current(), GetParam() == Kernel::k72 ? 1 : 3);
  EXPECT_EQ(m.guest.map.shared_ranges(), expected(entries, m.current()));
}

}  // namespace
}  // namespace sealift
