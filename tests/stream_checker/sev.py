"""The SEV session and its packets, computed with `cryptography` and hashlib only.

Facts: AMD SEV API (document 55766) as read in AMD sev-tool and virtee/sev. All integers little endian but the elliptic
curve's own.
"""
import hashlib
import hmac
import struct

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

CERTIFICATE_BYTES = 2084
SESSION_BYTES = 128
HEADER_BYTES = 52
CONTEXT_DATA = 2
CONTEXT_VMSA = 3
POLICY_ES = 1 << 2


def mac(key, *parts):
    tag = hmac.new(key, digestmod=hashlib.sha256)
    for part in parts:
        tag.update(part)
    return tag.digest()


def derive(key, label, context=b""):
    """SP 800-108 in counter mode, one block of HMAC-SHA-256, counter and length little endian."""
    return mac(key, struct.pack("<I", 1), label, b"\0", context, struct.pack("<I", 128))[:16]


def ctr(key, iv, data):
    cipher = Cipher(algorithms.AES(key), modes.CTR(iv)).encryptor()
    return cipher.update(data) + cipher.finalize()


def public_key(certificate):
    """The P-384 key of a SEV certificate: curve id, then x and y in 72-byte fields."""
    if len(certificate) != CERTIFICATE_BYTES or struct.unpack_from("<I", certificate, 16)[0] != 2:
        raise ValueError("no SEV certificate with a P-384 key")
    x = int.from_bytes(certificate[20:92], "little")
    y = int.from_bytes(certificate[92:164], "little")
    return ec.EllipticCurvePublicNumbers(x, y, ec.SECP384R1()).public_key()


class Session:
    """TEK and TIK of one SEND_START, opened with the receiver's private PDH key."""

    def __init__(self, private_scalar, sender_pdh, session, policy):
        own = ec.derive_private_key(int.from_bytes(private_scalar, "big"), ec.SECP384R1())
        secret = own.exchange(ec.ECDH(), public_key(sender_pdh))
        nonce, wrapped, iv, wrap_mac, policy_mac = (session[0:16], session[16:48], session[48:64], session[64:96],
                                                    session[96:128])
        master = derive(secret, b"sev-master-secret", nonce)
        kek, kik = derive(master, b"sev-kek"), derive(master, b"sev-kik")
        if not hmac.compare_digest(mac(kik, wrapped), wrap_mac):
            raise ValueError("the session's wrap MAC does not match")
        keys = ctr(kek, iv, wrapped)
        self.tek, self.tik = keys[:16], keys[16:]
        if not hmac.compare_digest(mac(self.tik, struct.pack("<I", policy)), policy_mac):
            raise ValueError("the session's policy MAC does not match")

    def open(self, header, data, context=CONTEXT_DATA):
        """Plain text of one packet."""
        flags, iv, tag = header[:4], header[4:20], header[20:52]
        length = struct.pack("<I", len(data))
        if not hmac.compare_digest(mac(self.tik, bytes([context]), flags, iv, length, length, data), tag):
            raise ValueError("a packet's MAC does not match")
        if flags != b"\0\0\0\0":
            raise ValueError("a packet has flags set")
        return ctr(self.tek, iv, data)
