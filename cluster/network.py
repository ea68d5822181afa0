"""Where hosts live: network namespaces on a bridge (root), or all of them on loopback."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import random
import secrets
import shutil
import subprocess
from abc import ABC, abstractmethod
from pathlib import Path

from .programs import ClusterError, MissingError, Program, free_port

MAX_HOSTS = 200  # in a network of 254 addresses
BLOCKED, FORWARDING = "1", "3"  # states of a port: the kernel undoes "0" (disabled) and "4" (blocking) at once


class Network(ABC):
    """Addresses of hosts, and how to run a command on one."""

    outside: str  # the address of this machine, at which hosts and clients reach servers

    @abstractmethod
    def start(self, folder: Path, scratch: Path) -> None:
        """Makes it; `scratch` is removed when all has ended, whatever happens to this process."""

    @abstractmethod
    def close(self) -> None:
        """Takes it down."""

    @abstractmethod
    def address(self, host: int) -> str:
        """Of a host."""

    @abstractmethod
    def enter(self, host: int) -> list[str]:
        """What is put before a command so that it runs on that host."""

    @abstractmethod
    def pids(self, host: int) -> list[int]:
        """Processes that are on that host by their network; empty where that can't be told."""

    @abstractmethod
    def port(self, usual: int) -> int:
        """The usual port where a host has an address of its own, else one that is free."""

    @abstractmethod
    def cut(self, host: int, apart: bool) -> None:
        """Cuts or heals the connection of a host with everything else. Raises MissingError where it can't be cut."""


class Loopback(Network):
    """All hosts are 127.0.0.1 and differ by ports: needs no rights, and can't be partitioned."""

    outside = "127.0.0.1"

    def __init__(self) -> None:
        self._keeper: Program | None = None

    def start(self, folder: Path, scratch: Path) -> None:
        self._keeper = keeper(folder, remove(scratch))
        self._keeper.start()

    def close(self) -> None:
        if self._keeper is not None:
            self._keeper.kill()

    def address(self, host: int) -> str:
        return self.outside

    def enter(self, host: int) -> list[str]:
        return []

    def pids(self, host: int) -> list[int]:
        return []

    def port(self, usual: int) -> int:
        return free_port()

    def cut(self, host: int, apart: bool) -> None:
        raise MissingError("a partition needs hosts in network namespaces: run as root, with `ip` (iproute2)")


class Namespaces(Network):
    """A namespace a host, each with one end of a veth pair whose other end is a port of one bridge.

    Names and addresses are this object's own, so that several clusters may run. Hosts reach each other and this
    machine and nothing else.
    """

    def __init__(self, hosts: int) -> None:
        self.hosts = hosts
        self.name = f"rs{secrets.token_hex(4)}"  # an interface's name has 15 characters at most
        network = free_network()
        self._addresses = [str(network[i + 1]) for i in range(hosts + 1)]
        self._prefix = network.prefixlen
        self.outside = self._addresses[0]
        self.bridge = f"{self.name}b"
        self._keeper: Program | None = None

    def namespace(self, host: int) -> str:
        """Its name."""
        return f"{self.name}-{host}"

    def veth(self, host: int) -> str:
        """Name of the end that is plugged into the bridge."""
        return f"{self.name}{host}"

    def start(self, folder: Path, scratch: Path) -> None:
        lines = []
        for host in range(self.hosts):
            name = self.namespace(host)
            lines.append(f"ip netns pids {name} | xargs -r kill -9")
            lines += [f"ip link del {self.veth(host)}", f"ip netns del {name}"]
        lines += [f"ip link del {self.bridge}", remove(scratch)]
        self._keeper = keeper(folder, f"exec 2>/dev/null\n{chr(10).join(lines)}")
        self._keeper.start()
        ip("link", "add", self.bridge, "type", "bridge")
        ip("addr", "add", f"{self.outside}/{self._prefix}", "dev", self.bridge)
        ip("link", "set", self.bridge, "up")
        for host in range(self.hosts):
            name, veth = self.namespace(host), self.veth(host)
            ip("netns", "add", name)
            ip("link", "add", veth, "type", "veth", "peer", "name", "eth0", "netns", name)
            ip("link", "set", veth, "master", self.bridge, "up")
            ip("-n", name, "addr", "add", f"{self.address(host)}/{self._prefix}", "dev", "eth0")
            ip("-n", name, "link", "set", "eth0", "up")
            ip("-n", name, "link", "set", "lo", "up")

    def close(self) -> None:
        if self._keeper is not None:
            self._keeper.kill()

    def address(self, host: int) -> str:
        return self._addresses[host + 1]

    def enter(self, host: int) -> list[str]:
        return ["ip", "netns", "exec", self.namespace(host)]

    def pids(self, host: int) -> list[int]:
        return [int(word) for word in ip("netns", "pids", self.namespace(host)).split()]

    def port(self, usual: int) -> int:
        return usual

    def cut(self, host: int, apart: bool) -> None:
        # The port of the bridge drops every frame and the host's link stays up: silence, not an error.
        ip("link", "set", "dev", self.veth(host), "type", "bridge_slave", "state", BLOCKED if apart else FORWARDING)


