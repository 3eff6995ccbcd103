// One dispatcher for every exit: each reaches its decoder, and what is not a guest's request does
// not.
#include "vmm_glue/exits/guest_exits.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <cstring>

#include "vmm_glue/exits/vmgexit_test_support.h"

namespace sealift {
namespace {

using Kind = ServedExit::Kind;

struct Rig {
  test::FakeGuest guest{{GfnRange{Gfn{0}, 256}}};
  MigrationReadiness readiness{true};

  GuestExits exits(ExitAbi abi = {}) {
    GuestExitsConfig config;
    config.abi = abi;
    config.hypercall = {.form = HypercallForm::kMapGpaRange};
    config.memory_fault = {.repeats_max = 3};
    config.vcpus = 2;
    config.layout = &guest.layout;
    config.map = &guest.map;
    config.converter = &guest;
    config.readiness = &readiness;
    config.memory = &guest;
    return GuestExits(config);
  }
};

KvmRun exit_of(std::uint32_t reason) {
  KvmRun run{};
  run.exit_reason = reason;
  return run;
}

KvmRun fault_at(std::uint64_t gpa, bool as_private) {
  KvmRun run = exit_of(kKvmExitMemoryFault);
  run.exit.memory_fault = {as_private ? 8ULL : 0ULL, gpa, kPageBytes};
  return run;
}

TEST(GuestExits, AHypercallConverts) {
  Rig rig;
  GuestExits exits = rig.exits();
  KvmRun run = exit_of(kKvmExitHypercall);
  run.exit.hypercall.nr = kKvmHypercallPageState;
  run.exit.hypercall.args[0] = 0x3000;
  run.exit.hypercall.args[1] = 2;
  run.exit.hypercall.ret = 77;
  const ServedExit served = exits.serve(0, 0, run);
  EXPECT_EQ(served.kind, Kind::kServed);
  EXPECT_TRUE(served.converted) << served.why;
  EXPECT_EQ(run.exit.hypercall.ret, 0u);
  EXPECT_EQ(rig.guest.map.shared_pages(), 2u);
  EXPECT_EQ(exits.page_state_requests(), 1u);
}

TEST(GuestExits, TheMigrationMsrIsKept) {
  Rig rig;
  GuestExits exits = rig.exits();
  EXPECT_FALSE(rig.readiness.allows());
  KvmRun run = exit_of(kKvmExitWrmsr);
  run.exit.msr.index = kMsrKvmMigrationControl;
  run.exit.msr.data = 1;
  run.exit.msr.error = 9;
  EXPECT_EQ(exits.serve(1, 0, run).kind, Kind::kServed);
  EXPECT_EQ(run.exit.msr.error, 0);
  EXPECT_TRUE(rig.readiness.allows());
}

TEST(GuestExits, AGuestThatEndsSaysWhy) {
  Rig rig;
  GuestExits exits = rig.exits();
  KvmRun run = exit_of(kKvmExitSystemEvent);
  run.exit.system_event.type = 6;  // SEV_TERM
  run.exit.system_event.ndata = 1;
  run.exit.system_event.data[0] = 0x100 | 1ULL << 12 | 2ULL << 16;  // Linux: PVALIDATE
  const ServedExit served = exits.serve(0, 0, run);
  EXPECT_EQ(served.kind, Kind::kGuestEnded);
  EXPECT_NE(served.why.find("PVALIDATE"), std::string::npos) << served.why;
  KvmRun fault = exit_of(kKvmExitShutdown);
  EXPECT_EQ(exits.serve(0, 0, fault).kind, Kind::kGuestEnded);
}

TEST(GuestExits, AFaultConvertsAndAStormEnds) {
  Rig rig;
  GuestExits exits = rig.exits();
  KvmRun run = fault_at(0x5000, false);
  EXPECT_TRUE(exits.serve(0, EFAULT, run).converted);
  EXPECT_EQ(rig.guest.map.class_of(Gfn{5}), PageClass::kShared);
  // Each vCPU has a count of its own.
  ServedExit served;
  for (int i = 0; i < 10 && served.kind != Kind::kFatal; ++i) {
    rig.guest.map.convert(GfnRange{Gfn{6}, 1}, PageClass::kPrivate);
    KvmRun again = fault_at(0x6000, false);
    served = exits.serve(0, EFAULT, again);
  }
  EXPECT_EQ(served.kind, Kind::kFatal);
  EXPECT_NE(served.why.find("0x6"), std::string::npos) << served.why;
  KvmRun other = fault_at(0x7000, false);
  EXPECT_EQ(exits.serve(1, EFAULT, other).kind, Kind::kServed);
}

// 38 and 50 are what the VMM says they are, not what they look like.
TEST(GuestExits, PostedNumbersAreKnownOnlyWhereTheyAreConfigured) {
  Rig rig;
  KvmRun run = exit_of(kPostedExitVmgexit);
  run.exit.posted_vmgexit.ghcb_msr = 0x014 | 3ULL << 12 | 2ULL << 52;  // PSC: gfn 3 to shared
  GuestExits landed = rig.exits();
  EXPECT_EQ(landed.serve(0, 0, run).kind, Kind::kNotOurs);
  EXPECT_EQ(rig.guest.map.shared_pages(), 0u);
  ExitAbi abi;
  abi.has_posted_vmgexit = true;
  abi.memory_fault_exit = kPostedExitMemoryFault;
  GuestExits posted = rig.exits(abi);
  EXPECT_TRUE(posted.serve(0, 0, run).converted);
  EXPECT_EQ(rig.guest.map.shared_pages(), 1u);
  KvmRun fault = fault_at(0x4000, false);
  fault.exit_reason = kPostedExitMemoryFault;
  EXPECT_TRUE(posted.serve(0, EFAULT, fault).converted);
}

TEST(GuestExits, LeavesTheMachinesOwnExitsAlone) {
  Rig rig;
  GuestExits exits = rig.exits();
  for (const std::uint32_t reason :
       {kKvmExitUnknown, kKvmExitIo, kKvmExitHlt, kKvmExitMmio, kKvmExitInternalError,
        kKvmExitDirtyRingFull, kKvmExitApResetHold}) {
    KvmRun run = exit_of(reason);
    EXPECT_EQ(exits.serve(0, 0, run).kind, Kind::kNotOurs) << reason;
  }
  KvmRun stale = exit_of(kKvmExitHypercall);
  stale.exit.hypercall.nr = kKvmHypercallPageState;
  stale.exit.hypercall.args[1] = 1;
  EXPECT_EQ(exits.serve(0, EINTR, stale).kind, Kind::kNotOurs);
  EXPECT_EQ(exits.serve(0, EIO, stale).kind, Kind::kNotOurs);
  EXPECT_EQ(rig.guest.map.shared_pages(), 0u);
}

// KVM's preset answers stand, and an SNP guest gets the empty table.
TEST(GuestExits, AnswersSafelyWhatIsNotConfigured) {
  Rig rig;
  GuestExits exits = rig.exits();
  KvmRun tdx = exit_of(kKvmExitTdx);
  tdx.exit.tdx.nr = 0x10002;
  tdx.exit.tdx.get_quote.ret = 0x8000000000000003;
  EXPECT_EQ(exits.serve(0, 0, tdx).kind, Kind::kServed);
  EXPECT_EQ(tdx.exit.tdx.get_quote.ret, 0x8000000000000003u);
  KvmRun certs = exit_of(kKvmExitSnpReqCerts);
  certs.exit.snp_req_certs = {0x2000, 1, 77};
  rig.guest.map.convert(GfnRange{Gfn{2}, 1}, PageClass::kShared);
  EXPECT_EQ(exits.serve(0, 0, certs).kind, Kind::kServed);
  EXPECT_EQ(certs.exit.snp_req_certs.ret, 0u);
}

}  // namespace
}  // namespace sealift
