// Helpers of the SEV tests: hex, guests with memory on a software host, ioctls that fail on
// purpose. Plain test code: one thread, failures are gtest's.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "vmm_glue/host_copy.h"
#include "vmm_glue/model/sev/soft_sev_host.h"
#include "vmm_glue/sev/exporter.h"
#include "vmm_glue/sev/importer.h"
#include "vmm_glue/sev/setup.h"

namespace sealift::sev {

inline Bytes from_hex(std::string_view hex) {
  Bytes out;
  for (std::size_t i = 0; i + 1 < hex.size(); i += 2) {
    out.push_back(static_cast<std::byte>(std::stoi(std::string(hex.substr(i, 2)), nullptr, 16)));
  }
  return out;
}

inline std::string to_hex(ByteView bytes) {
  std::string out;
  for (const std::byte byte : bytes) out += fmt::format("{:02x}", std::to_integer<int>(byte));
  return out;
}

// 16 bytes counting up from `first`.
inline Block counting(int first) {
  Block out{};
  for (int i = 0; i < 16; ++i) out[static_cast<std::size_t>(i)] = static_cast<std::byte>(first + i);
  return out;
}

template <class T>
T must(Result<T> result) {
  EXPECT_TRUE(result.has_value()) << (result ? "" : result.error().detail);
  if (!result) std::abort();
  return std::move(*result);
}
inline void must(const Result<void>& result) {
  ASSERT_TRUE(result.has_value()) << result.error().detail;
}

// Guest RAM at a page-aligned address; page i is gfn i.
class TestRam {
 public:
  explicit TestRam(std::uint64_t pages) : storage_((pages + 1) * kPageBytes), pages_(pages) {
    const auto address = reinterpret_cast<std::uintptr_t>(storage_.data());
    base_ = storage_.data() + (kPageBytes - address % kPageBytes) % kPageBytes;
  }
  TestRam(const TestRam&) = delete;
  TestRam& operator=(const TestRam&) = delete;

  std::uint64_t pages() const { return pages_; }
  MutableBytes all() { return {base_, pages_ * kPageBytes}; }
  MutableBytes page(std::uint64_t gfn) { return all().subspan(gfn * kPageBytes, kPageBytes); }
  HostAddress lookup() {
    return [this](Gfn gfn) { return value(gfn) < pages_ ? page(value(gfn)).data() : nullptr; };
  }
  // A pattern that differs in every word of every page.
  void fill_pattern() {
    const MutableBytes bytes = all();
    for (std::uint64_t at = 0; at < bytes.size(); at += 8) {
      const std::uint64_t word = (at + 1) * 0x9e3779b97f4a7c15ULL;
      std::memcpy(bytes.data() + at, &word, 8);
    }
  }

 private:
  Bytes storage_;
  std::uint64_t pages_ = 0;
  std::byte* base_ = nullptr;
};

// A guest with RAM on `host`, driven through `line` (the host itself unless a test puts faults
// between).
struct TestGuest {
  TestGuest(SoftSevHost& soft, HostIoctl& line, std::uint64_t pages)
      : host(soft),
        ram(pages),
        vm{.host = line, .vm_fd = soft.create_vm(), .sev_fd = soft.open_sev()} {}
  TestGuest(SoftSevHost& soft, std::uint64_t pages) : TestGuest(soft, soft, pages) {}
  ~TestGuest() { host.destroy_vm(vm.vm_fd); }
  TestGuest(const TestGuest&) = delete;
  TestGuest& operator=(const TestGuest&) = delete;

  // INIT … LAUNCH_FINISH over the pattern: the guest runs and sees the pattern.
  void launch_with_pattern(std::uint32_t policy) {
    ram.fill_pattern();
    const MutableBytes all = ram.all();
    plain.assign(all.begin(), all.end());
    launched = must(launch({host, vm.vm_fd, vm.sev_fd}, policy, {&all, 1}, {&all, 1}));
  }
  void prepare() {
    const MutableBytes all = ram.all();
    must(prepare_receive({host, vm.vm_fd, vm.sev_fd}, {&all, 1}));
  }
  Bytes guest_sees() {
    Bytes out(ram.pages() * kPageBytes);
    host.guest_view(vm.vm_fd).load(ram.all().data(), out);
    return out;
  }
  Bytes host_sees() {
    const MutableBytes all = ram.all();
    return {all.begin(), all.end()};
  }
  std::vector<Gfn> gfns() const {
    std::vector<Gfn> out;
    for (std::uint64_t i = 0; i < ram.pages(); ++i) out.push_back(Gfn{i});
    return out;
  }
  GuestState state() const { return host.guest_state(vm.vm_fd); }

  SoftSevHost& host;
  TestRam ram;
  SevVm vm;
  Bytes plain;  // what the guest saw at launch
  Launched launched;
};

// RECEIVE_START of a blob as it stands, without a driver around it.
inline void receive_start(const SevVm& vm, const StartBlob& blob) {
  KvmSevStart receive;
  receive.policy = blob.policy;
  receive.pdh_uaddr = reinterpret_cast<std::uint64_t>(blob.pdh.data());
  receive.pdh_len = static_cast<std::uint32_t>(blob.pdh.size());
  receive.session_uaddr = reinterpret_cast<std::uint64_t>(blob.session.data());
  receive.session_len = static_cast<std::uint32_t>(blob.session.size());
  must(check(issue(vm, KvmCommand::kReceiveStart, &receive), "RECEIVE_START"));
}

// A whole migration of `gfns` in one epoch; stops at the first error, as a session would.
inline Result<void> migrate(SevExporter& exporter, SevImporter& importer,
                            const std::vector<Gfn>& gfns) {
  SEALIFT_TRY(const Bytes identity, importer.identity());
  SEALIFT_TRY(const Bytes start, exporter.begin(identity));
  SEALIFT_CHECK(importer.begin(start));
  SEALIFT_CHECK(exporter.guest_paused());
  SEALIFT_TRY(const ExportResult sent, exporter.export_batch(0, 1, gfns));
  if (!sent.batch.gfns.empty()) SEALIFT_CHECK(importer.import_batch(sent.batch));
  SEALIFT_TRY(const Bytes mark, exporter.end_epoch(1));
  SEALIFT_CHECK(importer.end_epoch(1, mark));
  SEALIFT_TRY(std::vector<StateBlob> state, exporter.save_state());
  SEALIFT_CHECK(importer.load_state(std::move(state)));
  SEALIFT_TRY(const Bytes seal, exporter.seal());
  SEALIFT_CHECK(importer.seal(seal));
  return importer.commit();
}

// The nth ioctl fails with `error`: before it runs, or after, as when the kernel's copy-out faults.
class FaultyIoctl final : public HostIoctl {
 public:
  enum class When : std::uint8_t { kBefore, kAfter };
  FaultyIoctl(HostIoctl& inner, std::uint64_t nth, When when, int error)
      : inner_(inner), left_(nth), when_(when), error_(error) {}

  int ioctl(int fd, unsigned long request, void* arg) override {
    const bool fires = !fired_ && left_-- == 0;
    if (!fires) return inner_.ioctl(fd, request, arg);
    fired_ = true;
    if (when_ == When::kAfter) inner_.ioctl(fd, request, arg);
    return -error_;
  }
  bool fired() const { return fired_; }

 private:
  HostIoctl& inner_;
  std::uint64_t left_ = 0;
  const When when_;
  const int error_;
  bool fired_ = false;
};

}  // namespace sealift::sev
