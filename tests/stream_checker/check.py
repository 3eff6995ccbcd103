#!/usr/bin/env python3
"""Opens a captured SEV migration with the destination's secrets and proves every byte of it.

    check.py CAPTURE SECRETS [--expect-memory SHA256]

CAPTURE is what `migrate-agent --capture` wrote at the source, and CAPTURE.1, CAPTURE.2, ... of further streams, SECRETS what the destination's agent wrote for
`--reveal-secrets-for-tests`. Shares no code with the product. Prints one JSON object and exits with 0 when every packet
authenticates (firmware MAC and binding), every sequence is gapless, the seal fits, and the guest's memory, put together
from plain and decrypted pages, has the digest that was expected; otherwise prints what was wrong and exits with 1.
"""
import argparse
import hashlib
import hmac
import json
import pathlib
import struct
import sys

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

import sev
import wire

PAGE_BYTES = 4096
ZERO_PAGE = hashlib.sha256(bytes(PAGE_BYTES)).digest()
OP_IMPORT = 1
VMSA_HEAD_BYTES = 32
ENCODING_ZERO, ENCODING_RAW = 1, 2


def need(condition, text):
    if not condition:
        raise ValueError(text)


def hkdf(secret, salt, info):
    """RFC 5869 with SHA-256, 32 bytes."""
    return sev.mac(sev.mac(salt, secret), info, b"\x01")


class Start:
    """SEV start, version 2 (wire.md): what SEND_START gave, and the source driver's half of the binding."""

    def __init__(self, blob):
        version, self.policy, pdh_bytes, session_bytes = struct.unpack_from("<4I", blob)
        need((version, pdh_bytes, session_bytes) == (2, sev.CERTIFICATE_BYTES, sev.SESSION_BYTES), "no SEV start blob")
        self.key, self.nonce = blob[16:48], blob[48:80]
        self.pdh, self.session = blob[80:80 + pdh_bytes], blob[80 + pdh_bytes:]
        need(len(self.session) == session_bytes, "the start blob's length does not fit")


