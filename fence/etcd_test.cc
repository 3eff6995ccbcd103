#include "fence/etcd.h"

#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "fence/base64.h"

namespace sealift {
namespace {

// Answers in turn, and keeps what was asked.
struct Canned {
  std::vector<EtcdReply> replies;
  std::vector<std::pair<std::string, std::string>> asked;
  EtcdCall call() {
    return [this](const std::string& path, const std::string& body) -> Result<EtcdReply> {
      asked.emplace_back(path, body);
      if (asked.size() > replies.size()) return fail(ErrorClass::kDisconnected, "no answer");
      return replies[asked.size() - 1];
    };
  }
};

const std::string kHeader = R"({"header":{"revision":"9"},)";

Canned one(std::string body, unsigned status = 200) {
  return Canned{{EtcdReply{status, std::move(body)}}, {}};
}
std::string state_answer(const std::string& right, const std::string& holder) {
  return kHeader + R"("succeeded":true,"responses":[{"response_range":{)" + right +
         R"(}},{"response_range":{)" + holder + "}}]}";
}
std::string pair_text(const std::string& value, const std::string& more) {
  return R"("kvs":[{"key":"YQ==","mod_revision":"7","value":")" + base64(value) + "\"" + more +
         R"(}],"count":"1")";
}

TEST(Base64, BothWays) {
  EXPECT_EQ(base64(""), "");
  EXPECT_EQ(base64("M"), "TQ==");
  EXPECT_EQ(base64("Ma"), "TWE=");
  EXPECT_EQ(base64("Man"), "TWFu");
  EXPECT_EQ(base64("\xff\xfe\xfd"), "//79");
  for (const char* text : {"", "M", "Ma", "Man", "Manx", "\x01\xff+/"}) {
    EXPECT_EQ(from_base64(base64(text)), text);
  }
  for (const char* text : {"Z", "Zg=", "Z===", "Zm9v!", "Zg==Zg==", "====", "Zm 9"}) {
    EXPECT_EQ(from_base64(text), std::nullopt) << text;
  }
}

TEST(EtcdLocks, ReadsBothKeysAtOnce) {
  Canned etcd = one(state_answer(
      pair_text(R"({"generation":3,"owner":"A","offered_to":"B","migration":"ab"})", ""),
      pair_text("A", R"(,"lease":"12")")));
  EtcdLocks locks(etcd.call(), "etcd");
  const auto state = locks.read("web-1");
  ASSERT_TRUE(state) << state.error().detail;
  EXPECT_EQ(*state->right, (GuestRight{3, "A", "B", "ab"}));
  EXPECT_EQ(state->right_version, 7U);
  EXPECT_EQ(state->holder, "12");
  EXPECT_EQ(state->holder_version, 7U);
  EXPECT_EQ(etcd.asked[0].first, "/v3/kv/txn");
  EXPECT_EQ(etcd.asked[0].second, R"({"success":[{"request_range":{"key":")" +
                                      base64("/sealift/guests/web-1/right") +
                                      R"("}},{"request_range":{"key":")" +
                                      base64("/sealift/guests/web-1/holder") + R"("}}]})");
}

TEST(EtcdLocks, AGuestThatIsNotThere) {
  Canned etcd = one(state_answer("", ""));
  const auto state = EtcdLocks(etcd.call(), "etcd").read("web-1");
  ASSERT_TRUE(state);
  EXPECT_EQ(*state, LockState{});
}

TEST(EtcdLocks, ComparesBothKeysAndWritesBoth) {
  Canned etcd = one(kHeader + R"("succeeded":true})");
  LockState seen;
  seen.right_version = 7;
  seen.holder_version = 6;
  const auto written =
      EtcdLocks(etcd.call(), "etcd", "/x").write("g", seen, {4, "B", "", "cd"}, "99");
  ASSERT_TRUE(written);
  EXPECT_EQ(*written, Written::kDone);
  const std::string& body = etcd.asked[0].second;
  for (const char* part : {R"("mod_revision":"7")", R"("mod_revision":"6")", R"("lease":"99")"}) {
    EXPECT_NE(body.find(part), std::string::npos) << part << " in " << body;
  }
  EXPECT_NE(body.find(base64(R"({"generation":4,"migration":"cd","owner":"B"})")),
            std::string::npos);
}

