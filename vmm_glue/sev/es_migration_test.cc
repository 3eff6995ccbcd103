// SEV-ES guests between two software hosts whose kernel can do what no kernel of today does.

#include <gtest/gtest.h>

#include "vmm_glue/model/sev/soft_sev_host.h"
#include "vmm_glue/sev/test_support.h"

namespace sealift::sev {
namespace {

constexpr std::uint32_t kVcpus = 3;
constexpr std::uint64_t kPages = 4;
constexpr std::uint32_t kPolicy = kPolicyEs | kPolicyNoDebug;

SoftSevConfig es_kernel(FaultHook fault = {}) {
  SoftSevConfig out;
  out.kernel_moves_vmsa = true;
  out.fault = std::move(fault);
  return out;
}

SevConfig es_config(std::uint32_t vcpus = kVcpus) {
  SevConfig out;
  out.policy = kPolicy;
  out.es = true;
  out.vcpus = vcpus;
  return out;
}

// A guest with vCPUs whose registers only its own key shows.
struct EsGuest {
  EsGuest(SoftSevHost& soft, std::uint32_t count)
      : host(soft),
        ram(kPages),
        vm{.host = soft, .vm_fd = soft.create_vm(), .sev_fd = soft.open_sev()},
        vcpus(count) {}
  ~EsGuest() {
    host.destroy_vm(vm.vm_fd);
    host.close_sev(vm.sev_fd);
  }
  EsGuest(const EsGuest&) = delete;
  EsGuest& operator=(const EsGuest&) = delete;

  void create_vcpus() {
    for (std::uint32_t i = 0; i < vcpus; ++i) EXPECT_EQ(host.create_vcpu(vm.vm_fd), i);
  }
  void launch_and_run() {
    ram.fill_pattern();
    const MutableBytes all = ram.all();
    plain.assign(all.begin(), all.end());
    (void)must(launch(vm, kPolicy, {&all, 1}, {&all, 1}, [this]() -> Result<void> {
      create_vcpus();
      return {};
    }));
    for (std::uint32_t i = 0; i < vcpus; ++i) {  // the guest computes, and sets up its GHCBs
      store_registers(i, Bytes(kVmsaBytes, std::byte(0xa0 + i)));
      if (i != 1) (void)host.ghcb_msr(vm.vm_fd, i, ((0x2000 + i) << 12) | 0x012);
    }
    host.set_ap_jump_table(vm.vm_fd, 0x9f000);
  }
  void prepare() {
    const MutableBytes all = ram.all();
    must(prepare_receive(vm, {&all, 1}, kPolicy));
    create_vcpus();
  }
  Bytes registers(std::uint32_t vcpu) {
    Bytes out(kVmsaBytes);
    host.guest_view(vm.vm_fd).load(host.vmsa(vm.vm_fd, vcpu).data(), out);
    return out;
  }
  void store_registers(std::uint32_t vcpu, const Bytes& bytes) {
    host.guest_view(vm.vm_fd).store(host.vmsa(vm.vm_fd, vcpu).data(), bytes);
  }
  KvmSevEsState es_state(std::uint32_t vcpu) {
    KvmSevEsState out;
    out.vcpu = vcpu;
    must(check(issue(vm, KvmCommand::kGetEsState, &out), "GET_ES_STATE"));
    return out;
  }
  Bytes guest_sees() {
    Bytes out(kPages * kPageBytes);
    host.guest_view(vm.vm_fd).load(ram.all().data(), out);
    return out;
  }
  std::vector<Gfn> gfns() const {
    std::vector<Gfn> out;
    for (std::uint64_t i = 0; i < kPages; ++i) out.push_back(Gfn{i});
    return out;
  }

