// DBG_DECRYPT and DBG_ENCRYPT: page by page, and in whole blocks of 16 bytes for the firmware.

#include <algorithm>
#include <cerrno>

#include "vmm_glue/model/sev/shim.h"

namespace sealift::sev {
namespace {

constexpr std::uint64_t kBlockBytes = 16;

std::uint64_t block_of(std::uint64_t address) { return address / kBlockBytes * kBlockBytes; }

// Bytes of the whole blocks around a range.
std::uint32_t whole_blocks(std::uint64_t address, std::uint32_t bytes) {
  const std::uint64_t end = block_of(address + bytes + kBlockBytes - 1);
  return static_cast<std::uint32_t>(end - block_of(address));
}

}  // namespace

int KvmShim::run_debug(Op& op, MailboxCommand id, std::uint64_t source, std::uint64_t destination,
                       std::uint32_t bytes) {
  MailboxDbg debug{.handle = op.vm.handle};
  debug.source_address = source;
  debug.destination_address = destination;
  debug.len = bytes;
  return psp_.run_for(op.vm.sev_fd, id, debug, op.error);
}

// `source` is guest memory. The plain text always goes through a buffer of the kernel; KVM has one
// only where something is not aligned, which a caller cannot tell.
int KvmShim::debug_decrypt(Op& op, std::uint64_t source, std::uint64_t destination,
                           std::uint32_t bytes) {
  const std::uint32_t whole = whole_blocks(source, bytes);
  Bytes plain(whole);
  const int result = run_debug(op, MailboxCommand::kDbgDecrypt, guest_physical(block_of(source)),
                               kernel_address(plain), whole);
  if (result != 0) return result;
  const ByteView wanted = ByteView(plain).subspan(source - block_of(source), bytes);
  return user_.copy_out_bytes(wanted, destination) ? 0 : -EFAULT;
}

// `destination` is guest memory. Blocks that are covered in part are read first.
int KvmShim::debug_encrypt(Op& op, std::uint64_t source, std::uint64_t destination,
                           std::uint32_t bytes) {
  const std::uint32_t whole = whole_blocks(destination, bytes);
  const std::uint64_t first = block_of(destination);
  Bytes plain(whole);
  if (whole != bytes) {
    const int result = run_debug(op, MailboxCommand::kDbgDecrypt, guest_physical(first),
                                 kernel_address(plain), whole);
    if (result != 0) return result;
  }
  const auto* from = reinterpret_cast<const std::byte*>(source);
  std::copy(from, from + bytes, plain.data() + (destination - first));
  return run_debug(op, MailboxCommand::kDbgEncrypt, kernel_address(plain), guest_physical(first),
                   whole);
}

// As KVM, the pieces end where a page of the source ends.
int KvmShim::debug_crypt(Op& op) {
  KvmSevDbg params;
  if (!UserMemory::copy_in(op.data, params)) return -EFAULT;
  if (params.len == 0 || params.src_uaddr + params.len < params.src_uaddr) return -EINVAL;
  if (params.dst_uaddr == 0) return -EINVAL;
  const bool decrypt = op.command == KvmCommand::kDbgDecrypt;
  std::uint64_t source = params.src_uaddr;
  std::uint64_t destination = params.dst_uaddr;
  for (std::uint32_t left = params.len; left != 0;) {
    const auto in_page = static_cast<std::uint32_t>(kPageBytes - source % kPageBytes);
    const std::uint32_t bytes = std::min(left, in_page);
    std::uint64_t pages = 0;
    if (const int bad = count_pages(op.vm, source, 1, pages); bad != 0) return bad;
    Pin one;
    one = Pin(op.vm, pages);
    Pin other;
    const int bad = pin_guest(op.vm, decrypt ? source : destination, bytes, other);
    if (bad != 0) return bad;
    const int result = decrypt ? debug_decrypt(op, source, destination, bytes)
                               : debug_encrypt(op, source, destination, bytes);
    if (result != 0) return result;
    source += bytes;
    destination += bytes;
    left -= bytes;
  }
  return 0;
}

}  // namespace sealift::sev