class Checker:
    def __init__(self, secrets):
        self.secrets = secrets
        self.pages = {}  # gfn -> SHA-256 of its last content
        self.memory = []
        self.session = self.binding = None
        self.sequence = self.batches = self.private_pages = self.shared_pages = self.states = self.last_epoch = 0
        self.sealed = self.handed_over = False
        self.join_secret = None
        self.further = []  # for each further stream: epoch -> its pages

    def hello(self, root):
        self.memory = root.ranges(3)

    def platform_start(self, root):
        blob = root.data(0)
        start = Start(blob)
        identity = self.secrets["identity"]
        self.session = sev.Session(self.secrets["pdh-private-key"], start.pdh, start.session, start.policy)
        own = X25519PrivateKey.from_private_bytes(self.secrets["binding-private-key"])
        shared = own.exchange(X25519PublicKey.from_public_bytes(start.key))
        info = (b"sealift sev binding 2\0" + start.key + own.public_key().public_bytes_raw()
                + hashlib.sha256(identity).digest() + hashlib.sha256(blob).digest())
        self.binding = hkdf(shared, start.nonce, info)
        self.policy = start.policy

    def shared_batch(self, root, payload):
        at = 0
        for gfn, encoding in zip(root.u64_list(0), root.data(1), strict=True):
            if encoding == ENCODING_ZERO:
                self.pages[gfn] = ZERO_PAGE
                continue
            need(encoding == ENCODING_RAW, f"page {gfn:#x} has encoding {encoding}")
            self.pages[gfn] = hashlib.sha256(payload[at:at + PAGE_BYTES]).digest()
            at += PAGE_BYTES
            self.shared_pages += 1
        need(at == len(payload), "shared pages have bytes left over")

    def live_pages(self, root, payload):
        at = 0
        for first, pages in root.ranges(0):
            self.pages.update((gfn, ZERO_PAGE) for gfn in range(first, first + pages))
        for first, pages in root.ranges(1):
            for gfn in range(first, first + pages):
                self.pages[gfn] = hashlib.sha256(payload[at:at + PAGE_BYTES]).digest()
                at += PAGE_BYTES
                self.shared_pages += 1
        need(at == len(payload), "live pages have bytes left over")

    def stream_join(self, root):
        need(self.join_secret is None and len(root.data(0)) == 16, "a second StreamJoin, or none of 16 bytes")
        self.join_secret = root.data(0)

    def further_stream(self, number, stream):
        """The pages of a stream other than 0, by epoch. Its own totals must be right."""
        records = list(wire.records(stream))
        need(records and records[0][0] == "StreamJoin" and records[0][1].data(0) == self.join_secret,
             f"stream {number} does not join this session")
        epoch, seen, epochs = None, set(), {}
        for name, root, payload in records[1:]:
            if name == "LivePages":
                pages = {gfn for index in (0, 1) for first, count in root.ranges(index)
                         for gfn in range(first, first + count)}
                need(epoch in (None, root.number(0, 4)) and not seen & pages, f"stream {number}: epoch or page twice")
                epoch, seen = root.number(0, 4), seen | pages
                epochs.setdefault(epoch, []).append((root, payload))
            elif name == "EpochEnd":
                need(epoch in (None, root.number(0, 4)) and root.number(8, 8) == len(seen),
                     f"stream {number} ends epoch {root.number(0, 4)} with {root.number(8, 8)} pages, {len(seen)} came")
                epoch, seen = None, set()
            else:
                need(name == "KeepAlive", f"{name} on stream {number}")
        return epochs

    def private_batch(self, root, payload, stream=0):
        gfns, ops, headers = root.u64_list(0), root.data(1), root.data(3)
        auth, epoch = root.data(2), root.number(0, 4)
        need(set(ops) <= {OP_IMPORT}, f"operations {set(ops)} in a SEV batch")
        need(len(headers) == sev.HEADER_BYTES * len(gfns) and len(payload) == PAGE_BYTES * len(gfns), "lengths")
        text = b"sealift sev batch\0" + struct.pack("<IBQI", epoch, stream, self.sequence, len(gfns))
        for i, gfn in enumerate(gfns):
            header = headers[i * sev.HEADER_BYTES:(i + 1) * sev.HEADER_BYTES]
            text += struct.pack("<QB", gfn, ops[i]) + header
            plain = self.session.open(header, payload[i * PAGE_BYTES:(i + 1) * PAGE_BYTES])
            self.pages[gfn] = hashlib.sha256(plain).digest()
        need(wire.u64(auth, 0) == self.sequence, f"batch {wire.u64(auth, 0)} came where {self.sequence} was due")
        need(hmac.compare_digest(auth[8:], sev.mac(self.binding, text)), f"binding of batch {self.sequence}")
        self.sequence += 1
        self.batches += 1
        self.private_pages += len(gfns)

    def vmsa(self, root, payload):
        """A vCPU's sealed registers (wire.md, SEV-ES vCPU state)."""
        vcpu, body, tag = root.number(0, 4), payload[:-32], payload[-32:]
        expected = sev.mac(self.binding, b"sealift sev state\0", struct.pack("<I", vcpu), body)
        need(hmac.compare_digest(tag, expected), f"binding of vCPU {vcpu}")
        need(wire.u64(body, 0) == self.sequence, f"vCPU state {wire.u64(body, 0)} came where {self.sequence} was due")
        header = body[VMSA_HEAD_BYTES:VMSA_HEAD_BYTES + sev.HEADER_BYTES]
        registers = body[VMSA_HEAD_BYTES + sev.HEADER_BYTES:]
        need(len(registers) == PAGE_BYTES, f"vCPU {vcpu} has {len(registers)} bytes of registers")
        self.session.open(header, registers, sev.CONTEXT_VMSA)
        self.sequence += 1
        self.states += 1

    def epoch_end(self, root):
        self.last_epoch = root.number(0, 4)
        for epochs in self.further:
            for pages in epochs.pop(self.last_epoch, ()):
                self.live_pages(*pages)

    def join_all(self, others):
        self.further = [self.further_stream(number, stream) for number, stream in others]

    def finish(self, root):
        text = b"sealift sev seal\0" + struct.pack("<QQII", self.batches, self.private_pages, self.states,
                                                   self.last_epoch)
        need(hmac.compare_digest(root.data(1), sev.mac(self.binding, text)), "the seal does not fit what came")
        self.sealed = True

    def feed(self, name, root, payload):
        if name == "Hello":
            self.hello(root)
        elif name == "PlatformStart":
            self.platform_start(root)
        elif name == "StreamJoin":
            self.stream_join(root)
        elif name == "SharedPages":
            self.shared_batch(root, payload)
        elif name == "PrivatePages":
            self.private_batch(root, payload)
        elif name == "PlatformState":
            self.vmsa(root, payload)
        elif name == "EpochEnd":
            self.epoch_end(root)
        elif name == "Finish":
            self.finish(root)
        elif name == "Handover":
            self.handed_over = True

    def memory_sha256(self):
        """As `migrate digest` has it: SHA-256 over the SHA-256 of each page; pages that never came are zeros."""
        digest = hashlib.sha256()
        for first, pages in self.memory:
            for gfn in range(first, first + pages):
                digest.update(self.pages.get(gfn, ZERO_PAGE))
        return digest.hexdigest()

    def report(self):
        need(self.sealed and self.handed_over, "the stream ends before the hand-over")
        return {"policy": self.policy, "private_pages": self.private_pages, "shared_pages": self.shared_pages,
                "batches": self.batches, "vcpu_states": self.states, "epochs": self.last_epoch,
                "memory_sha256": self.memory_sha256()}


def check(stream, secrets, others=()):
    """`others`: (number, bytes) of each further stream."""
    checker = Checker(secrets)
    for name, root, payload in wire.records(stream):
        checker.feed(name, root, payload)
        if name == "StreamJoin":
            checker.join_all(others)
    need(not any(checker.further), "a further stream has pages of an epoch that never ended")
    return checker.report()


def further_streams(path):
    """(number, bytes) of what was captured beside `path`."""
    found = ((number, pathlib.Path(f"{path}.{number}")) for number in range(1, 65))
    return [(number, file.read_bytes()) for number, file in found if file.exists()]


def read_secrets(path):
    with open(path, encoding="utf-8") as file:
        return {name: bytes.fromhex(text) for name, text in (line.split() for line in file)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("capture")
    parser.add_argument("secrets")
    parser.add_argument("--expect-memory")
    options = parser.parse_args()
    with open(options.capture, "rb") as file:
        stream = file.read()
    try:
        report = check(stream, read_secrets(options.secrets), further_streams(options.capture))
        if options.expect_memory is not None:
            need(report["memory_sha256"] == options.expect_memory, "the memory's digest is another one")
    except KeyError as missing:
        print(f"check.py: {options.secrets} has no {missing}: not of a destination of this stream", file=sys.stderr)
        return 1
    except (ValueError, struct.error) as error:
        print(f"check.py: {error}", file=sys.stderr)
        return 1
    print(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
