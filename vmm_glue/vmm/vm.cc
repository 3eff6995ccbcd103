#include "vmm_glue/vmm/vm.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

#include "engine/assert.h"
#include "engine/limits.h"
#include "vmm_glue/host_copy.h"
#include "vmm_glue/sev/populated.h"
#include "vmm_glue/vmm/kvm_vm.h"
#include "vmm_glue/vmm/model_vm.h"

namespace sealift {
namespace {

using guest::Mailbox;
using guest::VcpuMailbox;

constexpr const char* kReadinessName = "migration-control";
constexpr std::uint32_t kReadinessVersion = 1;

std::uint64_t of_vcpu(std::uint64_t vcpu, std::uint64_t offset) {
  return offsetof(Mailbox, vcpu) + vcpu * sizeof(VcpuMailbox) + offset;
}

// `what` names the file in errors. An empty path is an empty file.
Result<std::vector<std::byte>> read_file(const char* what, const std::string& path,
                                         std::uint64_t bytes_max) {
  std::vector<std::byte> bytes;
  if (path.empty()) return bytes;
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rbe"),
                                                             &std::fclose);
  if (file == nullptr) {
    return fail(ErrorClass::kUsage, "{} {} cannot be opened: {}", what, path,
                strerrorname_np(errno));
  }
  std::array<std::byte, 65536> buffer;
  for (;;) {
    const std::size_t got = std::fread(buffer.data(), 1, buffer.size(), file.get());
    bytes.insert(bytes.end(), buffer.begin(), buffer.begin() + static_cast<std::ptrdiff_t>(got));
    if (bytes.size() > bytes_max) {
      return fail(ErrorClass::kUsage, "{} {} is larger than {} bytes", what, path, bytes_max);
    }
    if (got < buffer.size()) break;
  }
  if (std::ferror(file.get()) != 0) {
    return fail(ErrorClass::kUsage, "{} {} cannot be read: {}", what, path, strerrorname_np(errno));
  }
  return bytes;
}

Result<std::vector<std::byte>> read_program(const VmConfig& config) {
  if (config.program == Program::kChecker) return std::vector<std::byte>{};
  SEALIFT_TRY(auto bytes, read_file(name_of(config.program), config.program_path,
                                    program_bytes_max(config.program)));
  if (config.program != Program::kBootSector) return bytes;
  if (bytes.size() != program_bytes_max(config.program) || bytes[510] != std::byte{0x55} ||
      bytes[511] != std::byte{0xaa}) {
    return fail(ErrorClass::kUsage, "{} is no boot sector: 512 bytes that end in 55 aa",
                config.program_path);
  }
  return bytes;
}

}  // namespace

Result<Vm::Parts> Vm::make_parts(const VmConfig& config, PrivateMemory* private_memory,
                                 GuestMemory::Populate populate) {
  SEALIFT_CHECK(check_config(config));
  SEALIFT_TRY(auto image, read_file("image", config.image_path, config.memory_bytes));
  SEALIFT_TRY(auto program, read_program(config));
  SEALIFT_TRY(auto plan, plan_guest(config.memory_bytes, config.vcpus, image.size(),
                                    config.populated_percent));
  SEALIFT_TRY(auto layout, layout_of_guest(config.memory_bytes));
  SEALIFT_TRY(auto memory, GuestMemory::make(layout, populate, config.memory_backing));
  return Parts{config,           std::move(plan),    std::move(layout), std::move(memory),
               std::move(image), std::move(program), private_memory};
}

Vm::Vm(Parts parts)
    : config_(std::move(parts.config)),
      plan_(std::move(parts.plan)),
      layout_(std::move(parts.layout)),
      memory_(std::move(parts.memory)),
      private_memory_(parts.private_memory),
      map_(layout_.span_pages()),
      dirty_(layout_.span_pages()),
      readiness_(config_.platform != Platform::kNone),
      control_(*this, config_.vcpus),
      image_(std::move(parts.image)),
      program_(std::move(parts.program)) {
  if (config_.platform != Platform::kNone) return;
  for (const GfnRange& range : layout_.ranges()) map_.convert(range, PageClass::kShared);
}

Result<void> Vm::boot() {
  if (control_.state() != VmState::kCreated) {
    return fail(ErrorClass::kRefused, "a guest that is {} cannot be booted",
                name_of(control_.state()));
  }
  if (has_checker()) {
    // Instructions are fetched and page tables walked by KVM's emulator, too, which reads only what
    // the host can read.
    const std::uint64_t host_pages =
        can_read_private() ? 1 : value(plan_.vcpus.front().control) - guest::kMailboxGfn;
    convert_pages(map_, dirty_, GfnRange{Gfn{guest::kMailboxGfn}, host_pages}, PageClass::kShared);
    write_image();
    write_first_mailbox();
  } else {
    write_program();
  }
  SEALIFT_CHECK(set_initial_vcpus());
  return control_.set_ready();
}

