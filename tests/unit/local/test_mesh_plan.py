from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from asya import manifest
from asya.codes import Code
from asya.errors import UsageError
from asya.local.mesh_plan import changes, plan_actor, plan_mesh, refit_actor
from asya.manifest import Manifests
from asya.scaling import Bounds
from asya.settings import Settings

Load = Callable[..., Manifests]
FLOW = """---
apiVersion: asya.sh/v1alpha1
kind: Flow
metadata: {name: search}
spec: {route: [a], timeout: 5s}
"""


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Manifests of actors by the rest of their specs, and of what is given as text."""
    monkeypatch.chdir(tmp_path)

    def made(more: str = "", **specs: str) -> Manifests:
        text = "".join(
            "---\napiVersion: asya.sh/v1alpha1\nkind: AsyncActor\n"
            f"metadata: {{name: {name}}}\nspec: {{handler: h.f{spec}}}\n"
            for name, spec in specs.items()
        )
        Path("all.yaml").write_text(text + more)
        return manifest.load(["."])

    return made


def test_scaling_becomes_bounds_and_the_shorter_cooldown_holds(load: Load) -> None:
    scaling = (
        ", scaling: {minReplicaCount: 1, maxReplicaCount: 4, queueLength: 3, cooldownPeriod: %d}"
    )
    (short, long, off) = load(
        a=scaling % 2, b=scaling % 90, c=", replicas: 3, scaling: {enabled: false}"
    ).actors
    settings = Settings(cooldown_s=7.0)
    assert plan_actor(short, settings).bounds == Bounds(1, 4, 3, 2.0)
    assert plan_actor(long, settings).bounds == Bounds(1, 4, 3, 7.0)
    assert plan_actor(off, settings).bounds == Bounds.fixed(3)


def test_a_mesh_has_actors_with_queues_and_flows(load: Load) -> None:
    plan = plan_mesh(load(FLOW, a=", concurrency: 2"), Settings(namespace="default"))
    (actor,) = plan.actors.values()
    assert (actor.name, actor.queue, actor.transport) == ("a", "asya-default-a", "nats")
    assert actor.concurrency == 2
    assert plan.transports == {"a": "nats"}
    assert (plan.flows["search"].route, plan.flows["search"].timeout_s) == (("a",), 5.0)


def test_actors_of_another_namespace_are_refused_by_name(load: Load) -> None:
    with pytest.raises(UsageError) as caught:
        plan_mesh(load(a="", b=""), Settings(namespace="shop"))
    assert caught.value.code == Code.NAMESPACE_FOREIGN
    first, second = str(caught.value).splitlines()
    assert "actor a" in first
    assert "actor b" in second
    assert "shop" in first


def test_a_broker_without_an_address_is_refused(load: Load) -> None:
    with pytest.raises(UsageError) as caught:
        plan_mesh(load(a=", transport: sqs"), Settings())
    assert caught.value.code == Code.ADDRESS_MISSING


def test_a_running_actor_takes_over_its_manifest_but_no_other_broker(load: Load) -> None:
    settings = Settings(sqs_url="sqs://r")
    (before,) = load(a="").actors
    running = plan_actor(before, settings)
    (after,) = load(a=", concurrency: 3").actors
    assert refit_actor(running, after, settings).concurrency == 3
    (moved,) = load(a=", transport: sqs").actors
    with pytest.raises(UsageError, match="sqs") as caught:
        refit_actor(running, moved, settings)
    assert caught.value.code == Code.FIELDS_CONTRADICT


def test_changes_are_taken_over_by_actor_and_the_rest_needs_a_restart(load: Load) -> None:
    running = load(a="", b="")
    assert changes(running, load(a="", b=""), {}).restart == ()
    found = load(FLOW, a=", concurrency: 2", c="")
    changed = changes(running, found, {})
    assert [each.name for each in changed.actors] == ["a"]
    assert len(changed.restart) == 3
    assert [part for part in changed.restart if "c" in part]
    assert [part for part in changed.restart if "b" in part]
    assert "the changed flows" in changed.restart


def test_what_was_taken_over_is_no_change_any_more(load: Load) -> None:
    running = load(a="")
    found = load(a=", concurrency: 2")
    (actor,) = changes(running, found, {}).actors
    assert changes(running, found, {"a": actor}).actors == ()
    (back,) = changes(running, running, {"a": actor}).actors
    assert back.spec.concurrency == 1
