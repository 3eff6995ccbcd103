#include "engine/negotiation.h"

#include <algorithm>

#include "engine/limits.h"

namespace sealift {
namespace {

Result<void> check_form(const Hello& peer) {
  if (peer.version_min == 0 || peer.version_min > peer.version_max) {
    return fail(ErrorClass::kMalformed, "the peer's protocol versions {} to {} are not a range",
                peer.version_min, peer.version_max);
  }
  if (peer.vcpus == 0 || peer.vcpus > limits::kVcpusMax) {
    return fail(ErrorClass::kMalformed, "the peer's guest has {} vCPUs, the limit is 1 to {}",
                peer.vcpus, limits::kVcpusMax);
  }
  if (peer.batch_pages_max == 0 || peer.streams_max == 0) {
    return fail(ErrorClass::kMalformed,
                "the peer accepts {} pages a batch and {} streams; both must be positive",
                peer.batch_pages_max, peer.streams_max);
  }
  return {};
}

}  // namespace

Result<Negotiated> negotiate(const Hello& local, const Hello& peer) {
  SEALIFT_CHECK(check_form(peer));
  Negotiated agreed;
  agreed.version = std::min(local.version_max, peer.version_max);
  if (agreed.version < std::max(local.version_min, peer.version_min)) {
    return fail(ErrorClass::kRefused,
                "no common protocol version: {} speaks {} to {}, {} speaks {} to {}",
                local.agent_name, local.version_min, local.version_max, peer.agent_name,
                peer.version_min, peer.version_max);
  }
  if (local.platform != peer.platform) {
    return fail(ErrorClass::kRefused, "platforms differ: {} has {}, {} has {}", local.agent_name,
                name_of(local.platform), peer.agent_name, name_of(peer.platform));
  }
  if (local.backend != peer.backend) {
    return fail(ErrorClass::kRefused, "back-ends differ: {} runs guests on {}, {} on {}",
                local.agent_name, local.backend, peer.agent_name, peer.backend);
  }
  if (local.page_bytes != peer.page_bytes) {
    return fail(ErrorClass::kRefused, "page sizes differ: {} uses {} bytes, {} uses {}",
                local.agent_name, local.page_bytes, peer.agent_name, peer.page_bytes);
  }
  SEALIFT_TRY(const MemoryLayout ours, MemoryLayout::make(local.memory));
  SEALIFT_TRY(const MemoryLayout theirs, MemoryLayout::make(peer.memory));
  if (!(ours == theirs)) {
    return fail(ErrorClass::kRefused, "guest memory layouts differ: {} has {}, {} has {}",
                local.agent_name, ours.describe(), peer.agent_name, theirs.describe());
  }
  if (local.vcpus != peer.vcpus) {
    return fail(ErrorClass::kRefused, "vCPU counts differ: {} has {}, {} has {}", local.agent_name,
                local.vcpus, peer.agent_name, peer.vcpus);
  }
  if (((local.features ^ peer.features) & kFeatureLockManager) != 0) {
    const bool ours_has = (local.features & kFeatureLockManager) != 0;
    return fail(ErrorClass::kRefused,
                "{} runs its guests under a lock manager's leases and {} does not: the guest would "
                "lose them",
                ours_has ? local.agent_name : peer.agent_name,
                ours_has ? peer.agent_name : local.agent_name);
  }
  agreed.features = local.features & peer.features;
  agreed.batch_pages_max =
      std::min({local.batch_pages_max, peer.batch_pages_max, limits::kBatchPagesMax});
  agreed.streams =
      std::min<std::uint8_t>({local.streams_max, peer.streams_max, limits::kStreamsMax});
  return agreed;
}

}  // namespace sealift