GuestHealth Vm::health() const {
  GuestHealth health;
  if (control_.state() == VmState::kTerminated) health.ended = control_.reason();
  if (!readiness_.allows()) health.not_ready = readiness_.reason();
  return health;
}

VmStatus Vm::status() const {
  VmStatus status;
  status.state = control_.state();
  status.reason = control_.reason();
  if (!readiness_.allows()) status.not_ready = readiness_.reason();
  status.throttle_percent = control_.throttle_percent();
  fill_status(status);
  if (!has_checker()) {
    status.booted = status.state != VmState::kCreated;
    return status;
  }
  if (read_mailbox(offsetof(Mailbox, magic)) != guest::kMailboxMagic) return status;
  status.booted = is_booted();
  for (std::uint32_t i = 0; i < config_.vcpus; ++i) {
    status.steps += read_mailbox(of_vcpu(i, offsetof(VcpuMailbox, steps)));
  }
  return status;
}

Result<void> Vm::check_runs(const char* wish) const {
  const VmState state = control_.state();
  if (state == VmState::kRunning) return {};
  if (state == VmState::kTerminated) {
    return fail(ErrorClass::kLocalFault, "cannot {}: the guest terminated: {}", wish,
                control_.reason());
  }
  return fail(ErrorClass::kRefused, "cannot {}: the guest is {}, not running", wish,
              name_of(state));
}

Result<void> Vm::wait_booted(std::chrono::milliseconds timeout) {
  if (!has_checker() || is_booted()) return {};
  SEALIFT_CHECK(check_runs("wait for the guest's boot"));
  if (control_.wait_for(timeout, [this] { return is_booted(); })) return {};
  SEALIFT_CHECK(check_runs("wait for the guest's boot"));
  return fail(ErrorClass::kTimedOut, "the guest has not filled its memory within {} ms",
              timeout.count());
}

Result<SelfCheck> Vm::self_check(std::chrono::milliseconds timeout) {
  if (!has_checker()) {
    return fail(ErrorClass::kRefused, "this guest runs a {}: only the checker can check its memory",
                name_of(config_.program));
  }
  SEALIFT_CHECK(check_runs("check the guest's memory"));
  std::vector<std::uint64_t> requests;
  for (std::uint32_t i = 0; i < config_.vcpus; ++i) {
    const std::uint64_t offset = of_vcpu(i, offsetof(VcpuMailbox, verify_request));
    requests.push_back(read_mailbox(offset) + 1);
    write_mailbox(offset, requests.back());
  }
  if (!control_.wait_for(timeout, [&] { return is_checked(requests); })) {
    SEALIFT_CHECK(check_runs("check the guest's memory"));
    return fail(ErrorClass::kTimedOut, "the guest has not finished its check within {} ms",
                timeout.count());
  }
  SelfCheck sum;
  for (std::uint32_t i = 0; i < config_.vcpus; ++i) {
    sum.pages_checked += read_mailbox(of_vcpu(i, offsetof(VcpuMailbox, pages_checked)));
    sum.errors += read_mailbox(of_vcpu(i, offsetof(VcpuMailbox, errors)));
    sum.conversions += read_mailbox(of_vcpu(i, offsetof(VcpuMailbox, conversions)));
    sum.refused += read_mailbox(of_vcpu(i, offsetof(VcpuMailbox, refused)));
    sum.steps += read_mailbox(of_vcpu(i, offsetof(VcpuMailbox, steps)));
    const std::uint64_t bad = read_mailbox(of_vcpu(i, offsetof(VcpuMailbox, first_bad_gfn)));
    if (bad != guest::kNoGfn && !sum.first_bad_gfn) sum.first_bad_gfn = Gfn{bad};
  }
  return sum;
}

Result<bool> Vm::read_guest_view(Gfn gfn, std::span<std::byte, kPageBytes> out) const {
  SEALIFT_ASSERT(layout_.contains(gfn));
  const bool is_private = map_.class_of(gfn) == PageClass::kPrivate;
  if (is_private && !can_read_private()) return false;
  if (memory_.is_hole(gfn)) {  // and stays one: a look must not cost memory
    std::fill(out.begin(), out.end(), std::byte{0});
    return true;
  }
  if (is_private && private_memory_ != nullptr) {
    if (sev::never_written(memory_.at(gfn))) {
      std::fill(out.begin(), out.end(), std::byte{0});
      return true;
    }
    private_memory_->load(memory_.at(gfn), out);
  } else {
    copy_from_guest(memory_.at(gfn), out);
  }
  return true;
}

Result<void> Vm::read_plain(Gfn gfn, std::span<std::byte, kPageBytes> out) {
  copy_from_guest(memory_.at(gfn), out);
  return {};
}

