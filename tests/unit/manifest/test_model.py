import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from asya import settings
from asya.durations import format_duration
from asya.errors import ManifestError
from asya.manifest import (
    API_VERSION,
    AsyncActor,
    Source,
    json_schema,
    load,
    loading,
    model,
    reference_markdown,
)
from asya.resiliency import Policy, Rule

EXAMPLE = """\
apiVersion: asya.sh/v1alpha1
kind: AsyncActor
metadata:
  name: embedder
spec:
  image: embedder:latest
  handler: handler.embed
  scaling:
    minReplicaCount: 0
    maxReplicaCount: 5
    queueLength: 1
  resources:
    limits:
      nvidia.com/gpu: "1"
  resiliency:
    actorTimeout: 120s
    policies:
      default:
        maxAttempts: 3
        backoff: exponential
"""

FLOW = """\
apiVersion: asya.sh/v1alpha1
kind: Flow
metadata:
  name: search
spec:
  route: [embedder, reranker]
  description: Rank documents for a query
  inputSchema: {type: object, properties: {query: {type: string}}, required: [query]}
  timeout: 30s
  expose: {http: true, mcp: true, a2a: true}
"""


def actor(spec: str = "", name: str = "embedder", handler: str = "handler.embed") -> str:
    text = f"apiVersion: asya.sh/v1alpha1\nkind: AsyncActor\nmetadata: {{name: {name}}}\nspec:\n"
    text += f"  handler: {handler}\n" if handler else ""
    return text + "".join(f"  {line}\n" for line in spec.splitlines())


