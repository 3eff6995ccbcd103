#include "tools/agent/guest_spec.h"

// Header-only: the packaged library is built with exceptions.
#define TOML_EXCEPTIONS 0
#define TOML_HEADER_ONLY 1
#include <toml++/toml.h>

#include <charconv>
#include <limits>
#include <sstream>

namespace sealift {
namespace {

Result<std::uint64_t> parse_number(std::string_view key, std::string_view text, std::uint64_t max) {
  std::uint64_t number = 0;
  const auto [end, status] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (status != std::errc() || end != text.data() + text.size() || number > max) {
    return fail(ErrorClass::kUsage, "{}={} is not a number from 0 to {}", key, text, max);
  }
  return number;
}

Result<Platform> parse_platform(std::string_view text) {
  if (text == "none") return Platform::kNone;
  if (text == "sev") return Platform::kSev;
  if (text == "sev-es") return Platform::kSevEs;
  if (text == "sw-protected") return Platform::kSwProtected;
  return fail(ErrorClass::kUsage, "platform={} is not known; use none, sev, sev-es or sw-protected",
              text);
}

Result<BackendChoice> parse_backend_choice(std::string_view text) {
  if (text == "auto") return BackendChoice::kAuto;
  if (text == "kvm") return BackendChoice::kKvm;
  if (text == "model") return BackendChoice::kModel;
  return fail(ErrorClass::kUsage, "backend={} is not known; use kvm, model or auto", text);
}

Result<bool> parse_switch(std::string_view key, std::string_view text) {
  if (text == "on") return true;
  if (text == "off") return false;
  return fail(ErrorClass::kUsage, "{}={} is neither on nor off", key, text);
}

Result<HypercallForm> parse_form(std::string_view text) {
  if (text == "map-gpa-range") return HypercallForm::kMapGpaRange;
  if (text == "page-enc-status") return HypercallForm::kPageEncStatus;
  return fail(ErrorClass::kUsage, "hypercall={} is not known; use map-gpa-range or page-enc-status",
              text);
}

}  // namespace

const char* const kGuestSpecHelp =
    "  name=TEXT           name of the guest in messages (guest)\n"
    "  disk=PATH           image or block device that is locked while the guest runs here; may be "
    "given\n"
    "                      again for more. The guest itself has no disk\n"
    "  announce=IFACE,MAC[,IPV4]\n"
    "                      address that is announced on the host's interface when the guest has "
    "arrived;\n"
    "                      may be given again\n"
    "  platform=none|sev|sev-es|sw-protected\n"
    "                      what keeps its memory private (none); sev needs no hardware: its "
    "firmware\n"
    "                      is a software model with real cryptography; sw-protected is KVM's own "
    "VM\n"
    "                      type, for kernels that have it\n"
    "  sev-policy=WORDS    guest policy: none, or words of nodbg, noks, es, nosend, domain, sev "
    "and\n"
    "                      api=MAJOR.MINOR with commas between them (nodbg)\n"
    "  sev-firmware=fast|asp\n"
    "                      asp: the modelled firmware is as slow as AMD's, 400 pages/s (fast)\n"
    "  sev-vmsa=on|off     the modelled kernel has the commands that move a SEV-ES guest's "
    "registers;\n"
    "                      no real one has them (off)\n"
    "  backend=kvm|model|auto\n"
    "                      kvm runs the guest on /dev/kvm, model on modelled vCPUs; auto takes "
    "kvm\n"
    "                      when it is usable and says which it took and why (auto)\n"
    "  memory=SIZE         RAM, as 64M or 1G, at least 2M (64M)\n"
    "  vcpus=N             1 to 8 (1)\n"
    "  workload=NAME       idle: computes in registers, memory stays as it is; sweep: writes page "
    "after\n"
    "                      page; hotset: 95 % of the writes go to 5 % of the pages; random; "
    "flipstorm:\n"
    "                      converts pages between private and shared all the time (sweep)\n"
    "  seed=N              makes the guest's behaviour repeatable (1)\n"
    "  shared=PERCENT      share of its memory the guest converts to shared at boot (5)\n"
    "  populated=PERCENT   share of its memory the guest ever uses (100)\n"
    "  flips=N             conversions in 1000 steps (idle 0, flipstorm 500, others 2)\n"
    "  spin=N              register-only work between two steps: holds the rate of writes down "
    "(0)\n"
    "  hypercall-by=auto|mmio|vmcall|vmmcall\n"
    "                      instruction of the guest's hypercalls; auto tries what this KVM hands "
    "over\n"
    "                      and falls back to an MMIO read with the same registers (auto)\n"
    "  ready=booted|never|withdrawn\n"
    "                      what the guest says of its readiness to be migrated (booted)\n"
    "  boot-sector=FILE    run this instead of the self-checking guest: 512 bytes at 0:0x7c00, "
    "real "
    "mode\n"
    "  flat-binary=FILE    the same for a file at 0x1000:0, up to 512 KiB\n"
    "  serial=FILE|-       where COM1's output goes: appended to a file, - for standard error "
    "(dropped)\n"
    "  memory-backing=memfd|hugepages\n"
    "                      hugepages needs 2 MiB pages reserved on the host (memfd)\n"
    "  prefault=on|off     give a guest on kvm all its memory before it starts (on)\n"
    "  dirty=auto|log|manual|ring|uffd\n"
    "                      how writes of a guest on kvm are tracked (auto)\n"
    "  irqchip=on|off      interrupt controllers, LAPICs and PIT in the kernel, for guests that "
    "use "
    "them (off)\n"
    "  image=FILE          initial content of RAM, kept and checked by the guest\n"
    "  hypercall=map-gpa-range|page-enc-status\n"
    "                      form of the page-state hypercall the guest is told of (map-gpa-range)\n";

Result<std::uint64_t> parse_memory_size(std::string_view text) {
  std::string_view digits = text;
  unsigned shift = 0;
  if (!text.empty()) {
    switch (text.back()) {
      case 'K':
      case 'k':
        shift = 10;
        break;
      case 'M':
      case 'm':
        shift = 20;
        break;
      case 'G':
      case 'g':
        shift = 30;
        break;
      default:
        break;
    }
    if (shift != 0) digits.remove_suffix(1);
  }
  auto number = parse_number("memory", digits, std::numeric_limits<std::uint64_t>::max() >> shift);
  if (!number || *number == 0 || (*number << shift) % kPageBytes != 0) {
    return fail(ErrorClass::kUsage,
                "memory={} is not a size such as 64M or 1G, in whole 4 KiB pages", text);
  }
  return *number << shift;
}

std::string memory_size_text(std::uint64_t bytes) {
  if (bytes % (1ULL << 30) == 0) return fmt::format("{}G", bytes >> 30);
  if (bytes % (1ULL << 20) == 0) return fmt::format("{}M", bytes >> 20);
  return fmt::format("{}K", bytes >> 10);
}

namespace {

bool may_be_repeated(std::string_view key) { return key == "disk" || key == "announce"; }

// Keys of the machine rather than of the program that runs in it.
Result<void> set_machine_key(VmConfig& vm, std::string_view key, std::string_view text) {
  if (key == "hypercall-by") {
    SEALIFT_TRY(vm.hypercall_by, parse_hypercall_by(text));
  } else if (key == "ready") {
    SEALIFT_TRY(vm.ready, parse_ready_when(text));
  } else if (key == "boot-sector" || key == "flat-binary") {
    vm.program = key == "boot-sector" ? Program::kBootSector : Program::kFlatBinary;
    vm.program_path = std::string(text);
  } else if (key == "serial") {
    vm.serial_path = std::string(text);
  } else if (key == "memory-backing") {
    SEALIFT_TRY(vm.memory_backing, parse_memory_backing(text));
  } else if (key == "prefault") {
    SEALIFT_TRY(vm.prefault, parse_switch(key, text));
  } else if (key == "dirty") {
    SEALIFT_TRY(vm.dirty, parse_dirty_backend(text));
  } else if (key == "irqchip") {
    SEALIFT_TRY(vm.irqchip, parse_switch(key, text));
  } else {
    return fail(
        ErrorClass::kUsage,
        "guest option {}={} is not known; use name, disk, announce, platform, backend, memory, "
        "vcpus, "
        "workload, seed, shared, populated, flips, spin, image, hypercall, hypercall-by, ready, "
        "boot-sector, flat-binary, serial, memory-backing, prefault, dirty or irqchip",
        key, text);
  }
  return {};
}

}  // namespace

Result<void> set_guest_key(GuestSpec& spec, std::string_view key, std::string_view text) {
  constexpr std::uint64_t kU32Max = std::numeric_limits<std::uint32_t>::max();
  const auto number = [&](auto& field, std::uint64_t max) -> Result<void> {
    SEALIFT_TRY(const std::uint64_t parsed, parse_number(key, text, max));
    field = static_cast<std::decay_t<decltype(field)>>(parsed);
    return {};
  };
  if (key.starts_with("sev-")) return set_sev_key(spec.sev, key, text);
  if (key == "name") {
    spec.name = std::string(text);
  } else if (key == "disk") {
    spec.disks.emplace_back(text);
  } else if (key == "announce") {
    SEALIFT_TRY(AnnounceTarget target, parse_announce(text));
    spec.announce.push_back(std::move(target));
  } else if (key == "platform") {
    SEALIFT_TRY(spec.vm.platform, parse_platform(text));
  } else if (key == "backend") {
    SEALIFT_TRY(spec.backend, parse_backend_choice(text));
  } else if (key == "memory") {
    SEALIFT_TRY(spec.vm.memory_bytes, parse_memory_size(text));
  } else if (key == "vcpus") {
    return number(spec.vm.vcpus, kU32Max);
  } else if (key == "workload") {
    SEALIFT_TRY(spec.vm.workload, parse_workload(text));
  } else if (key == "seed") {
    return number(spec.vm.seed, std::numeric_limits<std::uint64_t>::max());
  } else if (key == "shared") {
    return number(spec.vm.shared_percent, 100);
  } else if (key == "populated") {
    return number(spec.vm.populated_percent, 100);
  } else if (key == "flips") {
    std::uint32_t flips = 0;
    SEALIFT_CHECK(number(flips, 1000));
    spec.vm.flips_per_1000 = flips;
  } else if (key == "spin") {
    return number(spec.vm.spin_per_step, kU32Max);
  } else if (key == "image") {
    spec.vm.image_path = std::string(text);
  } else if (key == "hypercall") {
    SEALIFT_TRY(spec.vm.hypercall_form, parse_form(text));
  } else {
    return set_machine_key(spec.vm, key, text);
  }
  return {};
}

Result<void> apply_guest_words(GuestSpec& spec, const std::vector<std::string>& words) {
  for (const std::string& word : words) {
    const std::size_t equals = word.find('=');
    if (equals == std::string::npos || equals == 0) {
      return fail(ErrorClass::kUsage, "guest option '{}' is not of the form key=value", word);
    }
    SEALIFT_CHECK(set_guest_key(spec, std::string_view(word).substr(0, equals),
                                std::string_view(word).substr(equals + 1)));
  }
  return {};
}

Result<void> apply_guest_file(GuestSpec& spec, const std::string& path) {
  const toml::parse_result parsed = toml::parse_file(path);
  if (!parsed) {
    const toml::parse_error& error = parsed.error();
    return fail(ErrorClass::kUsage, "{}, line {}: {}", path, error.source().begin.line,
                std::string_view(error.description()));
  }
  const toml::table* table = &parsed.table();
  if (const toml::table* guest = table->get_as<toml::table>("guest")) table = guest;
  for (const auto& [key, node] : *table) {
    std::vector<std::string> texts;
    bool good = true;
    const auto take = [&](const toml::node& value) {
      if (const auto string = value.value_exact<std::string>()) {
        texts.push_back(*string);
      } else if (const auto integer = value.value_exact<std::int64_t>()) {
        texts.push_back(std::to_string(*integer));
      } else {
        good = false;
      }
    };
    const toml::array* list = may_be_repeated(key.str()) ? node.as_array() : nullptr;
    if (list == nullptr) take(node);
    if (list != nullptr) {
      for (const toml::node& value : *list) take(value);
    }
    if (!good) {
      return fail(ErrorClass::kUsage, "{}: {} must be a string or a whole number{}", path,
                  std::string_view(key.str()),
                  may_be_repeated(key.str()) ? ", or a list of them" : "");
    }
    for (const std::string& text : texts) {
      if (auto set = set_guest_key(spec, key.str(), text); !set) {
        return fail(set.error().cls, "{}: {}", path, set.error().detail);
      }
    }
  }
  return {};
}

}  // namespace sealift
