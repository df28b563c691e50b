import contextlib
import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from asya.addresses import TRANSPORTS
from asya.errors import ManifestError, SettingsError, UsageError
from asya.settings import (
    MIB,
    NAMES,
    Settings,
    flags,
    format_size,
    is_loopback,
    json_schema,
    parse_size,
    read,
    reference_markdown,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def write(folder: Path, text: str) -> None:
    (folder / "asya.yaml").write_text(text, "utf-8")


def file_problems(folder: Path, text: str) -> list[str]:
    write(folder, text)
    with pytest.raises(ManifestError) as caught:
        read(folder, {}, {})
    return [problem.removeprefix(f"{folder}/") for problem in caught.value.problems]


def test_without_anything_the_defaults_hold(folder: Path) -> None:
    settings = read(folder, {}, {})
    assert settings == dataclasses.replace(Settings(), data=folder / ".asya")
    assert (settings.host, settings.port, settings.namespace) == ("127.0.0.1", 8080, "default")
    assert (settings.payload_max_bytes, settings.retention_s) == (64 * MIB, 604800.0)
    assert (settings.cooldown_s, settings.grace_s, settings.lease_s) == (10.0, 30.0, 10.0)
    assert (settings.transport, settings.transport_url, settings.nats_server) == (
        "nats",
        None,
        None,
    )


def test_a_flag_wins_over_a_variable_over_the_file_over_the_default(folder: Path) -> None:
    write(folder, "port: 1\ncooldown: 1s\nnamespace: file\n")
    environ = {"ASYA_PORT": "2", "ASYA_COOLDOWN": "2s", "HOME": "/"}
    settings = read(folder, environ, {"port": 3, "cooldown_s": None})
    assert (settings.port, settings.cooldown_s, settings.namespace) == (3, 2.0, "file")
    assert settings.grace_s == 30.0


def test_every_setting_can_come_from_the_file(folder: Path) -> None:
    write(
        folder,
        "namespace: shop\ntransport: nats\ntransportUrl: nats://u:p@h:1,tls://b:2\ndata: d\n"
        "host: localhost\nport: 0\ninsecure: true\ncooldown: 1m\ngrace: 0s\npayloadMax: 1MiB\n"
        "retention: 1h\nlogMax: 65536\nbodyMax: 2MiB\nstreamsMax: 5\nqueueMax: 6\n"
        "natsServer: bin/nats\nlease: 5s\n",
    )
    assert read(folder, {}, {}) == Settings(
        namespace="shop",
        transport_url="nats://u:p@h:1,tls://b:2",
        data=folder / "d",
        host="localhost",
        port=0,
        insecure=True,
        cooldown_s=60.0,
        grace_s=0.0,
        payload_max_bytes=MIB,
        retention_s=3600.0,
        log_max_bytes=65536,
        body_max_bytes=2 * MIB,
        streams_max=5,
        queue_max=6,
        nats_server=folder / "bin/nats",
        lease_s=5.0,
    )


def test_every_setting_has_a_variable_and_texts_are_read_by_type(folder: Path) -> None:
    texts = {
        "NAMESPACE": "shop", "TRANSPORT": "nats", "TRANSPORT_URL": "nats://h", "DATA": "/d",
        "HOST": "::1", "PORT": "9", "INSECURE": "Yes", "COOLDOWN": "1h30m", "GRACE": "1s",
        "PAYLOAD_MAX": "500kB", "RETENTION": "60s", "LOG_MAX": "1GiB", "BODY_MAX": "5000000",
        "STREAMS_MAX": "1", "QUEUE_MAX": "1", "NATS_SERVER": "nats", "LEASE": "1s",
        "LOG_FORMAT": "json", "METRICS_PORT": "9090", "TEMPLATE_IDLE": "5m",
        "BLOB_STORE": "s3://bucket/p", "BLOB_THRESHOLD": "1MiB", "BLOB_RETENTION": "1000h",
        "CAPTURE": "sample", "CAPTURE_MAX": "1KiB", "CAPTURE_SAMPLE": "0.5",
        "CAPTURE_MASK": ".user.password, .cards[:].number", "CAPTURE_COUNT": "5",
        "CAPTURE_AGE": "1h", "NATS_URL": "nats://h", "RABBITMQ_URL": "amqp://h",
        "SQS_URL": "sqs://r", "PUBSUB_URL": "pubsub://p",
    }  # fmt: skip
    assert {f"ASYA_{name}" for name in texts} == {names.variable for names in NAMES.values()}
    settings = read(folder, {f"ASYA_{name}": text for name, text in texts.items()}, {})
    assert (settings.insecure, settings.cooldown_s, settings.payload_max_bytes) == (
        True,
        5400.0,
        500_000,
    )
    assert (settings.data, settings.nats_server) == (Path("/d"), Path("nats"))
    assert settings.body_max_bytes == 5_000_000
    assert (settings.capture, settings.capture_sample) == ("sample", 0.5)
    assert settings.capture_mask == (".user.password", ".cards[:].number")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("capture: al", "capture: expected one of none, errors, sample, all, got"),
        ("captureSample: 2", "captureSample: expected a number from 0 to 1, got 2"),
        ("captureMask: [password]", "captureMask: expected a path"),
        ("captureMask: 3", "captureMask: expected paths such as"),
    ],
)
def test_a_wrong_capture_is_refused(folder: Path, text: str, expected: str) -> None:
    write(folder, text)
    with pytest.raises(ManifestError, match=re.escape(expected)):
        read(folder, {}, {})


