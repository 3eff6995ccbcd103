// A software host and guests in the state that a row of an errno table asks for. Test code: one
// thread, failures are gtest's.
#pragma once

#include <cerrno>
#include <string>
#include <vector>

#include "vmm_glue/sev/test_support.h"

namespace sealift::sev {

inline constexpr std::uint32_t kUntouched = kNoFirmwareCall;
constexpr auto code(Status status) { return static_cast<std::uint32_t>(status); }
inline std::uint64_t at(Bytes& bytes) { return reinterpret_cast<std::uint64_t>(bytes.data()); }
inline std::uint64_t at(MutableBytes bytes) {
  return reinterpret_cast<std::uint64_t>(bytes.data());
}

// Two guests on one host, which may send to each other.
struct Rig {
  explicit Rig(SoftSevConfig config = {})
      : host(std::move(config)), guest(host, 2), other(host, 2) {}

  CommandResult run(TestGuest& where, KvmCommand command, void* data = nullptr) {
    return issue(where.vm, command, data);
  }
  template <class T>
  CommandResult run_with(TestGuest& where, KvmCommand command, T params) {
    return issue(where.vm, command, &params);
  }
  int request(TestGuest& where, unsigned long number, KvmEncRegion region) {
    return host.ioctl(where.vm.vm_fd, number, &region);
  }
  KvmEncRegion all_of(TestGuest& where) {
    return {.addr = at(where.ram.all()), .size = where.ram.all().size()};
  }
  int enable_cap(TestGuest& where, std::uint32_t cap, int source_fd) {
    KvmEnableCap request;
    request.cap = cap;
    request.args[0] = static_cast<std::uint64_t>(source_fd);
    return host.ioctl(where.vm.vm_fd, kKvmEnableCap, &request);
  }

  KvmSevSendStart send_start() {
    certificates = must(export_certificates(guest.vm));
    KvmSevSendStart out;
    out.pdh_cert_uaddr = at(certificates.pdh);
    out.pdh_cert_len = kCertificateBytes;
    out.plat_certs_uaddr = at(certificates.chain);
    out.plat_certs_len = kChainBytes;
    out.amd_certs_uaddr = at(amd);
    out.amd_certs_len = 1;
    out.session_uaddr = at(session);
    out.session_len = kSessionBytes;
    return out;
  }
  KvmSevStart receive_start() {
    KvmSevStart out;
    out.pdh_uaddr = at(certificates.pdh);
    out.pdh_len = kCertificateBytes;
    out.session_uaddr = at(session);
    out.session_len = kSessionBytes;
    return out;
  }
  KvmSevUpdateData update(TestGuest& where) {
    KvmSevUpdateData out;
    out.hdr_uaddr = at(header);
    out.hdr_len = kPacketHeaderBytes;
    out.guest_uaddr = at(where.ram.page(0));
    out.guest_len = kPageBytes;
    out.trans_uaddr = at(transport);
    out.trans_len = kPageBytes;
    return out;
  }
  // `guest` in SEND_UPDATE.
  void send() {
    if (guest.state() == GuestState::kUninit) guest.launch_with_pattern(0);
    ASSERT_EQ(run_with(guest, KvmCommand::kSendStart, send_start()).result, 0);
  }
  // `other` in RECEIVE_UPDATE, and a packet for it in `header` and `transport`.
  void receive() {
    send();
    ASSERT_EQ(run_with(guest, KvmCommand::kSendUpdateData, update(guest)).result, 0);
    other.prepare();
    ASSERT_EQ(run_with(other, KvmCommand::kReceiveStart, receive_start()).result, 0);
  }
  // The nth command of that id from now on has this fault.
  void fail_next(MailboxCommand id, Fault fault) {
    const std::uint64_t which = host.commands_issued(id);
    host.set_fault([=](MailboxCommand got, std::uint64_t nth) -> std::optional<Fault> {
      if (got == id && nth == which) return fault;
      return std::nullopt;
    });
  }

  SoftSevHost host;
  TestGuest guest;
  TestGuest other;
  PlatformCertificates certificates;
  Bytes amd = Bytes(1);
  Bytes session = Bytes(kSessionBytes);
  Bytes header = Bytes(kPacketHeaderBytes);
  Bytes transport = Bytes(kPageBytes);
};

// A line of the kernel's rules, and what the model answers to it.
struct Row {
  const char* rule;
  std::function<CommandResult(Rig& rig)> act;
  int result = 0;
  std::uint32_t error = kUntouched;
  SoftSevConfig config = {};
};

inline void check_rows(const std::vector<Row>& rows) {
  for (const Row& row : rows) {
    SCOPED_TRACE(row.rule);
    Rig rig(row.config);
    const CommandResult got = row.act(rig);
    EXPECT_EQ(got.result, row.result) << errno_text(-got.result);
    EXPECT_EQ(got.firmware, row.error);
  }
}

}  // namespace sealift::sev