def flow(spec: str, name: str = "search") -> str:
    text = f"apiVersion: asya.sh/v1alpha1\nkind: Flow\nmetadata: {{name: {name}}}\nspec:\n"
    return text + "".join(f"  {line}\n" for line in spec.splitlines())


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Writes files below a folder that is the working folder; a text alone is `a.yaml`."""
    monkeypatch.chdir(tmp_path)

    def write(text: str | None = None, **files: Any) -> Path:
        if text is not None:
            files["a.yaml"] = text
        for name, content in files.items():
            path = tmp_path / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, "utf-8")
        return tmp_path

    return write


@pytest.fixture
def problems_of(project: Callable[..., Any]) -> Callable[..., Any]:
    def problems(text: str, paths: list[str] | tuple[str, ...] = ("a.yaml",)) -> list[str]:
        project(text)
        with pytest.raises(ManifestError) as caught:
            load(paths)
        return caught.value.problems

    return problems


def test_the_manifest_of_the_contract_loads_unchanged(project: Callable[..., Any]) -> None:
    folder = project(EXAMPLE)
    (embedder,) = load(["a.yaml"]).actors
    assert (embedder.name, embedder.namespace) == ("embedder", "default")
    assert embedder.source == Source(embedder.source.file, 1)
    assert embedder.folder == folder.resolve()
    assert embedder.spec.handler == "handler.embed"
    assert embedder.spec.resources == {"limits": {"nvidia.com/gpu": "1"}}
    scaling = embedder.spec.scaling
    assert (scaling.min_replica_count, scaling.max_replica_count) == (0, 5)
    assert (scaling.queue_length, scaling.enabled, scaling.cooldown_period) == (1, True, 300)
    rules = embedder.resiliency()
    assert rules.actor_timeout_s == 120.0
    assert rules.default == Policy(max_attempts=3, backoff="exponential")


def test_every_default_is_that_of_the_contract(project: Callable[..., Any]) -> None:
    project(actor())
    (made,) = load(["a.yaml"]).actors
    spec = made.spec
    assert (spec.image, spec.image_pull_policy, spec.python_executable) == (
        None,
        "IfNotPresent",
        "python3",
    )
    assert (spec.replicas, spec.concurrency, spec.delivery, spec.group) == (1, 1, "durable", None)
    assert spec.scaling.model_dump() == {
        "enabled": True,
        "min_replica_count": 0,
        "max_replica_count": 10,
        "polling_interval": 30,
        "cooldown_period": 300,
        "queue_length": 5,
        "advanced": None,
        "additional_triggers": [],
    }
    assert made.resiliency().actor_timeout_s == 300.0
    assert made.resiliency().default == Policy(max_attempts=1)


def test_a_flow_says_what_clients_see(project: Callable[..., Any]) -> None:
    project(EXAMPLE + "---\n" + actor(name="reranker") + "---\n" + FLOW)
    loaded = load(["a.yaml"])
    (search,) = loaded.flows
    assert (search.name, search.route) == ("search", ["embedder", "reranker"])
    assert search.description == "Rank documents for a query"
    assert (search.input_schema or {})["required"] == ["query"]
    assert search.timeout_s == 30.0
    assert (search.expose.http, search.expose.mcp, search.expose.a2a) == (True, True, True)
    assert loaded.warnings == []


def test_a_flow_is_seen_by_http_alone_unless_it_says_more(project: Callable[..., Any]) -> None:
    project(flow("route: [a]"))
    (search,) = load(["a.yaml"]).flows
    assert (search.expose.http, search.expose.mcp, search.expose.a2a) == (True, False, False)
    assert (search.timeout_s, search.input_schema, search.description) == (None, None, "")


def test_all_of_resiliency_becomes_rules(project: Callable[..., Any]) -> None:
    project(
        actor(
            "resiliency:\n  actorTimeout: 1m\n  policies:\n"
            "    slow: {maxAttempts: 5, backoff: linear, initialDelay: 500ms, maxInterval: 1h30m,"
            " maxDuration: 2h, jitter: true, onExhausted: [embedder]}\n"
            "  rules:\n  - {errors: [TimeoutError, requests.exceptions.Timeout], policy: slow}"
        )
    )
    rules = load(["a.yaml"]).actors[0].resiliency()
    assert rules.rules == (Rule(("TimeoutError", "requests.exceptions.Timeout"), "slow"),)
    assert rules.policies["slow"] == Policy(
        "slow", 5, "linear", 0.5, 5400.0, 7200.0, jitter=True, on_exhausted=("embedder",)
    )


BIG = """\
image: a
imagePullPolicy: Never
pythonExecutable: /usr/bin/python3.12
actor: logical
transport: nats
env: [{name: A, value: "1"}, {name: B}]
secretRefs: [{secretName: s, keys: [{key: k, envVar: K}]}]
resources: {limits: {cpu: 2, memory: 1Gi}, requests: {cpu: 500m}}
tolerations: [{key: gpu, operator: Exists}]
nodeSelector: {disk: ssd}
volumes: [{name: v, emptyDir: {}}]
volumeMounts: [{name: v, mountPath: /v}]
replicas: 3
scaling: {enabled: false, advanced: {formula: a + b, target: "5", metricType: Value,
  restoreToOriginalReplicaCount: true, activationTarget: "1"}, additionalTriggers: [{type: cron}],
  pollingInterval: 5, cooldownPeriod: 0}