def test_flags_may_be_texts_or_values(folder: Path) -> None:
    given_texts = {"cooldown_s": "3s", "port": "7", "data": "d", "payload_max_bytes": "1MiB"}
    given_values = {"cooldown_s": 3, "port": 7, "data": Path("d"), "payload_max_bytes": MIB}
    assert read(folder, {}, given_texts) == read(folder, {}, given_values)


def test_an_empty_variable_counts_as_not_set(folder: Path) -> None:
    assert read(folder, {"ASYA_PORT": ""}, {}).port == 8080


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("prot: 1", "asya.yaml:1: prot: unknown setting 'prot'; did you mean 'port'?"),
        ("payload_max: 1", "unknown setting 'payload_max'; did you mean 'payloadMax'?"),
        ("logFormat: xml", 'logFormat: expected text or json, got "xml"'),
        ("port: '80'", 'asya.yaml:1: port: expected a whole number, got "80"'),
        ("port: 80.5", "asya.yaml:1: port: expected a whole number, got 80.5"),
        ("port: true", "port: expected a whole number, got true"),
        ("port: 65536", "port: expected 0 to 65535, got 65536"),
        ("port:", "port: expected a whole number, got nothing"),
        ("port: -1", "port: expected 0 to 65535, got -1"),
        ("insecure: 'yes'", 'insecure: expected true or false, got "yes"'),
        ("insecure: 1", "insecure: expected true or false, got 1"),
        ("cooldown: 10", 'got the number 10; write the unit, for example "10s"'),
        ("cooldown: [1s]", "cooldown: expected a duration"),
        ("lease: 100ms", 'lease: expected 1s to 1h, got "100ms"'),
        ("retention: 1s", 'retention: expected 1m to 876000h, got "1s"'),
        ("payloadMax: 1GiB", 'payloadMax: expected 1KiB to 224MiB, got "1GiB"'),
        (
            "blobStore: ftp://b",
            "blobStore: expected",
        ),
        ("blobStore: s3://", "blobStore: expected"),
        (
            "payloadMax: 4 apples",
            'expected a size such as "4MiB", or a number of bytes, got "4 app',
        ),
        ("payloadMax: -5", "expected a size"),
        ("namespace: A_b", 'namespace: expected a name of a-z, 0-9 and "-"'),
        ("namespace: 5", "namespace: expected"),
        ("transport: kafka", 'expected one of nats, rabbitmq, sqs, pubsub, got "kafka"'),
        ("transport: nat", "did you mean 'nats'?"),
        ("data: ''", "data: expected"),
        ("port: 1\nport: 2", "asya.yaml:2: port: "),
        ("a: 1\n---\nb: 1", "asya.yaml:3: expected one document"),
        ("- port", "asya.yaml:1: expected a mapping, got a list"),
        ("port: [", "asya.yaml:1: is not YAML"),
    ],
)
def test_a_wrong_file_is_told_with_line_and_key(folder: Path, text: str, expected: str) -> None:
    problems = file_problems(folder, text)
    assert any(problem.startswith("asya.yaml:") and expected in problem for problem in problems)