Result<void> Vm::write_plain(Gfn gfn, std::span<const std::byte, kPageBytes> in) {
  return write_run(GfnRange{gfn, 1}, in);
}

Result<void> Vm::write_run(GfnRange range, ByteView in) {
  SEALIFT_CHECK(memory_.write(range, in));
  dirty_.mark(range);
  return {};
}

// Only memory that no platform holds by its address is given back.
Result<void> Vm::write_zeros(GfnRange range) {
  SEALIFT_CHECK(memory_.write_zeros(range, config_.platform != Platform::kNone));
  dirty_.mark(range);
  return {};
}

// The private side of a guest_memfd is not in this memory: it may all be written.
Result<void> Vm::mark_populated() {
  if (!can_read_private()) return GuestPort::mark_populated();
  return memory_.for_each_populated([this](GfnRange range) { dirty_.mark(range); });
}

MutableBytes Vm::plain_memory(GfnRange range) {
  return {memory_.at(range.first), memory_.contiguous(range) * kPageBytes};
}

MutableBytes Vm::landing(GfnRange range) {
  return memory_.is_hole(range.first) ? MutableBytes() : plain_memory(range);
}

// The page map is the class, unless the platform keeps attributes of its own.
Result<void> Vm::apply_conversion(GfnRange range, PageClass cls) {
  if (!layout_.contains(range)) {
    return fail(ErrorClass::kMalformed,
                "a conversion to {} of {} pages from gfn {:#x} is not wholly RAM", name_of(cls),
                range.pages, value(range.first));
  }
  return {};
}

Result<std::vector<StateBlob>> Vm::save_state() {
  if (control_.state() != VmState::kPaused) {
    return fail(ErrorClass::kRefused, "vCPU state cannot be saved while the guest is {}",
                name_of(control_.state()));
  }
  SEALIFT_TRY(auto state, save_vcpus());
  state.push_back(save_readiness());
  return state;
}

StateBlob Vm::save_readiness() const {
  StateBlob blob{StateBlob::Kind::kDevice, 0, kReadinessName, kReadinessVersion, Bytes(8)};
  const std::uint64_t word = readiness_.save();
  std::memcpy(blob.bytes.data(), &word, sizeof word);
  return blob;
}

Result<void> Vm::load_readiness(std::vector<StateBlob>& state) {
  const auto is_it = [](const StateBlob& blob) { return blob.name == kReadinessName; };
  const auto copies = std::count_if(state.begin(), state.end(), is_it);
  if (copies != 1) {
    return fail(ErrorClass::kRefused, "state '{}' comes {} times instead of once", kReadinessName,
                copies);
  }
  const auto found = std::find_if(state.begin(), state.end(), is_it);
  std::uint64_t word = 0;
  if (found->kind != StateBlob::Kind::kDevice || found->index != 0 ||
      found->version != kReadinessVersion || found->bytes.size() != sizeof word) {
    return fail(ErrorClass::kMalformed, "state '{}' of device {}, version {}, has {} bytes",
                found->name, found->index, found->version, found->bytes.size());
  }
  std::memcpy(&word, found->bytes.data(), sizeof word);
  SEALIFT_CHECK(readiness_.restore(word));
  state.erase(found);
  return {};
}

Result<void> Vm::load_state(std::vector<StateBlob> state) {
  if (control_.state() != VmState::kCreated && control_.state() != VmState::kPaused) {
    return fail(ErrorClass::kRefused, "vCPU state cannot be loaded while the guest is {}",
                name_of(control_.state()));
  }
  SEALIFT_CHECK(load_readiness(state));
  SEALIFT_CHECK(load_vcpus(std::move(state)));
  return control_.set_ready();
}

void Vm::write_as_guest(Gpa gpa, ByteView bytes) {
  const Gfn gfn = page_of(gpa);
  const std::uint64_t in_page = value(gpa) % kPageBytes;
  SEALIFT_ASSERT(in_page + bytes.size() <= kPageBytes);
  std::byte* host = memory_.at(gfn) + in_page;
  if (map_.class_of(gfn) == PageClass::kPrivate && private_memory_ != nullptr) {
    private_memory_->store(host, bytes);
  } else {
    copy_to_guest(host, bytes);
  }
  dirty_.mark(gfn);
}

// --- The mailbox ---

std::uint64_t Vm::read_mailbox(std::uint64_t offset) const {
  // Acquire: what the guest wrote before a flag is read after it.
  auto* word = reinterpret_cast<std::uint64_t*>(memory_.at(Gfn{guest::kMailboxGfn}) + offset);
  return std::atomic_ref(*word).load(std::memory_order_acquire);
}

