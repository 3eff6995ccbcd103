// SEV-ES: vCPU state between the kernel's commands and the wire, and what a hostile peer makes of
// it.

#include <gtest/gtest.h>

#include <cerrno>

#include "vmm_glue/sev/es_state.h"
#include "vmm_glue/sev/little_endian.h"
#include "vmm_glue/sev/test_support.h"

namespace sealift::sev {
namespace {

constexpr std::uint32_t kVcpus = 3;

// A kernel with the four commands that no kernel has. Fault model: the nth command fails with EIO
// and firmware status 0x0b, before it does anything. It checks no MAC: that is the firmware's.
class FakeEsKernel final : public HostIoctl {
 public:
  struct Vcpu {
    KvmSevEsState state;
    Bytes header;
    Bytes vmsa;
  };
  int ioctl(int, unsigned long request, void* arg) override {
    if (request != kKvmMemoryEncryptOp) return -ENOTTY;
    auto* cmd = static_cast<KvmSevCmd*>(arg);
    const auto id = static_cast<KvmCommand>(cmd->id);
    if (cmd->data == 0) return -EFAULT;
    issued.push_back(id);
    if (issued.size() - 1 == fails_at) {
      cmd->error = 0x0b;
      return -EIO;
    }
    if (id == KvmCommand::kGetEsState || id == KvmCommand::kSetEsState) {
      auto* es = reinterpret_cast<KvmSevEsState*>(cmd->data);
      KvmSevEsState& mine = vcpus.at(es->vcpu).state;
      (id == KvmCommand::kGetEsState ? *es : mine) = id == KvmCommand::kGetEsState ? mine : *es;
      return 0;
    }
    const auto* update = reinterpret_cast<KvmSevUpdateVmsa*>(cmd->data);
    EXPECT_EQ(update->hdr_len, kPacketHeaderBytes);
    EXPECT_EQ(update->trans_len, kVmsaBytes);
    Vcpu& vcpu = vcpus.at(update->vcpu);
    auto* header = reinterpret_cast<std::byte*>(update->hdr_uaddr);
    auto* vmsa = reinterpret_cast<std::byte*>(update->trans_uaddr);
    if (id == KvmCommand::kSendUpdateVmsa) {
      std::copy(vcpu.header.begin(), vcpu.header.end(), header);
      std::copy(vcpu.vmsa.begin(), vcpu.vmsa.end(), vmsa);
    } else {
      EXPECT_EQ(id, KvmCommand::kReceiveUpdateVmsa);
      vcpu.header.assign(header, header + kPacketHeaderBytes);
      vcpu.vmsa.assign(vmsa, vmsa + kVmsaBytes);
    }
    return 0;
  }

  std::vector<Vcpu> vcpus = std::vector<Vcpu>(kVcpus);
  std::vector<KvmCommand> issued;
  std::size_t fails_at = ~std::size_t{0};
};

class EsState : public testing::Test {
 protected:
  EsState() {
    for (std::uint32_t i = 0; i < kVcpus; ++i) {
      FakeEsKernel::Vcpu& vcpu = from.vcpus[i];
      vcpu.header.assign(kPacketHeaderBytes, std::byte(0x40 + i));
      vcpu.vmsa.assign(kVmsaBytes, std::byte(0x60 + i));
      vcpu.state.vcpu = i;
      vcpu.state.flags = i == 1 ? 0 : kEsStateGhcbRegistered;
      vcpu.state.ghcb_gpa = i == 1 ? 0 : 0x7000 + (std::uint64_t{i} << 40);
      vcpu.state.ap_jump_table = i == 0 ? 0x9000 : 0;
    }
    PrivateBatch batch;  // one batch before: the numbers go on from there
    sender.sign(batch);
    must(receiver.accept(batch));
    state = must(save_es_state({from, 1, 2}, kVcpus, sender));
  }

  void expect_refused(std::vector<StateBlob> bad, const char* words) {
    const auto loaded = load_es_state({to, 1, 2}, kVcpus, bad, receiver);
    ASSERT_FALSE(loaded.has_value()) << words;
    EXPECT_EQ(loaded.error().cls, ErrorClass::kMalformed);
    EXPECT_NE(loaded.error().detail.find(words), std::string::npos) << loaded.error().detail;
    EXPECT_TRUE(to.issued.empty()) << words;
  }
  std::vector<StateBlob> with(const std::function<void(std::vector<StateBlob>&)>& change) const {
    std::vector<StateBlob> out = state;
    change(out);
    return out;
  }

