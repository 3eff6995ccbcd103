// Vm: a guest of the reference VMM, on a real KVM or on modelled vCPUs. Its program is the checker,
// which checks its own memory, or on KVM a boot sector or flat binary of anybody's.
//
// Source:       make_vm(), boot(), resume().
// Destination:  make_vm() with the same config, memory and conversions through GuestPort,
//               load_state(), resume(). What the program does is in guest memory, so a
//               destination's workload comes from the source.
// Spec:    engine/guest_port.h; guest/mailbox.h.
// Owner:   the agent. A PrivateMemory given to make_vm() outlives the VM; it is first used by
//          boot().
// Threads: as GuestPort says; status(), read_guest_view() and host_address() from any thread; the
//          rest from the control thread.
// Failure: kUsage for a config that cannot be, kRefused for a wrong state, kLocalFault with errno
//          or with the guest's end.
// Invariants:
//   I1  Pages the VMM writes itself are marked in dirty() after the write: the platform's log does
//       not see them.
//   I2  With Platform::kNone every page of RAM is shared from the start; otherwise all is private
//       until converted, save for the mailbox, and with kSwProtected the code and page tables.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "engine/guest_port.h"
#include "vmm_glue/exits/converter.h"
#include "vmm_glue/exits/msr.h"
#include "vmm_glue/guest/guest_plan.h"
#include "vmm_glue/inguest/helper_vcpu.h"
#include "vmm_glue/private_memory.h"
#include "vmm_glue/vmm/guest_memory.h"
#include "vmm_glue/vmm/run_control.h"
#include "vmm_glue/vmm/vm_config.h"

namespace sealift {

struct VmStatus {
  VmState state = VmState::kCreated;
  std::string reason;       // of kTerminated
  bool booted = false;      // every vCPU has filled its memory; other programs: it has run
  std::uint64_t steps = 0;  // of all vCPUs, as last reported: an idle guest reports only at a check
  std::uint64_t hypercalls = 0;        // served here, answered either way
  std::string not_ready;               // GuestHealth::not_ready
  std::uint32_t throttle_percent = 0;  // of the time the vCPUs are kept from running
  std::uint64_t serial_bytes = 0;      // printed by the guest on this host
  std::string dirty_backend;           // of a guest on KVM
  std::vector<std::string> notes;  // of the state saved or loaded last: what was left out, and why
};

struct SelfCheck {
  std::uint64_t pages_checked = 0;
  std::uint64_t errors = 0;  // bad pages, and register files that disagree with memory
  std::optional<Gfn> first_bad_gfn;
  std::uint64_t conversions = 0;  // since boot
  std::uint64_t refused = 0;      // conversions the VMM refused, since boot
  std::uint64_t steps = 0;
};

class Vm : public GuestPort, protected VcpuRunner {
 public:
  const VmConfig& config() const { return config_; }
  const GuestPlan& plan() const { return plan_; }

  // Asked before the guest's conversions (exits/converter.h). REQUIRES: before the guest runs.
  void set_convert_gate(ConvertGate gate) { convert_gate_ = std::move(gate); }
  // Loads image and mailbox and sets the vCPUs up; resume() then starts the guest.
  Result<void> boot();
  VmStatus status() const;
  // The guest has filled its memory. kTimedOut, or kLocalFault/kRefused when it does not run (any
  // more).
  Result<void> wait_booted(std::chrono::milliseconds timeout);
  // Asks every vCPU to check everything it owns. REQUIRES nothing; refused unless a checker runs.
  Result<SelfCheck> self_check(std::chrono::milliseconds timeout);

  // What the guest itself reads in a page, by the page map's class; zeros for a private page that
  // was never written, where it reads noise that differs from host to host. False: only the guest
  // can.
  // REQUIRES: gfn in layout().
  Result<bool> read_guest_view(Gfn gfn, std::span<std::byte, kPageBytes> out) const;
  // Whether anybody but the guest can read its private pages.
  bool can_read_private() const { return config_.platform != Platform::kSwProtected; }
  // The vCPU through which private pages leave a guest of Platform::kSwProtected; null for others.
  virtual inguest::HelperVcpu* private_helper() { return nullptr; }
  std::byte* host_address(Gfn gfn) const { return memory_.at(gfn); }