void Vm::write_mailbox(std::uint64_t offset, std::uint64_t word) {
  const auto bytes = std::bit_cast<std::array<std::byte, 8>>(word);
  copy_to_guest(memory_.at(Gfn{guest::kMailboxGfn}) + offset, bytes);
  dirty_.mark(Gfn{guest::kMailboxGfn});
}

void Vm::write_first_mailbox() {
  const auto set = [this](std::uint64_t offset, std::uint64_t word) {
    write_mailbox(offset, word);
  };
  set(offsetof(Mailbox, vcpus), config_.vcpus);
  set(offsetof(Mailbox, workload), static_cast<std::uint64_t>(config_.workload));
  set(offsetof(Mailbox, seed), config_.seed);
  set(offsetof(Mailbox, shared_percent), config_.shared_percent);
  set(offsetof(Mailbox, flips_per_1000),
      config_.flips_per_1000.value_or(default_flips_per_1000(config_.workload)));
  set(offsetof(Mailbox, hypercall_form), static_cast<std::uint64_t>(advertised_form(config_)));
  set(offsetof(Mailbox, spin_per_step), config_.spin_per_step);
  set(offsetof(Mailbox, hypercall_by), static_cast<std::uint64_t>(config_.hypercall_by));
  set(offsetof(Mailbox, ready_when), static_cast<std::uint64_t>(config_.ready));
  for (std::uint32_t i = 0; i < config_.vcpus; ++i) {
    const VcpuPlan& vcpu = plan_.vcpus[i];
    set(of_vcpu(i, offsetof(VcpuMailbox, arena_first)), vcpu.arena_first);
    set(of_vcpu(i, offsetof(VcpuMailbox, arena_pages)), vcpu.arena_pages);
    set(of_vcpu(i, offsetof(VcpuMailbox, image_pages)), vcpu.image_pages);
    set(of_vcpu(i, offsetof(VcpuMailbox, table_gpa)), value(vcpu.table));
    set(of_vcpu(i, offsetof(VcpuMailbox, control_gpa)), value(base_of(vcpu.control)));
    set(of_vcpu(i, offsetof(VcpuMailbox, first_bad_gfn)), guest::kNoGfn);
  }
  set(offsetof(Mailbox, magic), guest::kMailboxMagic);
}

void Vm::write_image() {
  for (const VcpuPlan& vcpu : plan_.vcpus) {
    for (std::uint64_t i = 0; i < vcpu.image_pages; ++i) {
      std::array<std::byte, kPageBytes> page{};  // the last one is filled up with zeros
      const std::uint64_t from = (vcpu.image_offset + i) * kPageBytes;
      const std::uint64_t bytes = std::min<std::uint64_t>(kPageBytes, image_.size() - from);
      std::copy_n(image_.begin() + static_cast<std::ptrdiff_t>(from), bytes, page.begin());
      const std::uint64_t linear = vcpu.arena_first + vcpu.arena_pages - vcpu.image_pages + i;
      write_as_guest(base_of(Gfn{guest::gfn_of_linear(linear)}), page);
    }
  }
}

// As firmware does: a boot sector at 0:0x7c00, a flat binary at 0x1000:0.
void Vm::write_program() {
  const std::uint64_t at =
      config_.program == Program::kBootSector ? kBootSectorGpa : kFlatBinaryGpa;
  for (std::size_t done = 0; done < program_.size();) {
    const std::uint64_t gpa = at + done;
    std::array<std::byte, kPageBytes> page{};
    const std::size_t bytes = std::min(program_.size() - done, kPageBytes - gpa % kPageBytes);
    std::copy_n(program_.begin() + static_cast<std::ptrdiff_t>(done), bytes, page.begin());
    write_as_guest(Gpa{gpa}, ByteView(page).first((bytes + 7) / 8 * 8));
    done += bytes;
  }
}

bool Vm::is_booted() const {
  for (std::uint32_t i = 0; i < config_.vcpus; ++i) {
    if (read_mailbox(of_vcpu(i, offsetof(VcpuMailbox, boot_done))) == 0) return false;
  }
  return true;
}

bool Vm::is_checked(const std::vector<std::uint64_t>& requests) const {
  for (std::uint32_t i = 0; i < config_.vcpus; ++i) {
    if (read_mailbox(of_vcpu(i, offsetof(VcpuMailbox, verify_done))) != requests[i]) return false;
  }
  return true;
}

Result<std::unique_ptr<Vm>> make_vm(const VmConfig& config, PrivateMemory* private_memory) {
  if (config.backend == Backend::kKvm) {
    SEALIFT_TRY(std::unique_ptr<Vm> kvm, KvmVm::make(config, private_memory));
    return kvm;
  }
  SEALIFT_TRY(std::unique_ptr<Vm> model, ModelVm::make(config, private_memory));
  return model;
}

}  // namespace sealift
