"""Reads a captured migration stream: frames, and the few Cap'n Proto structs the checker needs.

Written from docs/spec/wire.md alone and sharing no code with the product: Cap'n Proto pointers are followed by hand,
so that a mistake in the product's own codec cannot hide here. Anything that does not fit raises ValueError.
"""
import struct

HEADER_BYTES = 48
NAMES = {
    1: "Hello", 2: "SessionStart", 3: "SessionAccept", 4: "PlatformStart", 5: "SessionReady", 6: "SharedPages",
    7: "PrivatePages", 8: "Conversions", 9: "EpochEnd", 10: "EpochAck", 11: "VcpuState", 12: "DeviceState", 13: "Finish",
    14: "Ready", 15: "Handover", 16: "Running", 17: "Abort", 18: "PlatformState", 19: "PlatformCard", 20: "Claim",
    21: "Inquiry", 22: "Answer",
    24: "StreamJoin", 25: "EpochBegin", 26: "LivePages", 0x8001: "KeepAlive",
}


def u32(data, at):
    return struct.unpack_from("<I", data, at)[0]


def u64(data, at):
    return struct.unpack_from("<Q", data, at)[0]


class Struct:
    """One Cap'n Proto struct in a message of one segment."""

    def __init__(self, segment, at, data_words, pointers):
        self.segment, self.at, self.data_words, self.pointers = segment, at, data_words, pointers

    def number(self, byte, size):
        if byte + size > 8 * self.data_words:
            return 0  # the writer's struct is older than the field
        return int.from_bytes(self.segment[self.at + byte:self.at + byte + size], "little")

    def _list(self, index):
        """Start, element size class and count of the list behind a pointer; None when it is null."""
        if index >= self.pointers:
            return None
        where = self.at + 8 * self.data_words + 8 * index
        pointer = u64(self.segment, where)
        if pointer == 0:
            return None
        if pointer & 3 != 1:
            raise ValueError(f"pointer {index} is no list")
        offset = (pointer & 0xffffffff) >> 2
        if offset >= 1 << 29:
            offset -= 1 << 30
        return where + 8 + 8 * offset, (pointer >> 32) & 7, pointer >> 35

    def data(self, index, size_class=2):
        """The bytes of a list; bytes by default, u64 with 5."""
        found = self._list(index)
        if found is None:
            return b""
        start, size, count = found
        count *= {2: 1, 5: 8}[size_class]
        if size != size_class or start < 0 or start + count > len(self.segment):
            raise ValueError(f"pointer {index} is no list of the expected size in the message")
        return self.segment[start:start + count]

    def u64_list(self, index):
        data = self.data(index, size_class=5)
        return list(struct.unpack(f"<{len(data) // 8}Q", data))

    def ranges(self, index):
        """List(GfnRange) as (first, pages)."""
        found = self._list(index)
        if found is None:
            return []
        start, size, _ = found
        if size != 7:
            raise ValueError(f"pointer {index} is no list of structs")
        tag = u64(self.segment, start)
        count, data_words, pointers = (tag & 0xffffffff) >> 2, (tag >> 32) & 0xffff, tag >> 48
        if data_words != 2 or pointers != 0 or start + 8 + 16 * count > len(self.segment):
            raise ValueError(f"pointer {index} is no list of ranges in the message")
        return [struct.unpack_from("<2Q", self.segment, start + 8 + 16 * i) for i in range(count)]


def root_of(meta):
    """The root struct of a flat-array message with one segment that fills it."""
    if u32(meta, 0) != 0 or 8 * u32(meta, 4) != len(meta) - 8:
        raise ValueError("meta is not one Cap'n Proto segment")
    segment = meta[8:]
    pointer = u64(segment, 0)
    if pointer & 3 != 0:
        raise ValueError("the root is no struct")
    offset = (pointer & 0xffffffff) >> 2
    if offset >= 1 << 29:
        offset -= 1 << 30
    return Struct(segment, 8 + 8 * offset, (pointer >> 32) & 0xffff, pointer >> 48)


class Frame:
    """One frame and where it lies in the stream."""

    def __init__(self, stream, at):
        header = stream[at:at + HEADER_BYTES]
        if len(header) < HEADER_BYTES or header[:4] != b"SLFT" or header[6] != 1:
            raise ValueError(f"no frame at offset {at}")
        self.at = at
        kind = struct.unpack_from("<H", header, 4)[0]
        self.name, self.stream = NAMES.get(kind, f"{kind:#x}"), header[7]
        self.session, self.sequence = u64(header, 16), u64(header, 24)
        self.payload_at = at + HEADER_BYTES + u32(header, 8)
        self.end = self.payload_at + u32(header, 12)
        if self.end > len(stream):
            raise ValueError(f"the frame at offset {at} is cut off")
        self.meta = stream[at + HEADER_BYTES:self.payload_at]
        self.root = root_of(self.meta)
        self.payload = stream[self.payload_at:self.end]

    def offset_of(self, data):
        """Where a field's bytes begin in the stream."""
        return self.at + HEADER_BYTES + self.meta.index(data)


def frames(stream):
    at = 0
    while at < len(stream):
        frame = Frame(stream, at)
        yield frame
        at = frame.end


def records(stream):
    """(name, root struct, payload) of each frame. Checks lengths, session and sequence."""
    session, sequences = None, {}
    for frame in frames(stream):
        session = frame.session if session is None else session
        expected = sequences.get(frame.stream, 0)
        if (frame.session, frame.sequence) != (session, expected):
            raise ValueError(f"the frame at offset {frame.at} is of another session or out of sequence")
        sequences[frame.stream] = expected + 1
        yield frame.name, frame.root, frame.payload


def renumbered(stream):
    """The same frames with sequence numbers that fit, as an attacker would make them. Checksums are left as they are:
    the checker does not look at them."""
    out, sequences = bytearray(), {}
    for frame in frames(stream):
        header = bytearray(stream[frame.at:frame.at + HEADER_BYTES])
        struct.pack_into("<Q", header, 24, sequences.get(frame.stream, 0))
        sequences[frame.stream] = sequences.get(frame.stream, 0) + 1
        out += header + frame.meta + frame.payload
    return bytes(out)