  const MemoryLayout& layout() const final { return layout_; }
  PageMap& page_map() final { return map_; }
  DirtySet& dirty() final { return dirty_; }
  Result<void> read_plain(Gfn gfn, std::span<std::byte, kPageBytes> out) final;
  Result<void> write_plain(Gfn gfn, std::span<const std::byte, kPageBytes> in) final;
  Result<void> write_run(GfnRange range, ByteView in) final;
  Result<void> write_zeros(GfnRange range) final;
  Result<void> mark_populated() final;
  MutableBytes plain_memory(GfnRange range) final;
  MutableBytes landing(GfnRange range) final;
  Result<void> apply_conversion(GfnRange range, PageClass cls) override;
  GuestHealth health() const final;
  Result<void> pause() final { return control_.pause(); }
  Result<void> resume() final { return control_.resume(); }
  // As RunControl says: resume() takes effect, and goes on, only until then. Any thread.
  Result<void> permit_until(std::uint64_t boot_ns) { return control_.permit_until(boot_ns); }
  Result<void> throttle(std::uint32_t percent) final { return control_.throttle(percent); }
  Result<std::vector<StateBlob>> save_state() final;
  Result<void> load_state(std::vector<StateBlob> state) final;

 protected:
  struct Parts {
    VmConfig config;
    GuestPlan plan;
    MemoryLayout layout;
    GuestMemory memory;
    std::vector<std::byte> image;
    std::vector<std::byte> program;  // of a guest that runs no checker
    PrivateMemory* private_memory;
  };
  static Result<Parts> make_parts(const VmConfig& config, PrivateMemory* private_memory,
                                  GuestMemory::Populate populate);
  explicit Vm(Parts parts);

  // Of every conversion that the guest asks for.
  ConvertVerdict ask_gate(GfnRange range, PageClass wish) const {
    return convert_gate_ ? convert_gate_(range, wish) : ConvertVerdict::kNow;
  }

  virtual Result<void> set_initial_vcpus() = 0;
  virtual Result<std::vector<StateBlob>> save_vcpus() = 0;
  virtual Result<void> load_vcpus(std::vector<StateBlob> state) = 0;
  virtual void fill_status(VmStatus& status) const { (void)status; }  // what only it knows

  // Writes as the guest would, by the page map's class. REQUIRES: gpa and size multiples of 8,
  // inside one page of RAM.
  void write_as_guest(Gpa gpa, ByteView bytes);
  std::uint64_t read_mailbox(std::uint64_t offset) const;
  void write_mailbox(std::uint64_t offset, std::uint64_t word);

  VmConfig const config_;
  GuestPlan const plan_;
  MemoryLayout const layout_;
  GuestMemory const memory_;
  PrivateMemory* const private_memory_;  // null: private pages are plain in host memory too
  PageMap map_;
  DirtySet dirty_;
  MigrationReadiness readiness_;
  ConvertGate convert_gate_;
  RunControl control_;  // the destructors of derived classes shut it down: its threads call them

 private:
  bool has_checker() const { return config_.program == Program::kChecker; }
  void write_program();
  Result<void> check_runs(const char* wish) const;
  void write_image();
  void write_first_mailbox();
  StateBlob save_readiness() const;
  Result<void> load_readiness(std::vector<StateBlob>& state);  // takes it out
  bool is_booted() const;
  bool is_checked(const std::vector<std::uint64_t>& requests) const;

  std::vector<std::byte> const image_;
  std::vector<std::byte> const program_;
};

// `private_memory` holds the private pages of a modelled guest; null: they are plain. The KVM
// back-end runs the guest's instructions natively, so there it must be null or leave the bytes as
// they are.
Result<std::unique_ptr<Vm>> make_vm(const VmConfig& config, PrivateMemory* private_memory);

}  // namespace sealift
