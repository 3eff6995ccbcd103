#include "vmm_glue/vmm/kvm_msrs.h"

#include <fmt/core.h>
#include <linux/kvm.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <span>
#include <unordered_set>

#include "vmm_glue/abi/kvm_requests.h"
#include "vmm_glue/vmm/kvm_tsc.h"

namespace sealift {
namespace {

constexpr std::size_t kBatchMsrs = 128;  // KVM takes 255 in a call
constexpr std::size_t kMsrsMax = 4096;
constexpr std::uint32_t kVariableMtrrsMax = 16;
constexpr std::uint32_t kBanksMax = 32;  // 0x480 begins the VMX capabilities

using Entries = std::vector<kvm_msr_entry>;

struct Range {
  std::uint32_t first;
  std::uint32_t last;
  bool contains(std::uint32_t index) const { return first <= index && index <= last; }
};

constexpr std::array kHostRanges = {
    Range{0x17, 0x17},              // platform ID
    Range{0x8b, 0x8b},              // microcode revision
    Range{0xcd, 0xce},              // bus frequency, platform info
    Range{0xfe, 0xfe},              // MTRR capabilities
    Range{0x10a, 0x10a},            // architectural capabilities
    Range{0x179, 0x179},            // machine check capabilities
    Range{0x345, 0x345},            // perf capabilities
    Range{0x480, 0x493},            // VMX capabilities
    Range{0xc0011029, 0xc0011029},  // AMD DE_CFG
    Range{0x40000022, 0x40000023},  // Hyper-V frequencies
    Range{0x4b564d11, 0x4b564d13},  // signature, features and TSC frequency of the PVM back-end
};
constexpr std::array kCounterRanges = {
    Range{kMsrTsc, kMsrTsc},
    Range{kMsrTscDeadline, kMsrTscDeadline},  // 0 once it has fired
    Range{0xc1, 0xc8},                        // performance counters, Intel
    Range{0x309, 0x30c},                      // fixed counters
    Range{0x4c1, 0x4c8},                      // full-width counters
    Range{0xc0010004, 0xc0010007},            // performance counters, AMD
    Range{0xc0010201, 0xc001020b},            // with their controls between them
    Range{0x40000010, 0x40000010},            // Hyper-V VP run time
    Range{0x40000020, 0x40000020},            // Hyper-V reference counter
};

template <std::size_t kCount>
bool is_in(const std::array<Range, kCount>& ranges, std::uint32_t index) {
  return std::any_of(ranges.begin(), ranges.end(),
                     [&](const Range& range) { return range.contains(index); });
}

// KVM_GET_MSRS or KVM_SET_MSRS of all entries. The result says for each whether KVM did it.
Result<std::vector<bool>> transfer(const MsrVcpu& vcpu, unsigned long request, Entries& entries) {
  const char* name = request == kKvmGetMsrs ? "KVM_GET_MSRS" : "KVM_SET_MSRS";
  std::vector<bool> is_done(entries.size(), false);
  Bytes buffer(kKvmMsrsHeadBytes + kBatchMsrs * sizeof(kvm_msr_entry));
  std::size_t at = 0;
  while (at < entries.size()) {
    const std::size_t batch = std::min(kBatchMsrs, entries.size() - at);
    const std::uint32_t count[2] = {static_cast<std::uint32_t>(batch), 0};
    std::memcpy(buffer.data(), count, sizeof count);
    std::byte* const body = buffer.data() + kKvmMsrsHeadBytes;
    std::memcpy(body, &entries[at], batch * sizeof(kvm_msr_entry));
    const int done = vcpu.kernel.ioctl(vcpu.fd, request, buffer.data());
    if (done < 0 || static_cast<std::size_t>(done) > batch) {
      return fail(ErrorClass::kLocalFault, "{} of {} MSRs from {:#x} of vCPU {} gives {}", name,
                  batch, entries[at].index, vcpu.index,
                  done < 0 ? errno_text(-done) : std::to_string(done));
    }
    const auto did = static_cast<std::size_t>(done);
    std::memcpy(&entries[at], body, did * sizeof(kvm_msr_entry));
    std::fill_n(is_done.begin() + static_cast<std::ptrdiff_t>(at), did, true);
    at += did < batch ? did + 1 : did;  // it stopped at one that it refuses
  }
  return is_done;
}

Result<std::uint64_t> read_or_zero(const MsrVcpu& vcpu, std::uint32_t index) {
  Entries one(1);
  one[0].index = index;
  SEALIFT_TRY(const auto is_done, transfer(vcpu, kKvmGetMsrs, one));
  return is_done[0] ? std::uint64_t{one[0].data} : 0;
}

Entries parse(const Bytes& bytes) {
  Entries entries(bytes.size() / sizeof(kvm_msr_entry));
  if (!entries.empty()) std::memcpy(entries.data(), bytes.data(), bytes.size());
  return entries;
}

std::string item_name(const MsrVcpu& vcpu, std::uint32_t index) {
  return fmt::format("vCPU {} MSR {:#x}", vcpu.index, index);
}

// What became of one saved MSR.
struct Outcome {
  kvm_msr_entry saved;
  bool was_set = false;
  bool is_readable = false;
  std::uint64_t now = 0;

