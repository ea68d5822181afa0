"""A real Ray cluster of several hosts on one machine, with S3, PostgreSQL and MLflow, whose parts can be broken.

    with LocalCluster(Path("./cluster"), hosts=3) as cluster:
        cluster.kill_host(2)
        cluster.s3.stop()

As root every host is a network namespace; otherwise they are several raylets on loopback. Ray asks for a token.
Everything ends with the cluster, and with the process that made it, even if that is killed.
"""

from __future__ import annotations

from pathlib import Path

from .hosts import START_TIMEOUT_S, RayCluster
from .programs import MissingError
from .servers import S3, MLflow, Postgres

# proportional set size at rest: head 734 MB, worker host 303 MB, servers 547 MB
HOST_BYTES, SERVERS_BYTES = 600 * 1024**2, 800 * 1024**2


class LocalCluster(RayCluster):
    """A Ray cluster (`RayCluster` documents the arguments) with servers that its jobs and clients use.

    What the servers have stored is deleted when the cluster ends.
    """

    s3: S3
    postgres: Postgres
    mlflow: MLflow

    def __init__(
        self,
        folder: Path,
        hosts: int = 3,
        cpus_per_host: int = 1,
        *,
        head_cpus: int = 0,
        namespaces: bool | None = None,
        servers: bool = True,
    ) -> None:
        super().__init__(folder, hosts, cpus_per_host, head_cpus=head_cpus, namespaces=namespaces)
        check_memory(hosts, servers)
        self._servers: list[S3 | Postgres | MLflow] = []
        self._has_servers = servers
        if servers:
            S3.check()
            Postgres.check()

    def _start(self) -> None:
        if not self._has_servers:
            super()._start()
            return
        assert self._scratch is not None
        at, logs = self._network.outside, self.folder / "logs"
        network = f"{at}/24" if self.namespaces else None
        self.s3 = S3(self._scratch / "s3", logs / "s3.log", at, ("bucket", "mlflow"))
        self.postgres = Postgres(self._scratch / "postgres", logs / "postgres.log", self.folder / "pgpass", at, network)
        store = self.postgres.url("mlflow").replace("postgresql:", "postgresql+psycopg:")
        settings = {**self.s3.environment(), **self.postgres.environment()}
        self.mlflow = MLflow(store, "s3://mlflow", logs / "mlflow.log", settings, at)
        self._servers = [self.mlflow, self.s3, self.postgres]
        self.s3.start()
        self.postgres.make(("sweeps", "mlflow"))
        self.mlflow.begin()  # it imports for seconds, and so does Ray: both at once
        super()._start()
        self.mlflow.ready()

    def close(self) -> None:
        """Ends everything; may be called twice."""
        for server in self._servers:
            server.stop()
        super().close()

    def mend(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Makes the cluster whole: starts servers and hosts that were stopped, resumes servers that were paused, and
        heals partitions. Raises ClusterError after `timeout_s`."""
        for server in reversed(self._servers):  # MLflow last: it needs the others
            if not server.program.running:
                server.begin()
            server.resume()
            server.ready()
        super().mend(timeout_s)

    def environment(self) -> dict[str, str]:
        """Environment variables with which a client on this machine reaches cluster and servers; with secrets."""
        variables = super().environment()
        for server in self._servers:
            variables.update(server.environment())
        return variables

    @property
    def storage(self) -> str:
        """URL of a bucket, empty at first."""
        return "s3://bucket"

    @property
    def ledger(self) -> str:
        """URL of a database, empty at first; the password is in PGPASSFILE."""
        return self.postgres.url("sweeps")

    @property
    def tracking(self) -> str:
        """URL of the MLflow server."""
        return self.mlflow.url


def check_memory(hosts: int, servers: bool) -> None:
    """Raises MissingError when this machine does not have enough free memory."""
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    free, wanted = int(lines["MemAvailable"].split()[0]) * 1024, hosts * HOST_BYTES + servers * SERVERS_BYTES
    if free < wanted:
        raise MissingError(f"{hosts} hosts need {wanted / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are free")
