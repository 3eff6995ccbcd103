// GuestSpec: what an operator says about a guest, as `key=value` words or a TOML file.
//
// Plain values. Failure: kUsage naming the key, the value and what would be right.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "engine/result.h"
#include "tools/agent/sev_settings.h"
#include "transport/announce.h"
#include "vmm_glue/vmm/vm_config.h"

namespace sealift {

enum class BackendChoice : std::uint8_t { kAuto, kKvm, kModel };

struct GuestSpec {
  std::string name = "guest";
  BackendChoice backend = BackendChoice::kAuto;  // auto: KVM when it is usable, else the model
  std::vector<std::string> disks;                // locked while the guest runs here
  std::vector<AnnounceTarget> announce;          // its addresses, said when it arrived here
  SevSettings sev;                               // of platform sev or sev-es
  VmConfig vm;                                   // vm.backend is decided when the guest is made
};

// One line for each key, for --help.
extern const char* const kGuestSpecHelp;

Result<void> set_guest_key(GuestSpec& spec, std::string_view key, std::string_view text);
// "memory=1G" and so on.
Result<void> apply_guest_words(GuestSpec& spec, const std::vector<std::string>& words);
// The same keys, at the top level or in a [guest] table.
Result<void> apply_guest_file(GuestSpec& spec, const std::string& path);

// "64M", "1G", "262144K", "4096": bytes, a multiple of a page.
Result<std::uint64_t> parse_memory_size(std::string_view text);
std::string memory_size_text(std::uint64_t bytes);

}  // namespace sealift
