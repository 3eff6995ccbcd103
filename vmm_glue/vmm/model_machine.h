// ModelMachine: the modelled vCPU: registers, loads and stores of guest memory, the hypercall exit,
// the doorbell.
//
// Spec:    the Machine of guest/workload.h.
// Owner:   ModelVm, one for each vCPU.
// Threads: the vCPU's own; other threads only while it is stopped.
// Failure: an access outside RAM sets fault(): the guest ends. On a destination all addresses come
//          from a peer.
// Invariants:
//   I1  A store is in memory before its page is in the write log, so a harvest that takes the bit
//       sees the store.
//   I2  `priv` is the guest's own C-bit: the page map is never asked, so a wrong map shows as
//       garbage, as on hardware.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <span>
#include <string>
#include <utility>

#include "engine/dirty_set.h"
#include "engine/page_map.h"
#include "vmm_glue/exits/converter.h"
#include "vmm_glue/exits/hypercall.h"
#include "vmm_glue/exits/msr.h"
#include "vmm_glue/guest/workload.h"
#include "vmm_glue/private_memory.h"
#include "vmm_glue/vmm/guest_memory.h"
#include "vmm_glue/vmm/write_log.h"

namespace sealift {

class ModelMachine {
 public:
  // What all vCPUs of a VM share. References outlive the machine.
  struct Board {
    const GuestMemory& memory;
    const MemoryLayout& layout;
    PageMap& map;
    DirtySet& dirty;
    WriteLog& log;
    PrivateMemory* private_memory;
    HypercallForm form;
    std::atomic<std::uint64_t>& hypercalls;
    MigrationReadiness& readiness;
    ConvertGate gate;
  };
  explicit ModelMachine(const Board& board) : board_(board) {}

  guest::u64 load(guest::u64 gpa, bool priv);
  void store(guest::u64 gpa, guest::u64 word, bool priv);
  guest::i64 map_gpa_range(guest::u64 gpa, guest::u64 pages, bool encrypted);
  static constexpr bool kHasMsrs = false;
  void write_msr(std::uint32_t index, guest::u64 word);
  void doorbell(guest::Doorbell bell) { bell_ = static_cast<int>(bell); }
  guest::u64 reg(guest::Reg which) const { return regs_[static_cast<unsigned>(which)]; }
  void set_reg(guest::Reg which, guest::u64 word) { regs_[static_cast<unsigned>(which)] = word; }

  template <class Make>
  void store_page(guest::u64 gpa, bool priv, Make make) {
    std::array<guest::u64, guest::kWordsPerPage> words;
    for (guest::u64 i = 0; i < words.size(); ++i) words[i] = make(i);
    write(gpa, std::as_bytes(std::span(words)), priv);
  }
  template <class Visit>
  void visit_page(guest::u64 gpa, bool priv, Visit visit) {
    std::array<guest::u64, guest::kWordsPerPage> words;
    read(gpa, std::as_writable_bytes(std::span(words)), priv);
    for (guest::u64 i = 0; i < words.size(); ++i) visit(i, words[i]);
  }

  std::array<guest::u64, guest::kRegs>& regs() { return regs_; }
  const std::string& fault() const { return fault_; }
  // The doorbell since the last call, or a negative number.
  int take_bell() { return std::exchange(bell_, -1); }

 private:
  std::byte* find(guest::u64 gpa, std::size_t bytes);
  void read(guest::u64 gpa, MutableBytes out, bool priv);
  void write(guest::u64 gpa, ByteView in, bool priv);

  Board board_;
  std::array<guest::u64, guest::kRegs> regs_{};
  std::string fault_;
  int bell_ = -1;
};

}  // namespace sealift
