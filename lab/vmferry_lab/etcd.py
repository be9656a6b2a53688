"""An etcd on a host of the lab, of one member, as Debian has it (etcd-server)."""

CLIENT_PORT, PEER_PORT = 2379, 2380
ASK = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=2).read())"


class Etcd:
    """Keeps its data in the host's folder: kill() and start() are a crash of it."""

    def __init__(self, host):
        self.host = host
        self.address = f"etcd://{host.ip}"
        self.process = None

    def start(self) -> "Etcd":
        client, peer = (f"http://{self.host.ip}:{port}" for port in (CLIENT_PORT, PEER_PORT))
        self.process = self.host.start(
            ["etcd", "--name", self.host.name, "--data-dir", self.host.path("etcd"),
             "--listen-client-urls", client, "--advertise-client-urls", client,
             "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
             "--initial-cluster", f"{self.host.name}={peer}",
             "--initial-cluster-token", self.host.lab.name,
             "--logger", "zap", "--log-level", "error"], "etcd")
        self.process.require(self.is_healthy, "etcd", 60)
        return self

    def kill(self) -> None:
        if self.process and self.process.running:
            self.process.kill()

    def is_healthy(self) -> bool:
        url = f"http://{self.host.ip}:{CLIENT_PORT}/health"
        return '"health":"true"' in self.host.run(["python3", "-c", ASK, url]).stdout
