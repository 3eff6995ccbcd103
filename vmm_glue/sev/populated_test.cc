// Which private pages are exported: those that hold something, and those that travelled before.

#include "vmm_glue/sev/populated.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cstdio>

#include "engine/dirty_set.h"
#include "engine/heat.h"
#include "engine/page_map.h"
#include "engine/round.h"
#include "vmm_glue/sev/test_support.h"

namespace sealift::sev {
namespace {

using Outcome = ExportOutcome;
constexpr std::uint64_t kPages = 6;

TEST(SevPopulated, EveryByteOfAPageIsLookedAt) {
  TestRam ram(1);
  std::byte* page = ram.page(0).data();
  EXPECT_TRUE(never_written(page));
  for (std::size_t at = 0; at < kPageBytes; ++at) {
    page[at] = std::byte{0x80};
    EXPECT_FALSE(never_written(page)) << at;
    page[at] = std::byte{0};
  }
  flush_host_view(page);
  EXPECT_TRUE(never_written(page));
}

TEST(SevPopulated, SettledRemembersRangesOfAGuestOnly) {
  Settled settled;
  EXPECT_FALSE(settled.contains(Gfn{0}));
  settled.add({Gfn{5}, 3});
  for (std::uint64_t gfn = 0; gfn < 12; ++gfn) {
    EXPECT_EQ(settled.contains(Gfn{gfn}), gfn >= 5 && gfn < 8) << gfn;
  }
  settled.add({Gfn{1}, 0});
  settled.add({Gfn{~0ULL}, 1});  // no page of any guest: takes no memory
  settled.add({Gfn{limits::kGuestPagesMax}, ~0ULL});
  EXPECT_FALSE(settled.contains(Gfn{1}));
  EXPECT_FALSE(settled.contains(Gfn{~0ULL}));
  settled.clear();
  EXPECT_FALSE(settled.contains(Gfn{5}));
}

// WBINVD brings what the caches hold to memory.
class CachingIoctl final : public HostIoctl {
 public:
  CachingIoctl(HostIoctl& inner, std::function<void()> flush)
      : write_back(std::move(flush)), inner_(inner) {}
  int ioctl(int fd, unsigned long request, void* arg) override {
    if (request == kKvmMemoryEncryptUnregRegion) write_back();
    return inner_.ioctl(fd, request, arg);
  }
  std::function<void()> const write_back;

 private:
  HostIoctl& inner_;
};

// A guest of which launch encrypted pages 0 and 1 only.
class Populated : public testing::Test {
 protected:
  void start(bool encrypts, bool coherent) {
    SoftSevConfig soft;
    soft.firmware.encrypts_memory = encrypts;
    source_host = std::make_unique<SoftSevHost>(soft);
    target_host = std::make_unique<SoftSevHost>(soft);
    source = std::make_unique<TestGuest>(*source_host, kPages);
    target = std::make_unique<TestGuest>(*target_host, kPages);
    const MutableBytes all = source->ram.all();
    const MutableBytes kernel = all.first(2 * kPageBytes);
    std::fill(kernel.begin(), kernel.end(), std::byte{0x11});
    (void)must(launch(source->vm, 0, {&all, 1}, {&kernel, 1}));
    target->prepare();
    line = std::make_unique<CountingIoctl>(*source_host);
    SevConfig config;
    config.coherent_caches = coherent;
    exporter = std::make_unique<SevExporter>(SevVm{*line, source->vm.vm_fd, source->vm.sev_fd},
                                             source->ram.lookup(), config);
    importer = std::make_unique<SevImporter>(target->vm, target->ram.lookup(), config);
    begin();
  }
  void begin() { must(importer->begin(must(exporter->begin(must(importer->identity()))))); }