concurrency: 4
sidecar: {image: s, imagePullPolicy: Always, env: [{name: X, value: x}], resources: {}}"""


def test_every_field_of_the_contract_is_taken(project: Callable[..., Any]) -> None:
    project(actor(BIG))
    (made,) = load(["a.yaml"]).actors
    assert made.name == "logical"
    assert made.spec.env[0].model_dump() == {"name": "A", "value": "1", "value_from": None}
    assert made.spec.secret_refs[0].keys[0].env_var == "K"
    assert made.spec.scaling.advanced is not None
    assert made.spec.scaling.advanced.metric_type == "Value"
    assert made.spec.resources["limits"] == {"cpu": 2, "memory": "1Gi"}


ONE_PROBLEM = [
    # unknown fields
    ("handlr: x", "a.yaml:6: spec.handlr: unknown field 'handlr'"),
    ("scaling: {minReplicas: 1}", "spec.scaling.minReplicas: unknown field 'minReplicas'; did you"),
    ("zzz: x", "spec.zzz: unknown field 'zzz'; there are actor, batching, capture, "),
    ("env: [{name: A, val: b}]", "spec.env[0].val: unknown field 'val'; did you mean 'value'?"),
    ("resiliency: {policies: {a: {maxAttempt: 1}}}", "policies.a.maxAttempt: unknown field"),
    ("image_pull_policy: Always", "unknown field 'image_pull_policy'; did you mean"),
    # numbers and truth
    ("replicas: two\nscaling: {enabled: false}", "spec.replicas: expected a whole number from 0"),
    ("scaling: {minReplicaCount: '5'}", 'expected a whole number from 0 to 10000, got "5"'),
    ("scaling: {minReplicaCount: -1}", "expected a whole number from 0 to 10000, got -1"),
    ("scaling: {maxReplicaCount: 0}", "expected a whole number from 1 to 10000, got 0"),
    ("scaling: {queueLength: 1.5}", "expected a whole number from 1 to 1000000000, got 1.5"),
    ("scaling: {queueLength: 0}", "spec.scaling.queueLength: expected a whole number"),
    ("scaling: {queueLength: true}", "got true"),
    ("scaling: {enabled: 'true'}", 'spec.scaling.enabled: expected true or false, got "true"'),
    ("concurrency: 0", "spec.concurrency: expected a whole number from 1 to 1000, got 0"),
    ("concurrency: 1e999", "spec.concurrency: expected a whole number from 1 to 1000, got"),
    ("scaling: {minReplicaCount: 6, maxReplicaCount: 5}", "at most maxReplicaCount (5), got 6"),
    ("scaling: {minReplicaCount: 11}", "at most maxReplicaCount (10, its default), got 11"),
    ("replicas: 2", "spec.replicas: "),
    ("replicas: 2\nscaling: {enabled: true}", "spec.replicas: "),
    # shapes
    ("tolerations: {}", "spec.tolerations: expected a list, got an empty mapping"),
    ("volumes: [x]", 'spec.volumes[0]: expected a mapping, got "x"'),
    ("volumeMounts: x", 'spec.volumeMounts: expected a list, got "x"'),
    ("nodeSelector: {a: 1}", "spec.nodeSelector.a: expected a text, got 1"),
    ("resources: []", "spec.resources: expected a mapping, got an empty list"),
    ("resources:", "spec.resources: expected a mapping, got nothing"),
    ("resources: {limits: 5}", "spec.resources: expected a mapping as limits, got 5"),
    ("scaling: 5", "spec.scaling: expected a mapping, got 5"),
    ("image: 5", "spec.image: expected"),
    ("pythonExecutable: ''", "spec.pythonExecutable: expected"),
    ("imagePullPolicy: always", 'expected "Always" or "IfNotPresent" or "Never", got "always"'),
    ("delivery: fast", 'spec.delivery: expected "durable" or "express", got "fast"'),
    ("group: A_B", 'spec.group: expected a name of a-z, 0-9 and "-"'),
    # variables
    ("env: {A: b}", "spec.env: expected a list, got a mapping"),
    (
        "env: [{name: A, value: 5}]",
        "spec.env[0].value: expected a string, got 5; write it in quotes",
    ),
    ("env: [{name: A, value: on}]", "expected a string, got true; write it in quotes: 'true'"),
    ("env: [{name: A, value: {}}]", "spec.env[0].value: expected a string, got an empty mapping"),
    ("env: [{value: x}]", "spec.env[0].name: is required: a text"),
    ("env: [{name: A=B}]", 'expected the name of a variable, without "=", got "A=B"'),
    ('env: [{name: A, value: "a\\0b"}]', "may not hold a NUL character"),
    ("env: [{name: ASYA_SOCKET, value: x}]", "spec.env[0].name: ASYA_SOCKET is"),
    ("env: [{name: A}, {name: A}]", 'spec.env[1].name: "A"'),
    ("env: [{name: A, value: x, valueFrom: {}}]", "`valueFrom`, got both"),
    ("secretRefs: [{secretName: s, keys: []}]", "expected a list with one item at least, got an"),
    ("secretRefs: [{keys: [{key: k, envVar: K}]}]", "secretRefs[0].secretName: is required"),
    # not in this version
    ("batching: {maxSize: 8}", "spec.batching: "),
    ("transport: kafka", 'unknown transport "kafka"; there are nats, rabbitmq, sqs, pubsub'),
    ("transport: natss", "spec.transport: unknown transport \"natss\"; did you mean 'nats'?"),
    # names
    ("actor: x-sink", 'spec.actor: names that start with "x-"'),
    ("actor: a_b", 'got "a_b"; "a-b" would do'),
    (f"actor: {'a' * 64}", "spec.actor: expected a name of a-z, 0-9"),
    ("actor: ''", "spec.actor: expected a name of a-z, 0-9"),
    ('actor: "a\\n"', "spec.actor: expected a name of a-z, 0-9"),
    # resiliency
    ("resiliency: {actorTimeout: 120}", "got the number 120; write the unit, for example"),
    ("resiliency: {actorTimeout: '120'}", 'got "120" without a unit; write "120s" for seconds'),
    ("resiliency: {actorTimeout: 0s}", "spec.resiliency.actorTimeout: expected a duration longer"),
    ("resiliency: {actorTimeout: [1s]}", 'or "1h30m", got a list'),
    ("resiliency: {actorTimeout: -5s}", 'got the negative "-5s"'),
    ("resiliency: {policies: {a: {maxAttempts: 0}}}", "a.maxAttempts: expected a whole number"),
    ("resiliency: {policies: {a: {backoff: fast}}}", 'expected "constant" or "linear" or "exp'),
    ("resiliency: {policies: {a: {initialDelay: 1 s}}}", "a.initialDelay: expected a duration"),
    ("resiliency: {policies: {a: {onExhausted: [x-sink]}}}", "onExhausted[0]: x-sink"),
    ("resiliency: {policies: {a: {onExhausted: [A]}}}", "onExhausted[0]: expected a name of"),
    ("resiliency: {policies: {a: {onExhausted: b}}}", 'expected a list (at most 1000), got "b"'),
    ("resiliency: {rules: [{errors: [E], policy: a}]}", "unknown policy 'a'; there is no `polici"),
    (
        "resiliency: {policies: {slow: {}}, rules: [{errors: [E], policy: slo}]}",
        "spec.resiliency.rules[0].policy: unknown policy 'slo'; did you mean 'slow'?",
    ),
    (
        "resiliency: {policies: {a: {}}, rules: [{errors: [E], policy: default}]}",
        "spec.resiliency.rules[0].policy: unknown policy 'default'; there are a",
    ),
    ("resiliency: {policies: {a: {}}, rules: [{errors: [], policy: a}]}", "got an empty list"),
    (
        "resiliency: {policies: {a: {}}, rules: [{errors: [a b], policy: a}]}",
        "the name of an error",
    ),
    ("resiliency: {policies: {a: {}}, rules: [{policy: a}]}", "rules[0].errors: is required"),
    # YAML itself
    ("image: a\nimage: b", "a.yaml:7: spec.image: "),
]


@pytest.mark.parametrize(("spec", "expected"), ONE_PROBLEM, ids=[spec for spec, _ in ONE_PROBLEM])
def test_a_wrong_field_is_one_line_with_its_place(
    problems_of: Callable[..., Any], spec: str, expected: str
) -> None:
    (problem,) = problems_of(actor(spec))
    assert problem.startswith("a.yaml:")
    assert expected in problem


@pytest.mark.parametrize(
    ("handler", "expected"),
    [
        ("embed", 'expected "module.function" or "module.Class.method", got "embed"'),
        ("handlers.py:embed", '"handlers.embed" would do'),
        ("a/handlers.py:embed", '"a.handlers.embed" would do'),
        ("handlers.class", "'class' in \"handlers.class\" is a keyword of Python"),
        ("a..b", 'expected "module.function"'),
        ("5", "spec.handler: expected a text, got 5"),
        ("[a.b]", "spec.handler: expected a text, got a list"),
        ("", "spec.handler: is required"),
    ],
)
def test_a_handler_is_a_dotted_name(
    problems_of: Callable[..., Any], handler: str, expected: str
) -> None:
    (problem,) = problems_of(actor("image: a", handler=handler))
    assert expected in problem


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("route: []", "spec.route: expected a list with one item at least (at most 1000), got an"),
        ("route: a", 'spec.route: expected a list with one item at least (at most 1000), got "a"'),
        ("rout: [a]\nroute: [a]", "spec.rout: unknown field 'rout'; did you mean 'route'?"),
        ("route: [a, x-sump]", "spec.route[1]: x-sump "),
        ("route: [a, B]", 'spec.route[1]: expected a name of a-z, 0-9 and "-"'),
        ("route: [5]", "spec.route[0]: expected a text, got 5"),
        ("route: [a]\ntimeout: 30", "got the number 30; write the unit"),
        ("route: [a]\nexpose: true", "spec.expose: expected a mapping, got true"),
        ("route: [a]\nexpose: {htp: true}", "spec.expose.htp: unknown field 'htp'; did you mean"),
        ("route: [a]\ninputSchema: text", 'spec.inputSchema: expected a mapping, got "text"'),
        (
            "route: [a]\ninputSchema: {type: objct}",
            "spec.inputSchema.type: is not a valid JSON Schema:",
        ),
        (
            "route: [a]\ninputSchema: {pattern: '('}",
            "spec.inputSchema.pattern: is not a valid JSON Schema",
        ),
        (
            "route: [a]\ninputSchema: {$schema: 'urn:x'}",
            'spec.inputSchema["$schema"]: unknown dialect "urn:x"',
        ),
        (f"route: [{', '.join(['a'] * 1001)}]", "spec.route: expected a list"),
    ],
)
def test_a_wrong_flow_is_one_line_with_its_place(
    problems_of: Callable[..., Any], spec: str, expected: str
) -> None:
    (problem,) = problems_of(flow(spec))
    assert expected in problem


@pytest.mark.parametrize(
    "draft",
    ["http://json-schema.org/draft-07/schema#", "https://json-schema.org/draft/2020-12/schema"],
)
def test_older_drafts_of_json_schema_are_known(project: Callable[..., Any], draft: str) -> None:
    project(flow(f"route: [a]\ninputSchema: {{$schema: '{draft}', type: object}}"))
    assert (load(["a.yaml"]).flows[0].input_schema or {})["$schema"] == draft


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1", "a.yaml:1: is not a manifest: "),
        ("- a", "a.yaml:1: is not a manifest"),
        ("", "a.yaml: is empty"),
        ("# nothing", "a.yaml: is empty"),
        ("apiVersion: asya.sh/v1\nkind: Flow", 'apiVersion: expected "asya.sh/v1alpha1", got "as'),
        ("kind: Flow", 'a.yaml:1: apiVersion: expected "asya.sh/v1alpha1", got nothing'),
        ("apiVersion: asya.sh/v1alpha1", "a.yaml:1: kind: is required: AsyncActor or Flow"),
        (
            "apiVersion: asya.sh/v1alpha1\nkind: AsyncActr",
            "a.yaml:2: kind: unknown kind 'AsyncActr'",
        ),
        ("apiVersion: apps/v1\nkind: Deployment", "a.yaml:2: kind: unknown kind 'Deployment'"),
        ("apiVersion: asya.sh/v1alpha1\nkind: Flow\nspec: {route: [a]}", "metadata: is required"),
        ("apiVersion: [", "a.yaml:1: is not YAML"),
    ],
)
def test_a_named_file_must_hold_manifests(
    problems_of: Callable[..., Any], text: str, expected: str
) -> None:
    (problem,) = problems_of(text)
    assert expected in problem


def test_all_problems_of_all_files_come_at_once(project: Callable[..., Any]) -> None:
    project(
        **{
            "a.yaml": actor("handlr: x\nconcurrency: 0") + "---\n" + flow("route: []"),
            "sub__b.yml": actor("scaling: {minReplicaCount: two}", name="other", handler=""),
            "c.yaml": "apiVersion: asya.sh/v1alpha1\nkind: Flow\nspec: [",
        }
    )
    with pytest.raises(ManifestError) as caught:
        load(["."])
    places = [problem.partition(": ")[0] for problem in caught.value.problems]
    assert places == ["a.yaml:6", "a.yaml:7", "a.yaml:13", "c.yaml:3", "sub/b.yml:4", "sub/b.yml:5"]
    assert str(caught.value).count("\n") == 5


def test_two_actors_of_one_name_name_both_places(problems_of: Callable[..., Any]) -> None:
    text = actor() + "---\n" + actor("handlr: x")
    assert 'a.yaml:9: metadata.name: another AsyncActor "embedder" is defined at a.yaml:3' in (
        problems_of(text)
    )


def test_a_logical_name_may_not_be_taken_twice(problems_of: Callable[..., Any]) -> None:
    (problem,) = problems_of(actor() + "---\n" + actor("actor: embedder", name="other"))
    assert problem == 'a.yaml:12: spec.actor: another actor "embedder" is defined at a.yaml:3'


def test_the_same_name_in_another_namespace_is_another_actor(project: Callable[..., Any]) -> None:
    second = actor().replace("{name: embedder}", "{name: embedder, namespace: two}")
    project(actor() + "---\n" + second)
    assert [made.namespace for made in load(["a.yaml"], namespace="one").actors] == ["one", "two"]


def test_two_flows_of_one_name_are_refused(problems_of: Callable[..., Any]) -> None:
    (problem,) = problems_of(flow("route: [a]") + "---\n" + flow("route: [b]"))
    assert 'another Flow "search" is defined at a.yaml:3' in problem


def test_an_actor_and_a_flow_may_share_a_name(project: Callable[..., Any]) -> None:
    project(actor() + "---\n" + flow("route: [embedder]", name="embedder"))
    assert load(["a.yaml"]).warnings == []


def test_routes_to_actors_elsewhere_are_warnings_with_the_nearest_name(
    project: Callable[..., Any],
) -> None:
    project(
        actor("resiliency: {policies: {default: {onExhausted: [emboder]}}}")
        + "---\n"
        + flow("route: [embeder, zzz, x-embedder]")
    )
    assert [warning.partition(": ")[2] for warning in load(["a.yaml"]).warnings] == [
        *(
            f"{path}: no actor {name} among these manifests; did you mean 'embedder'?"
            for path, name in [
                ("spec.resiliency.policies.default.onExhausted[0]", '"emboder"'),
                ("spec.route[0]", '"embeder"'),
            ]
        ),
        'spec.route[1]: no actor "zzz" among these manifests',
        (
            'spec.route[2]: no actor "x-embedder" among these manifests; '
            'names that start with "x-" are reserved'
        ),
    ]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("delivery: express", "a.yaml:6: spec.delivery: "),
        ("group: gpu", "a.yaml:6: spec.group: "),
        ("env: [{name: A, valueFrom: {fieldRef: {}}}]", "on a laptop set A in the environment"),
    ],
)
def test_what_may_surprise_is_a_warning(
    project: Callable[..., Any], spec: str, expected: str
) -> None:
    project(actor(spec))
    (warning,) = load(["a.yaml"]).warnings
    assert expected in warning


def test_a_folder_passes_over_what_is_not_ours_with_a_note(project: Callable[..., Any]) -> None:
    project(
        **{
            "a.yaml": actor(),
            "asya.yaml": "port: 1",
            ".hidden__b.yaml": "kind: Flow",
            "node_modules__c.yaml": "kind: Flow",
            "deploy.yaml": "apiVersion: apps/v1\nkind: Deployment\nspec: !Ref x\n---\na: 1",
            "helm.yaml": "{{ if x }}",
            "other.yaml": "apiVersion: logging.banzaicloud.io/v1beta1\nkind: Flow",
            "notes.txt": "kind: Flow",
        }
    )
    loaded = load(["."])
    assert [made.name for made in loaded.actors] == ["embedder"]
    assert [note.partition(": ")[0] for note in loaded.notes] == [
        "deploy.yaml:2",
        "deploy.yaml:5",
        "helm.yaml:1",
        "other.yaml:1",
    ]
    assert all(note.endswith("; passed over") for note in loaded.notes)


@pytest.mark.parametrize(
    "text",
    [
        "apiVersion: asya.hs/v1alpha1\nkind: Flow",
        "kind: AsyncActor",
        "apiVersion: asya.sh/v1alpha1\nkind: Flw",
        "apiVersion: asya.sh/v2\nkind: Other",
        "apiVersion: asya.sh/v1alpha1\nkind: {{ kind }}\n[",
    ],
)
def test_a_folder_does_not_pass_over_what_was_meant_for_us(
    problems_of: Callable[..., Any], text: str
) -> None:
    (problem,) = problems_of(text, paths=["."])
    assert problem.startswith("a.yaml:")


def test_paths_that_hold_nothing_are_problems(project: Callable[..., Any]) -> None:
    folder = project(
        EXAMPLE, **{"empty__x.txt": "", "asya.yaml": "", "h.py": "", "b__c.yaml": EXAMPLE}
    )
    with pytest.raises(ManifestError) as caught:
        load(["empty", "b/d.yaml", "missing/x.yaml", "asya.yaml", "h.py", "h:foo"])
    assert caught.value.problems == [
        "empty: no AsyncActor, Flow or Schedule in it (looked into *.yaml and *.yml)",
        "b/d.yaml: no such file or folder; did you mean b/c.yaml?",
        "missing/x.yaml: no such file or folder",
        "asya.yaml: holds settings, not manifests; give its folder",
        "h.py: name a function in it: h.py:function",
        "h:foo: no such file or folder; a function is named file.py:function: h.py:foo",
    ]
    assert folder.is_dir()


def test_a_file_that_is_given_twice_counts_once(project: Callable[..., Any]) -> None:
    project(EXAMPLE)
    assert len(load([".", "a.yaml", "./a.yaml"]).actors) == 1


def test_braces_in_a_value_reach_the_message_as_they_are(problems_of: Callable[..., Any]) -> None:
    (problem,) = problems_of(actor("actor: '{text}'"))
    assert 'got "{text}"' in problem


yaml_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=8)
    | st.sampled_from(["1s", "a", "x-sink", "default", "handler.embed", "nats"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "env",
                    "name",
                    "value",
                    "scaling",
                    "policies",
                    "rules",
                    "default",
                    "errors",
                    "keys",
                ]
            )
            | st.text(max_size=4),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
FIELDS = sorted(json_schema("AsyncActor")["$defs"]["ActorSpec"]["properties"])


@given(st.dictionaries(st.sampled_from(FIELDS), yaml_values, max_size=6))
def test_no_spec_makes_it_fail_and_what_it_takes_fits_the_schema(
    tmp_path_factory: pytest.TempPathFactory, spec: dict[str, Any]
) -> None:
    path = tmp_path_factory.mktemp("m") / "a.yaml"
    data = {
        "apiVersion": API_VERSION,
        "kind": "AsyncActor",
        "metadata": {"name": "a"},
        "spec": {"handler": "handler.embed"} | spec,
    }
    path.write_text(json.dumps(data), "utf-8")
    problems = []
    try:
        (made,) = load([path]).actors
    except ManifestError as error:
        problems = error.problems
    else:
        Draft202012Validator(json_schema("AsyncActor")).validate(data)
        made.resiliency()
    assert [problem for problem in problems if not problem.startswith(f"{path}:1: ")] == []


@pytest.mark.parametrize("kind", ["AsyncActor", "Flow", "Envelope"])
def test_schemas_are_schemas(kind: str) -> None:
    Draft202012Validator.check_schema(json_schema(kind))
    assert json_schema(kind)["title"] == kind


def test_the_schema_takes_the_examples_and_refuses_typos(project: Callable[..., Any]) -> None:
    import yaml

    checker = Draft202012Validator(json_schema("AsyncActor"))
    checker.validate(yaml.safe_load(EXAMPLE))
    checker.validate(yaml.safe_load(actor(BIG)))
    Draft202012Validator(json_schema("Flow")).validate(yaml.safe_load(FLOW))
    assert not checker.is_valid(yaml.safe_load(EXAMPLE.replace("handler:", "handlr:")))
    assert not checker.is_valid(yaml.safe_load(EXAMPLE.replace("120s", "120")))
    assert not checker.is_valid(yaml.safe_load(EXAMPLE.replace("queueLength: 1", "queueLength: a")))


def test_every_field_has_a_description() -> None:
    for kind in ("AsyncActor", "Flow", "Envelope"):
        rows = reference_markdown(kind).splitlines()[2:]
        assert rows
        assert [row for row in rows if row.endswith("|  |")] == []


def test_defaults_in_the_schema_are_written_as_users_write_them() -> None:
    policy = json_schema("AsyncActor")["$defs"]["PolicySpec"]["properties"]
    assert policy["initialDelay"]["default"] == format_duration(
        model.PolicySpec.model_fields["initial_delay"].default
    )


def test_model_and_settings_agree_on_what_both_must_know() -> None:
    assert loading.SETTINGS_FILE == settings.SETTINGS_FILE


def test_a_manifest_cannot_be_changed(project: Callable[..., Any]) -> None:
    project(EXAMPLE)
    (embedder,) = load(["a.yaml"]).actors
    with pytest.raises(ValueError, match="frozen"):
        embedder.spec.concurrency = 2
    assert isinstance(embedder, AsyncActor)


def test_settings_do_not_pull_in_pydantic() -> None:
    code = "import sys, asya.settings; sys.exit('pydantic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


NAMED = "apiVersion: asya.sh/v1alpha1\nkind: AsyncActor\nmetadata: {name: a}\nspec:\n"


@pytest.mark.parametrize(
    ("name", "text", "code"),
    [
        ("gone.yaml", None, "ASYA-1102"),
        ("bad.yaml", "a: [", "ASYA-1103"),
        ("other.yaml", "apiVersion: apps/v1\nkind: Deployment\n", "ASYA-1104"),
        ("field.yaml", NAMED + "  handlr: a.b\n  handler: a.b\n", "ASYA-1105"),
        ("missing.yaml", NAMED + "  concurrency: 1\n", "ASYA-1106"),
        ("value.yaml", NAMED + "  handler: a.b\n  concurrency: none\n", "ASYA-1107"),
        ("fields.yaml", NAMED + "  handler: a.b\n  replicas: 2\n", "ASYA-1109"),
    ],
)
def test_each_kind_of_problem_has_its_code(
    name: str, text: str | None, code: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    if text is not None:
        path.write_text(text)
    with pytest.raises(ManifestError) as raised:
        load([path])
    assert {str(each.code) for each in raised.value.complaints()} == {code}


def test_a_name_that_is_taken_has_its_code(tmp_path: Path) -> None:
    path = tmp_path / "two.yaml"
    path.write_text((NAMED + "  handler: a.b\n---\n") * 2)
    with pytest.raises(ManifestError) as raised:
        load([path, f"{tmp_path}/none.py:f"])
    codes = {str(each.code) for each in raised.value.complaints()}
    assert codes == {"ASYA-1108", "ASYA-1110"}
