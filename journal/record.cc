#include "journal/record.h"

#include <charconv>
#include <limits>
#include <span>

namespace sealift {
namespace {
constexpr std::uint64_t kMacVersion = 1;
}  // namespace

const char* name_of(JournalKind kind) {
  switch (kind) {
    case JournalKind::kBegun:
      return "Begun";
    case JournalKind::kOffered:
      return "Offered";
    case JournalKind::kReady:
      return "Ready";
    case JournalKind::kCommitting:
      return "Committing";
    case JournalKind::kTaken:
      return "Taken";
    case JournalKind::kReleased:
      return "Released";
    case JournalKind::kKept:
      return "Kept";
    case JournalKind::kDiscarded:
      return "Discarded";
    case JournalKind::kCeded:
      return "Ceded";
  }
  return "invalid kind";
}

std::optional<JournalKind> kind_named(std::string_view name) {
  constexpr JournalKind kKinds[] = {
      JournalKind::kBegun,      JournalKind::kOffered,   JournalKind::kReady,
      JournalKind::kCommitting, JournalKind::kTaken,     JournalKind::kReleased,
      JournalKind::kKept,       JournalKind::kDiscarded, JournalKind::kCeded};
  for (const JournalKind kind : kKinds) {
    if (name == name_of(kind)) return kind;
  }
  return std::nullopt;
}

const char* name_of(JournalSide side) {
  return side == JournalSide::kSource ? "source" : "destination";
}

JournalSide side_of(JournalKind kind) {
  switch (kind) {
    case JournalKind::kOffered:
    case JournalKind::kReady:
    case JournalKind::kTaken:
    case JournalKind::kDiscarded:
      return JournalSide::kDestination;
    case JournalKind::kBegun:
    case JournalKind::kCommitting:
    case JournalKind::kReleased:
    case JournalKind::kKept:
    case JournalKind::kCeded:
      break;
  }
  return JournalSide::kSource;
}

Result<void> check_right(const RightToRun& right) {
  const auto check = [](const char* what, std::string_view text,
                        std::size_t bytes_max) -> Result<void> {
    if (text.empty()) return fail(ErrorClass::kUsage, "the journal needs {}, and has none", what);
    if (text.size() <= bytes_max) return {};
    return fail(ErrorClass::kUsage, "{} has {} bytes; the journal takes {}", what, text.size(),
                bytes_max);
  };
  SEALIFT_CHECK(check("the guest's name", right.guest, kGuestNameBytesMax));
  SEALIFT_CHECK(check("the source's identity", right.source, kHostIdentityBytesMax));
  SEALIFT_CHECK(check("the destination's identity", right.destination, kHostIdentityBytesMax));
  if (right.generation == std::numeric_limits<std::uint64_t>::max()) {
    return fail(ErrorClass::kUsage, "generation {} has no successor", right.generation);
  }
  return {};
}

Bytes mac_input(JournalKind kind, const RightToRun& right) {
  Bytes input;
  const auto put = [&](std::uint64_t number, std::size_t bytes) {
    for (std::size_t i = 0; i < bytes; ++i, number >>= 8) {
      input.push_back(static_cast<std::byte>(number & 0xff));
    }
  };
  const auto append = [&](ByteView bytes) {
    for (const std::byte b : bytes) input.push_back(b);
  };
  put(kMacVersion, 1);
  put(static_cast<std::uint8_t>(kind), 1);
  append(right.migration);
  put(right.generation, 8);
  append(right.page_map_sha256);
  append(right.memory_sha256);
  for (const std::string* text : {&right.guest, &right.source, &right.destination}) {
    put(text->size(), 2);
    append(std::as_bytes(std::span(*text)));
  }
  return input;
}

std::string journal_file_name(std::string_view guest) {
  std::string name;
  for (const char c : guest) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                       c == '-' || c == '_';
    if (plain) {
      name += c;
    } else {
      name += fmt::format("%{:02x}", static_cast<unsigned char>(c));
    }
  }
  return name.append(kJournalSuffix);
}

std::string hex_text(ByteView bytes) {
  std::string text;
  for (const std::byte b : bytes) text += fmt::format("{:02x}", std::to_integer<unsigned>(b));
  return text;
}

std::optional<MigrationId> migration_id_of(std::string_view hex) {
  MigrationId id{};
  if (hex.size() != 2 * id.size()) return std::nullopt;
  for (std::size_t i = 0; i < id.size(); ++i) {
    unsigned number = 0;
    const char* first = hex.data() + 2 * i;
    const auto [end, error] = std::from_chars(first, first + 2, number, 16);
    if (error != std::errc() || end != first + 2) return std::nullopt;
    id[i] = static_cast<std::byte>(number);
  }
  return id;
}

}  // namespace sealift
