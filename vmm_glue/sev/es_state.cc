#include "vmm_glue/sev/es_state.h"

#include <fmt/format.h>

#include "vmm_glue/sev/little_endian.h"

namespace sealift::sev {
namespace {

constexpr auto kBad = ErrorClass::kMalformed;
constexpr std::size_t kHeaderAt = kEsStateHeadBytes;
constexpr std::size_t kVmsaAt = kHeaderAt + kPacketHeaderBytes;
constexpr std::size_t kTagAt = kVmsaAt + kVmsaBytes;

std::uint64_t address_of(const std::byte* bytes) { return reinterpret_cast<std::uint64_t>(bytes); }

Result<void> run(const SevVm& vm, KvmCommand command, std::uint32_t vcpu, void* data) {
  const CommandResult outcome = issue(vm, command, data);
  if (outcome.ok()) return {};
  return check(outcome, name_of(command), fmt::format(" of vCPU {}", vcpu));
}

KvmSevUpdateVmsa packet_in(std::uint32_t vcpu, const Bytes& item) {
  KvmSevUpdateVmsa update;
  update.vcpu = vcpu;
  update.hdr_uaddr = address_of(item.data() + kHeaderAt);
  update.hdr_len = kPacketHeaderBytes;
  update.trans_uaddr = address_of(item.data() + kVmsaAt);
  update.trans_len = kVmsaBytes;
  return update;
}

KvmSevEsState es_in(std::uint32_t vcpu, ByteView item) {
  KvmSevEsState es;
  es.vcpu = vcpu;
  es.flags = get_le<std::uint32_t>(item, 12);
  es.ghcb_gpa = get_le<std::uint64_t>(item, 16);
  es.ap_jump_table = get_le<std::uint64_t>(item, 24);
  return es;
}

// A GHCB is a page, and the jump table is the guest's, told with its first vCPU.
Result<void> check_es(const KvmSevEsState& es) {
  if ((es.flags & ~kEsStateGhcbRegistered) == 0 && es.ghcb_gpa % kPageBytes == 0 &&
      (es.vcpu == 0 || es.ap_jump_table == 0)) {
    return {};
  }
  return fail(kBad, "SEV-ES state of vCPU {} has flags {:#x}, GHCB {:#x} and AP jump table {:#x}.",
              es.vcpu, es.flags, es.ghcb_gpa, es.ap_jump_table);
}

Result<void> check_item(const StateBlob& item, std::uint32_t vcpu, std::uint32_t vcpus,
                        std::uint64_t sequence, Binding& binding) {
  if (item.kind != StateBlob::Kind::kPlatform || item.name != kEsStateName ||
      item.version != kEsStateVersion || item.bytes.size() != kEsStateBytes) {
    return fail(kBad, "Platform state \"{}\" version {} has {} bytes instead of \"{}\" {} with {}.",
                item.name, item.version, item.bytes.size(), kEsStateName, kEsStateVersion,
                kEsStateBytes);
  }
  if (item.index != vcpu) {
    return fail(kBad, "SEV-ES state of vCPU {} came where vCPU {}'s was due.", item.index, vcpu);
  }
  const ByteView bytes(item.bytes);
  if (get_le<std::uint64_t>(bytes, 0) != sequence || get_le<std::uint32_t>(bytes, 8) != vcpus) {
    return fail(kBad,
                "SEV-ES state of vCPU {} has number {} of a guest with {} vCPUs instead of {} and "
                "{}.",
                vcpu, get_le<std::uint64_t>(bytes, 0), get_le<std::uint32_t>(bytes, 8), sequence,
                vcpus);
  }
  if (!same_tag(bytes.subspan(kTagAt), binding.state_tag(vcpu, bytes.first(kTagAt)))) {
    return fail(kBad, "SEV-ES state of vCPU {} is not as the source of this session made it.",
                vcpu);
  }
  return check_es(es_in(vcpu, bytes));
}

}  // namespace

Result<std::vector<StateBlob>> save_es_state(const SevVm& vm, std::uint32_t vcpus,
                                             Binding& binding) {
  std::vector<StateBlob> out;
  for (std::uint32_t vcpu = 0; vcpu < vcpus; ++vcpu) {
    KvmSevEsState state;
    state.vcpu = vcpu;
    SEALIFT_CHECK(run(vm, KvmCommand::kGetEsState, vcpu, &state));
    Bytes item;
    item.reserve(kEsStateBytes);
    append_le<std::uint64_t>(item, binding.next_sequence());
    append_le<std::uint32_t>(item, vcpus);
    append_le<std::uint32_t>(item, state.flags);
    append_le<std::uint64_t>(item, state.ghcb_gpa);
    append_le<std::uint64_t>(item, state.ap_jump_table);
    item.resize(kTagAt);
    KvmSevUpdateVmsa update = packet_in(vcpu, item);
    SEALIFT_CHECK(run(vm, KvmCommand::kSendUpdateVmsa, vcpu, &update));
    append(item, binding.state_tag(vcpu, item));
    binding.count_state();
    out.push_back(
        {StateBlob::Kind::kPlatform, vcpu, kEsStateName, kEsStateVersion, std::move(item)});
  }
  return out;
}

Result<void> load_es_state(const SevVm& vm, std::uint32_t vcpus,
                           const std::vector<StateBlob>& state, Binding& binding) {
  if (state.size() != vcpus) {
    return fail(kBad, "{} items of SEV-ES state came for a guest with {} vCPUs.", state.size(),
                vcpus);
  }
  for (std::uint32_t vcpu = 0; vcpu < vcpus; ++vcpu) {
    SEALIFT_CHECK(check_item(state[vcpu], vcpu, vcpus, binding.next_sequence() + vcpu, binding));
  }
  for (std::uint32_t vcpu = 0; vcpu < vcpus; ++vcpu) {
    const Bytes& item = state[vcpu].bytes;
    KvmSevUpdateVmsa update = packet_in(vcpu, item);
    SEALIFT_CHECK(run(vm, KvmCommand::kReceiveUpdateVmsa, vcpu, &update));
    KvmSevEsState es = es_in(vcpu, item);
    SEALIFT_CHECK(run(vm, KvmCommand::kSetEsState, vcpu, &es));
    binding.count_state();
  }
  return {};
}

}  // namespace sealift::sev
