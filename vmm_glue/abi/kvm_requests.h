// Requests of KVM whose numbers the kernel's header gets wrong in C++.
//
// An ioctl number contains the size of its argument. Structures that end in __DECLARE_FLEX_ARRAY
// (since Linux 6.0) are larger in C++ than in C, because the helper's empty structure has a size
// there: the kernel answers EINVAL or ENOTTY. So these numbers are spelled out, as a C compiler
// makes them; trailing arrays start at k…HeadBytes. Plain values: no ownership, no threads, no
// failure.
#pragma once

#include <cstddef>
#include <cstdint>

namespace sealift {

inline constexpr unsigned long kKvmGetMsrIndexList = 0xc004ae02;
inline constexpr unsigned long kKvmGetSupportedCpuid = 0xc008ae05;
inline constexpr unsigned long kKvmGetMsrs = 0xc008ae88;
inline constexpr unsigned long kKvmSetMsrs = 0x4008ae89;
inline constexpr unsigned long kKvmSetSignalMask = 0x4004ae8b;
inline constexpr unsigned long kKvmSetCpuid2 = 0x4008ae90;
inline constexpr unsigned long kKvmSetXsave = 0x5000aea5;
inline constexpr unsigned long kKvmGetXsave2 = 0x9000aecf;

inline constexpr std::size_t kKvmCpuidHeadBytes = 8;       // struct kvm_cpuid2
inline constexpr std::size_t kKvmSignalMaskHeadBytes = 4;  // struct kvm_signal_mask
inline constexpr std::size_t kKvmMsrsHeadBytes = 8;        // struct kvm_msrs
inline constexpr int kKvmXsaveBytesMin = 4096;  // struct kvm_xsave without its extra part

}  // namespace sealift
