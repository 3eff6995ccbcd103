#!/usr/bin/env python3
"""`migrate sev cert` over the certificates of real platforms. SEALIFT_MIGRATE is the program, SEALIFT_SEV_CERTS the files."""
import json
import os
import pathlib
import subprocess
import tempfile
import unittest

MIGRATE = os.environ["SEALIFT_MIGRATE"]
CERTS = pathlib.Path(os.environ["SEALIFT_SEV_CERTS"])
DONE, USAGE, POLICY = 0, 2, 6


def run(*arguments):
    return subprocess.run([MIGRATE, "sev", "cert", *map(str, arguments)], capture_output=True, text=True, timeout=60,
                          check=False)


def files(cpu, *kinds):
    return [CERTS / f"{cpu}-{kind}.cert" for kind in kinds]


class Show(unittest.TestCase):
    def test_every_real_certificate(self):
        names = sorted(CERTS.glob("*.cert"))
        self.assertEqual(len(names), 18)
        done = run("show", "--json", *names)
        self.assertEqual(done.returncode, DONE, done.stderr)
        shown = json.loads(done.stdout)["certificates"]
        for path, one in zip(names, shown, strict=True):
            self.assertEqual(one["file"], str(path))
            self.assertEqual(one["bytes"], path.stat().st_size)
            cpu, kind = path.stem.split("-")
            self.assertEqual(one["kind"], kind.upper())
            if kind == "ark":
                self.assertEqual(one["amd_root_of"], cpu.capitalize())
                self.assertEqual(one["key_id"], one["certifying_key_id"])

    def test_text_has_every_field(self):
        done = run("show", *files("rome", "pek"))
        self.assertEqual(done.returncode, DONE)
        for part in ("PEK: SEV certificate version 1, 2084 bytes, key usage 0x1002", "API 0.22", "P-384 for ECDSA SHA-256",
                     "slot 1    signed by OCA (key usage 0x1001)", "slot 2    signed by CEK (key usage 0x1004)"):
            self.assertIn(part, done.stdout)
        done = run("show", *files("naples", "ask"))
        for part in ("ASK: AMD certificate", "832 bytes", "key id    e139970cfc464377ae61b289e2f9e96e",
                     "signed by 1bb987c359494606b174945601c9ea5b", "RSA 2048 bits, exponent 65537"):
            self.assertIn(part, done.stdout)

    def test_what_is_no_certificate_is_refused_with_the_reason(self):
        done = run("show", CERTS / "naples-ark.bad")
        self.assertEqual(done.returncode, POLICY)
        self.assertIn("naples-ark.bad: The certificate at offset 0 has 832 bytes of which 576 are there: its signature is "
                      "missing.", done.stderr)
        done = run("show", CERTS / "README.md", "--json")
        self.assertEqual(done.returncode, POLICY)
        self.assertIn("no certificate", json.loads(done.stdout)["error"]["detail"])
        self.assertEqual(run("show", CERTS / "nothing.cert").returncode, USAGE)
        self.assertEqual(run("show", CERTS).returncode, USAGE)
        self.assertEqual(run("show").returncode, USAGE)
        self.assertEqual(run().returncode, USAGE)


class Verify(unittest.TestCase):
    def test_whole_chains_in_any_order(self):
        for cpu in ("naples", "rome"):
            kinds = ["pdh", "ark", "cek", "oca", "ask", "pek"]
            for order in (kinds, kinds[::-1]):
                done = run("verify", *files(cpu, *order))
                self.assertEqual(done.returncode, DONE, done.stdout)
                self.assertEqual(done.stdout.count("ok   "), 7, done.stdout)
                self.assertIn(f"AMD's root key of {cpu.capitalize()}", done.stdout)
                self.assertIn("whole chain from ARK and OCA to PDH", done.stdout)

    def test_concatenations(self):
        with tempfile.TemporaryDirectory() as folder:
            chain, amd = pathlib.Path(folder, "chain"), pathlib.Path(folder, "amd")
            chain.write_bytes(b"".join(path.read_bytes() for path in files("rome", "pek", "oca", "cek")))
            amd.write_bytes(b"".join(path.read_bytes() for path in files("rome", "ask", "ark")))
            self.assertEqual((chain.stat().st_size, amd.stat().st_size), (6252, 3200))
            done = run("verify", "--json", chain, amd, *files("rome", "pdh"))
            self.assertEqual(done.returncode, DONE, done.stdout)
            answer = json.loads(done.stdout)
            self.assertTrue(answer["complete"] and answer["holds"])
            self.assertEqual(answer["amd_root_of"], "Rome")
            self.assertEqual([link["state"] for link in answer["links"]], ["good"] * 7)

    def test_roots_alone_hold_together(self):
        for cpu in ("milan", "genoa", "turin"):
            done = run("verify", *files(cpu, "ask", "ark"))
            self.assertEqual(done.returncode, DONE, done.stdout)
            self.assertIn("what was given holds together: ARK, ASK (not given: CEK, OCA, PEK, PDH)", done.stdout)

    def test_a_missing_parent_fails_unless_partial(self):
        done = run("verify", *files("rome", "pdh", "pek", "oca"))
        self.assertEqual(done.returncode, POLICY)
        self.assertIn("FAIL PEK signed by CEK: no CEK certificate", done.stdout)
        done = run("verify", "--partial", *files("rome", "pdh", "pek", "oca"))
        self.assertEqual(done.returncode, DONE, done.stdout)
        self.assertIn("not given: ARK, ASK, CEK", done.stdout)

    def test_a_wrong_link_fails_partial_or_not(self):
        mixed = files("rome", "pdh", "oca", "cek", "ask", "ark") + files("naples", "pek")
        for partial in ([], ["--partial"]):
            done = run("verify", *partial, *mixed)
            self.assertEqual(done.returncode, POLICY)
            self.assertIn("FAIL PDH signed by PEK: the signature is wrong", done.stdout)
            self.assertIn("ok   CEK signed by ASK: good", done.stdout)

    def test_an_unsigned_cek_says_what_to_do(self):
        with tempfile.TemporaryDirectory() as folder:
            cek = pathlib.Path(folder, "cek")
            empty_slot = bytes.fromhex("0010000000000000") + bytes(512)
            cek.write_bytes(files("rome", "cek")[0].read_bytes()[:1044] + 2 * empty_slot)
            rest = files("rome", "pdh", "pek", "oca", "ask", "ark")
            done = run("verify", cek, *rest)
            self.assertEqual(done.returncode, POLICY)
            self.assertIn("FAIL CEK signed by ASK: it carries no signature", done.stdout)
            self.assertIn("kdsintf.amd.com", done.stdout)
            self.assertEqual(run("verify", "--partial", cek, *rest).returncode, DONE)

    def test_two_of_a_kind_are_refused(self):
        done = run("verify", *files("rome", "pek"), *files("naples", "pek"))
        self.assertEqual(done.returncode, POLICY)
        self.assertIn("two different PEK certificates", done.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=2)