def test_all_problems_of_the_file_come_at_once(folder: Path) -> None:
    assert len(file_problems(folder, "prot: 1\ncooldown: 5\nlease: 1\n")) == 3


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n"])
def test_an_empty_file_is_no_settings(folder: Path, text: str) -> None:
    write(folder, text)
    assert read(folder, {}, {}).port == 8080


@pytest.mark.parametrize(
    ("environ", "flags", "expected"),
    [
        ({"ASYA_PORT": "http"}, {}, 'ASYA_PORT: expected a whole number, got "http"'),
        ({"ASYA_GRACE": "30"}, {}, 'ASYA_GRACE: expected a duration such as "500ms", "30s"'),
        ({"ASYA_INSECURE": "maybe"}, {}, "ASYA_INSECURE: expected true or false"),
        ({"ASYA_PROT": "1"}, {}, "ASYA_PROT: unknown variable; did you mean ASYA_PORT?"),
        ({"ASYA_PAYLOAD_MAXIMUM": "1"}, {}, "did you mean ASYA_PAYLOAD_MAX?"),
        ({}, {"port": 70000}, "--port: expected 0 to 65535, got 70000"),
        ({}, {"payload_max_bytes": "1GiB"}, '--payload-max: expected 1KiB to 224MiB, got "1GiB"'),
        (
            {"ASYA_BLOB_RETENTION": "48h"},
            {},
            "ASYA_BLOB_RETENTION: expected more than retention (168h), got 48h",
        ),
        ({}, {"cooldown_s": "fast"}, "--cooldown: expected a duration"),
        ({}, {"prt": 1}, "unknown setting 'prt'; did you mean 'port'?"),
        ({}, {"transport_url": "kafka://h"}, "--transport: expected a broker's address such as"),
        ({}, {"transport_url": "nats://"}, "--transport: expected the address of NATS, such as"),
        ({}, {"transport_url": "nats://h:x"}, "--transport: expected the address of NATS"),
        ({}, {"transport_url": "localhost"}, "got a text without ://"),
        (
            {"ASYA_SQS_URL": "amqp://h"},
            {},
            "ASYA_SQS_URL: expected the address of Amazon SQS, such",
        ),
        ({"ASYA_SQS_URL": "sqs://r?leese=1s"}, {}, "did you mean 'lease'?"),
        (
            {},
            {"rabbitmq_url": "amqp://h?heartbeat=1"},
            "--rabbitmq-url: the address's option heart",
        ),
        (
            {"ASYA_TRANSPORT": "sqs"},
            {},
            "ASYA_TRANSPORT: sqs has no address; set sqsUrl (ASYA_SQS_",
        ),
        (
            {},
            {"transport_url": "rabbitmq"},
            "--transport: rabbitmq has no address; set rabbitmqUrl",
        ),
        (
            {"ASYA_TRANSPORT": "sqs", "ASYA_TRANSPORT_URL": "amqp://h"},
            {},
            "ASYA_TRANSPORT: sqs contradicts transportUrl, an address of RabbitMQ",
        ),
        ({}, {"data": "a\0b"}, "--data: expected"),
        ({}, {"host": "0.0.0.0"}, '--host: "0.0.0.0" can be reached by'),
        ({"ASYA_HOST": "example.org"}, {}, 'ASYA_HOST: "example.org" can be reached by'),
        (
            {},
            {"body_max_bytes": MIB},
            "--body-max: expected more than payloadMax (64MiB), got 1MiB",
        ),
        ({"ASYA_PAYLOAD_MAX": "66MiB"}, {}, "bodyMax: expected more than payloadMax (66MiB)"),
    ],
)
def test_a_wrong_value_is_told_with_its_source(
    folder: Path, environ: dict[str, Any], flags: dict[str, Any], expected: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        read(folder, environ, flags)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_wrong_pair_names_the_line_of_the_file(folder: Path) -> None:
    write(folder, "port: 1\nhost: 0.0.0.0\n")
    with pytest.raises(SettingsError, match=r"asya\.yaml:2: host: .* can be reached by"):
        read(folder, {}, {})


def test_all_wrong_variables_and_flags_come_at_once(folder: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        read(folder, {"ASYA_PORT": "x", "ASYA_LEASE": "y"}, {"grace_s": "z"})
    assert [line.partition(":")[0] for line in str(caught.value).splitlines()] == [
        "ASYA_LEASE",
        "ASYA_PORT",
        "--grace",
    ]


def test_passwords_are_not_shown(folder: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        read(folder, {}, {"transport_url": "kafka://user:secret@host"})
    assert "secret" not in str(caught.value)
    settings = read(
        folder, {}, {"transport_url": "amqp://u:secret@h", "nats_url": "nats://secret@h"}
    )
    assert "secret" not in repr(settings)


@pytest.mark.parametrize(
    ("text", "environ", "given", "default", "where"),
    [
        ("", {}, {"transport_url": "amqp://u:p@h/v"}, "rabbitmq", "h:5672/v"),
        ("transportUrl: sqs://r", {}, {}, "sqs", "r"),
        ("transport: sqs\nsqsUrl: sqs://r", {}, {}, "sqs", "r"),
        ("transport: sqs\ntransportUrl: sqs://r\nsqsUrl: sqs://s", {}, {}, "sqs", "r"),
        # a higher source decides, whichever of the two it gives
        (
            "transport: sqs\nsqsUrl: sqs://r",
            {"ASYA_TRANSPORT_URL": "nats://h:1"},
            {},
            "nats",
            "h:1",
        ),
        ("transportUrl: nats://h:1\nsqsUrl: sqs://r", {"ASYA_TRANSPORT": "sqs"}, {}, "sqs", "r"),
        ("sqsUrl: sqs://r", {}, {"transport_url": "sqs"}, "sqs", "r"),
        ("transportUrl: sqs://r", {}, {"transport_url": "sqs"}, "sqs", "r"),
        ("natsUrl: nats://h:1", {}, {}, "nats", "h:1"),
    ],
)
def test_address_and_name_say_the_default_broker(
    folder: Path,
    text: str,
    environ: dict[str, Any],
    given: dict[str, Any],
    default: str,
    where: str,
) -> None:
    write(folder, text)
    settings = read(folder, environ, given)
    assert settings.transport == default
    address = settings.address_of(default)
    assert address is not None
    assert address.where == where


def test_each_broker_has_its_address(folder: Path) -> None:
    write(folder, "transportUrl: amqp://u:p@h\nsqsUrl: sqs://r\n")
    settings = read(folder, {"ASYA_PUBSUB_URL": "pubsub://p"}, {})
    places = {name: settings.address_of(name) for name in TRANSPORTS}
    assert {name: place and place.where for name, place in places.items()} == {
        "nats": None,
        "rabbitmq": "h:5672",
        "sqs": "r",
        "pubsub": "p",
    }


@pytest.mark.parametrize("name", ["ASYA_URL", "ASYA_SOCKET", "ASYA_HANDLER", "ASYA_MY_OWN_THING"])
def test_variables_of_others_are_left_alone(folder: Path, name: str) -> None:
    assert read(folder, {name: "x"}, {}).port == 8080


def test_an_open_address_is_allowed_when_asked_for(folder: Path) -> None:
    assert read(folder, {}, {"host": "0.0.0.0", "insecure": True}).host == "0.0.0.0"


@pytest.mark.parametrize(
    ("host", "inside"),
    [("127.0.0.1", True), ("127.1.2.3", True), ("::1", True), ("[::1]", True), ("localhost", True),
     ("0.0.0.0", False), ("::", False), ("10.0.0.1", False), ("localhost.evil.org", False)],
)  # fmt: skip
def test_loopback_is_recognised(host: str, inside: bool) -> None:
    assert is_loopback(host) is inside


def test_paths_of_the_file_count_from_the_project_and_others_from_the_working_folder(
    folder: Path,
) -> None:
    write(folder, "data: store\n")
    assert read(folder, {}, {}).data == folder / "store"
    assert read(folder, {"ASYA_DATA": "store"}, {}).data == Path("store")
    assert read(folder, {}, {"data": Path("/abs")}).data == Path("/abs")


def test_settings_cannot_be_changed() -> None:
    settings: Any = Settings()
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.port = 1


@given(st.integers(0, 2**62))
def test_sizes_come_back(size: int) -> None:
    assert parse_size(format_size(size)) == size


@pytest.mark.parametrize("text", ["", "MiB", "4mib", "4Mi", "-1B", "1e3", "4 MiB x", True, 1.5])
def test_what_is_no_size_is_refused(text: Any) -> None:
    with pytest.raises(ValueError, match="expected a size"):
        parse_size(text)


def test_the_schema_takes_what_is_read_and_refuses_the_rest() -> None:
    Draft202012Validator.check_schema(json_schema())
    checker = Draft202012Validator(json_schema())
    defaults = {k: v["default"] for k, v in json_schema()["properties"].items() if "default" in v}
    checker.validate(defaults)
    assert not checker.is_valid({"prot": 1})
    assert not checker.is_valid({"cooldown": 10})
    assert not checker.is_valid({"port": "80"})


def test_the_defaults_in_the_schema_are_the_defaults(folder: Path) -> None:
    defaults = {k: v["default"] for k, v in json_schema()["properties"].items() if "default" in v}
    write(folder, yaml.safe_dump(defaults))
    assert read(folder, {}, {}) == read(folder.parent, {}, {"data": folder / ".asya"})


def test_every_setting_is_explained() -> None:
    rows = reference_markdown().splitlines()[2:]
    assert len(rows) == len(dataclasses.fields(Settings))
    for item in dataclasses.fields(Settings):
        assert item.metadata["meaning"]
        assert item.metadata["reason"]


SOME_TEXT = st.text(max_size=12) | st.sampled_from(["1", "1s", "4MiB", "true", "nats://h"])


@given(st.dictionaries(st.sampled_from(sorted(NAMES)), SOME_TEXT))
def test_no_text_makes_it_fail(flags: dict[str, Any]) -> None:
    environ = {NAMES[name].variable: text for name, text in flags.items()}
    with contextlib.suppress(UsageError):
        assert read(Path("/nonexistent"), environ, {}).port < 65536


@pytest.mark.parametrize(
    ("file", "environ", "given", "code"),
    [
        ("", {"ASYA_PORT": "none"}, {}, "ASYA-1201"),
        ("prot: 1", {}, {}, "ASYA-1202"),
        ("port: none", {}, {}, "ASYA-1201"),
        ("", {"ASYA_PROT": "1"}, {}, "ASYA-1202"),
        ("", {}, {"host": "0.0.0.0"}, "ASYA-1203"),
        ("port: [", {}, {}, "ASYA-1103"),
    ],
)
def test_each_kind_of_problem_has_its_code(
    file: str, environ: dict[str, Any], given: dict[str, Any], code: str, tmp_path: Path
) -> None:
    (tmp_path / "asya.yaml").write_text(file)
    with pytest.raises(UsageError) as caught:
        read(tmp_path, environ, given)
    assert {str(each.code) for each in caught.value.complaints()} == {code}


def test_every_setting_has_one_flag() -> None:
    every = list(flags())
    assert len({flag.flag for flag in every}) == len(every)
    assert {flag.flag for flag in every} == {names.flag for names in NAMES.values()}
    by_name = {flag.flag: flag for flag in every}
    assert by_name["--payload-max"].metavar == "SIZE"
    assert by_name["--payload-max"].text.endswith("Default: 64MiB.")
    assert by_name["--insecure"].metavar == ""
    assert by_name["--transport"].attribute == "transport_url"
