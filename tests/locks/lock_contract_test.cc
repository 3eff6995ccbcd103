// What fence/lock_manager.h promises, of the lock manager in memory and of a real etcd over TLS.
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "fence/etcd.h"
#include "fence/right_rules.h"
#include "fence/test_locks.h"
#include "tools/agent/lock_http.h"
#include "transport/certs.h"
#include "transport/connect.h"

namespace sealift {
namespace {

constexpr std::uint64_t kSecond_ns = 1'000'000'000;
constexpr Millis kStartMax{60'000};
constexpr Millis kRequestMax{4'000};

Address loopback(std::uint16_t port) { return Address{Address::Kind::kTcp, "127.0.0.1", port, {}}; }

std::uint16_t free_port() {
  auto listener = Listener::bind(loopback(0));
  return listener ? listener->bound_address().port : 0;
}

bool has_etcd() { return std::system("command -v etcd >/dev/null 2>&1") == 0; }

// One member with data, ports and keys of its own.
class EtcdProcess {
 public:
  EtcdProcess() {
    std::string name = "/tmp/sealift-etcd-XXXXXX";
    EXPECT_NE(mkdtemp(name.data()), nullptr);
    dir_ = name;
    EXPECT_TRUE(make_ca(dir_ + "/ca"));
    for (const char* host : {"server", "client"}) {
      EXPECT_TRUE(
          make_host_certificate(dir_ + "/ca", dir_ + "/" + host, {"localhost", "127.0.0.1"}, 30));
    }
    client_ = loopback(free_port());
    const std::string url = "https://127.0.0.1:" + std::to_string(client_.port);
    const std::string peers = "http://127.0.0.1:" + std::to_string(free_port());
    std::vector<std::string> words = {"etcd",
                                      "--data-dir=" + dir_ + "/data",
                                      "--listen-client-urls=" + url,
                                      "--advertise-client-urls=" + url,
                                      "--listen-peer-urls=" + peers,
                                      "--initial-advertise-peer-urls=" + peers,
                                      "--initial-cluster=default=" + peers,
                                      "--cert-file=" + dir_ + "/server/host.pem",
                                      "--key-file=" + dir_ + "/server/host.key",
                                      "--trusted-ca-file=" + dir_ + "/server/ca.pem",
                                      "--client-cert-auth",
                                      "--log-outputs=" + dir_ + "/log",
                                      "--logger=zap"};
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    EXPECT_EQ(posix_spawnp(&pid_, "etcd", nullptr, nullptr, argv.data(), environ), 0);
  }
  ~EtcdProcess() {
    if (pid_ > 0) {
      kill(pid_, SIGKILL);
      waitpid(pid_, nullptr, 0);
    }
    std::error_code ignored;
    std::filesystem::remove_all(dir_, ignored);
  }
  void freeze() const { kill(pid_, SIGSTOP); }
  void thaw() const { kill(pid_, SIGCONT); }

  std::unique_ptr<EtcdHttp> http(std::vector<Address> members, Millis request_max) const {
    auto tls = TlsContext::load(dir_ + "/client", TlsRole::kClient);
    EXPECT_TRUE(tls);
    return std::make_unique<EtcdHttp>(std::move(members), *tls, request_max, CancelToken());
  }
  const Address& client() const { return client_; }

 private:
  std::string dir_;
  Address client_;
  pid_t pid_ = -1;
};

// A lock manager, and how a test lets its leases end.
struct Subject {
  virtual ~Subject() = default;
  virtual LockManager& locks() = 0;
  virtual void pass(std::uint64_t ns) = 0;
};
struct InMemory : Subject {
  TestLocks in_memory;
  LockManager& locks() override { return in_memory; }
  void pass(std::uint64_t ns) override { in_memory.pass(ns); }
};
struct RealEtcd : Subject {
  EtcdProcess process;
  std::unique_ptr<EtcdHttp> http = process.http({process.client()}, kRequestMax);
  EtcdLocks etcd{[this](const auto& path, const auto& body) { return http->call(path, body); },
                 "etcd"};
  RealEtcd() {
    const Deadline deadline = Deadline::after(kStartMax);
    while (!etcd.read("started") && deadline.remaining() > Millis{0}) std::this_thread::yield();
  }
  LockManager& locks() override { return etcd; }
  void pass(std::uint64_t ns) override {
    // etcd ends leases by a scan of its own: as long again is plenty.
    static_cast<void>(
        wait_for(-1, 0, CancelToken(), Deadline::after(Millis{2 * ns / 1'000'000 + 1'000})));
  }
};

class LockContract : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    if (std::string(GetParam()) == "memory") {
      subject_ = std::make_unique<InMemory>();
      return;
    }
    if (!has_etcd()) GTEST_SKIP() << "etcd is not installed (Debian: etcd-server)";
    subject_ = std::make_unique<RealEtcd>();
    ASSERT_TRUE(subject_->locks().read("g")) << "etcd did not start";
  }
  LockManager& locks() { return subject_->locks(); }
  LockState state() {
    auto now = locks().read("g");
    EXPECT_TRUE(now) << now.error().detail;
    return now ? *now : LockState{};
  }
  Lease lease(std::uint64_t ttl_ns = 60 * kSecond_ns) {
    auto granted = locks().grant(ttl_ns);
    EXPECT_TRUE(granted) << granted.error().detail;
    return granted ? *granted : Lease{};
  }
  std::unique_ptr<Subject> subject_;
};

TEST_P(LockContract, AGuestAppearsWithBothKeys) {
  EXPECT_EQ(state(), LockState{});
  const Lease held = lease();
  EXPECT_GE(held.granted_ns, 60 * kSecond_ns);
  const GuestRight right{3, "A", "B", "00ff"};
  ASSERT_EQ(locks().write("g", {}, right, held.id), Written::kDone);
  const LockState now = state();
  EXPECT_EQ(now.right, right);
  EXPECT_EQ(now.holder, held.id);
  EXPECT_NE(now.right_version, 0U);
  EXPECT_EQ(now.right_version, now.holder_version);
  EXPECT_EQ(*locks().read("other"), LockState{});
}

TEST_P(LockContract, AWriteComparesEachKey) {
  const Lease first = lease();
  const Lease second = lease();
  const LockState nothing;
  ASSERT_EQ(locks().write("g", nothing, {0, "A", "", ""}, first.id), Written::kDone);
  const LockState seen = state();
  EXPECT_EQ(locks().write("g", nothing, {0, "B", "", ""}, second.id), Written::kChanged);
  LockState half = seen;
  half.holder_version = 0;
  EXPECT_EQ(locks().write("g", half, {1, "B", "", ""}, second.id), Written::kChanged);
  half = seen;
  half.right_version += 1;
  EXPECT_EQ(locks().write("g", half, {1, "B", "", ""}, second.id), Written::kChanged);
  EXPECT_EQ(state(), seen);
  EXPECT_EQ(locks().write("g", seen, {1, "B", "", ""}, second.id), Written::kDone);
  EXPECT_EQ(locks().write("g", seen, {1, "C", "", ""}, first.id), Written::kChanged);
  // The lease that stood behind it does not take the successor's key along.
  ASSERT_TRUE(locks().revoke(first.id));
  EXPECT_EQ(state().holder, second.id);
}

TEST_P(LockContract, TheHolderGoesWithItsLeaseAndTheRightStays) {
  const Lease held = lease();
  ASSERT_EQ(locks().write("g", {}, {7, "A", "", ""}, held.id), Written::kDone);
  const LockState before = state();
  ASSERT_TRUE(locks().revoke(held.id));
  EXPECT_TRUE(locks().revoke(held.id));  // once more is no error
  const LockState after = state();
  EXPECT_EQ(after.holder, "");
  EXPECT_EQ(after.holder_version, 0U);
  EXPECT_EQ(after.right, before.right);
  EXPECT_EQ(after.right_version, before.right_version);
  EXPECT_EQ(locks().write("g", before, {8, "B", "", ""}, lease().id), Written::kChanged);
  EXPECT_EQ(locks().write("g", after, {8, "B", "", ""}, held.id), Written::kLeaseEnded);
  EXPECT_EQ(state(), after);
  EXPECT_EQ(locks().write("g", after, {8, "", "", ""}, {}), Written::kDone);
  EXPECT_EQ(state().holder, "");
}

TEST_P(LockContract, ALeaseLivesWhileItIsRenewedAndThenEnds) {
  const Lease held = lease(2 * kSecond_ns);
  ASSERT_EQ(locks().write("g", {}, {0, "A", "", ""}, held.id), Written::kDone);
  const auto renewed = locks().renew(held.id);
  ASSERT_TRUE(renewed);
  EXPECT_EQ(*renewed, held.granted_ns);
  EXPECT_EQ(state().holder, held.id);
  subject_->pass(held.granted_ns);
  EXPECT_EQ(state().holder, "");
  const auto late = locks().renew(held.id);
  ASSERT_TRUE(late);
  EXPECT_EQ(*late, std::nullopt);
  EXPECT_EQ(*locks().renew("4242"), std::nullopt);
}

TEST_P(LockContract, NamesAreBytes) {
  for (const std::string& name : {std::string("a/b"), std::string("a/b/right"),
                                  std::string("späti \"x\" {}"), std::string(80, 'x')}) {
    ASSERT_EQ(locks().write(name, {}, {1, name, "", ""}, {}), Written::kDone);
    EXPECT_EQ(locks().read(name)->right->owner, name);
  }
}

TEST_P(LockContract, AWholeHandOver) {
  const LockSelf a{"A", lease().id};
  const LockSelf b{"B", lease().id};
  const auto does = [&](const LockSelf& self, const RightRule& rule) {
    auto done = carry_out(locks(), "g", self, rule);
    return done ? done->verdict : RightVerdict::kNever;
  };
  EXPECT_EQ(does(a, [](const auto& s, const auto& w) { return to_launch(s, w, 0, false); }),
            RightVerdict::kAlready);
  EXPECT_EQ(does(a, [](const auto& s, const auto& w) { return to_offer(s, w, 0, "B", "00"); }),
            RightVerdict::kAlready);
  EXPECT_EQ(
      does(b, [](const auto& s, const auto& w) { return to_accept(s, w, 0, "A", "00", false); }),
      RightVerdict::kAlready);
  EXPECT_EQ(does(a, [](const auto& s, const auto& w) { return to_keep(s, w, 0, "00"); }),
            RightVerdict::kNever);
  EXPECT_EQ(state().right, (GuestRight{1, "B", "", "00"}));
  EXPECT_EQ(state().holder, b.lease);
}

INSTANTIATE_TEST_SUITE_P(Locks, LockContract, ::testing::Values("memory", "etcd"),
                         [](const auto& param) { return std::string(param.param); });

// A member that hangs and one that is not there: asked in order, within the time of one request.
TEST(EtcdHttp, TriesEachMemberWithinOneLimit) {
  if (!has_etcd()) GTEST_SKIP() << "etcd is not installed (Debian: etcd-server)";
  RealEtcd etcd;
  ASSERT_TRUE(etcd.etcd.read("g")) << "etcd did not start";
  EtcdProcess hangs;
  hangs.freeze();
  const Address nobody = loopback(free_port());
  const auto http =
      etcd.process.http({nobody, hangs.client(), etcd.process.client()}, Millis{3'000});
  EtcdLocks locks([&](const auto& path, const auto& body) { return http->call(path, body); }, "x");
  EXPECT_TRUE(locks.read("g"));
  etcd.process.freeze();
  const Deadline limit = Deadline::after(Millis{6'000});
  const auto silent = locks.read("g");
  EXPECT_GT(limit.remaining(), Millis{0});
  etcd.process.thaw();
  hangs.thaw();
  ASSERT_FALSE(silent);
  EXPECT_EQ(silent.error().cls, ErrorClass::kDisconnected);
  EXPECT_NE(silent.error().detail.find("etcd cannot be reached: "), std::string::npos);
}

TEST(EtcdEndpoints, SaysWhatIsWrong) {
  const auto two = parse_endpoints("https://a:1,https://[::1]:2/");
  ASSERT_TRUE(two);
  EXPECT_TRUE(two->tls);
  ASSERT_EQ(two->members.size(), 2U);
  EXPECT_EQ(two->members[1], (Address{Address::Kind::kTcp, "::1", 2, {}}));
  EXPECT_FALSE(parse_endpoints("http://a:1")->tls);
  for (const char* text : {"", "a:1", "https://a", "https://a:1,http://b:2", "https://a:1,,",
                           "ftp://a:1", "https://a:x"}) {
    EXPECT_FALSE(parse_endpoints(text)) << text;
  }
}

}  // namespace
}  // namespace sealift
