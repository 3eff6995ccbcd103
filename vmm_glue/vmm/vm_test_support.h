// What the tests of the reference VMM share: a fake of private memory, guests in a line, a
// migration by hand.
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <cstring>
#include <memory>
#include <vector>

#include "vmm_glue/host_copy.h"
#include "vmm_glue/sev/populated.h"
#include "vmm_glue/vmm/kvm_vm.h"
#include "vmm_glue/vmm/model_vm.h"

namespace sealift::test {

using namespace std::chrono_literals;

// Private bytes differ from what the host sees by an XOR with a function of the host address:
// copying them to another place, or to another host, without the platform makes garbage.
class XorMemory final : public PrivateMemory {
 public:
  explicit XorMemory(std::uint64_t key) : key_(key) {}
  void load(const std::byte* host, MutableBytes out) const override {
    copy_from_guest(host, out);
    apply(host, out);
  }
  void store(std::byte* host, ByteView in) override {
    Bytes copy(in.begin(), in.end());
    apply(host, copy);
    copy_to_guest(host, copy);
  }
  std::string why_not_run() const override { return refusal; }
  std::byte* register_page(std::uint32_t vcpu) const override {
    return vcpu < register_pages.size() ? register_pages[vcpu] : nullptr;
  }
  // Keeps the registers of this vCPU from now on, all zero to begin with. `page` outlives the VM.
  void keep_registers(MutableBytes page) {
    store(page.data(), Bytes(page.size()));
    register_pages.push_back(page.data());
  }

  std::string refusal;
  std::vector<std::byte*> register_pages;

 private:
  void apply(const std::byte* host, MutableBytes bytes) const {
    for (std::size_t at = 0; at < bytes.size(); at += 8) {
      std::uint64_t word = 0;
      std::memcpy(&word, bytes.data() + at, 8);
      word ^= guest::mix(key_ + reinterpret_cast<std::uintptr_t>(host) + at);
      std::memcpy(bytes.data() + at, &word, 8);
    }
  }
  std::uint64_t key_;
};

// One guest and, if its platform has any on this back-end, its private memory.
struct Machine {
  std::unique_ptr<XorMemory> secret;
  std::unique_ptr<Vm> vm;
  Vm* operator->() const { return vm.get(); }
  Vm& operator*() const { return *vm; }
};

inline Machine make_machine(const VmConfig& config, std::uint64_t key = 0x1234567) {
  Machine machine;
  if (config.platform != Platform::kNone && config.backend == Backend::kModel) {
    machine.secret = std::make_unique<XorMemory>(key);
  }
  auto vm = make_vm(config, machine.secret.get());
  EXPECT_TRUE(vm.has_value()) << vm.error().detail;
  if (vm) machine.vm = std::move(*vm);
  return machine;
}

template <class T>
std::string why(const Result<T>& result) {
  return result ? "no error" : result.error().detail;
}
#define SEALIFT_EXPECT_OK(expression)                                     \
  do {                                                                    \
    const auto sealift_result = (expression);                             \
    EXPECT_TRUE(sealift_result.has_value()) << test::why(sealift_result); \
  } while (false)

inline Machine booted_machine(const VmConfig& config) {
  Machine machine = make_machine(config);
  SEALIFT_EXPECT_OK(machine->boot());
  SEALIFT_EXPECT_OK(machine->resume());
  SEALIFT_EXPECT_OK(machine->wait_booted(60s));
  return machine;
}

inline void expect_no_errors(Vm& vm) {
  const auto check = vm.self_check(60s);
  ASSERT_TRUE(check.has_value()) << check.error().detail;
  EXPECT_EQ(check->errors, 0u) << "first bad gfn "
                               << (check->first_bad_gfn ? value(*check->first_bad_gfn) : 0);
  EXPECT_GT(check->pages_checked, 0u);
}

// Runs until the guest has made some more steps (an idle guest does not report them: it runs for a
// while).
inline void let_run(Vm& vm, std::uint64_t steps = 2000) {
  const auto deadline =
      std::chrono::steady_clock::now() + (vm.config().workload == Workload::kIdle ? 20ms : 20000ms);
  const std::uint64_t goal = vm.status().steps + steps;
  while (vm.status().steps < goal && std::chrono::steady_clock::now() < deadline) {
    std::this_thread::sleep_for(100us);  // tidy: allow (pacing a poll of the guest's own count)
  }
}

inline std::vector<Gfn> all_gfns(const MemoryLayout& layout) {
  std::vector<Gfn> gfns;
  for (const GfnRange& range : layout.ranges()) {
    for (std::uint64_t i = 0; i < range.pages; ++i) gfns.push_back(range.first + i);
  }
  return gfns;
}

inline Bytes guest_view(const Vm& vm, Gfn gfn) {
  Bytes page(kPageBytes);
  SEALIFT_EXPECT_OK(vm.read_guest_view(gfn, std::span<std::byte, kPageBytes>(page)));
  return page;
}

// The guest's own class bit of an arena page, read from its table.
inline PageClass guest_class(const Vm& vm, std::uint32_t vcpu, std::uint64_t page) {
  const std::uint64_t at = value(vm.plan().vcpus[vcpu].table) + page * guest::kTableEntryBytes;
  const Bytes table = guest_view(vm, page_of(Gpa{at}));
  guest::TableEntry entry{};
  std::memcpy(&entry, table.data() + at % kPageBytes, sizeof entry);
  return (entry.extra & guest::kEntryShared) != 0 ? PageClass::kShared : PageClass::kPrivate;
}

// A migration by hand, with the engine's order: harvest, take the dirty pages, class, read.
class HandMigration {
 public:
  HandMigration(Machine& from, Machine& to) : from_(from), to_(to) {}

