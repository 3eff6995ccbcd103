// The guest's program: it writes and converts its pages as the chosen workload says and, when
// asked, checks every page.
//
// Written once and freestanding: it is compiled into the KVM payload (guest/payload) and runs on
// the modelled vCPU.
// Owner:   one vCPU.
// Threads: the vCPU's own; vCPUs share nothing but the mailbox page, and there each has its own
//          block.
// Failure: none. Whatever is in the mailbox (on a destination it came from a peer), a turn ends
//          soon and divides by nothing.
// Invariants:
//   I1  The machine's registers hold the whole position: between two turns nothing is anywhere
//       else, so a vCPU may be stopped and saved there.
//   I2  With workload idle and no conversions, a turn after boot writes no memory unless a check
//       was asked for.
//   I3  A page's class bit in the table says how the guest accesses it; it changes only after the
//       VMM agreed.
//
// A Machine has:
//   u64 load(u64 gpa, bool priv);  void store(u64 gpa, u64 value, bool priv);
//   void store_page(u64 gpa, bool priv, Make make);      word i of the page becomes make(i)
//   void visit_page(u64 gpa, bool priv, Visit visit);    visit(i, word i), ascending
//   i64 map_gpa_range(u64 gpa, u64 npages, bool encrypted);
//   void doorbell(Doorbell);
//   void write_msr(std::uint32_t index, u64 value);
//   static constexpr bool kHasMsrs;  u64 read_msr(std::uint32_t index);
//   u64 reg(Reg);  void set_reg(Reg, u64);
#pragma once

#include <cstddef>

#include "vmm_glue/guest/pattern.h"

namespace sealift::guest {

using i64 = std::int64_t;

enum class Reg : unsigned {
  kStep = 0,    // steps since boot
  kRng = 1,     // grows by kGolden with each step
  kVector = 2,  // grows by kVectorStride; the payload keeps it and all below in XMM registers
  kPhase = 3,
  kCursor = 4,  // next arena page to fill or to check
  kErrors = 5,
  kFirstBad = 6,
  kSeen = 7,  // the last verify_request taken up
};
inline constexpr unsigned kRegs = 8;

enum class Phase : u64 { kShare = 0, kFill = 1, kRun = 2, kCheck = 3 };

inline constexpr u64 kFlipPagesMax = 16;
inline constexpr u64 kSharePagesPerTurn = 512;
inline constexpr u64 kIdleStepsPerYield = 1u << 14;
inline constexpr u64 kIdleFlipStepsPerYield = 64;
inline constexpr u64 kStepsPerReport = 64;
inline constexpr std::uint32_t kVersionMax =
    0xfffffff0;  // then the page is filled anew, from version 1

// Grows by itself, like the step and the RNG: a register lost once stays wrong until the check.
inline constexpr u64 kVectorStride = 0xd1342543de82ef95;
// A canonical address, as KERNEL_GS_BASE wants it.
constexpr u64 checked_msr_of(u64 seed, u64 vcpu) {
  return (mix(seed + vcpu + 1) & 0x7fff'ffff'ffff) | 1;
}
constexpr u64 vector_of(u64 step) { return 0x5ea11f7 + step * kVectorStride; }
constexpr u64 first_rng(u64 seed, u64 vcpu) { return mix(seed + (vcpu + 1) * kGolden); }

template <class Machine>
class WorkloadVcpu {
 public:
  WorkloadVcpu(Machine& machine, u64 vcpu)
      : m_(machine),
        block_(kMailboxGfn * kPageSize + offsetof(Mailbox, vcpu) + vcpu * sizeof(VcpuMailbox)),
        vcpu_(vcpu) {}

  // One turn: a step of the workload, or one page of filling or checking.
  [[gnu::always_inline]] inline void advance() {
    const u64 phase = m_.reg(Reg::kPhase);
    if (phase == static_cast<u64>(Phase::kRun)) return run();
    if (phase == static_cast<u64>(Phase::kShare)) return share_next();
    if (phase == static_cast<u64>(Phase::kFill)) return fill_next();
    check_next();
  }

 private:
  // --- The mailbox: always accessed as shared memory ---
  u64 global(u64 offset) { return m_.load(kMailboxGfn * kPageSize + offset, false); }
  u64 mine(u64 offset) { return m_.load(block_ + offset, false); }
  void report(u64 offset, u64 word) { m_.store(block_ + offset, word, false); }
  void count(u64 offset) { report(offset, mine(offset) + 1); }

