"""Switches between namespaces, whose cables can be shaped and cut."""

from .netns import Namespace, run

# Room for the largest segment the kernel hands down at once.
TBF_BURST = "256k"


class Switch:
    """A bridge in the lab's middle namespace, with a cable to each member."""

    def __init__(self, middle: Namespace, name: str):
        self.middle = middle
        self.name = name
        self.members: dict[str, tuple[Namespace, str]] = {}
        self._deaf: set[str] = set()
        middle.bridge(name)

    def plug(self, member: str, namespace: Namespace, interface: str) -> None:
        """Connects *interface*, made in *namespace*, under the name *member*."""
        namespace.connect(interface, self.middle, self._port(member))
        self.middle.enslave(self._port(member), self.name)
        self.members[member] = (namespace, interface)

    def shape(self, rate: str | None) -> None:
        """Limits what each member sends: "1gbit", "100mbit"; None: no limit."""
        for namespace, interface in self.members.values():
            if rate is None:
                if "tbf" in run("tc", "-n", namespace.name, "qdisc", "show", "dev", interface):
                    run("tc", "-n", namespace.name, "qdisc", "del", "dev", interface, "root")
            else:
                run("tc", "-n", namespace.name, "qdisc", "replace", "dev", interface, "root",
                    "tbf", "rate", rate, "burst", TBF_BURST, "latency", "50ms")

    def cut(self, *members: str) -> None:
        """Drops everything from and to *members* (default: all), silently.

        The interfaces keep their carrier: nobody is told, as with a broken
        switch in the middle.
        """
        for member in members or self.members:
            self._set_port_state(member, "disabled")

    def cut_to(self, member: str) -> None:
        """Drops everything to *member*; what it sends still arrives."""
        # A queue without room for a packet: nobody is told of these losses either.
        run("tc", "-n", self.middle.name, "qdisc", "replace", "dev", self._port(member), "root",
            "bfifo", "limit", "1")
        self._deaf.add(member)

    def restore(self) -> None:
        for member in self.members:
            self._set_port_state(member, "forwarding")
        while self._deaf:
            run("tc", "-n", self.middle.name, "qdisc", "del", "dev",
                self._port(self._deaf.pop()), "root")

    def bytes_from(self, member: str) -> int:
        """Bytes this member has sent, as its interface counts them."""
        namespace, interface = self.members[member]
        return namespace.bytes_sent(interface)

    def _port(self, member: str) -> str:
        return f"{self.name}-{member}"

    def _set_port_state(self, member: str, state: str) -> None:
        number = {"disabled": "0", "forwarding": "3"}[state]
        run("ip", "netns", "exec", self.middle.name,
            "bridge", "link", "set", "dev", self._port(member), "state", number)