  SoftSevHost& host;
  TestRam ram;
  SevVm vm;
  const std::uint32_t vcpus;
  Bytes plain;
};

class SevEsMigration : public testing::Test {
 protected:
  SevEsMigration() {
    source.launch_and_run();
    target.prepare();
  }
  SoftSevHost source_host{es_kernel()};
  SoftSevHost target_host{es_kernel()};
  EsGuest source{source_host, kVcpus};
  EsGuest target{target_host, kVcpus};
  SevExporter exporter{source.vm, source.ram.lookup(), es_config()};
  SevImporter importer{target.vm, target.ram.lookup(), es_config()};
};

TEST_F(SevEsMigration, RegistersAndWhatKvmKeepsArrive) {
  EXPECT_EQ(exporter.traits().platform, Platform::kSevEs);
  EXPECT_TRUE(must(kernel_moves_vmsa(source.vm)));
  must(migrate(exporter, importer, source.gfns()));
  EXPECT_TRUE(target_host.may_run(target.vm.vm_fd));
  EXPECT_EQ(target.guest_sees(), source.plain);
  for (std::uint32_t i = 0; i < kVcpus; ++i) {
    EXPECT_EQ(target.registers(i), Bytes(kVmsaBytes, std::byte(0xa0 + i)));
    const KvmSevEsState sent = source.es_state(i);
    const KvmSevEsState taken = target.es_state(i);
    EXPECT_EQ(taken.flags, i == 1 ? 0u : kEsStateGhcbRegistered);
    EXPECT_EQ(taken.flags, sent.flags);
    EXPECT_EQ(taken.ghcb_gpa, sent.ghcb_gpa);
    EXPECT_EQ(taken.ap_jump_table, sent.ap_jump_table);
  }
  EXPECT_EQ(target_host.ap_jump_table(target.vm.vm_fd), 0x9f000u);
  must(exporter.release());
  EXPECT_FALSE(source_host.may_run(source.vm.vm_fd));
}

// The session up to the state, which leaves on its own road.
TEST_F(SevEsMigration, ABitOfAVmsaIsRefusedBeforeAnyCommand) {
  must(importer.begin(must(exporter.begin(must(importer.identity())))));
  const auto early = exporter.save_state();
  ASSERT_FALSE(early.has_value());
  EXPECT_EQ(early.error().detail, "SEV-ES state was asked for while the guest runs.");
  must(exporter.guest_paused());
  std::vector<StateBlob> state = must(exporter.save_state());
  state[2].bytes[2000] ^= std::byte{1};
  const auto loaded = importer.load_state(state);
  ASSERT_FALSE(loaded.has_value());
  EXPECT_EQ(loaded.error().cls, ErrorClass::kMalformed);
  EXPECT_EQ(target_host.commands_issued(MailboxCommand::kReceiveUpdateVmsa), 0u);
  EXPECT_FALSE(importer.seal(must(exporter.seal())).has_value());
  EXPECT_EQ(target_host.commands_issued(MailboxCommand::kReceiveFinish), 0u);
}

// A destination without its vCPU states is not sealed, whoever forgot them.
TEST_F(SevEsMigration, MissingStateIsFoundByTheSeal) {
  must(importer.begin(must(exporter.begin(must(importer.identity())))));
  must(exporter.guest_paused());
  (void)must(exporter.save_state());
  const auto sealed = importer.seal(must(exporter.seal()));
  ASSERT_FALSE(sealed.has_value());
  EXPECT_NE(sealed.error().detail.find("0 vCPU states"), std::string::npos);
}

TEST_F(SevEsMigration, AnotherNumberOfVcpusIsRefused) {
  EsGuest small(target_host, 2);
  small.prepare();
  SevImporter other(small.vm, small.ram.lookup(), es_config(2));
  const auto done = migrate(exporter, other, source.gfns());
  ASSERT_FALSE(done.has_value());
  EXPECT_EQ(done.error().cls, ErrorClass::kMalformed);
  EXPECT_EQ(done.error().detail, "3 items of SEV-ES state came for a guest with 2 vCPUs.");
  EXPECT_EQ(target_host.commands_issued(MailboxCommand::kReceiveUpdateVmsa), 0u);
  must(exporter.cancel(std::nullopt));
  EXPECT_TRUE(source_host.may_run(source.vm.vm_fd));
}

TEST(SevEsToday, NeitherSideBeginsOnAKernelOfToday) {
  SoftSevHost source_host;
  SoftSevHost target_host;
  EsGuest source(source_host, kVcpus);
  EsGuest target(target_host, kVcpus);
  source.launch_and_run();
  target.prepare();
  EXPECT_FALSE(must(kernel_moves_vmsa(source.vm)));
  SevImporter importer(target.vm, target.ram.lookup(), es_config());
  EXPECT_EQ(importer.identity().error().cls, ErrorClass::kRefused);
  EXPECT_TRUE(source_host.may_run(source.vm.vm_fd));
}

}  // namespace
}  // namespace sealift::sev
