"""Serving the page from this machine, to this machine unless somebody asks for more."""

import os
import socket
import webbrowser
from ipaddress import ip_address
from time import sleep
from typing import Any

from genobj.play import figures

FIRST_PORT, PORTS = 7860, 100
"""Ports that are tried if nobody names one."""
OLDEST = 6
"""First version of gradio whose `launch` takes theme and style."""
POLICY = b"default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'none'"
"""What browsers are told: load nothing from elsewhere, whatever this version of gradio would like to, and show the page
inside no other one."""
HERE = frozenset({"127.0.0.1", "localhost", "[::1]"})
"""Names of this machine, by which a page that only it can reach may be asked for."""
STYLE = figures.STYLE + "footer { display: none !important }\nh1 { font-size: 1.1rem; font-weight: 600 }\n"


def gradio() -> Any:
    """The package, told to be silent towards its makers. ValueError if it is missing, broken or too old."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio
    except (ImportError, RuntimeError, OSError):
        raise ValueError("the page needs gradio; type pip install 'genobj[demo]'") from None
    if int(gradio.__version__.partition(".")[0]) < OLDEST:
        raise ValueError(f"the page needs gradio {OLDEST} or later; type pip install -U 'genobj[demo]'")
    return gradio


class Closed:
    """ASGI middleware that sends POLICY with every answer and lets strange websites do nothing.

    Pages of strangers can make a browser send requests here. The page itself uploads nothing, so uploads are refused.
    hosts: names by which the page may be asked for, against names of strangers that lead to this machine; none: any.
    """

    def __init__(self, app: Any, hosts: frozenset[str] = frozenset()):
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass on what may be asked, with one header more; 403 for the rest."""

        async def sent(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), (b"content-security-policy", POLICY)]
            await send(message)

        if scope["type"] not in ("http", "websocket") or self._allows(scope):
            await self.app(scope, receive, sent)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await sent({"type": "http.response.start", "status": 403, "headers": [(b"content-type", b"text/plain")]})
            await send({"type": "http.response.body", "body": b"This page is for its own machine, and takes no files."})

    def _allows(self, scope: Any) -> bool:
        hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
        own = not self.hosts or all(_bare(host) in self.hosts for host in hosts)
        return own and "upload" not in scope["path"].lower().split("/")


def _bare(host: str) -> str:
    """A Host header without its port."""
    name, _, port = host.rpartition(":")
    return (name if name and port.isdigit() else host).lower()


def place(host: str, port: int | None) -> tuple[str, int]:
    """Host as servers want it and a free port; ValueError if there is none."""
    bare = host.strip("[]")
    try:
        family, _, _, _, address = socket.getaddrinfo(bare, None, type=socket.SOCK_STREAM)[0]
        _bind(family, str(address[0]), 0)
    except OSError:
        raise ValueError(f"--host {host}: this machine has no such address; leave it out for 127.0.0.1") from None
    for number in range(FIRST_PORT, FIRST_PORT + PORTS) if port is None else (port,):
        try:
            _bind(family, str(address[0]), number)
            return (f"[{bare}]" if ":" in bare else bare), number
        except OSError:
            continue
    taken = f"--port {port} is" if port else f"ports {FIRST_PORT} to {FIRST_PORT + PORTS - 1} are"
    raise ValueError(f"{taken} not free; type another number after --port")


def _bind(family: int, address: str, port: int) -> None:
    with socket.socket(family) as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.bind((address, port))


def loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    return all(ip_address(found[4][0]).is_loopback for found in socket.getaddrinfo(host.strip("[]"), None))


def serve(blocks: Any, host: str, port: int) -> str:
    """Start serving in the background; the page's address. Nothing leaves this machine."""
    ui = gradio()
    for name in ("NO_PROXY", "no_proxy"):  # gradio asks its own page whether it is there
        os.environ[name] = ",".join(filter(None, (os.environ.get(name), "localhost,127.0.0.1", host.strip("[]"))))
    theme = ui.themes.Base(font=["sans-serif"], font_mono=["monospace"])  # the usual themes bring fonts
    theme.set(block_info_text_color="*neutral_600", block_info_text_color_dark="*neutral_300")  # grey, but legible
    from starlette.middleware import Middleware  # gradio's own web framework

    alone = {"share": False, "ssr_mode": False, "mcp_server": False, "enable_monitoring": False, "inbrowser": False}
    hosts = HERE | {host.lower()} if loopback(host) else frozenset[str]()
    middleware = [Middleware(Closed, hosts=hosts)]
    where = {"server_name": host, "server_port": port, "app_kwargs": {"middleware": middleware}}
    _, address, _ = blocks.launch(prevent_thread_lock=True, quiet=True, theme=theme, css=STYLE, **where, **alone)
    return address


def wait(blocks: Any, address: str | None = None) -> None:
    """Serve until Ctrl-C, then close. address: a page to open in the browser first."""
    try:
        if address is not None:
            webbrowser.open(address)
        while True:
            sleep(1)
    except KeyboardInterrupt:
        blocks.close(verbose=False)