TEST(EtcdLocks, TellsAChangeFromAnEndedLeaseFromSilence) {
  const auto write = [](Canned etcd) {
    return EtcdLocks(etcd.call(), "etcd").write("g", {}, {0, "A", "", ""}, "1");
  };
  EXPECT_EQ(*write(one(R"({"header":{"revision":"9"}})")), Written::kChanged);
  EXPECT_EQ(*write(one(R"({"error":"etcdserver: requested lease not found","code":5})", 404)),
            Written::kLeaseEnded);
  const auto silent = write(Canned{});
  ASSERT_FALSE(silent);
  EXPECT_EQ(silent.error().cls, ErrorClass::kDisconnected);
  const auto no_leader = write(one(R"({"error":"etcdserver: no leader","code":14})", 500));
  ASSERT_FALSE(no_leader);
  EXPECT_EQ(no_leader.error().detail,
            "etcd refused /v3/kv/txn with status 500: etcdserver: no leader");
}

TEST(EtcdLocks, LeasesLiveAndEnd) {
  Canned etcd{{{200, kHeader + R"("ID":"123","TTL":"10"})"},
               {200, R"({"result":{"ID":"123","TTL":"9"}})"},
               {200, R"({"result":{"ID":"123"}})"},
               {404, R"({"error":"etcdserver: requested lease not found","code":5})"}},
              {}};
  EtcdLocks locks(etcd.call(), "etcd");
  const auto lease = locks.grant(9'100'000'000);
  ASSERT_TRUE(lease);
  EXPECT_EQ(lease->id, "123");
  EXPECT_EQ(lease->granted_ns, 10'000'000'000U);
  EXPECT_EQ(etcd.asked[0].second, R"({"TTL":"10"})");
  EXPECT_EQ(*locks.renew("123"), 9'000'000'000U);
  EXPECT_EQ(*locks.renew("123"), std::nullopt);
  EXPECT_TRUE(locks.revoke("123"));
}

// Whatever comes back: an error with a short text, or nothing that was not said.
TEST(EtcdLocks, AnswersThatAreNotEtcds) {
  const std::string long_text(100'000, 'x');
  const std::string deep = std::string(50'000, '[');
  std::vector<std::string> bodies = {
      "",
      "null",
      "[]",
      "7",
      "\"x\"",
      "{",
      "\xff\xfe",
      deep,
      long_text,
      "{\"error\":7}",
      R"({"responses":[]})",
      R"({"responses":7})",
      R"({"responses":[7,8]})",
      R"({"responses":[{"response_range":7},{"response_range":{}}]})",
      R"({"result":7})",
      R"({"result":{"TTL":"x"}})",
      R"({"result":{"TTL":-1}})",
      R"({"ID":"-1","TTL":"10"})",
      R"({"ID":"1","TTL":"99999999999999999999"})",
      R"({"ID":1.5})",
      R"({"succeeded":"yes"})",
      state_answer(R"("kvs":7)", ""),
      state_answer(R"("kvs":[7])", ""),
      state_answer(R"("kvs":[{},{}])", ""),
      state_answer(R"("kvs":[{"value":7}])", ""),
      state_answer(R"("kvs":[{"value":"!!!!","mod_revision":"1"}])", ""),
      state_answer(pair_text("no json", ""), ""),
      state_answer(pair_text("{}", ""), ""),
      state_answer(pair_text(R"({"generation":-1,"owner":"A"})", ""), ""),
      state_answer(pair_text(R"({"generation":1,"owner":7})", ""), ""),
      state_answer(pair_text("{\"generation\":1,\"owner\":\"" + long_text + "\"}", ""), ""),
      state_answer("", pair_text("A", R"(,"lease":[])"))};
  for (const std::string& body : bodies) {
    SCOPED_TRACE(body.substr(0, 80));
    for (const unsigned status : {200U, 500U}) {
      const auto read = EtcdLocks(one(body, status).call(), "etcd").read("g");
      ASSERT_FALSE(read);
      EXPECT_LT(read.error().detail.size(), 400U);
      EXPECT_FALSE(EtcdLocks(one(body, status).call(), "etcd").grant(1));
      const auto renewed = EtcdLocks(one(body, status).call(), "etcd").renew("1");
      EXPECT_FALSE(renewed);
    }
  }
  EXPECT_FALSE(EtcdLocks(one(R"({"succeeded":"yes"})").call(), "etcd").write("g", {}, {}, "1"));
}

}  // namespace
}  // namespace sealift
