#include "vmm_glue/inguest/commands.h"

#include <cstring>

#include "engine/assert.h"
#include "engine/limits.h"
#include "vmm_glue/host_copy.h"

namespace sealift::inguest {
namespace {

static_assert(kRangesMax >= limits::kMemoryRangesMax);
static_assert(kPage == kPageBytes && kPageAuthBytes == sizeof(PageAuth));

struct Meaning {
  ErrorClass cls;
  const char* text;
};

Meaning meaning_of(u64 status) {
  constexpr auto kPeer = ErrorClass::kMalformed;
  constexpr auto kHere = ErrorClass::kLocalFault;
  switch (static_cast<Status>(status)) {
    case Status::kBadPeerKey:
      return {kPeer, "the peer's public key is not usable"};
    case Status::kBadProof:
      return {kPeer, "the peer does not have the key that its public key promises"};
    case Status::kOutOfOrder:
      return {kPeer, "a page of another place in the session (replayed, moved, or one is missing)"};
    case Status::kBadTag:
      return {kPeer, "the page's tag does not match"};
    case Status::kBadSeal:
      return {kPeer, "the seal does not match what was imported"};
    case Status::kNoRandom:
      return {kHere, "the processor gives no random numbers (RDRAND)"};
    case Status::kNotRam:
      return {kHere, "no RAM of the guest"};
    case Status::kWrongState:
      return {kHere, "not in this state"};
    case Status::kBadCount:
      return {kHere, "a count out of bounds"};
    case Status::kBadOperation:
      return {kHere, "no such operation"};
    case Status::kNone:
      return {kHere, "no answer"};
    case Status::kDone:
      break;
  }
  return {kHere, "an answer that makes no sense"};
}

template <std::size_t kSize>
void put(u8 (&to)[kSize], const std::array<std::byte, kSize>& from) {
  std::memcpy(to, from.data(), kSize);
}
template <std::size_t kSize>
std::array<std::byte, kSize> take(const u8 (&from)[kSize]) {
  std::array<std::byte, kSize> out{};
  std::memcpy(out.data(), from, kSize);
  return out;
}

Result<void> verdict(const Mailbox& answer, const char* name, std::string_view where) {
  if (answer.status == static_cast<u64>(Status::kDone)) return {};
  const Meaning meaning = meaning_of(answer.status);
  return fail(meaning.cls, "The in-guest helper refused {}{}: {} (status {}).", name, where,
              meaning.text, answer.status);
}

}  // namespace

Result<void> Commands::run(Operation operation, const char* name, Mailbox& mailbox) {
  mailbox.operation = static_cast<u64>(operation);
  mailbox.status = static_cast<u64>(Status::kNone);
  copy_to_guest(helper_.shared().data(), std::as_bytes(std::span(&mailbox, 1)));
  const Result<void> entered = operation == Operation::kBoot ? helper_.restart() : helper_.enter();
  if (!entered) {
    return fail(entered.error().cls, "The in-guest helper failed at {}: {}", name,
                entered.error().detail);
  }
  copy_from_guest(helper_.shared().data(), std::as_writable_bytes(std::span(&mailbox, 1)));
  std::string where;
  const bool has_entries = operation == Operation::kExport || operation == Operation::kImport;
  if (has_entries && mailbox.failed_entry < kEntriesMax) {
    where = fmt::format(" of gfn {:#x}", mailbox.entries[mailbox.failed_entry].gfn);
  }
  return verdict(mailbox, name, where);
}

Result<void> Commands::restart() {
  Mailbox mailbox{};
  std::array<RamRange, kRangesMax> ranges{};
  for (const GfnRange& range : ram_.ranges()) {
    ranges[mailbox.count++] = {value(range.first), range.pages};
  }
  copy_to_guest(buffer(), std::as_bytes(std::span(ranges)));
  SEALIFT_CHECK(run(Operation::kBoot, "boot", mailbox));
  if (mailbox.version == kProgramVersion) return {};
  return fail(ErrorClass::kLocalFault, "The in-guest helper has version {} instead of {}.",
              mailbox.version, kProgramVersion);
}

Result<IdentityBlob> Commands::identify() {
  Mailbox mailbox{};
  SEALIFT_CHECK(run(Operation::kIdentify, "identify", mailbox));
  return IdentityBlob{.key = take(mailbox.key)};
}

Result<StartBlob> Commands::offer(const IdentityBlob& peer) {
  Mailbox mailbox{};
  put(mailbox.key, peer.key);
  SEALIFT_CHECK(run(Operation::kOffer, "offer", mailbox));
  return StartBlob{
      .key = take(mailbox.key), .nonce = take(mailbox.nonce), .proof = take(mailbox.proof)};
}

Result<void> Commands::accept(const StartBlob& start) {
  Mailbox mailbox{};
  put(mailbox.key, start.key);
  put(mailbox.nonce, start.nonce);
  put(mailbox.proof, start.proof);
  return run(Operation::kAccept, "accept", mailbox);
}

Result<void> Commands::export_pages(std::uint32_t epoch, std::span<const Gfn> gfns,
                                    MutableBytes auth, MutableBytes body) {
  SEALIFT_ASSERT(gfns.size() <= kEntriesMax && body.size() == gfns.size() * kPageBytes);
  Mailbox mailbox{};
  mailbox.count = gfns.size();
  mailbox.epoch = epoch;
  for (std::size_t i = 0; i < gfns.size(); ++i) mailbox.entries[i].gfn = value(gfns[i]);
  SEALIFT_CHECK(run(Operation::kExport, "export", mailbox));
  for (std::size_t i = 0; i < gfns.size(); ++i) {
    std::memcpy(auth.data() + i * kPageAuthBytes, &mailbox.entries[i].auth, kPageAuthBytes);
  }
  copy_from_guest(buffer(), body);
  return {};
}

Result<void> Commands::import_pages(std::uint32_t epoch, std::span<const Gfn> gfns, ByteView auth,
                                    ByteView body) {
  SEALIFT_ASSERT(gfns.size() <= kEntriesMax && body.size() == gfns.size() * kPageBytes);
  Mailbox mailbox{};
  mailbox.count = gfns.size();
  mailbox.epoch = epoch;
  for (std::size_t i = 0; i < gfns.size(); ++i) {
    mailbox.entries[i].gfn = value(gfns[i]);
    std::memcpy(&mailbox.entries[i].auth, auth.data() + i * kPageAuthBytes, kPageAuthBytes);
  }
  copy_to_guest(buffer(), body);
  return run(Operation::kImport, "import", mailbox);
}

Result<SealTag> Commands::seal() {
  Mailbox mailbox{};
  SEALIFT_CHECK(run(Operation::kSeal, "seal", mailbox));
  return take(mailbox.tag);
}

Result<void> Commands::check_seal(const SealTag& tag) {
  Mailbox mailbox{};
  put(mailbox.tag, tag);
  return run(Operation::kCheckSeal, "the check of the seal", mailbox);
}

Result<void> Commands::wipe() {
  Mailbox mailbox{};
  return run(Operation::kWipe, "wipe", mailbox);
}

}  // namespace sealift::inguest
