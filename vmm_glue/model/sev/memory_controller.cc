#include "vmm_glue/model/sev/memory_controller.h"

#include <algorithm>
#include <array>
#include <mutex>
#include <utility>

#include "engine/assert.h"

namespace sealift::sev {
namespace {

constexpr unsigned kUserAddressBits = 47;

std::uint64_t address_of(const std::byte* host) { return reinterpret_cast<std::uint64_t>(host); }

// Below the C-bit even when the highest user address is added.
std::uint64_t random_base(RandomSource& random) {
  std::array<std::uint64_t, 1> number{};
  random.fill(std::as_writable_bytes(std::span(number)));
  constexpr std::uint64_t kFirst = 1ULL << kUserAddressBits;
  constexpr std::uint64_t kPages = (kCBit - 2 * kFirst) >> kPageShift;
  return kFirst + (number[0] % kPages << kPageShift);
}

}  // namespace

MemoryController::MemoryController(RandomSource& random, std::uint32_t asids)
    : base_(random_base(random)), keys_(std::size_t{asids} + 1) {}

void MemoryController::add_region(std::uint64_t address, std::uint64_t bytes) {
  const std::unique_lock lock(mutex_);
  regions_.push_back({.first = address, .end = address + bytes});
}

void MemoryController::remove_region(std::uint64_t address, std::uint64_t bytes) {
  const std::unique_lock lock(mutex_);
  const Region region{.first = address, .end = address + bytes};
  const auto found = std::find(regions_.begin(), regions_.end(), region);
  SEALIFT_ASSERT(found != regions_.end());
  regions_.erase(found);
}

// A range that spans two registered regions is refused: no access of firmware or vCPU model does.
bool MemoryController::is_registered(std::uint64_t address, std::uint64_t bytes) const {
  return std::any_of(regions_.begin(), regions_.end(), [&](const Region& region) {
    return address >= region.first && address < region.end && bytes <= region.end - address;
  });
}

std::uint64_t MemoryController::physical(const std::byte* host) const {
  return address_of(host) + base_;
}

std::byte* MemoryController::host(std::uint64_t spa, std::uint64_t bytes) const {
  if (spa < base_) return nullptr;
  const std::shared_lock lock(mutex_);
  if (!is_registered(spa - base_, bytes)) return nullptr;
  return reinterpret_cast<std::byte*>(spa - base_);
}

void MemoryController::load_key(std::uint32_t asid, std::shared_ptr<const MemoryCipher> key) {
  SEALIFT_ASSERT(key != nullptr);
  const std::unique_lock lock(mutex_);
  keys_.at(asid) = std::move(key);
}

void MemoryController::drop_key(std::uint32_t asid) {
  const std::unique_lock lock(mutex_);
  keys_.at(asid).reset();
}

std::shared_ptr<const MemoryCipher> MemoryController::key_for(std::uint32_t asid,
                                                              std::uint64_t address,
                                                              std::uint64_t bytes) const {
  // Whole blocks are touched around the range.
  const std::uint64_t first = address / MemoryCipher::kBlockBytes * MemoryCipher::kBlockBytes;
  const std::uint64_t last = address + bytes + MemoryCipher::kBlockBytes - 1;
  const std::uint64_t end = last / MemoryCipher::kBlockBytes * MemoryCipher::kBlockBytes;
  const std::shared_lock lock(mutex_);
  SEALIFT_ASSERT(is_registered(first, end - first));
  SEALIFT_ASSERT(asid < keys_.size());
  SEALIFT_ASSERT(keys_[asid] != nullptr);
  return keys_[asid];
}

void MemoryController::load(std::uint32_t asid, const std::byte* host, MutableBytes out) const {
  key_for(asid, address_of(host), out.size())->load(physical(host), host, out);
}

void MemoryController::store(std::uint32_t asid, std::byte* host, ByteView in) const {
  key_for(asid, address_of(host), in.size())->store(physical(host), host, in);
}

}  // namespace sealift::sev