  void window(std::uint32_t epoch) { must(exporter->prepare(epoch, {})); }
  std::vector<Outcome> send(std::uint32_t epoch, std::vector<Gfn> gfns) {
    ExportResult sent = must(exporter->export_batch(0, epoch, gfns));
    if (!sent.batch.gfns.empty()) must(importer->import_batch(sent.batch));
    return sent.outcomes;
  }
  void guest_writes(std::uint64_t gfn, int byte) {
    const Bytes content(kPageBytes, std::byte(byte));
    source_host->guest_view(source->vm.vm_fd).store(source->ram.page(gfn).data(), content);
  }
  Bytes seen_by(TestGuest& guest, std::uint64_t gfn) {
    Bytes out(kPageBytes);
    guest.host.guest_view(guest.vm.vm_fd).load(guest.ram.page(gfn).data(), out);
    return out;
  }

  // Counts the flushes of all caches that the driver asks for.
  class CountingIoctl final : public HostIoctl {
   public:
    explicit CountingIoctl(HostIoctl& inner) : inner_(inner) {}
    int ioctl(int fd, unsigned long request, void* arg) override {
      if (request == kKvmMemoryEncryptRegRegion && before_flush) before_flush();
      const int result = fails_with != 0 && request == kKvmMemoryEncryptRegRegion
                             ? -fails_with
                             : inner_.ioctl(fd, request, arg);
      if (request == kKvmMemoryEncryptUnregRegion) ++flushes;
      return result;
    }
    int flushes = 0;
    int fails_with = 0;
    std::function<void()> before_flush;

   private:
    HostIoctl& inner_;
  };