def make_network(hosts: int, namespaces: bool | None) -> Network:
    """Namespaces where they can be had, unless told.

    Raises:
        MissingError: namespaces are wanted and can't be made here.
    """
    reason = why_no_namespaces() if namespaces in (None, True) else ""
    if namespaces and reason:
        raise MissingError(reason)
    return Loopback() if namespaces is False or reason else Namespaces(hosts)


def why_no_namespaces() -> str:
    """Empty when network namespaces and bridges can be made here."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "network namespaces need the program `ip`: install iproute2"
    name = f"rs{secrets.token_hex(4)}"
    try:
        ip("netns", "add", name)
        ip("link", "add", f"{name}b", "type", "bridge")
        ip("link", "add", f"{name}0", "type", "veth", "peer", "name", "eth0", "netns", name)
    except ClusterError as error:
        return f"network namespaces can't be made here: {error}"
    finally:
        for words in (("link", "del", f"{name}0"), ("link", "del", f"{name}b"), ("netns", "del", name)):
            with contextlib.suppress(ClusterError):
                ip(*words)
    return ""


def ip(*words: str) -> str:
    """Runs `ip`; what it prints. Raises ClusterError."""
    found = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if found.returncode:
        raise ClusterError(f"`ip {' '.join(words)}`: {found.stderr.strip()}")
    return found.stdout


def free_network() -> ipaddress.IPv4Network:
    """A private /24 that no address and no route of this machine touches."""
    taken = [
        ipaddress.ip_network(f"{a['local']}/{a['prefixlen']}", strict=False)
        for link in json.loads(ip("-4", "-j", "addr") or "[]")
        for a in link.get("addr_info", ())
    ]
    for route in json.loads(ip("-4", "-j", "route", "show", "table", "all") or "[]"):
        with contextlib.suppress(ValueError):  # `default`
            taken.append(ipaddress.ip_network(route["dst"]))
    blocks = [(10, b, c) for b in range(64, 256) for c in range(256)]
    blocks += [(172, b, c) for b in range(20, 32) for c in range(256)]
    random.SystemRandom().shuffle(blocks)  # so that two clusters that start at once hardly meet
    for a, b, c in blocks:
        block = ipaddress.IPv4Network(f"{a}.{b}.{c}.0/24")
        if not any(block.overlaps(network) for network in taken if isinstance(network, ipaddress.IPv4Network)):
            return block
    raise MissingError("no private network is free on this machine")


def keeper(folder: Path, last: str) -> Program:
    """A program that does nothing until it is ended, and then cleans up."""
    environment = {"PATH": os.environ.get("PATH", os.defpath)}
    return Program(
        "keeper", ["sleep", "infinity"], log=folder / "logs" / "keeper.log", environment=environment, last=last
    )


def remove(scratch: Path) -> str:
    """A script that removes a folder in which killed processes may still be at their last write."""
    return f"for i in 1 2 3 4 5; do rm -rf '{scratch}' && break; sleep 0.2; done"
