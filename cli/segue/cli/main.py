"""The command's entry: every subcommand by name."""

from __future__ import annotations

import typer

from segue.cli import (
    ask,
    certs,
    demo,
    diagnose,
    explain,
    fleet,
    keys,
    loadtest,
    model,
    on_ray,
    operator,
    router,
    scale,
    simulate,
    up,
    version,
    workers,
)

app = typer.Typer(
    name="segue",
    help="Serve one large language model from a prefill pool and a decode pool.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.command("demo")(demo.demo)
app.command("up")(up.up)
app.command("down")(on_ray.down)
app.command("router")(router.router)
app.command("prefill-worker")(workers.prefill_worker)
app.command("decode-worker")(workers.decode_worker)
app.command("flex-worker")(workers.flex_worker)
app.command("simulate")(simulate.simulate)
app.command("simulated-workers", hidden=True)(simulate.simulated_workers)
app.command("status")(fleet.status)
app.command("top")(fleet.top)
app.command("ask")(ask.ask)
app.command("explain")(explain.explain)
app.command("scale")(scale.scale)
app.command("drain")(scale.drain)
app.command("turn")(scale.turn)
app.command("operator")(operator.operator)
app.command("loadtest")(loadtest.loadtest)
app.command("diagnose")(diagnose.diagnose)
app.command("certs")(certs.certs)
app.add_typer(keys.app, name="keys")
app.command("model")(model.model)
app.command("version")(version.version)
