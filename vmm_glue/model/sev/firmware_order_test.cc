// Precedence of checks: a call that violates two of them gets the status of the earlier one.
//
// For each command the violations that it can have are listed in the order of firmware.h. Each is
// tried alone, and each pair of them together.
#include <gtest/gtest.h>

#include <functional>

#include "vmm_glue/model/sev/firmware_test_support.h"

namespace sealift::sev {
namespace {

using enum MailboxCommand;

// What is set up before the call, and what is spoiled in it.
struct Case {
  BenchGuest guest = {};
  bool es = true;
  bool fused = true;
  bool full = false;      // no room for another guest
  bool stranger = false;  // SEND_START: the receiver has another owner
  bool owned = false;     // PEK_CERT_IMPORT: has been done
  bool shares = false;    // a START shares the key of another guest
  bool down = false;      // the platform is in a state that knows no such command
  std::vector<std::function<void(Bytes&)>> spoils = {};
};
struct Violation {
  const char* name;
  Status status;
  std::function<void(Case&)> apply;
};

void set_word(Bytes& buffer, std::size_t at, std::uint32_t value) {
  std::memcpy(buffer.data() + at, &value, sizeof(value));
}
// Adds to the byte `offset` behind the address at `at` of the buffer.
void touch(const Bytes& buffer, std::size_t at, std::size_t offset) {
  std::uint64_t address = 0;
  std::memcpy(&address, buffer.data() + at, sizeof(address));
  auto* byte = reinterpret_cast<std::byte*>(address) + offset;
  *byte ^= std::byte{1};
}

Violation word_is(const char* name, Status status, std::size_t at, std::uint32_t value) {
  return {name, status, [=](Case& c) {
            c.spoils.push_back([=](Bytes& buffer) { set_word(buffer, at, value); });
          }};
}
Violation touched(const char* name, Status status, std::size_t at, std::size_t offset) {
  return {name, status,
          [=](Case& c) { c.spoils.push_back([=](Bytes& buffer) { touch(buffer, at, offset); }); }};
}
Violation reserved(std::size_t at) { return word_is("reserved", Status::kInvalidParam, at, 1); }
Violation bad_handle() { return word_is("handle", Status::kInvalidGuest, 0, 777); }
Violation null_at(std::size_t at) {
  return {"address", Status::kInvalidAddress, [=](Case& c) {
            c.spoils.push_back([=](Bytes& buffer) {
              set_word(buffer, at, 0);
              set_word(buffer, at + 4, 0);
            });
          }};
}
Violation in_state(GuestState state) {
  return {"state", Status::kInvalidGuestState, [=](Case& c) { c.guest.state = state; }};
}
Violation with_policy(const char* name, Status status, std::uint32_t policy) {
  return {name, status, [=](Case& c) { c.guest.policy |= policy; }};
}
Violation not_es() {
  return {"policy.ES", Status::kUnsupported, [](Case& c) { c.guest.policy &= ~kPolicyEs; }};
}
Violation unbound() {
  return {"ASID", Status::kInactive, [](Case& c) { c.guest.bound = false; }};
}

struct Row {
  MailboxCommand id;
  const char* name;
  Case good;
  std::vector<Violation> violations;  // in the order of checks
};

constexpr auto kSent = GuestState::kSent;
// Fields of the buffers, as mailbox.h lays them out.
constexpr std::size_t kHdrAddress = 8;
constexpr std::size_t kHdrLen = 16;
constexpr std::size_t kGuestLen = 32;
constexpr std::size_t kTransAddress = 40;

std::vector<Row> update_rows() {
  const auto in = [](GuestState state) {
    return Case{.guest = {.policy = kPolicyEs, .state = state}};
  };
  return {
      {kSendUpdateVmsa,
       "SEND_UPDATE_VMSA",
       in(GuestState::kSendUpdate),
       {reserved(36), bad_handle(), in_state(kSent), not_es(), unbound(),
        word_is("length", Status::kInvalidLength, kGuestLen, 4080), null_at(kTransAddress)}},
      {kReceiveUpdateVmsa,
       "RECEIVE_UPDATE_VMSA",
       in(GuestState::kReceiveUpdate),
       {reserved(4), bad_handle(), in_state(kSent), not_es(), unbound(),
        word_is("length", Status::kInvalidLength, kHdrLen, 53), null_at(kTransAddress),
        touched("MAC", Status::kBadMeasurement, kHdrAddress, 20)}},
      {kReceiveUpdateData,
       "RECEIVE_UPDATE_DATA",
       in(GuestState::kReceiveUpdate),
       {reserved(20), bad_handle(), in_state(kSent), unbound(),
        word_is("length", Status::kInvalidLength, kGuestLen, 8), null_at(kHdrAddress),
        touched("MAC", Status::kBadMeasurement, kHdrAddress, 20)}},
      {kLaunchUpdateVmsa,
       "LAUNCH_UPDATE_VMSA",
       in(GuestState::kLaunchUpdate),
       {reserved(4), bad_handle(), in_state(kSent), not_es(), unbound(),
        word_is("length", Status::kInvalidLength, 16, 16),
        word_is("address", Status::kInvalidAddress, 8, 0)}},
      {kLaunchSecret,
       "LAUNCH_SECRET",
       in(GuestState::kLaunchSecret),
       {reserved(20),
        bad_handle(),
        {"session", Status::kInvalidGuestState, [](Case& c) { c.guest.has_owner = false; }},
        unbound(),
        word_is("length", Status::kInvalidLength, kHdrLen, 51),
        null_at(kHdrAddress),
        touched("MAC", Status::kBadMeasurement, kTransAddress, 4095)}},
      {kDbgDecrypt,
       "DBG_DECRYPT",
       in(GuestState::kRunning),
       {reserved(4), bad_handle(), in_state(kSent),
        with_policy("NODBG", Status::kPolicyFailure, kPolicyNoDebug), unbound(),
        word_is("length", Status::kInvalidLength, 24, 0), null_at(16)}},
      {kDbgEncrypt,
       "DBG_ENCRYPT",
       in(GuestState::kSendUpdate),
       {reserved(4), bad_handle(), in_state(kSent),
        with_policy("NODBG", Status::kPolicyFailure, kPolicyNoDebug), unbound(),
        word_is("length", Status::kInvalidLength, 24, 17), null_at(8)}},
      {kAttestation,
       "ATTESTATION",
       in(GuestState::kRunning),
       {reserved(4), bad_handle(), in_state(kSent),
        word_is("length", Status::kInvalidLength, 32, 207), null_at(8)}},
      {kReceiveFinish,
       "RECEIVE_FINISH",
       in(GuestState::kReceiveUpdate),
       {bad_handle(), in_state(kSent), unbound()}},
  };
}

std::vector<Row> start_rows() {
  const Case to_our_own{
      .guest = {.policy = kPolicyDomain | kPolicySev, .state = GuestState::kRunning}};
  const Case shares{.guest = {.state = GuestState::kReceiveUpdate}, .shares = true};
  const Violation no_root{"fused ARK", Status::kUnsupported, [](Case& c) { c.fused = false; }};
  const Violation no_es{"platform ES", Status::kUnsupported, [](Case& c) {
                          c.es = false;
                          c.guest.policy |= kPolicyEs;
                        }};
  const Violation full{"room", Status::kResourceLimit, [](Case& c) { c.full = true; }};
  const Violation too_new = with_policy("API", Status::kPolicyFailure, 2u << 16);
  const auto new_guest = std::vector<Violation>{
      reserved(20),
      bad_handle(),
      no_es,
      with_policy("NOKS", Status::kPolicyFailure, kPolicyNoKeySharing),
      word_is("length", Status::kInvalidLength, 32, 127),
      null_at(24),
      touched("form", Status::kInvalidCertificate, 8, 0),
      touched("MAC", Status::kBadMeasurement, 24, 64),
      too_new,  // the policy is the sender's word until its MAC is good
      full,
  };
  return {
      {kSendStart,
       "SEND_START",
       to_our_own,
       {reserved(36),
        bad_handle(),
        in_state(GuestState::kLaunchSecret),
        no_root,
        with_policy("NOSEND", Status::kPolicyFailure, kPolicyNoSend),
        word_is("length", Status::kInvalidLength, 32, kChainBytes - 1),
        null_at(40),
        touched("form", Status::kInvalidCertificate, 24, 8),  // usage of the PEK
        touched("signature", Status::kBadSignature, 24, 4),   // its API version
        {"owner", Status::kPolicyFailure, [](Case& c) { c.stranger = true; }}}},
      {kReceiveStart, "RECEIVE_START", shares, new_guest},
      {kLaunchStart, "LAUNCH_START", shares, new_guest},
  };
}

std::vector<Row> platform_rows() {
  return {
      {kPekCertImport,
       "PEK_CERT_IMPORT",
       {},
       {reserved(12),
        {"owner", Status::kAlreadyOwned, [](Case& c) { c.owned = true; }},
        word_is("length", Status::kInvalidLength, 8, 2083),
        null_at(16),
        touched("form", Status::kInvalidCertificate, 0, 8),
        touched("signature", Status::kBadSignature, 0, 4)}},
      {kPdhCertExport,
       "PDH_CERT_EXPORT",
       {},
       {reserved(12), word_is("length", Status::kInvalidLength, 24, 0), null_at(16)}},
      {kGetId, "GET_ID", {}, {word_is("length", Status::kInvalidLength, 8, 63), null_at(0)}},
      {kPekCsr, "PEK_CSR", {}, {word_is("length", Status::kInvalidLength, 8, 2083), null_at(0)}},
      {kInit,
       "INIT",
       {},
       {reserved(4), word_is("flags", Status::kInvalidParam, 0, 2),
        word_is("ES", Status::kUnsupported, 0, 1)}},
  };
}

template <class T>
Bytes bytes_of(const T& value) {
  const auto bytes = std::as_bytes(std::span(&value, 1));
  return {bytes.begin(), bytes.end()};
}

// The command's own buffer, good but for what the case spoils in it.
Bytes start_buffer(FirmwareBench& bench, MailboxCommand id, const Case& c) {
  MailboxStart start = bench.start_with_session(bench.peer, c.guest.policy);
  if (c.shares) start.handle = bench.guest({.state = GuestState::kLaunchUpdate, .bound = false});
  if (id == kLaunchStart || id == kReceiveStart) return bytes_of(start);
  return {};
}

Bytes send_start_buffer(FirmwareBench& bench, const Case& c, std::uint32_t handle) {
  auto certificates = bench.certificates(test_amd_root());
  if (c.stranger) {
    FirmwareBench stranger;
    stranger.init();
    certificates = stranger.certificates(test_amd_root());
  }
  const Bytes amd = test_amd_root().ask_ark();
  MailboxSendStart start = bench.send_start_to(certificates.pdh, handle);
  start.plat_address = bench.kernel(certificates.chain);
  start.plat_len = kChainBytes;
  start.amd_address = bench.kernel(amd);
  start.amd_len = static_cast<std::uint32_t>(amd.size());
  return bytes_of(start);
}

Bytes platform_buffer(FirmwareBench& bench, MailboxCommand id) {
  if (id == kInit) return bytes_of(MailboxInit{});
  if (id == kGetId) return bytes_of(blob_at(bench.room(kChipIdBytes), kChipIdBytes));
  if (id == kPekCsr) return bytes_of(blob_at(bench.room(kCertificateBytes), kCertificateBytes));
  const Bytes chain = bench.certificates().chain;
  if (id == kPekCertImport) {
    return bytes_of(MailboxPekCertImport{
        .pek_address = bench.kernel(ByteView(chain).first(kCertificateBytes)),
        .pek_len = kCertificateBytes,
        .oca_address = bench.kernel(ByteView(chain).subspan(kCertificateBytes, kCertificateBytes)),
        .oca_len = kCertificateBytes});
  }
  return bytes_of(MailboxPdhCertExport{.pdh_address = bench.room(kCertificateBytes),
                                       .pdh_len = kCertificateBytes,
                                       .chain_address = bench.room(kChainBytes),
                                       .chain_len = kChainBytes});
}

Status outcome(const Row& row, const Case& c) {
  FirmwareConfig config{.es_capable = row.id != kInit, .guests_max = c.full ? 1u : 64u};
  if (c.owned) {
    SystemRandom random;
    config.owner_key = std::make_shared<const EcKey>(EcKey::generate(random));
  }
  if (c.fused) config.fused_ark_sha256 = test_amd_root().ark_sha256();
  FirmwareBench bench(config);
  Bytes buffer;
  if (row.id == kLaunchStart || row.id == kReceiveStart) {
    bench.init(c.es);
    buffer = start_buffer(bench, row.id, c);
  } else if (row.id < kDecommission) {
    if (row.id != kInit) bench.init();
    buffer = platform_buffer(bench, row.id);
  } else {
    bench.init(c.es);
    const std::uint32_t handle = bench.guest(c.guest);
    buffer = row.id == kSendStart ? send_start_buffer(bench, c, handle)
                                  : bench.good_buffer(row.id, handle);
  }
  if (c.down && row.id == kInit) bench.init();
  if (c.down && row.id != kInit) {
    EXPECT_EQ(bench.run(kShutdown), Status::kSuccess);
  }
  for (const auto& spoil : c.spoils) spoil(buffer);
  return bench.run_bytes(row.id, buffer);
}

std::vector<Row> all_rows() {
  std::vector<Row> out = update_rows();
  for (const auto& more : {start_rows(), platform_rows()}) {
    out.insert(out.end(), more.begin(), more.end());
  }
  const Violation down{"platform", Status::kInvalidPlatformState, [](Case& c) { c.down = true; }};
  for (Row& row : out) {
    if (row.id != kGetId) row.violations.insert(row.violations.begin(), down);
  }
  return out;
}

TEST(SevFirmwareOrder, EachViolationAlone) {
  for (const Row& row : all_rows()) {
    EXPECT_EQ(outcome(row, row.good), Status::kSuccess) << row.name;
    for (const Violation& violation : row.violations) {
      Case c = row.good;
      violation.apply(c);
      EXPECT_EQ(describe(outcome(row, c)), describe(violation.status))
          << row.name << ": " << violation.name;
    }
  }
}

TEST(SevFirmwareOrder, TheEarlierOfTwoViolations) {
  std::size_t pairs = 0;
  for (const Row& row : all_rows()) {
    for (std::size_t i = 0; i < row.violations.size(); ++i) {
      for (std::size_t j = i + 1; j < row.violations.size(); ++j) {
        Case c = row.good;
        row.violations[j].apply(c);
        row.violations[i].apply(c);
        ++pairs;
        EXPECT_EQ(describe(outcome(row, c)), describe(row.violations[i].status))
            << row.name << ": " << row.violations[i].name << " with " << row.violations[j].name;
      }
    }
  }
  EXPECT_GT(pairs, 200u);
}

}  // namespace
}  // namespace sealift::sev
