"""The network of a cluster's hosts: namespaces on a bridge (as root), or all hosts on loopback."""

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
        """Sets the network up. The folder `scratch` is removed at the end, whatever happens to this process."""

    @abstractmethod
    def close(self) -> None:
        """Takes the network down."""

    @abstractmethod
    def address(self, host: int) -> str:
        """IP address of a host."""

    @abstractmethod
    def enter(self, host: int) -> list[str]:
        """Words before a command that make it run on a host."""

    @abstractmethod
    def pids(self, host: int) -> list[int]:
        """Ids of processes in a host's network; empty where hosts share one."""

    @abstractmethod
    def port(self, usual: int) -> int:
        """The usual port if every host has its own address, otherwise a free one."""

    @abstractmethod
    def cut(self, host: int, apart: bool) -> None:
        """Cuts a host off from everything else, or undoes that. Raises MissingError where it is not possible."""


class Loopback(Network):
    """All hosts are 127.0.0.1 and differ by their ports. Needs no root rights, and hosts can't be partitioned."""

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
    """One namespace for each host, with one end of a veth pair whose other end is a port of a bridge.

    Names and addresses are unique to this object, so that several clusters may run. Hosts reach each other and this
    machine, and nothing else.
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
        """Name of a host's namespace."""
        return f"{self.name}-{host}"

    def veth(self, host: int) -> str:
        """Name of the end of a host's veth pair that is in the bridge."""
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
        # the bridge's port drops every frame while the host's link stays up, which looks like silence, not an error
        ip("link", "set", "dev", self.veth(host), "type", "bridge_slave", "state", BLOCKED if apart else FORWARDING)


def make_network(hosts: int, namespaces: bool | None) -> Network:
    """The network of so many hosts; `namespaces` None uses namespaces where they are possible.

    Raises:
        MissingError: namespaces are required and can't be made here.
    """
    reason = why_no_namespaces() if namespaces in (None, True) else ""
    if namespaces and reason:
        raise MissingError(reason)
    return Loopback() if namespaces is False or reason else Namespaces(hosts)


def why_no_namespaces() -> str:
    """Why network namespaces and bridges can't be made here; empty if they can."""
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
    """Runs `ip` and returns what it prints. Raises ClusterError."""
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ClusterError(f"`ip {' '.join(words)}`: {done.stderr.strip()}")
    return done.stdout


def free_network() -> ipaddress.IPv4Network:
    """A private /24 network that overlaps no address and no route of this machine."""
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
    random.SystemRandom().shuffle(blocks)  # so that two clusters that start at once rarely choose the same
    for a, b, c in blocks:
        block = ipaddress.IPv4Network(f"{a}.{b}.{c}.0/24")
        if not any(block.overlaps(network) for network in taken if isinstance(network, ipaddress.IPv4Network)):
            return block
    raise MissingError("no private network is free on this machine")


def keeper(folder: Path, last: str) -> Program:
    """A program that waits until it is ended, and then runs the script `last`."""
    environment = {"PATH": os.environ.get("PATH", os.defpath)}
    return Program(
        "keeper", ["sleep", "infinity"], log=folder / "logs" / "keeper.log", environment=environment, last=last
    )


def remove(scratch: Path) -> str:
    """A script that removes a folder into which killed processes may still be writing."""
    return f"for i in 1 2 3 4 5; do rm -rf '{scratch}' && break; sleep 0.2; done"
