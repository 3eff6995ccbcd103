// Every workload, platform and back-end, many seeds each: a running guest is migrated between two
// machines of this process by the production runners, records going through the codec, with
// conversions in every round. At the hand-over memory and page maps of both sides must be equal,
// and the guest must find nothing wrong afterwards.
//
// SEALIFT_SEEDS=N runs N seeds of each cell instead of 100.
#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <tuple>

#include "journal/record.h"
#include "schemas/codec.h"
#include "tests/support/memory_channel.h"
#include "tools/agent/destination_runner.h"
#include "tools/agent/guest_digest.h"
#include "tools/agent/machine.h"
#include "tools/agent/source_runner.h"
#include "vmm_glue/vmm/kvm_vm.h"

namespace sealift::test {
namespace {

using namespace std::chrono_literals;
using Cell = std::tuple<Backend, Platform, Workload>;

constexpr std::chrono::milliseconds kGuestMax = 30s;

std::uint64_t seeds() {
  const char* text = std::getenv("SEALIFT_SEEDS");
  return text == nullptr ? 100 : std::strtoull(text, nullptr, 10);
}

VmConfig config_of(const Cell& cell, std::uint64_t seed) {
  VmConfig config;
  std::tie(config.backend, config.platform, config.workload) = cell;
  config.memory_bytes = 4ULL << 20;
  config.vcpus = 1 + static_cast<std::uint32_t>(seed % 2);
  config.seed = seed;
  config.shared_percent = 10;
  config.flips_per_1000 = 100;
  config.hypercall_form =
      seed % 3 == 0 ? HypercallForm::kPageEncStatus : HypercallForm::kMapGpaRange;
  return config;
}

GuestView view_of(Vm& vm) {
  return
      [&vm](Gfn gfn, std::span<std::byte, kPageBytes> out) { return vm.read_guest_view(gfn, out); };
}

Hello hello_of(const char* name, const Vm& vm) {
  Hello hello;
  hello.agent_name = name;
  hello.platform = vm.config().platform;
  hello.backend = name_of(vm.config().backend);
  hello.memory = vm.layout().ranges();
  hello.vcpus = vm.config().vcpus;
  hello.features = kFeatureVerifyDigest;
  hello.batch_pages_max = 64;
  return hello;
}

// What the wire does to a record, without the wire.
void through_the_codec(Record& record) {
  EncodedRecord encoded = encode(std::move(record));
  auto decoded = decode(encoded.type, encoded.stream, encoded.meta, std::move(encoded.payload));
  ASSERT_TRUE(decoded) << decoded.error().detail;
  ASSERT_TRUE(decoded->has_value());
  record = std::move(**decoded);
}

class Matrix : public ::testing::TestWithParam<Cell> {
 protected:
  void SetUp() override {
    const auto [backend, platform, workload] = GetParam();
    if (backend == Backend::kKvm) {
      if (auto kvm = probe_kvm(); !kvm) GTEST_SKIP() << kvm.error().detail;
    }
    auto source = PlatformHost::make({.platform = platform, .backend = backend});
    auto destination = PlatformHost::make({.platform = platform, .backend = backend});
    ASSERT_TRUE(source && destination);
    source_host_ = std::move(*source);
    destination_host_ = std::move(*destination);
  }

  // Holds a live round open until the guest converted something in it.
  static void wait_for_a_conversion(const Vm& source, Digest& map_before, bool converts) {
    const auto deadline = std::chrono::steady_clock::now() + 10s;
    PageMap& map = const_cast<Vm&>(source).page_map();
    while (converts && map.digest() == map_before) {
      ASSERT_LT(std::chrono::steady_clock::now(), deadline) << "the guest converts nothing";
      std::this_thread::yield();
    }
    map_before = map.digest();
  }

