"""``clipstill serve``: a bundle as a small HTTP service."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clipstill.cli import options
from clipstill.core.errors import ConfigError
from clipstill.core.progress import say


def serve(
    bundle: options.Source,
    host: Annotated[str, typer.Option(help="Where to listen; 0.0.0.0 for all networks.")] = "127.0.0.1",
    port: options.Port = 8000,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A name of the service, such as its proxy's; may be repeated."),
    ] = None,
    token: Annotated[str | None, typer.Option(help="What clients must know; better: --token-file.")] = None,
    token_file: Annotated[Path | None, options.path(help="File with the token, which others cannot read.")] = None,
    batch: Annotated[int, typer.Option(min=1, max=1024, help="Most photos that the model sees at once.")] = 32,
    max_megabytes: Annotated[float, typer.Option(min=0.001, max=999, help="Largest request.")] = 20,
    max_files: Annotated[int, typer.Option(min=1, help="Most photos of one request.")] = 16,
    queue: Annotated[int, typer.Option(min=1, help="Photos that may wait; for others the answer is 503.")] = 64,
    timeout: Annotated[float, typer.Option(min=0.1, max=86400, help="Seconds to send a request, or to answer.")] = 30,
    threads: Annotated[int, typer.Option(min=0, max=1024, help="Of the model; 0 lets onnxruntime choose.")] = 0,
    decoders: Annotated[int, typer.Option(min=1, max=64, help="Photos decoded at the same time.")] = 2,
    model: options.Model = "fp32",
    quiet: options.Quiet = False,
) -> None:
    """Answer photos over HTTP.

    POST one picture to /predict, or several as a form; GET /labels, /health, /metrics (for Prometheus), and / is the
    bundle's page. Ends at Ctrl-C or SIGTERM after it has answered what it was asked.

    \b
    Examples:
      clipstill serve runs/zoo
      curl --data-binary @photo.jpg -H "Content-Type: image/jpeg" "http://127.0.0.1:8000/predict?top=3"
      curl -F photo=@a.jpg -F photo=@b.jpg http://127.0.0.1:8000/predict
    """  # noqa: D301 - click keeps the lines after \b as they are
    with options.extra("serve"):
        from clipstill.serving.app import create_app
        from clipstill.web.server import listen, run
    from clipstill.runtime import load_bundle
    from clipstill.serving.hosts import Hosts, is_local
    from clipstill.serving.uploads import Limits

    secret = _secret(token, token_file)
    classifier = load_bundle(bundle, threads, model)
    limits = Limits(
        body_bytes=(body_bytes := round(1e6 * max_megabytes)),
        held_bytes=max(Limits.held_bytes, 2 * body_bytes),
        files=min(max_files, queue),
        waiting=queue,
        seconds=timeout,
        decoders=decoders,
        batch=batch,
    )
    listener = listen(host, port)
    app = create_app(classifier, limits=limits, hosts=Hosts(host, allow_host or ()), token=secret, log=say)
    if secret is None and not is_local(host):
        say("warning: without --token-file, anyone who can reach this machine can send requests.")
    address = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}/"
    ready = f"{len(classifier.labels)} classes at {address} - stop with Ctrl-C"
    run(app, listener, patience=timeout, on_ready=lambda: say(ready))
    say("stopped")


def _secret(token: str | None, file: Path | None) -> str | None:
    if file is not None:
        if token is not None:
            raise ConfigError("--token and --token-file are both given. Give one of them.")
        try:
            token = file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"--token-file {file} cannot be read ({error}). Give a text file.") from None
    if token is not None and (not 8 <= len(token) <= 1000 or not token.isascii() or not token.isprintable()):
        raise ConfigError("the token is no text of 8 to 1000 plain ASCII characters. Make one: openssl rand -hex 16")
    return token
