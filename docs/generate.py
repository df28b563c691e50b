"""Write the reference pages that are made from the code, or check that they are up to date.

    python docs/generate.py            write
    python docs/generate.py --check    exit 1 and name the pages that differ

A reference joins by a row in `PAGES`: the page's path under `docs/`, and a function that gives
its whole text. A test runs the check.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from asya import addresses, envelope, error_pages, manifest, settings

FOLDER: Final = Path(__file__).resolve().parent
MADE: Final = "<!-- Made by docs/generate.py; change the model, not this page. -->\n"

MANIFEST: Final = """\
# Manifests

A manifest is a YAML document with `apiVersion: asya.sh/v1alpha1` and the `kind` AsyncActor,
Flow or Schedule. A file may hold several, divided by `---`. `asya validate PATH…` checks them, and
`asya schema AsyncActor` prints the [JSON Schema](schema/AsyncActor.json) for your editor.

Validation is strict: a field that is not in the tables below, a text where a number belongs, or a
duration without a unit is an error with file, line, path and the nearest valid name. All problems
of all files are shown at once.

- **Folders**: `asya up FOLDER` takes every `*.yaml` and `*.yml` in it and below, but not hidden
  ones and not `asya.yaml`. Documents of other kinds (a Deployment, say) are passed over with a
  note. In a file that is named they are an error.
- **Durations** are Go style: `500ms`, `30s`, `5m`, `1h30m`, `0s`. Units: `ns us ms s m h`.
- **Names** of actors are DNS labels: `a-z`, `0-9` and `-`, at most 63. Names that start with `x-`
  belong to the system. Two actors of one name in one namespace are an error.
- **Kubernetes' own objects** (`resources`, `tolerations`, `volumes`, …) are taken as they are.
- **YAML**: a key may stand once. Dates are texts. Aliases and `<<` work; a document may be nested
  {depth} levels and hold {nodes} values.
- **Warnings** are not errors: a route to an actor, or a schedule of a flow, that is not among the
  manifests (it may run elsewhere), `delivery: express` and `group` (this version takes the durable way and gives each
  actor its own replica), and `valueFrom`, which only Kubernetes can read.
- `batching` is refused by this version.

On a laptop the handler is imported from the manifest's folder. An actor needs no manifest at all:
`asya up handlers.py:embed` makes one from the function, with the function's name (`_` becomes
`-`) and every default.

## AsyncActor

{actor}
## Flow

{flow}
## Schedule

Needs `cron` or `every`, and `flow` or `route`. See [Send
later, once per key, and on a schedule](../how-to/send-later.md).

{schedule}"""

SETTINGS: Final = """\
# Settings

Settings hold for a whole mesh. They come from `asya.yaml` in the project's folder, from `ASYA_*`
variables, and from flags; a flag wins over a variable, a variable over the file, the file over
the default.

```yaml
# asya.yaml: one flat mapping, nothing is required
port: 9000
cooldown: 30s
payloadMax: 2MiB
```

- Durations are Go style with a unit (`30s`), sizes are bytes or have a unit (`4MiB`, `500kB`).
- Relative paths count from the project's folder in the file, and from the working folder in
  variables and flags.
- An unknown key is an error. So is a variable close to one of these (`ASYA_PROT`); other `ASYA_*`
  variables are left alone. An empty variable counts as not set.

{table}"""

ENVELOPE: Final = """\
# Envelope

An envelope is the message between actors. It is one JSON object in UTF-8, and it carries its own route.
`asya schema Envelope` prints its [JSON Schema](schema/Envelope.json).

- Fields that are not in the table are passed on unchanged, as raw bytes. So are the values of `headers` and
  `payload`.
- A message that isn't a valid envelope goes to `x-sump`, with its bytes kept and the reason `ParseError`. This
  happens if it isn't JSON or UTF-8, or if a field is missing or has a wrong type. The error names the field.
- If a key occurs twice, the last one counts.
- A payload that is too big for a message is in the [blob store](blob-store.md). Then `payload` is `null`, and the
  header `x-asya-blob` refers to the blob. Handlers still get the payload itself.
- `prev` keeps the {prev} newest hops, and the header `x-asya-hop` counts all of them. An envelope may make {hops}
  hops. A route may have {route} actors. An id has 1 to {id} printable characters.
- Times are RFC 3339 in UTC.

{table}"""

METRICS: Final = """\
# Metrics

`GET /metrics` on the gateway returns the metrics of a mesh in the text format of Prometheus. You can also serve
them on a port of their own (`metricsPort`, `asya up --metrics-port 9090`). [Observe a mesh](../how-to/observe.md) shows how
to scrape them, a dashboard and alert rules.

- Every metric also has the label `namespace`. Labels have few values: the actors and routes of this mesh, and
  fixed words.
- Numbers are at most {fresh:g} s old, however many clients scrape. The broker has {depth:g} s to report the depths
  of the queues.
- Counters start at 0 when the mesh starts.
- Histograms have the buckets {buckets} seconds.
  An actor has its histograms from its first message on.
- The usual `process_…` metrics cover the process of the mesh, with sidecars, gateway and supervisor. Replicas and
  the broker are separate processes.