  u64 seed() { return global(offsetof(Mailbox, seed)); }
  u64 workload() { return global(offsetof(Mailbox, workload)); }
  bool converts() { return global(offsetof(Mailbox, hypercall_form)) != kFormNone; }
  u64 flips() { return converts() ? global(offsetof(Mailbox, flips_per_1000)) : 0; }
  bool is_quiet() { return workload() == static_cast<u64>(Workload::kIdle) && flips() == 0; }
  u64 arena_pages() { return mine(offsetof(VcpuMailbox, arena_pages)); }
  u64 writable_pages() {
    const u64 arena = arena_pages();
    const u64 image = mine(offsetof(VcpuMailbox, image_pages));
    return image < arena ? arena - image : 0;
  }
  u64 gfn_of(u64 page) { return gfn_of_linear(mine(offsetof(VcpuMailbox, arena_first)) + page); }

  // --- The table and the control page: private memory where the guest has any ---
  u64 entry_address(u64 page) {
    return mine(offsetof(VcpuMailbox, table_gpa)) + page * kTableEntryBytes;
  }
  TableEntry entry_of(u64 page) {
    const u64 versions = m_.load(entry_address(page), converts());
    const u64 extra = m_.load(entry_address(page) + 8, converts());
    return {static_cast<std::uint32_t>(versions), static_cast<std::uint32_t>(versions >> 32),
            extra};
  }
  void set_versions(u64 page, std::uint32_t version, std::uint32_t fill) {
    m_.store(entry_address(page), version | u64{fill} << 32, converts());
  }
  void set_extra(u64 page, u64 extra) { m_.store(entry_address(page) + 8, extra, converts()); }
  bool is_private(const TableEntry& entry) {
    return converts() && (entry.extra & kEntryShared) == 0;
  }
  void store_control() {
    const u64 control = mine(offsetof(VcpuMailbox, control_gpa));
    m_.store(control + kControlStep, m_.reg(Reg::kStep), converts());
    m_.store(control + kControlRng, m_.reg(Reg::kRng), converts());
  }

  // At every step, before it is overwritten: memory that is old but agrees with itself shows only
  // here.
  void compare_control(u64 step, u64 rng) {
    const u64 control = mine(offsetof(VcpuMailbox, control_gpa));
    const bool agrees = m_.load(control + kControlStep, converts()) == step &&
                        m_.load(control + kControlRng, converts()) == rng;
    if (!agrees) count(offsetof(VcpuMailbox, disagreements));
  }

  // `pages` cut so that [page, page + pages) has no gap in its frame numbers.
  u64 without_gap(u64 page, u64 pages) {
    const u64 gfn = gfn_of(page);
    return gfn < kGapFirstGfn && pages > kGapFirstGfn - gfn ? kGapFirstGfn - gfn : pages;
  }

  // --- Boot: first the classes of all pages, then their contents ---
  [[gnu::noinline]] void share_next() {
    const u64 page = m_.reg(Reg::kCursor);
    if (page == 0) start_registers();
    const u64 writable = writable_pages();
    if (page >= writable) {
      m_.set_reg(Reg::kCursor, 0);
      return m_.set_reg(Reg::kPhase, static_cast<u64>(Phase::kFill));
    }
    const u64 percent = global(offsetof(Mailbox, shared_percent));
    const u64 shared = converts() ? writable * (percent < 100 ? percent : 100) / 100 : 0;
    u64 pages = (page < shared ? shared : writable) - page;
    if (pages > kSharePagesPerTurn) pages = kSharePagesPerTurn;
    pages = without_gap(page, pages);
    const bool is_shared = page < shared && convert(page, pages, false);
    for (u64 i = 0; i < pages; ++i) set_extra(page + i, is_shared ? kEntryShared : 0);
    m_.set_reg(Reg::kCursor, page + pages);
  }

  void start_registers() {
    m_.set_reg(Reg::kStep, 0);
    m_.set_reg(Reg::kRng, first_rng(seed(), vcpu_));
    m_.set_reg(Reg::kVector, vector_of(0));
    m_.set_reg(Reg::kSeen, mine(offsetof(VcpuMailbox, verify_request)));
  }