  void migrate(const VmConfig& config) {
    auto source = Machine::launch(*source_host_, config);
    ASSERT_TRUE(source) << source.error().detail;
    Vm& source_vm = (*source)->vm();
    ASSERT_TRUE(source_vm.resume());
    auto booted = source_vm.wait_booted(kGuestMax);
    ASSERT_TRUE(booted) << booted.error().detail;
    auto destination = Machine::receive(*destination_host_, config);
    ASSERT_TRUE(destination) << destination.error().detail;
    Vm& destination_vm = (*destination)->vm();

    auto [source_end, destination_end] = make_memory_channels();
    Digest map_before = source_vm.page_map().digest();
    const bool converts = config.platform != Platform::kNone;
    source_end->on_send = [&](Record& record) {
      const bool ends_live_round =
          std::holds_alternative<EpochEnd>(record) && source_vm.status().state == VmState::kRunning;
      if (ends_live_round) wait_for_a_conversion(source_vm, map_before, converts);
      through_the_codec(record);
    };
    destination_end->on_send = [](Record& record) { through_the_codec(record); };

    SourceConfig settings;
    settings.hello = hello_of("A", source_vm);
    settings.goals.rounds_max = 3;
    settings.goals.downtime_max_ns = 1;
    std::optional<GuestDigest> at_destination;
    DestinationHooks hooks;
    hooks.open_guest = [&]() -> Result<IncomingGuest> {
      return IncomingGuest{&destination_vm, (*destination)->importer()};
    };
    hooks.about_to_run = [&] {
      auto digest =
          digest_of(destination_vm.layout(), destination_vm.page_map(), view_of(destination_vm));
      if (digest) at_destination = *digest;
    };
    Progress progress_source, progress_destination;
    SourceRunner sending(settings, source_vm, (*source)->exporter(), *source_end, progress_source);
    DestinationRunner receiving(hello_of("B", destination_vm), destination_vm.layout(),
                                *destination_end, hooks, progress_destination);
    DestinationReport received;
    std::jthread receiver([&] { received = receiving.run(); });
    const MigrationReport report = sending.run();
    receiver.join();

    ASSERT_EQ(report.outcome, Outcome::kDone)
        << (report.error ? report.error->detail : "-") << " / "
        << (received.error ? received.error->detail : "-");
    const auto at_source = digest_of(source_vm.layout(), source_vm.page_map(), view_of(source_vm));
    ASSERT_TRUE(at_source && at_destination);
    EXPECT_EQ(hex_text(at_source->memory_sha256), hex_text(at_destination->memory_sha256));
    EXPECT_EQ(hex_text(at_source->page_map_sha256), hex_text(at_destination->page_map_sha256));
    auto check = destination_vm.self_check(kGuestMax);
    ASSERT_TRUE(check) << check.error().detail;
    EXPECT_EQ(check->errors, 0u) << "first bad gfn "
                                 << (check->first_bad_gfn ? value(*check->first_bad_gfn) : 0);
    EXPECT_EQ(check->refused, 0u);
    EXPECT_EQ(check->conversions > 0, converts);
    EXPECT_GT(check->pages_checked, 0u);
    ++migrations_;
  }

  std::unique_ptr<PlatformHost> source_host_;
  std::unique_ptr<PlatformHost> destination_host_;
  std::uint64_t migrations_ = 0;
};

TEST_P(Matrix, BothSidesAreEqualAndTheGuestFindsNothingWrong) {
  const auto started = std::chrono::steady_clock::now();
  for (std::uint64_t seed = 1; seed <= seeds(); ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    migrate(config_of(GetParam(), seed));
    if (HasFailure()) break;
  }
  const auto took = std::chrono::duration_cast<std::chrono::milliseconds>(
      std::chrono::steady_clock::now() - started);
  std::printf("%llu migrations in %lld ms\n", static_cast<unsigned long long>(migrations_),
              static_cast<long long>(took.count()));
}

INSTANTIATE_TEST_SUITE_P(All, Matrix,
                         ::testing::Combine(::testing::Values(Backend::kModel, Backend::kKvm),
                                            ::testing::Values(Platform::kNone, Platform::kSev),
                                            ::testing::Values(Workload::kIdle, Workload::kSweep,
                                                              Workload::kHotset, Workload::kRandom,
                                                              Workload::kFlipstorm)),
                         [](const ::testing::TestParamInfo<Cell>& cell) {
                           return std::string(name_of(std::get<0>(cell.param))) + "_" +
                                  name_of(std::get<1>(cell.param)) + "_" +
                                  name_of(std::get<2>(cell.param));
                         });

}  // namespace
}  // namespace sealift::test