  std::unique_ptr<SoftSevHost> source_host;
  std::unique_ptr<SoftSevHost> target_host;
  std::unique_ptr<TestGuest> source;
  std::unique_ptr<TestGuest> target;
  std::unique_ptr<CountingIoctl> line;
  std::unique_ptr<SevExporter> exporter;
  std::unique_ptr<SevImporter> importer;
};

TEST_F(Populated, PagesThatNobodyWroteCostNothing) {
  start(true, true);
  guest_writes(4, 0);  // zeros through the guest's key are content
  const ExportResult sent = must(exporter->export_batch(0, 1, source->gfns()));
  EXPECT_EQ(sent.outcomes, (std::vector{Outcome::kExported, Outcome::kExported, Outcome::kSkipped,
                                        Outcome::kSkipped, Outcome::kExported, Outcome::kSkipped}));
  EXPECT_EQ(sent.batch.gfns, (std::vector{Gfn{0}, Gfn{1}, Gfn{4}}));
  EXPECT_EQ(sent.batch.ops.size(), 3u);
  EXPECT_EQ(sent.firmware_commands, 3u);
  EXPECT_EQ(source_host->commands_issued(MailboxCommand::kSendUpdateData), 3u);
  must(importer->import_batch(sent.batch));
  for (const std::uint64_t gfn : {0u, 1u, 4u}) {
    EXPECT_EQ(seen_by(*target, gfn), seen_by(*source, gfn)) << gfn;
  }
  for (const std::uint64_t gfn : {2u, 3u, 5u}) {
    EXPECT_TRUE(never_written(source->ram.page(gfn).data())) << gfn;
    EXPECT_TRUE(never_written(target->ram.page(gfn).data())) << gfn;
  }
  EXPECT_EQ(line->flushes, 0);
}

// An empty batch takes no number: the next one fits.
TEST_F(Populated, ABatchOfNothingIsNotSent) {
  start(true, true);
  EXPECT_EQ(send(1, {Gfn{2}, Gfn{3}}), (std::vector{Outcome::kSkipped, Outcome::kSkipped}));
  EXPECT_EQ(send(1, {Gfn{0}}), std::vector{Outcome::kExported});
  must(importer->seal(must(exporter->seal())));
}

TEST_F(Populated, WithoutEncryptionZerosStayZeros) {
  start(false, true);
  EXPECT_EQ(send(1, {Gfn{0}, Gfn{2}}), (std::vector{Outcome::kExported, Outcome::kSkipped}));
  EXPECT_EQ(seen_by(*source, 2), seen_by(*target, 2));
  EXPECT_EQ(seen_by(*target, 2), Bytes(kPageBytes));
  // Written, travelled, zeroed again: the zeros travel, for the destination has the older content.
  guest_writes(2, 7);
  EXPECT_EQ(send(2, {Gfn{2}}), std::vector{Outcome::kExported});
  guest_writes(2, 0);
  EXPECT_EQ(send(3, {Gfn{2}}), std::vector{Outcome::kExported});
  EXPECT_EQ(seen_by(*target, 2), Bytes(kPageBytes));
}

// Shared, cleared by the host's view, private again: not as empty as it looks.
TEST_F(Populated, AConvertedPageIsNeverLeftOut) {
  start(true, true);
  EXPECT_EQ(send(1, {Gfn{3}}), std::vector{Outcome::kSkipped});
  EXPECT_EQ(exporter->may_convert({Gfn{3}, 2}, PageClass::kShared), ConvertVerdict::kNow);
  EXPECT_EQ(send(2, {Gfn{3}, Gfn{4}, Gfn{5}}),
            (std::vector{Outcome::kExported, Outcome::kExported, Outcome::kSkipped}));
  EXPECT_EQ(seen_by(*target, 3), seen_by(*source, 3));
  // A new session starts with an empty destination.
  must(exporter->cancel(std::nullopt));
  TestGuest fresh(*target_host, kPages);
  fresh.prepare();
  SevImporter second(fresh.vm, fresh.ram.lookup(), {});
  must(second.begin(must(exporter->begin(must(second.identity())))));
  const std::vector<Gfn> gfns{Gfn{3}};
  EXPECT_EQ(must(exporter->export_batch(0, 1, gfns)).outcomes, std::vector{Outcome::kSkipped});
}

TEST_F(Populated, WithoutCoherentCachesEachWindowThatAsksFlushesOnce) {
  start(true, false);
  EXPECT_EQ(exporter->traits().prepare_window_pages, kFlushWindowPages);
  window(1);
  EXPECT_EQ(send(1, {Gfn{0}, Gfn{1}}), std::vector(2, Outcome::kExported));
  EXPECT_EQ(line->flushes, 0);  // nothing looked empty
  EXPECT_EQ(send(1, {Gfn{2}, Gfn{3}}), std::vector(2, Outcome::kSkipped));
  EXPECT_EQ(send(1, {Gfn{4}}), std::vector(1, Outcome::kSkipped));
  EXPECT_EQ(line->flushes, 1);
  window(1);  // another of the same epoch
  EXPECT_EQ(send(1, {Gfn{5}}), std::vector(1, Outcome::kSkipped));
  EXPECT_EQ(line->flushes, 2);
}

TEST_F(Populated, WithoutCoherentCachesNothingIsLeftOutOutsideAWindow) {
  start(true, false);
  EXPECT_EQ(send(1, {Gfn{3}}), std::vector(1, Outcome::kExported));
  EXPECT_EQ(line->flushes, 0);
}

// Guest writes that sit in caches until a flush, reported by the dirty log at once, beside the
// exports of a round. `prepares` false is the planted bug: one flush for all.
std::uint64_t pages_lost_beside_a_writing_guest(bool prepares, bool with_heat) {
  constexpr std::uint64_t kGuestPages = 600;
  constexpr std::uint32_t kWindow = 64;
  SoftSevHost source_host;
  SoftSevHost target_host;
  TestGuest source(source_host, kGuestPages);
  TestGuest target(target_host, kGuestPages);
  const MutableBytes all = source.ram.all();
  const MutableBytes kernel = all.first(kPageBytes);
  std::fill(kernel.begin(), kernel.end(), std::byte{0x11});
  (void)must(launch(source.vm, 0, {&all, 1}, {&kernel, 1}));
  target.prepare();
  std::vector<std::uint64_t> cached;
  CachingIoctl line(source_host, [&] {
    const Bytes content(kPageBytes, std::byte{0x77});
    for (const std::uint64_t gfn : cached) {
      source_host.guest_view(source.vm.vm_fd).store(source.ram.page(gfn).data(), content);
    }
    cached.clear();
  });
  SevExporter exporter(SevVm{line, source.vm.vm_fd, source.vm.sev_fd}, source.ram.lookup(), {});
  SevImporter importer(target.vm, target.ram.lookup(), {});
  must(importer.begin(must(exporter.begin(must(importer.identity())))));

  DirtySet dirty(kGuestPages);
  const PageMap map(kGuestPages);
  dirty.mark(GfnRange{Gfn{0}, kGuestPages});
  const Heat* heat = with_heat ? &dirty.watch_heat(map) : nullptr;
  std::uint64_t next_write = kGuestPages - 1;
  for (std::uint32_t epoch = 1; dirty.count() > 0; ++epoch) {
    if (!prepares && epoch == 1) must(exporter.prepare(epoch, {}));
    Round round(dirty, map, heat, RoundLimits{});
    for (;;) {
      const std::vector<Gfn> taken = round.next_private(map, kWindow, true);
      if (taken.empty()) break;
      if (prepares) must(exporter.prepare(epoch, taken));
      const ExportResult sent = must(exporter.export_batch(0, epoch, taken));
      if (!sent.batch.gfns.empty()) must(importer.import_batch(sent.batch));
      if (epoch > 1) continue;
      for (int i = 0; i < 20; ++i, --next_write) {
        cached.push_back(next_write);
        dirty.mark(GfnRange{Gfn{next_write}, 1});
      }
    }
    must(exporter.end_epoch(epoch));
    must(importer.end_epoch(epoch, {}));
  }
  line.write_back();
  must(exporter.guest_paused());
  must(importer.seal(must(exporter.seal())));
  std::uint64_t lost = 0;
  Bytes here(kPageBytes), there(kPageBytes);
  for (std::uint64_t gfn = 0; gfn < kGuestPages; ++gfn) {
    if (never_written(source.ram.page(gfn).data())) continue;
    source_host.guest_view(source.vm.vm_fd).load(source.ram.page(gfn).data(), here);
    target_host.guest_view(target.vm.vm_fd).load(target.ram.page(gfn).data(), there);
    lost += here != there;
  }
  return lost;
}

TEST(SevPopulated, WritesInCachesAreNotLostBesideARound) {
  for (const bool with_heat : {false, true}) {
    EXPECT_EQ(pages_lost_beside_a_writing_guest(true, with_heat), 0u) << with_heat;
  }
  EXPECT_GT(pages_lost_beside_a_writing_guest(false, false), 0u);  // the planted bug
}

// The write that only the flush brings to memory: the page is looked at again after it.
TEST_F(Populated, AWriteThatWasInACacheUntilTheFlushIsSeen) {
  start(true, false);
  line->before_flush = [&] { guest_writes(3, 0x33); };
  window(1);
  EXPECT_EQ(send(1, {Gfn{3}, Gfn{4}}), (std::vector{Outcome::kExported, Outcome::kSkipped}));
  EXPECT_EQ(seen_by(*target, 3), Bytes(kPageBytes, std::byte{0x33}));
}

TEST_F(Populated, AFlushThatFailsIsAnErrorAndNoGuess) {
  start(true, false);
  line->fails_with = ENOMEM;
  window(1);
  const std::vector<Gfn> gfns{Gfn{3}};
  const auto sent = exporter->export_batch(0, 1, gfns);
  ASSERT_FALSE(sent.has_value());
  EXPECT_EQ(
      sent.error().detail,
      "KVM_MEMORY_ENCRYPT_REG_REGION of one page, to flush the caches, failed: ENOMEM (Cannot "
      "allocate memory).");
  must(exporter->cancel(std::nullopt));
  EXPECT_EQ(source->state(), GuestState::kRunning);
}

// Printed, not asserted.
TEST(SevPopulatedSpeed, PagesOfZeros) {
  TestRam ram(4096);
  constexpr int kRounds = 8;
  std::uint64_t empty = 0;
  const auto start = std::chrono::steady_clock::now();
  for (int round = 0; round < kRounds; ++round) {
    for (std::uint64_t gfn = 0; gfn < ram.pages(); ++gfn) {
      empty += never_written(ram.page(gfn).data()) ? 1u : 0u;
    }
  }
  const std::chrono::duration<double, std::nano> took = std::chrono::steady_clock::now() - start;
  EXPECT_EQ(empty, kRounds * ram.pages());
  std::printf("never_written: %.0f ns for a page of zeros\n",
              took.count() / static_cast<double>(empty));
}

}  // namespace
}  // namespace sealift::sev
