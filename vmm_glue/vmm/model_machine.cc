#include "vmm_glue/vmm/model_machine.h"

#include <fmt/core.h>

#include <algorithm>
#include <atomic>
#include <bit>

#include "vmm_glue/host_copy.h"

namespace sealift {

std::byte* ModelMachine::find(guest::u64 gpa, std::size_t bytes) {
  std::byte* page = board_.memory.find(page_of(Gpa{gpa}));
  if (page != nullptr && gpa % 8 == 0 && gpa % kPageBytes + bytes <= kPageBytes) {
    return page + gpa % kPageBytes;
  }
  if (fault_.empty())
    fault_ = fmt::format("a vCPU accessed {} bytes at gpa {:#x}, which is no RAM", bytes, gpa);
  return nullptr;
}

void ModelMachine::read(guest::u64 gpa, MutableBytes out, bool priv) {
  const std::byte* host = find(gpa, out.size());
  if (host == nullptr) {
    std::fill(out.begin(), out.end(), std::byte{0});
  } else if (priv && board_.private_memory != nullptr) {
    board_.private_memory->load(host, out);
  } else {
    copy_from_guest(host, out);
  }
}

void ModelMachine::write(guest::u64 gpa, ByteView in, bool priv) {
  std::byte* host = find(gpa, in.size());
  if (host == nullptr) return;
  if (priv && board_.private_memory != nullptr) {
    board_.private_memory->store(host, in);
  } else {
    copy_to_guest(host, in);
  }
  board_.log.mark(page_of(Gpa{gpa}));
}

guest::u64 ModelMachine::load(guest::u64 gpa, bool priv) {
  std::array<std::byte, 8> bytes;
  read(gpa, bytes, priv);
  return std::bit_cast<guest::u64>(bytes);
}

void ModelMachine::store(guest::u64 gpa, guest::u64 word, bool priv) {
  if (priv && board_.private_memory != nullptr) {
    return write(gpa, std::bit_cast<std::array<std::byte, 8>>(word), priv);
  }
  std::byte* host = find(gpa, sizeof word);
  if (host == nullptr) return;
  // Release: a report to the VMM must not be seen before what it reports (guest/mailbox.h, I2).
  std::atomic_ref(*reinterpret_cast<guest::u64*>(host)).store(word, std::memory_order_release);
  board_.log.mark(page_of(Gpa{gpa}));
}

// The exit as KVM makes it: the bytes of struct kvm_run go to the same decoder that a real exit
// goes to.
guest::i64 ModelMachine::map_gpa_range(guest::u64 gpa, guest::u64 pages, bool encrypted) {
  KvmRun run{};
  run.exit_reason = kKvmExitHypercall;
  run.exit.hypercall.nr = kKvmHypercallPageState;
  run.exit.hypercall.args[0] = gpa;
  run.exit.hypercall.args[1] = pages;
  run.exit.hypercall.args[2] =
      guest::page_state_argument(static_cast<guest::u64>(board_.form), encrypted);
  run.exit.hypercall.ret = ~0ULL;  // what a kernel before 6.14 may leave there
  MapConverter converter(board_.map, board_.dirty, board_.gate);
  (void)handle_hypercall(run, {.form = board_.form}, board_.layout, converter);
  board_.hypercalls.fetch_add(1, std::memory_order_relaxed);
  return static_cast<guest::i64>(run.exit.hypercall.ret);
}

void ModelMachine::write_msr(std::uint32_t index, guest::u64 word) {
  KvmRun run{};
  run.exit_reason = kKvmExitWrmsr;
  run.exit.msr.index = index;
  run.exit.msr.data = word;
  (void)handle_msr(run, board_.readiness);
  if (run.exit.msr.error != 0 && fault_.empty()) {
    fault_ = fmt::format("#GP at WRMSR of {:#x} to MSR {:#x}", word, index);
  }
}

}  // namespace sealift