{table}"""


def manifest_page() -> str:
    """docs/reference/manifest.md."""
    from asya.document import DEPTH_MAX, NODES_MAX

    return MANIFEST.format(
        depth=DEPTH_MAX,
        nodes=f"{NODES_MAX:,}",
        actor=manifest.reference_markdown("AsyncActor"),
        flow=manifest.reference_markdown("Flow"),
        schedule=manifest.reference_markdown("Schedule"),
    )


def settings_page() -> str:
    """docs/reference/settings.md."""
    return SETTINGS.format(table=settings.reference_markdown())


def envelope_page() -> str:
    """docs/reference/envelope.md."""
    return ENVELOPE.format(
        prev=envelope.PREV_MAX,
        hops=f"{envelope.HOPS_MAX:,}",
        route=f"{envelope.ROUTE_MAX:,}",
        id=envelope.ID_MAX,
        table=manifest.reference_markdown("Envelope"),
    )


def transport_contract_page() -> str:
    """docs/reference/transport-contract.md: the last whole run of the tests, and the classes of today."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # not installed
    from tests.support import contract_table

    results = (FOLDER / "reference" / "transport-contract.json").read_text("utf-8")
    return contract_table.markdown(json.loads(results))


OPTIONS_BEGIN: Final = "<!-- address options: made by docs/generate.py -->\n"
OPTIONS_END: Final = "<!-- end of address options -->\n"


def transports_page() -> str:
    """docs/reference/transports.md, which is written by hand but for one table."""
    page = (FOLDER / "reference" / "transports.md").read_text("utf-8")
    before, begin, rest = page.partition(OPTIONS_BEGIN)
    _, end, after = rest.partition(OPTIONS_END)
    assert begin, OPTIONS_BEGIN
    assert end, OPTIONS_END
    return before + begin + addresses.options_markdown() + end + after


def metrics_page() -> str:
    """docs/reference/metrics.md."""
    from asya.local.gauges import DEPTH_S
    from asya.telemetry import catalog
    from asya.telemetry.metrics import FRESH_S

    return METRICS.format(
        fresh=FRESH_S,
        depth=DEPTH_S,
        buckets=", ".join(f"{bound:g}" for bound in catalog.BUCKETS_S),
        table=catalog.reference_markdown(),
    )


ERRORS: Final = """\
# Error codes

Every error of the command line, every refusal of the gateway and every failed envelope carries a code.
`asya explain CODE` prints the same pages without a network. A code is never given to something else.

{tables}"""


def errors_page() -> str:
    """docs/reference/errors/index.md."""
    tables = []
    for digit, about in error_pages.RANGES.items():
        rows = [
            f"| [{page.code}]({page.code}.md) | {page.title} |"
            for page in error_pages.pages().values()
            if page.code.startswith(f"ASYA-{digit}")
        ]
        tables.append("\n".join([f"## {about}", "", "| code | |", "|---|---|", *rows]))
    return ERRORS.format(tables="\n\n".join(tables) + "\n")


def error_page(page: error_pages.Page) -> str:
    """One page of docs/reference/errors."""
    language, example = "text", page.example
    if example.startswith("{"):
        language = "json"
        example = json.dumps(json.loads(example), ensure_ascii=False, indent=2)
    return (
        f"# {page.code}: {page.title}\n\n{page.cause}\n\n```{language}\n{example}\n```\n\n"
        f"## What to do\n\n{page.remedy}\n\n[All codes](index.md)\n"
    )


def _error_pages() -> dict[str, Callable[[], str]]:
    folder = "reference/errors"
    made: dict[str, Callable[[], str]] = {f"{folder}/index.md": lambda: MADE + errors_page()}
    for page in error_pages.pages().values():
        made[f"{folder}/{page.code}.md"] = functools.partial(_made, page)
    return made


def _made(page: error_pages.Page) -> str:
    return MADE + error_page(page)


def _schema(make: Callable[[], dict[str, Any]]) -> Callable[[], str]:
    return lambda: json.dumps(make(), ensure_ascii=False, indent=2) + "\n"


PAGES: Final[dict[str, Callable[[], str]]] = {
    "reference/manifest.md": lambda: MADE + manifest_page(),
    "reference/settings.md": lambda: MADE + settings_page(),
    "reference/transports.md": transports_page,
    "reference/transport-contract.md": transport_contract_page,
    "reference/envelope.md": lambda: MADE + envelope_page(),
    "reference/metrics.md": lambda: MADE + metrics_page(),
    "reference/schema/AsyncActor.json": _schema(lambda: manifest.json_schema("AsyncActor")),
    "reference/schema/Flow.json": _schema(lambda: manifest.json_schema("Flow")),
    "reference/schema/Schedule.json": _schema(lambda: manifest.json_schema("Schedule")),
    "reference/schema/Envelope.json": _schema(envelope.json_schema),
    "reference/schema/Settings.json": _schema(settings.json_schema),
    **_error_pages(),
}


def stale(folder: Path = FOLDER) -> list[str]:
    """The pages that differ from what the code says."""
    return [
        page
        for page, make in PAGES.items()
        if not (folder / page).is_file() or (folder / page).read_text("utf-8") != make()
    ]


def main(arguments: list[str]) -> int:
    """Write or check; the exit code."""
    pages = stale()
    if arguments == ["--check"]:
        for page in pages:
            print(f"docs/{page} is out of date; run python docs/generate.py", file=sys.stderr)
        return 1 if pages else 0
    for page in pages:
        path = FOLDER / page
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(PAGES[page](), "utf-8")
        print(f"wrote docs/{page}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
