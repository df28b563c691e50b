"""Each module of src has the unit test of its name, or says here what tests it instead."""

from pathlib import Path

NOT_CODE = {
    "__main__.py": "calls `asya.cli`",
    "blobs/base.py": "protocols",
    "cli/runtime.py": "one call of `os.execv`",
    "events.py": "data",
    "gateway/http/views.py": "data",
    "gateway/settings.py": "a protocol",
    "sidecar/snapshot.py": "data",
    "tasks/mesh.py": "data, and the protocol of the mesh",
    "tasks/store/base.py": "data, and the protocols of a store",
    "telemetry/catalog.py": "a table",
    "testing/blob_contract.py": "tests themselves",
    "testing/delayed_contract.py": "tests themselves",
    "testing/ledger.py": "a tool of tests",
    "testing/loopback.py": "a tool of tests",
    "testing/store_contract.py": "tests themselves",
    "testing/transport_contract.py": "tests themselves",
    "testing/virtual_time.py": "a tool of tests",
    "transports/base.py": "data, and the protocols of a transport",
}
"""Modules that need no test, and why."""

HELD_BY = {
    # A broker's contract is one for all of its files, and it needs the broker.
    "contract/test_memory.py": ["transports/memory/consumer.py", "transports/memory/queues.py"],
    "contract/test_nats.py": ["transports/nats/consumer.py"],
    "contract/test_pubsub.py": [
        f"transports/pubsub/{name}.py"
        for name in ("acks", "library", "publisher", "queues", "transport")
    ],
    "contract/test_rabbitmq.py": [
        f"transports/rabbitmq/{name}.py"
        for name in ("channel", "connection", "consumer", "publisher", "registry", "transport")
    ],
    "contract/test_sqs.py": [
        f"transports/sqs/{name}.py"
        for name in ("acks", "connection", "messages", "publisher", "queues", "transport")
    ],
    "contract/test_blobs.py": ["blobs/folder.py", "blobs/memory.py", "blobs/object_store.py"],
    # These need real processes or a real server.
    "integration/test_broker.py": ["local/broker.py"],
    "integration/test_delayed_crash.py": ["crashpoints.py"],
    "integration/test_doctor_broker.py": [
        "transports/nats/probe.py",
        "transports/rabbitmq/probe.py",
    ],
    "e2e/test_cli.py": ["cli/call.py", "cli/cancel.py", "cli/send.py", "cli/watch.py"],
    # Parts of a whole, tested through it.
    "scenarios/test_scenarios.py": [
        "crew/consumer.py",
        "crew/end.py",
        "crew/sink.py",
        "crew/sump.py",
        "sidecar/work.py",
    ],
    "unit/cli/test_dead.py": ["cli/pull.py", "cli/set_values.py"],
    "unit/cli/test_schedules.py": ["cli/send_options.py"],
    "unit/cli/test_trace.py": ["cli/spans.py"],
    "unit/manifest/test_model.py": [
        "manifest/checks.py",
        "manifest/complaints.py",
        "manifest/loading.py",
    ],
    "unit/runtime/test_serve.py": [
        "runtime/__main__.py",
        "runtime/channel.py",
        "runtime/lasting.py",
    ],
    "unit/sidecar/test_big_payloads.py": ["blobs/claims.py", "sidecar/restoring.py"],
    "unit/sidecar/test_decide.py": ["sidecar/outcome.py"],
    "unit/sidecar/test_sidecar.py": ["sidecar/cancels.py"],
    "unit/sidecar/test_watched.py": ["sidecar/replica.py"],
    "unit/tasks/store/test_sqlite.py": [
        f"tasks/store/sqlite/{name}.py"
        for name in (
            "dead_letters", "delayed", "events", "migrations", "rows", "schedules", "store",
            "tasks", "worker",
        )
    ],
    "unit/tasks/test_scheduler.py": ["tasks/schedule.py"],
    "unit/tasks/test_service.py": ["tasks/recorder.py", "tasks/watchers.py"],
    "unit/telemetry/test_metrics.py": ["telemetry/exposition.py"],
}  # fmt: skip
"""Tests that hold modules which have no test of their own name."""


def test_each_module_has_the_test_of_its_name(root: Path, source_files: list[Path]) -> None:
    source, tests = root / "src" / "asya", root / "tests"
    modules = [path.relative_to(source) for path in source_files if path.name != "__init__.py"]
    alone = {
        str(module)
        for module in modules
        if not (tests / "unit" / module.parent / f"test_{module.name}").is_file()
    }
    held = [module for names in HELD_BY.values() for module in names]
    explained = set(NOT_CODE) | set(held)
    assert alone - explained == set(), "write tests/unit/…/test_NAME.py, or say what tests it"
    assert explained - alone == set(), "has a test now, or is gone; remove the entry"
    assert len(held) + len(NOT_CODE) == len(explained), "a module stands twice"
    assert [name for name in HELD_BY if not (tests / name).is_file()] == []
