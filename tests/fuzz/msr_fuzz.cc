// KVM_EXIT_X86_RDMSR and WRMSR: any accesses in a row, and any saved state.
//
// Input: flags u8, saved u64, then accesses of {flags u8, index u32, data u64}. First flags: 1 the
// guest has encrypted memory; 2 `saved` is restored. Then: 1 write; 2 takes the index as it is,
// else it is MSR_KVM_MIGRATION_CONTROL.
#include "tests/fuzz/fuzz_input.h"
#include "vmm_glue/exits/msr.h"

namespace sealift::fuzz {
namespace {

constexpr int kAccessesMax = 64;

void access_once(FuzzInput& input, MigrationReadiness& readiness, std::uint64_t& expected) {
  const auto flags = input.take<std::uint8_t>();
  KvmRun run{};
  run.exit_reason = (flags & 1) != 0 ? kKvmExitWrmsr : kKvmExitRdmsr;
  run.exit.msr.error = 0x5a;
  run.exit.msr.index =
      (flags & 2) != 0 ? input.take<std::uint32_t>() : std::uint32_t{kMsrKvmMigrationControl};
  const auto data = input.take<std::uint64_t>();
  run.exit.msr.data = data;
  const bool ours = run.exit.msr.index == 0x4b564d08;
  const auto saved = readiness.save();

  const auto out = handle_msr(run, readiness);

  const bool accepted = ours && ((flags & 1) == 0 || data <= 1);
  FUZZ_CHECK(run.exit.msr.error == (accepted ? 0 : 1));
  FUZZ_CHECK((out.refusal == MsrRefusal::kNone) == accepted);
  if (!accepted || (flags & 1) == 0) FUZZ_CHECK(readiness.save() == saved);
  if (accepted && (flags & 1) != 0) expected = data;
  if (accepted && (flags & 1) == 0) FUZZ_CHECK(run.exit.msr.data == expected);
  if (!accepted || (flags & 1) != 0) FUZZ_CHECK(run.exit.msr.data == data);
  FUZZ_CHECK(readiness.read() == expected && readiness.allows() == (expected == 1));
  FUZZ_CHECK(describe(out).size() < 256 && readiness.reason().size() < 256);
}

void fuzz_msr(ByteView bytes) {
  FuzzInput input(reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size());
  const auto flags = input.take<std::uint8_t>();
  const auto saved = input.take<std::uint64_t>();
  const bool encrypted = (flags & 1) != 0;
  MigrationReadiness readiness(encrypted);
  std::uint64_t expected = encrypted ? 0 : 1;
  if ((flags & 2) != 0) {
    const bool restored = readiness.restore(saved).has_value();
    FUZZ_CHECK(restored == (saved >= 1 && saved <= 3));
    if (restored) FUZZ_CHECK(readiness.save() == saved);
    if (restored && saved != 1) expected = saved == 2 ? 1 : 0;
  }
  for (int i = 0; i < kAccessesMax && !input.empty(); ++i) access_once(input, readiness, expected);
}

}  // namespace
}  // namespace sealift::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t bytes) {
  sealift::fuzz::fuzz_msr(std::as_bytes(std::span(data, bytes)));
  return 0;
}