  [[gnu::noinline]] void fill_next() {
    const u64 page = m_.reg(Reg::kCursor);
    if (page >= arena_pages()) {
      store_control();
      if (vcpu_ == 0 && converts()) announce_readiness();
      report(offsetof(VcpuMailbox, first_bad_gfn), kNoGfn);
      report(offsetof(VcpuMailbox, boot_done), 1);
      m_.set_reg(Reg::kPhase, static_cast<u64>(Phase::kRun));
      return m_.doorbell(Doorbell::kBooted);
    }
    if (page < writable_pages()) {
      fill(page, 1);
    } else {
      set_versions(page, 0, 0);
      set_extra(page, hash_of_image_page(page));
    }
    m_.set_reg(Reg::kCursor, page + 1);
  }

  void announce_readiness() {
    const u64 when = global(offsetof(Mailbox, ready_when));
    if (when == kReadyNever) return;
    m_.write_msr(kMigrationControlMsr, 1);
    if (when == kReadyWithdrawn) m_.write_msr(kMigrationControlMsr, 0);
  }

  void fill(u64 page, std::uint32_t version) {
    const u64 gfn = gfn_of(page);
    const PageContent content(seed(), gfn, version, version);
    const bool priv = is_private(entry_of(page));
    set_versions(page, version, version);
    m_.store_page(gfn * kPageSize, priv, [&content](u64 i) { return content.word(i); });
  }

  u64 hash_of_image_page(u64 page) {
    u64 hash = 0;
    m_.visit_page(gfn_of(page) * kPageSize, converts(),
                  [&hash](u64 i, u64 word) { hash = mix(hash ^ word) + i; });
    return hash;
  }

  // --- Run ---
  [[gnu::always_inline]] inline void run() {
    const u64 request = mine(offsetof(VcpuMailbox, verify_request));
    if (request != m_.reg(Reg::kSeen)) return begin_check(request);
    const u64 step = m_.reg(Reg::kStep) + 1;
    m_.set_reg(Reg::kStep, step);
    m_.set_reg(Reg::kRng, m_.reg(Reg::kRng) + kGolden);
    m_.set_reg(Reg::kVector, m_.reg(Reg::kVector) + kVectorStride);
    if (!is_quiet()) return active_step(step);
    if (step % kIdleStepsPerYield == 0) m_.doorbell(Doorbell::kYield);
  }

  [[gnu::noinline]] void active_step(u64 step) {
    const bool idle = workload() == static_cast<u64>(Workload::kIdle);
    compare_control(step - 1, m_.reg(Reg::kRng) - kGolden);
    store_control();
    const u64 draw = mix(m_.reg(Reg::kRng));
    const u64 writable = writable_pages();
    if (writable != 0) {
      if (draw % 1000 < flips()) flip(mix(draw + 1), writable);
      if (!idle) write(pick(step, mix(draw + 2), writable));
    }
    spin();
    if (step % kStepsPerReport == 0) report(offsetof(VcpuMailbox, steps), step);
    if (idle && step % kIdleFlipStepsPerYield == 0) m_.doorbell(Doorbell::kYield);
  }

  void spin() {
    const u64 asked = global(offsetof(Mailbox, spin_per_step));
    u64 word = asked;
    for (u64 i = 0; i < (asked < kSpinMax ? asked : kSpinMax); ++i) {
      word = mix(word);
      asm volatile("" : "+r"(word));  // keeps the compiler from dropping the work
    }
  }

  // The hot set lies in two places, so that it has shared pages (they start the arena) and private
  // ones.
  u64 pick(u64 step, u64 draw, u64 writable) {
    if (workload() == static_cast<u64>(Workload::kSweep)) return step % writable;
    if (workload() != static_cast<u64>(Workload::kHotset)) return draw % writable;
    const u64 hot = writable / 20 + (writable < 20 ? 1 : 0);
    if (draw % 100 >= 95) return (draw >> 8) % writable;
    const u64 page = (draw >> 8) % hot;
    return page < hot / 4 ? page : writable / 2 + page - hot / 4;
  }

  void write(u64 page) {
    const TableEntry entry = entry_of(page);
    const std::uint32_t version = entry.version + 1;
    if (version >= kVersionMax) return fill(page, 1);
    const u64 gfn = gfn_of(page);
    set_versions(page, version, entry.fill);
    m_.store(gfn * kPageSize + written_index(version) * 8, mix(seed(), gfn, version),
             is_private(entry));
  }