  std::string describe() const {
    return fmt::format(
        "{:#x} was saved, KVM {} it here, and the MSR {}", std::uint64_t{saved.data},
        was_set ? "takes" : "refuses",
        is_readable ? fmt::format("reads {:#x}", now) : std::string("cannot be read"));
  }
};

// Where writing the TSC left it behind (kvm_tsc.h).
Result<void> reach_tsc(const MsrVcpu& vcpu, std::uint64_t saved) {
  SEALIFT_TRY(const std::uint64_t now, read_or_zero(vcpu, kMsrTsc));
  if (now >= saved) return {};
  SEALIFT_TRY(const auto offset, tsc_offset(vcpu.kernel, vcpu.fd));
  if (!offset) return {};
  return set_tsc_offset(vcpu.kernel, vcpu.fd, *offset + (saved - now));
}

Result<void> judge_tsc(const MsrVcpu& vcpu, const Outcome& outcome, StateNotes& notes) {
  if (!outcome.is_readable || outcome.now < outcome.saved.data) {
    return fail(ErrorClass::kRefused, "{}: the guest's time would go backwards: {}",
                item_name(vcpu, kMsrTsc), outcome.describe());
  }
  // KVM takes less than a second to load an MSR; a back-end whose guests see the host's own TSC is
  // off by whatever the two hosts differ.
  constexpr std::uint64_t kMuchTicks = 10'000'000'000;
  if (!outcome.was_set || outcome.now - outcome.saved.data > kMuchTicks) {
    notes.push_back({item_name(vcpu, kMsrTsc), "the TSC jumps forward: " + outcome.describe()});
  }
  return {};
}

Result<void> judge(const MsrVcpu& vcpu, const Outcome& outcome, StateNotes& notes) {
  const std::uint32_t index = outcome.saved.index;
  if (index == kMsrTsc) return judge_tsc(vcpu, outcome, notes);
  if (outcome.is_readable && outcome.now == outcome.saved.data) return {};
  const MsrRole role = role_of_msr(index);
  if (role == MsrRole::kCounter && outcome.was_set) return {};
  const char* why = nullptr;
  if (role == MsrRole::kHost) why = "the host's own, and it differs";
  // The other kernel knows an MSR that this one does not, and the guest has not used it.
  if (!outcome.was_set && !outcome.is_readable && outcome.saved.data == 0) why = "unknown here";
  if (why != nullptr) {
    notes.push_back({item_name(vcpu, index), fmt::format("{}: {}", why, outcome.describe())});
    return {};
  }
  return fail(ErrorClass::kRefused, "{} would be lost: {}", item_name(vcpu, index),
              outcome.describe());
}

}  // namespace

MsrRole role_of_msr(std::uint32_t index) {
  if (is_in(kHostRanges, index)) return MsrRole::kHost;
  return is_in(kCounterRanges, index) ? MsrRole::kCounter : MsrRole::kGuest;
}

std::vector<std::uint32_t> extra_msrs(std::uint64_t mtrr_cap, std::uint64_t mcg_cap) {
  std::vector<std::uint32_t> indices = {0x3b,        // TSC_ADJUST
                                        0x277,       // PAT
                                        0xda0,       // XSS
                                        0x1d9,       // DEBUGCTL
                                        0xc0000103,  // TSC_AUX
                                        0xc0000104,  // AMD TSC ratio
                                        0x48,
                                        0xc001011f,  // SPEC_CTRL, and AMD's virtual one
                                        kMsrTscDeadline,
                                        kMsrPvmControl};
  const auto variable_mtrrs = std::min<std::uint64_t>(mtrr_cap & 0xff, kVariableMtrrsMax);
  if (mtrr_cap != 0) {
    for (std::uint32_t i = 0; i < 2 * variable_mtrrs; ++i) indices.push_back(0x200 + i);
    for (const std::uint32_t fixed : {0x250u, 0x258u, 0x259u, 0x2ffu}) indices.push_back(fixed);
    for (std::uint32_t i = 0; i < 8; ++i) indices.push_back(0x268 + i);
  }
  const auto banks = std::min<std::uint64_t>(mcg_cap & 0xff, kBanksMax);
  const bool has_ctl2 = (mcg_cap >> 10 & 1) != 0;  // CMCI_P
  for (std::uint32_t i = 0; i < 4 * banks; ++i) indices.push_back(0x400 + i);
  for (std::uint32_t i = 0; has_ctl2 && i < banks; ++i) indices.push_back(0x280 + i);
  return indices;
}

Result<Bytes> save_msrs(const MsrVcpu& vcpu, const std::vector<std::uint32_t>& listed,
                        StateNotes& notes) {
  SEALIFT_TRY(const std::uint64_t mtrr_cap, read_or_zero(vcpu, kMsrMtrrCap));
  SEALIFT_TRY(const std::uint64_t mcg_cap, read_or_zero(vcpu, kMsrMcgCap));
  Entries entries;
  std::unordered_set<std::uint32_t> seen;
  const auto add = [&](std::uint32_t index) {
    if (!seen.insert(index).second) return;
    entries.emplace_back();
    entries.back().index = index;
  };
  for (const std::uint32_t index : listed) add(index);
  const std::size_t listed_count = entries.size();
  for (const std::uint32_t index : extra_msrs(mtrr_cap, mcg_cap)) add(index);
  SEALIFT_TRY(const auto is_read, transfer(vcpu, kKvmGetMsrs, entries));
  Entries saved;
  for (std::size_t i = 0; i < entries.size(); ++i) {
    const std::uint32_t index = entries[i].index;
    if (!is_read[i]) {
      if (i < listed_count) {
        notes.push_back({item_name(vcpu, index), "KVM lists it, but this vCPU has none"});
      }
      continue;
    }
    if (index == kMsrPvmControl && (entries[i].data & 1) == 0) continue;  // not switched on
    saved.push_back(entries[i]);
  }
  Bytes bytes(saved.size() * sizeof(kvm_msr_entry));
  if (!saved.empty()) std::memcpy(bytes.data(), saved.data(), bytes.size());
  return bytes;
}

Result<void> check_msrs(std::uint32_t vcpu_index, const Bytes& bytes) {
  const std::size_t count = bytes.size() / sizeof(kvm_msr_entry);
  if (bytes.size() % sizeof(kvm_msr_entry) != 0 || count == 0 || count > kMsrsMax) {
    return fail(ErrorClass::kMalformed,
                "the MSRs of vCPU {} are {} bytes, not 1 to {} entries of {} bytes", vcpu_index,
                bytes.size(), kMsrsMax, sizeof(kvm_msr_entry));
  }
  std::unordered_set<std::uint32_t> seen;
  for (const kvm_msr_entry& entry : parse(bytes)) {
    if (entry.reserved != 0) {
      return fail(ErrorClass::kMalformed, "MSR {:#x} of vCPU {} has reserved bits {:#x}",
                  entry.index, vcpu_index, entry.reserved);
    }
    if (!seen.insert(entry.index).second) {
      return fail(ErrorClass::kMalformed, "MSR {:#x} of vCPU {} comes twice", entry.index,
                  vcpu_index);
    }
  }
  return {};
}

Result<void> load_msrs(const MsrVcpu& vcpu, const Bytes& bytes, StateNotes& notes) {
  // The TSC first, and then the rest: the deadline is a TSC value.
  Entries tsc, entries;
  for (const kvm_msr_entry& entry : parse(bytes)) {
    (entry.index == kMsrTsc ? tsc : entries).push_back(entry);
  }
  std::stable_partition(entries.begin(), entries.end(),
                        [](const kvm_msr_entry& entry) { return entry.index != kMsrTscDeadline; });
  for (Entries* part : {&tsc, &entries}) {
    Entries written = *part;
    SEALIFT_TRY(const auto was_set, transfer(vcpu, kKvmSetMsrs, written));
    if (part == &tsc && !tsc.empty()) SEALIFT_CHECK(reach_tsc(vcpu, tsc[0].data));
    // Some are accepted and dropped (the module parameter ignore_msrs, a TSC that cannot be set).
    Entries now = *part;
    SEALIFT_TRY(const auto is_readable, transfer(vcpu, kKvmGetMsrs, now));
    for (std::size_t i = 0; i < part->size(); ++i) {
      SEALIFT_CHECK(judge(vcpu, {(*part)[i], was_set[i], is_readable[i], now[i].data}, notes));
    }
  }
  return {};
}

Result<bool> takes_msr(const MsrVcpu& vcpu, std::uint32_t index, std::uint64_t value) {
  Entries one(1);
  one[0].index = index;
  one[0].data = value;
  SEALIFT_TRY(const auto was_set, transfer(vcpu, kKvmSetMsrs, one));
  SEALIFT_TRY(const std::uint64_t now, read_or_zero(vcpu, index));
  return was_set[0] && now == value;
}

std::uint64_t msr_in(const Bytes& bytes, std::uint32_t index) {
  for (const kvm_msr_entry& entry : parse(bytes)) {
    if (entry.index == index) return entry.data;
  }
  return 0;
}

}  // namespace sealift
