"""What Ray's words on lost workers mean. The texts are what Ray 2.60 wrote when each was done to a real cluster."""

from __future__ import annotations

import pytest
from refsweep.orchestration.search.failures import lost_worker

KILLED = """ray.exceptions.ActorDiedError: The actor died unexpectedly before finishing this task.
\tclass_name: with_parameters.<locals>._Inner
\tpid: 17045
The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: Worker
"""
HOST_KILLED = """ray.exceptions.ActorUnavailableError: The actor faac332f25d29c98d262572c06000000 is unavailable: The
is temporarily unavailable: RpcError: RPC error: recvmsg:Connection reset by peer rpc_code: 14.
"""
NODE_DEAD = """ray.exceptions.ActorDiedError: The actor died unexpectedly before finishing this task.
The actor died because its node has died. Node Id: 81cb, Ip: 172.20.42.3. node health check failed
"""
CONTROLLER = """Training failed due to controller error:
  File "torch/distributed/distributed_c10d.py", line 757, in _create_gloo_process_group
RuntimeError: Gloo connectFullMesh failed with timed out connecting: Connection refused, remote=[127.0.0.1]:20354
"""


@pytest.mark.parametrize(
    ("reason", "kind", "message"),
    [
        (KILLED, "lost", "The actor is dead because its worker process has died"),
        (HOST_KILLED, "node_lost", "is unavailable"),
        (NODE_DEAD, "node_lost", "its node was lost: The actor died because its node has died"),
        (CONTROLLER, "lost", "RuntimeError: Gloo connectFullMesh failed"),
        ("", "lost", "the worker was lost"),
    ],
    ids=["killed", "host killed", "node dead", "controller", "silent"],
)
def test_what_was_lost_is_read_from_rays_words(reason: str, kind: str, message: str):
    failure = lost_worker(reason)
    assert failure.kind == kind
    assert message in failure.message
