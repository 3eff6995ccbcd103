// The helper program: boots, then serves one command at each entry. A freestanding binary at CPL3
// in long mode, without exceptions, interrupts or a kernel.
//
// The VMM enters at start() with the stack's top in rsp and FS at kDataVa (mailbox.h). Its only
// exit is the bell, an MMIO read: it works at every privilege level on every KVM, and KVM's
// emulator finds the instruction in plain memory.
#include <cpuid.h>

#include "vmm_glue/inguest/program/session.h"

namespace {

using namespace sealift::inguest;  // the one consumer of this file is the linker

constexpr int kDrawsMax =
    100;  // Intel advises 10; more only when the processor is short of entropy

bool has_rdrand() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_RDRND) != 0;
}

// All ones is what some processors give, with success, when their generator has died.
bool draw(u64& word) {
  for (int i = 0; i < kDrawsMax; ++i) {
    u8 good = 0;
    asm volatile("rdrand %0; setc %1" : "=r"(word), "=qm"(good) : : "cc");
    if (good != 0 && word != ~u64{0}) return true;
  }
  return false;
}

struct GuestMachine {
  u8* page(u64 gfn) { return reinterpret_cast<u8*>(kWindowVa + gfn * kPage); }
  bool random(void* out, u64 bytes) {
    if (!has_rdrand()) return false;
    for (u64 at = 0; at < bytes; at += sizeof(u64)) {
      u64 word = 0;
      if (!draw(word)) return false;
      const u64 left = bytes - at;
      __builtin_memcpy(static_cast<u8*>(out) + at, &word, left < sizeof word ? left : sizeof word);
    }
    return true;
  }
};

GuestMachine machine;
Session<GuestMachine> session;

// sodium_init() chooses the code for this processor, and wants some bytes for the canary of
// sodium_malloc(), which nobody calls. Keys come from GuestMachine::random(), which can fail.
void fill_canary(void* out, std::size_t bytes) {
  if (!machine.random(out, bytes)) __builtin_memset(out, 0, bytes);
}
const char* name_of_source() { return "rdrand"; }
randombytes_implementation source = {name_of_source, nullptr,     nullptr,
                                     nullptr,        fill_canary, nullptr};

void choose_code() {
  if (randombytes_set_implementation(&source) != 0 || sodium_init() < 0) __builtin_trap();
}

void ring() {
  u64 ignored = 0;
  asm volatile("mov (%1), %0" : "=a"(ignored) : "D"(kBellVa) : "memory");
}

}  // namespace

extern "C" {
extern u8 program_data_load[], program_data_begin[], program_data_end[], program_bss_end[];

// The canary first: nothing that was compiled with a stack protector has run yet.
[[noreturn, gnu::section(".text.start")]] void start() {
  __builtin_memcpy(program_data_begin, program_data_load,
                   static_cast<u64>(program_data_end - program_data_begin));
  __builtin_memset(program_data_end, 0, static_cast<u64>(program_bss_end - program_data_end));
  u64 canary = 0;
  if (has_rdrand()) (void)draw(canary);
  *reinterpret_cast<u64*>(kDataVa + 0x28) = canary;
  choose_code();
  auto& mailbox = *reinterpret_cast<Mailbox*>(kMailboxVa);
  auto* const buffer = reinterpret_cast<u8*>(kBufferVa);
  session.boot(machine, mailbox, buffer);
  for (;;) {
    ring();
    session.serve(mailbox, buffer);
  }
}
}