  SystemRandom random;
  BindingKeyPair source_keys{random};
  BindingKeyPair target_keys{random};
  BindingTerms terms{.source_key = source_keys.public_key(),
                     .destination_key = target_keys.public_key()};
  Binding sender{must(source_keys.agree(target_keys.public_key())), terms};
  Binding receiver{must(target_keys.agree(source_keys.public_key())), terms};
  FakeEsKernel from;
  FakeEsKernel to;
  std::vector<StateBlob> state;
};

TEST_F(EsState, EverythingOfEachVcpuArrives) {
  ASSERT_EQ(state.size(), kVcpus);
  for (std::uint32_t i = 0; i < kVcpus; ++i) {
    EXPECT_EQ(state[i].kind, StateBlob::Kind::kPlatform);
    EXPECT_EQ(state[i].name, "sev-es.vmsa");
    EXPECT_EQ(state[i].index, i);
    EXPECT_EQ(state[i].bytes.size(), 4212u);
    EXPECT_EQ(get_le<std::uint64_t>(state[i].bytes, 0), i + 1u);
  }
  must(load_es_state({to, 1, 2}, kVcpus, state, receiver));
  for (std::uint32_t i = 0; i < kVcpus; ++i) {
    EXPECT_EQ(to.vcpus[i].header, from.vcpus[i].header);
    EXPECT_EQ(to.vcpus[i].vmsa, from.vcpus[i].vmsa);
    EXPECT_EQ(to.vcpus[i].state.flags, from.vcpus[i].state.flags);
    EXPECT_EQ(to.vcpus[i].state.ghcb_gpa, from.vcpus[i].state.ghcb_gpa);
    EXPECT_EQ(to.vcpus[i].state.ap_jump_table, from.vcpus[i].state.ap_jump_table);
  }
  must(receiver.check_seal(sender.seal_tag()));
}

TEST_F(EsState, EachVcpuExactlyOnceAndInOrder) {
  expect_refused({}, "0 items of SEV-ES state came for a guest with 3 vCPUs");
  expect_refused(with([](auto& s) { s.pop_back(); }), "2 items");
  expect_refused(with([](auto& s) { s.push_back(s[0]); }), "4 items");
  expect_refused(with([](auto& s) { s[2] = s[1]; }), "vCPU 1 came where vCPU 2's was due");
  expect_refused(with([](auto& s) { std::swap(s[0], s[1]); }), "vCPU 1 came where vCPU 0's");
  expect_refused(with([](auto& s) { std::swap(s[0].index, s[1].index); }), "vCPU 1 came where");
  expect_refused(with([](auto& s) { std::swap(s[0].bytes, s[1].bytes); }), "has number 2");
  expect_refused(with([](auto& s) { s[0].kind = StateBlob::Kind::kVcpu; }), "instead of");
  expect_refused(with([](auto& s) { s[0].name = "vmsa"; }), "\"vmsa\"");
  expect_refused(with([](auto& s) { s[0].version = 2; }), "version 2");
  must(load_es_state({to, 1, 2}, kVcpus, state, receiver));
}

TEST_F(EsState, EveryTruncationAndBitOfAnItemCounts) {
  for (std::size_t size = 0; size < kEsStateBytes; ++size) {
    expect_refused(with([&](auto& s) { s[1].bytes.resize(size); }), "bytes instead of");
  }
  expect_refused(with([&](auto& s) { s[1].bytes.push_back({}); }), "has 4213 bytes");
  for (std::size_t bit = 0; bit < kEsStateBytes * 8; ++bit) {
    expect_refused(with([&](auto& s) { s[2].bytes[bit / 8] ^= std::byte(1u << bit % 8); }),
                   bit < 96 ? "has number" : "is not as the source of this session made it");
  }
  must(load_es_state({to, 1, 2}, kVcpus, state, receiver));
}

// Under a good tag: a source that is newer than we are, or that lies.
TEST_F(EsState, WhatNoKernelCouldTakeIsRefused) {
  const std::vector<std::pair<std::function<void(FakeEsKernel&)>, const char*>> rows = {
      {[](FakeEsKernel& k) { k.vcpus[1].state.flags = 2; }, "of vCPU 1 has flags 0x2"},
      {[](FakeEsKernel& k) { k.vcpus[2].state.ghcb_gpa = 0x7008; }, "GHCB 0x7008"},
      {[](FakeEsKernel& k) { k.vcpus[1].state.ap_jump_table = 0x9000; }, "AP jump table 0x9000"}};
  for (const auto& [spoil, words] : rows) {
    FakeEsKernel kernel = from;
    spoil(kernel);
    Binding other_sender(must(source_keys.agree(target_keys.public_key())), terms);
    PrivateBatch batch;
    other_sender.sign(batch);
    expect_refused(must(save_es_state({kernel, 1, 2}, kVcpus, other_sender)), words);
  }
}

TEST_F(EsState, StateOfAnotherSessionIsRefused) {
  BindingTerms others = terms;
  others.nonce[0] = std::byte{1};
  Binding stranger(must(source_keys.agree(target_keys.public_key())), others);
  PrivateBatch batch;
  stranger.sign(batch);
  state = must(save_es_state({from, 1, 2}, kVcpus, stranger));
  expect_refused(state, "is not as the source of this session made it");
}

TEST_F(EsState, WhicheverCommandFailsSaysWhichVcpu) {
  for (std::size_t nth = 0; nth < 2 * kVcpus; ++nth) {
    FakeEsKernel kernel = from;
    kernel.issued.clear();
    kernel.fails_at = nth;
    const auto saved = save_es_state({kernel, 1, 2}, kVcpus, sender);
    ASSERT_FALSE(saved.has_value());
    EXPECT_NE(saved.error().detail.find(fmt::format("of vCPU {} failed", nth / 2)),
              std::string::npos)
        << saved.error().detail;
    FakeEsKernel taker;
    taker.fails_at = nth;
    Binding fresh(must(target_keys.agree(source_keys.public_key())), terms);
    PrivateBatch batch;
    Binding again(must(source_keys.agree(target_keys.public_key())), terms);
    again.sign(batch);
    must(fresh.accept(batch));
    const auto loaded = load_es_state({taker, 1, 2}, kVcpus, state, fresh);
    ASSERT_FALSE(loaded.has_value());
    EXPECT_NE(loaded.error().detail.find(fmt::format("of vCPU {} failed", nth / 2)),
              std::string::npos);
  }
}

// KVM of today: nothing has moved when both sides have said no.
TEST(SevEs, TodaysKernelIsRefusedBeforeAnythingMoves) {
  SoftSevHost host;
  TestGuest source(host, 1);
  source.launch_with_pattern(0);
  EXPECT_FALSE(must(kernel_moves_vmsa(source.vm)));
  SevConfig config;
  config.es = true;
  config.vcpus = 1;
  TestGuest target(host, 1);
  target.prepare();
  SevImporter plain(target.vm, target.ram.lookup(), {});
  const Bytes identity = must(plain.identity());
  SevExporter exporter(source.vm, source.ram.lookup(), config);
  EXPECT_EQ(exporter.traits().platform, Platform::kSevEs);
  const auto begun = exporter.begin(identity);
  ASSERT_FALSE(begun.has_value());
  EXPECT_EQ(begun.error().cls, ErrorClass::kRefused);
  EXPECT_EQ(begun.error().detail,
            "This is a SEV-ES guest, and this kernel cannot move its registers: KVM of today "
            "answers EINVAL to SEND_UPDATE_VMSA.");
  EXPECT_EQ(host.commands_issued(MailboxCommand::kSendStart), 0u);
  SevImporter importer(target.vm, target.ram.lookup(), config);
  EXPECT_EQ(importer.traits().platform, Platform::kSevEs);
  EXPECT_EQ(importer.identity().error().cls, ErrorClass::kRefused);
}

TEST(SevEs, TheProbeReadsTheErrnoAndNothingElse) {
  struct Answers final : HostIoctl {
    int ioctl(int, unsigned long, void*) override { return result; }
    int result = 0;
  } line;
  const SevVm vm{line, 1, 2};
  line.result = -EINVAL;
  EXPECT_FALSE(must(kernel_moves_vmsa(vm)));
  line.result = -EFAULT;
  EXPECT_TRUE(must(kernel_moves_vmsa(vm)));
  line.result = -ENOTTY;
  EXPECT_FALSE(kernel_moves_vmsa(vm).has_value());
  line.result = 0;
  EXPECT_EQ(kernel_moves_vmsa(vm).error().detail,
            "KVM_SEV_SEND_UPDATE_VMSA accepted a call without data.");
}

}  // namespace
}  // namespace sealift::sev