  void copy_all() { copy(all_gfns(from_->layout())); }
  // Harvests and copies once; returns the number of pages.
  std::uint64_t round() {
    SEALIFT_EXPECT_OK(from_->harvest_dirty());
    PageBitmap taken(from_->layout().span_pages());
    from_->dirty().drain(taken);
    std::vector<Gfn> gfns;
    for (std::uint64_t i = 0; i < taken.span_pages(); ++i) {
      if ((taken.words()[i / 64] >> (i % 64) & 1) != 0) gfns.push_back(Gfn{i});
    }
    copy(gfns);
    return gfns.size();
  }
  void move_state() {
    auto state = from_->save_state();
    ASSERT_TRUE(state.has_value()) << state.error().detail;
    SEALIFT_EXPECT_OK(to_->load_state(std::move(*state)));
  }
  // Everything up to the destination's resume(). `last_round` off is the planted bug.
  void run(bool last_round = true) {
    SEALIFT_EXPECT_OK(from_->start_dirty_tracking());
    copy_all();
    for (int i = 0; i < 4; ++i) {
      let_run(*from_, 500);
      round();
    }
    let_run(*from_, 5000);
    SEALIFT_EXPECT_OK(from_->pause());
    if (last_round) round();
    move_state();
    SEALIFT_EXPECT_OK(from_->stop_dirty_tracking());
  }

 private:
  void copy(const std::vector<Gfn>& gfns) {
    Bytes page(kPageBytes);
    const std::span<std::byte, kPageBytes> view(page);
    for (const Gfn gfn : gfns) {
      const PageClass cls = from_->page_map().class_of(gfn);
      if (to_->page_map().class_of(gfn) != cls) {
        to_->page_map().convert(GfnRange{gfn, 1}, cls);
        SEALIFT_EXPECT_OK(to_->apply_conversion(GfnRange{gfn, 1}, cls));
      }
      if (cls == PageClass::kPrivate && from_.secret) {
        // As the driver: what was never written is not sent.
        if (sev::never_written(from_->host_address(gfn))) continue;
        from_.secret->load(from_->host_address(gfn), view);
        to_.secret->store(to_->host_address(gfn), view);
      } else {
        SEALIFT_EXPECT_OK(from_->read_plain(gfn, view));
        SEALIFT_EXPECT_OK(to_->write_plain(gfn, view));
      }
    }
  }

  Machine& from_;
  Machine& to_;
};

}  // namespace sealift::test
