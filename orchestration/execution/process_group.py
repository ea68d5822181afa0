"""How the workers of a trial find each other: by the address under which Ray knows their host.

Gloo looks its own host's name up instead. Debian's and many images' /etc/hosts say 127.0.1.1 for it, and workers on
other hosts are told to connect to themselves.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
import sys
from dataclasses import dataclass
from typing import Any

import ray
from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend

_ADDRESS_OF = 0x8915  # SIOCGIFADDR


def interface_of(address: str) -> str | None:
    """The network interface with an IPv4 address; None where that can't be told."""
    for _, name in socket.if_nameindex() if sys.platform == "linux" else ():
        with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            reply = fcntl.ioctl(sock, _ADDRESS_OF, struct.pack("256s", name.encode()[:15]))
            if socket.inet_ntoa(reply[20:24]) == address:
                return name
    return None


def name_interface() -> None:
    """Tells Gloo which interface to use, unless the user has."""
    interface = interface_of(ray.util.get_node_ip_address())
    if interface is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)


class _Backend(_TorchBackend):
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        worker_group.execute(name_interface)
        super().on_start(worker_group, backend_config)


@dataclass
class ProcessGroup(TorchConfig):
    """Ray Train's process group, over the right interface."""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        """What Ray Train starts."""
        return _Backend
