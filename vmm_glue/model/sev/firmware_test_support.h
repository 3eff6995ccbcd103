// FirmwareBench: one modelled platform with memory, kernel buffers and guests in any state.
//
// run() holds the firmware to its promise on every call of every test: a command that fails changes
// neither platform, guests, guest memory nor kernel buffers, and leaves its own buffer as it came
// but for the required length that INVALID_LENGTH answers a query with. Plain test code: one
// thread, failures are gtest's.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <deque>
#include <memory>
#include <vector>

#include "vmm_glue/model/sev/amd_root.h"
#include "vmm_glue/model/sev/firmware.h"
#include "vmm_glue/sev/test_support.h"

namespace sealift::sev {

// Gives the scripted draws first, then real randomness.
class ScriptedRandom final : public RandomSource {
 public:
  void script(ByteView draw) { draws_.emplace_back(draw.begin(), draw.end()); }
  void fill(MutableBytes out) override;

 private:
  std::deque<Bytes> draws_;
  SystemRandom system_;
};

// Someone outside who has a PDH: a guest owner, a sender, a receiver.
struct Peer {
  explicit Peer(EcKey private_key);
  static Peer random();
  EcKey key;
  CertificateBytes pdh;
};

struct BenchGuest {
  std::uint32_t policy = 0;
  GuestState state = GuestState::kRunning;
  bool bound = true;
  bool has_owner = true;  // launched with a session
};

class FirmwareBench {
 public:
  static constexpr TransportKeys kKeys{};  // of every session that a peer of ours makes

  // `pdh`: the platform's first PDH; null: a random one.
  explicit FirmwareBench(FirmwareConfig config = {}, const EcNumber* pdh = nullptr);

  Status run_bytes(MailboxCommand id, MutableBytes buffer);
  Status run(MailboxCommand id) { return run_bytes(id, {}); }
  template <class T>
  Status run(MailboxCommand id, T& buffer) {
    return run_bytes(id, std::as_writable_bytes(std::span(&buffer, 1)));
  }
  template <class T>
  Status run(MailboxCommand id, T&& buffer) {
    return run(id, buffer);
  }
  Status on(MailboxCommand id, std::uint32_t handle) {
    return run(id, MailboxHandle{.handle = handle});
  }

  void init(bool es = false);
  // A guest in this state; its handle. ASIDs are taken in order.
  std::uint32_t guest(const BenchGuest& wanted);
  Status activate(std::uint32_t handle, std::uint32_t asid) {
    return run(MailboxCommand::kActivate, MailboxActivate{.handle = handle, .asid = asid});
  }
  std::uint32_t next_asid(std::uint32_t policy) {
    return (policy & kPolicyEs) != 0 ? next_es_asid_++ : next_sev_asid_++;
  }

  // Kernel memory: `bytes` copied there, or room for so many.
  std::uint64_t kernel(ByteView bytes);
  std::uint64_t room(std::size_t bytes) { return kernel(Bytes(bytes)); }
  static Bytes kernel_bytes(std::uint64_t address, std::size_t bytes);
  std::uint64_t page(std::uint64_t gfn) { return memory.physical(ram.page(gfn).data()) | kCBit; }

  // A command buffer that succeeds in the state that the command is made for.
  Bytes good_buffer(MailboxCommand id, std::uint32_t handle);
  MailboxStart start_with_session(const Peer& peer, std::uint32_t policy,
                                  const SessionSeed& seed = {});
  MailboxSendStart send_start_to(ByteView pdh, std::uint32_t handle);
  MailboxUpdate packet(std::uint32_t handle, PacketContext context, std::uint64_t gfn,
                       ByteView plain, std::uint32_t flags = 0, ByteView extra = {});

  struct Certificates {
    Bytes pdh;
    Bytes chain;  // PEK, OCA, CEK
  };
  Certificates certificates();
  // With the CEK signed as AMD's key server does.
  Certificates certificates(const AmdRoot& root);

  Peer peer = Peer::random();
  ScriptedRandom random;
  TestRam ram{8};
  MemoryController memory;
  Firmware firmware;

 private:
  struct Snapshot;
  Snapshot snapshot();
  void expect_invariants() const;
  std::uint32_t launched(const BenchGuest& wanted);

  std::uint32_t next_es_asid_ = 1;
  std::uint32_t next_sev_asid_ = 0;
  Bytes kernel_;
  std::size_t kernel_used_ = 0;
};

// One for all tests: RSA keys take their time.
const AmdRoot& test_amd_root();
inline MailboxBlob blob_at(std::uint64_t address, std::uint32_t bytes) {
  return {.address = address, .len = bytes};
}

}  // namespace sealift::sev
