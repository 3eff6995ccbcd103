"""An etcd of one member on loopback, with TLS both ways, that a test can stop, freeze and ask."""
import base64
import json
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time
import urllib.request

START_S = 60


def missing():
    """Why there is no etcd here; empty: there is."""
    return "" if shutil.which("etcd") else "etcd is not installed (Debian: etcd-server)"


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


class Etcd:
    """Ready once constructed. `certs` has a folder `etcd` for the server; its own data and ports, whatever else runs here."""

    def __init__(self, certs):
        self.work = tempfile.mkdtemp(prefix="sealift-etcd-")
        own = f"{certs}/etcd"
        self.context = ssl.create_default_context(cafile=f"{own}/ca.pem")
        self.context.load_cert_chain(f"{own}/host.pem", f"{own}/host.key")
        self.url = f"https://127.0.0.1:{free_port()}"
        peer = f"http://127.0.0.1:{free_port()}"
        with open(f"{self.work}/log", "wb") as log:
            self.process = subprocess.Popen(
                ["etcd", "--data-dir", f"{self.work}/data", "--listen-client-urls", self.url, "--advertise-client-urls",
                 self.url, "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster",
                 f"default={peer}", "--cert-file", f"{own}/host.pem", "--key-file", f"{own}/host.key",
                 "--trusted-ca-file", f"{own}/ca.pem", "--client-cert-auth"], stdout=log, stderr=log)
        deadline = time.monotonic() + START_S
        while True:
            try:
                self.call("/v3/kv/range", {"key": base64.b64encode(b"a").decode()})
                return
            except OSError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    with open(f"{self.work}/log", encoding="utf-8") as log:
                        text = log.read()[-2000:]
                    self.close()
                    raise RuntimeError(f"etcd did not start: {text}") from None
                time.sleep(0.05)  # tidy: allow

    def call(self, path, body):
        request = urllib.request.Request(self.url + path, json.dumps(body).encode())
        with urllib.request.urlopen(request, context=self.context, timeout=5) as answer:
            return json.load(answer)

    def get(self, key):
        found = self.call("/v3/kv/range", {"key": base64.b64encode(key.encode()).decode()}).get("kvs", [])
        return base64.b64decode(found[0]["value"]).decode() if found else None

    def right(self, guest):
        """What the lock manager says of the guest, and who stands behind it with a lease."""
        right = self.get(f"/sealift/guests/{guest}/right")
        return (json.loads(right) if right else None), self.get(f"/sealift/guests/{guest}/holder")

    def freeze(self):
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self):
        self.process.send_signal(signal.SIGCONT)

    def close(self):
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.work, ignore_errors=True)