  // --- Conversions ---
  bool convert(u64 page, u64 pages, bool to_private) {
    if (m_.map_gpa_range(gfn_of(page) * kPageSize, pages, to_private) != 0) {
      count(offsetof(VcpuMailbox, refused));
      return false;
    }
    count(offsetof(VcpuMailbox, conversions));
    return true;
  }

  // Hardware gives no promise about the bytes of a converted page: every one is filled anew.
  void flip(u64 draw, u64 writable) {
    const u64 first = draw % writable;
    u64 pages = 1 + (draw >> 40) % kFlipPagesMax;
    if (pages > writable - first) pages = writable - first;
    pages = without_gap(first, pages);
    const bool to_private = (entry_of(first).extra & kEntryShared) != 0;
    if (!convert(first, pages, to_private)) return;
    for (u64 page = first; page < first + pages; ++page) {
      const std::uint32_t version = entry_of(page).version + 1;
      set_extra(page, to_private ? 0 : kEntryShared);
      fill(page, version < kVersionMax ? version : 1);
    }
  }

  // --- The check ---
  [[gnu::noinline]] void begin_check(u64 request) {
    m_.set_reg(Reg::kSeen, request);
    m_.set_reg(Reg::kCursor, 0);
    m_.set_reg(Reg::kErrors, 0);
    m_.set_reg(Reg::kFirstBad, kNoGfn);
    m_.set_reg(Reg::kPhase, static_cast<u64>(Phase::kCheck));
    check_registers();
  }

  void check_registers() {
    const u64 control = mine(offsetof(VcpuMailbox, control_gpa));
    const u64 saved_step = m_.load(control + kControlStep, converts());
    const u64 saved_rng = m_.load(control + kControlRng, converts());
    const u64 step = m_.reg(Reg::kStep);
    const u64 start = first_rng(seed(), vcpu_);
    // A quiet guest does not write its control page while it runs: the page is then merely not from
    // the future.
    const bool in_time = is_quiet() ? saved_step <= step : saved_step == step;
    const bool disagreed = mine(offsetof(VcpuMailbox, disagreements)) != 0;
    if (disagreed || !in_time || saved_rng != start + saved_step * kGolden ||
        m_.reg(Reg::kRng) != start + step * kGolden || m_.reg(Reg::kVector) != vector_of(step) ||
        !msr_is_kept()) {
      found_bad(control / kPageSize);
    }
  }

  bool msr_is_kept() {
    if constexpr (Machine::kHasMsrs) {
      return m_.read_msr(kCheckedMsr) == checked_msr_of(seed(), vcpu_);
    }
    return true;
  }

  [[gnu::noinline]] void check_next() {
    const u64 page = m_.reg(Reg::kCursor);
    if (page >= arena_pages()) return finish_check();
    if (!page_is_good(page)) found_bad(gfn_of(page));
    m_.set_reg(Reg::kCursor, page + 1);
  }

  bool page_is_good(u64 page) {
    const TableEntry entry = entry_of(page);
    if (page >= writable_pages()) return entry.extra == hash_of_image_page(page);
    const u64 gfn = gfn_of(page);
    const PageContent content(seed(), gfn, entry.version, entry.fill);
    u64 differences = 0;
    m_.visit_page(gfn * kPageSize, is_private(entry),
                  [&](u64 i, u64 word) { differences |= word ^ content.word(i); });
    return differences == 0;
  }

  void found_bad(u64 gfn) {
    m_.set_reg(Reg::kErrors, m_.reg(Reg::kErrors) + 1);
    if (m_.reg(Reg::kFirstBad) == kNoGfn) m_.set_reg(Reg::kFirstBad, gfn);
  }

  void finish_check() {
    store_control();
    report(offsetof(VcpuMailbox, steps), m_.reg(Reg::kStep));
    report(offsetof(VcpuMailbox, errors), m_.reg(Reg::kErrors));
    report(offsetof(VcpuMailbox, first_bad_gfn), m_.reg(Reg::kFirstBad));
    report(offsetof(VcpuMailbox, pages_checked), m_.reg(Reg::kCursor));
    report(offsetof(VcpuMailbox, verify_done), m_.reg(Reg::kSeen));
    m_.set_reg(Reg::kPhase, static_cast<u64>(Phase::kRun));
    m_.doorbell(Doorbell::kVerified);
  }

  Machine& m_;
  u64 const block_;  // gpa of this vCPU's part of the mailbox
  u64 const vcpu_;
};

}  // namespace sealift::guest
