// VmConfig: what a test guest shall be. Plain values; make_vm() refuses with kUsage what cannot be.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "engine/result.h"
#include "engine/types.h"
#include "vmm_glue/exits/hypercall.h"
#include "vmm_glue/guest/mailbox.h"

namespace sealift {

enum class Backend : std::uint8_t { kModel = 1, kKvm = 2 };
const char* name_of(Backend backend);
Result<Backend> parse_backend(std::string_view name);

using guest::Workload;
const char* name_of(Workload workload);
Result<Workload> parse_workload(std::string_view name);

struct VmConfig {
  Backend backend = Backend::kModel;
  Platform platform =
      Platform::kNone;  // kNone: all memory is shared and no hypercall is advertised
  std::uint64_t memory_bytes = 64ULL << 20;
  std::uint32_t vcpus = 1;
  Workload workload = Workload::kSweep;
  std::uint64_t seed = 1;
  std::uint32_t shared_percent = 5;                  // of the arena, converted at boot
  std::optional<std::uint32_t> flips_per_1000 = {};  // unset: default_flips_per_1000()
  std::uint32_t spin_per_step =
      0;                   // register-only work between two steps, to hold the rate of writes down
  std::string image_path;  // empty: none; a file whose bytes the guest keeps and never writes
  HypercallForm hypercall_form = HypercallForm::kMapGpaRange;  // ignored with Platform::kNone
};

std::uint32_t default_flips_per_1000(Workload workload);
// The form that the guest really gets.
HypercallForm advertised_form(const VmConfig& config);
Result<void> check_config(const VmConfig& config);

}  // namespace sealift
