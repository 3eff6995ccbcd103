// Numbers of KVM_EXIT_TDX and of the GetQuote buffer.
//
// Spec:    Linux 7.3 api.rst (KVM_EXIT_TDX) and arch/x86/kvm/vmx/tdx.c; the buffer as Linux guests
//          and QEMU 10.2 agree on it (Intel GHCI 1.5, TDG.VP.VMCALL<GetQuote>).
// Plain values: no ownership, no threads, no failure.
#pragma once

#include <cstddef>
#include <cstdint>

namespace sealift {

// KvmRun::Tdx::nr: the leaf in the guest's R11. MapGPA (0x10001) and ReportFatalError (0x10003)
// arrive as hypercall and system-event exits, Instruction.IO and #VE MMIO as KVM_EXIT_IO and MMIO.
inline constexpr std::uint64_t kTdxGetTdVmCallInfo = 0x10000;
inline constexpr std::uint64_t kTdxGetQuote = 0x10002;
inline constexpr std::uint64_t kTdxSetupEventNotifyInterrupt = 0x10004;

// KvmRun::Tdx::…ret: the guest's R10.
inline constexpr std::uint64_t kTdxSuccess = 0;
inline constexpr std::uint64_t kTdxRetry = 1;
inline constexpr std::uint64_t kTdxInvalidOperand = 1ULL << 63;
inline constexpr std::uint64_t kTdxGpaInUse = (1ULL << 63) + 1;
inline constexpr std::uint64_t kTdxAlignError = (1ULL << 63) + 2;
inline constexpr std::uint64_t kTdxSubfuncUnsupported = (1ULL << 63) + 3;

// GetTdVmCallInfo, leaf 1, R11.
inline constexpr std::uint64_t kTdxCallEventNotify = 1ULL << 1;

inline constexpr std::uint64_t kTdxVectorMin = 32;
inline constexpr std::uint64_t kTdxVectorMax = 255;

struct TdxQuoteHeader {
  std::uint64_t version = 0;  // 1
  std::uint64_t status = 0;
  std::uint32_t in_bytes = 0;   // of the report, which follows this header
  std::uint32_t out_bytes = 0;  // of the quote, which takes the report's place
};
static_assert(sizeof(TdxQuoteHeader) == 24 && offsetof(TdxQuoteHeader, status) == 8 &&
              offsetof(TdxQuoteHeader, in_bytes) == 16 &&
              offsetof(TdxQuoteHeader, out_bytes) == 20);

inline constexpr std::uint64_t kTdxQuoteVersion = 1;
inline constexpr std::uint64_t kTdxQuoteDone = 0;
inline constexpr std::uint64_t kTdxQuoteInFlight = ~std::uint64_t{0};
inline constexpr std::uint64_t kTdxQuoteError = 1ULL << 63;
inline constexpr std::uint64_t kTdxQuoteUnavailable = (1ULL << 63) + 1;

}  // namespace sealift
