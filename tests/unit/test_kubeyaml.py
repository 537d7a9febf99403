"""YAML is parsed as by Kubernetes' own tools.

The tables are the results of sigs.k8s.io/yaml 1.6.0 (YAMLToJSON), which kubectl and the kubelet use.
"""

# ruff: noqa: SIM905 — words are more easily read in one line

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from wirespeed.errors import Error
from wirespeed.kube import kubeyaml
from wirespeed.kube.credentials import Credentials, authorization
from wirespeed.node import parse_config

STRINGS = """
    0000:18:00.0 52:54:00:12:34:56 02:00:00:00:00:01 1:30 190:20:30 190:20:30.15 12:30:45 10.0.0.1
    10.0.0.0/8 fd00::1 0o8 0o 0x 0xg 0b2 _1 1,000 + . .. 1.2.3 1e 1e+ .1e_3 1e400 5s 4Gi 500m 1-1 0-3,7
    20-30 0x1FFFFFFFFFFFFFFFFF yES nO oN tRUE t f T F nULL nil None .iNF .Nan nan inf Infinity 2024-05-01
    2024-5-1 2001-12-14t21:59:43.10-05:00 2001-12-15T02:59:43.1Z 2024-05-01_x = << <<x 1#c a:b
""".split()
TRUE = "y Y yes Yes YES on On ON true True TRUE".split()
FALSE = "n N no No NO off Off OFF false False FALSE".split()
NULL = "~ null Null NULL".split()
# fmt: off
NUMBERS: dict[str, int | float] = {
    "0": 0, "7": 7, "010": 8, "0o10": 8, "0O17": 15, "+0o7": 7, "08": 8, "09.5": 9.5, "08e1": 80, "00": 0,
    "0x1F": 31, "0X1f": 31, "-0x1f": -31, "0b11": 3, "0B11": 3, "-0b11": -3, "+0b11": 3, "0_7": 7, "0x_1f":
    31, "1_000": 1000, "1__0": 10, "1_": 1, "1_000.5": 1000.5, "685_230.15": 685230.15, "+5": 5, "-5": -5,
    "-0": 0, "-0.0": 0, "1.": 1, ".5": 0.5, "+.5": 0.5, "-.5": -0.5, "0.1": 0.1, "1.0": 1, "1e3": 1000,
    "1E3": 1000, "1.e3": 1000, "1e+3": 1000, "1e-3": 0.001, "12e03": 12000, "1e3_0": 1e+30, ".5e3": 500,
    ".5_0": 0.5, "1e20": 100000000000000000000, "1.5e300": 1.5e+300, "9223372036854775807":
    9223372036854775807, "9223372036854775808": 9223372036854775808, "18446744073709551615":
    18446744073709551615, "18446744073709551616": 18446744073709552000, "-9223372036854775808":
    -9223372036854775808, "-9223372036854775809": -9223372036854776000, "+18446744073709551615":
    18446744073709552000, "01777777777777777777777777": 1.7777777777777777e+24,
    "123456789012345678901234567890": 1.2345678901234568e+29,
}
# fmt: on
NOT_FINITE = ".inf .Inf -.INF +.inf .nan .NaN".split()
OTHERS: list[tuple[str, Any]] = [
    ("", None),
    ("2001-12-14 21:59:43.10 -5", "2001-12-14 21:59:43.10 -5"),
    ("'5'", "5"),
    ('"yes"', "yes"),
    ("''", ""),
    ('"\\x41"', "A"),
    ("!!str 5", "5"),
    ("!!str", ""),
    ("!!str ~", "~"),
    ("!!int 5", 5),
    ('!!int "5"', 5),
    ("!!int 0o7", 7),
    ("!!float 5", 5),
    ('!!float "1e3"', 1000),
    ("!!bool yes", True),
    ('!!bool "no"', False),
    ("!!null ~", None),
    ('!!null ""', None),
    ("!!binary aGVsbG8=", "hello"),
    ("!!timestamp 2024-05-01", "2024-05-01"),
    ("!own 5", "5"),
    ("!own x", "x"),
    ("!own [1, yes]", [1, True]),
    ("!!set {a, b}", {"a": None, "b": None}),
    ("!!omap [a: 1]", [{"a": 1}]),
    ("!!str {b: 1}", {"b": 1}),
    ("!!python/object:os.system x", "x"),
    ("!<tag:yaml.org,2002:int> 5", 5),
    ("[1, 2,]", [1, 2]),
    ("{b, c: }", {"b": None, "c": None}),
    ("[1:2, 0000:18:00.0]", ["1:2", "0000:18:00.0"]),
    ("{b:c}", {"b:c": None}),
    ("|\n  5\n", "5\n"),
    (">-\n  yes\n  no\n", "yes no"),
]
REFUSED = [
    "!!int x",
    "!!int 5.5",
    '!!int "08"',
    "!!int",
    "!!float x",
    "!!bool x",
    "!!bool ~",
    "!!null x",
    "!!binary a",
]
DOCUMENTS: list[tuple[str, Any]] = [
    ("", None),
    ("---", None),
    ("# nothing", None),
    ("5", 5),
    ("null", None),
    ("[1, yes]", [1, True]),
    ("a: 1\na: 2", {"a": 2}),
    ("1: a", {"1": "a"}),
    ("0x10: a", {"16": "a"}),
    ("1.5: a", {"1.5": "a"}),
    ("1e3: a", {"1000": "a"}),
    ("1e6: a", {"1e+06": "a"}),
    ("1234567.5: a", {"1.2345675e+06": "a"}),
    ("0.1: a", {"0.1": "a"}),
    ("true: a", {"true": "a"}),
    ("yes: 1\ntrue: 2", {"true": 2}),
    (".inf: a", {".inf": "a"}),
    ("2024-05-01: a", {"2024-05-01": "a"}),
    ("52:54:00:12:34:56: a", {"52:54:00:12:34:56": "a"}),
    ("? !!str 5\n: c", {"5": "c"}),
    ("!!binary aGk=: a", {"hi": "a"}),
    ("? a\n? b", {"a": None, "b": None}),
    ("a: &x {k: 1}\nb: {<<: *x, k: 2}", {"a": {"k": 1}, "b": {"k": 2}}),
    ("a: &x {k: 1}\nb: {k: 2, <<: *x}", {"a": {"k": 1}, "b": {"k": 1}}),
    (
        "a: &x {k: 1}\nc: &y {k: 2, l: 3}\nb: {<<: [*x, *y]}",
        {"a": {"k": 1}, "b": {"k": 1, "l": 3}, "c": {"k": 2, "l": 3}},
    ),
    ("b: {<<: {k: 1}}", {"b": {"k": 1}}),
    ('"<<": 5', {"<<": 5}),
    ("b: {!!str <<: {k: 1}}", {"b": {"<<": {"k": 1}}}),
    ("b: {!!merge <<: {k: 1}}", {"b": {"k": 1}}),
    ("a: [<<]", {"a": ["<<"]}),
    ("a: &x {<<: {k: 1}, m: 2}\nb: {<<: *x}", {"a": {"k": 1, "m": 2}, "b": {"k": 1, "m": 2}}),
    ("a: &x 1\nb: *x", {"a": 1, "b": 1}),
    ("a: &x [1]\nb: *x", {"a": [1], "b": [1]}),
]
NO_DOCUMENTS = [
    "null: a",
    "~: a",
    ": a",
    "[a]: b",
    "? {a: b}\n: c",
    "18446744073709551615: a",
    "b: {<<: [[{k: 1}]]}",
    "b: {<<: ~}",
    "b: {<<: 5}",
    "a: &x [*x]",
    "a: *x",
    "a: b: c",
    "a:\n\t- b",
]


def one(text: str) -> Any:
    return kubeyaml.load(f"a: {text}")["a"]


@pytest.mark.parametrize("text", STRINGS)
def test_a_string_needs_no_quotes(text: str) -> None:
    assert one(text) == text


@pytest.mark.parametrize(
    ("text", "value"),
    [*((text, True) for text in TRUE), *((text, False) for text in FALSE), *((text, None) for text in NULL)],
)
def test_words_are_booleans_or_null(text: str, value: bool | None) -> None:
    assert one(text) is value


@pytest.mark.parametrize(("text", "value"), NUMBERS.items())
def test_numbers_are_those_of_kubernetes(text: str, value: float) -> None:
    """The type is checked too: 1.0 is an integer in Kubernetes. A float cannot represent 64-bit integers."""
    found = one(text)
    assert found == pytest.approx(value, rel=1e-15)
    assert isinstance(found, type(value)) or abs(value) > 1 << 63


@pytest.mark.parametrize(("text", "value"), OTHERS)
def test_tags_and_quotes_count_for_what_they_do_to_kubernetes(text: str, value: Any) -> None:
    assert json.dumps(one(text)) == json.dumps(value)


@pytest.mark.parametrize(("text", "value"), DOCUMENTS)
def test_keys_merges_and_aliases(text: str, value: Any) -> None:
    assert json.dumps(kubeyaml.load(text), sort_keys=True) == json.dumps(value, sort_keys=True)


@pytest.mark.parametrize("text", [*(f"a: {text}" for text in NOT_FINITE + REFUSED), *NO_DOCUMENTS])
def test_what_kubernetes_cannot_read_is_refused_with_its_place(text: str) -> None:
    with pytest.raises(yaml.MarkedYAMLError) as refused:
        kubeyaml.load(text)
    assert refused.value.problem_mark or refused.value.context_mark


def test_what_is_refused_is_named() -> None:
    for text, told in (
        ("a: 1\nb: .inf", "expected a number that JSON has, got '.inf'"),
        ("a: 1\nnull: 2", "expected a string as a key, got 'null'"),
        ("a: 1\n? [b]\n: 2", "expected a string as a key, got a list"),
        ("a: 1\n<<: [b]", "expected a mapping or a list of mappings to merge, got 'b'"),
        ("a: 1\nb: !!int x", "expected a text that is !!int, got 'x'"),
        ("a: 1\nb: &b [*b]", "expected a value, got one that contains itself"),
    ):
        with pytest.raises(yaml.MarkedYAMLError) as refused:
            kubeyaml.load(text)
        assert refused.value.problem == told
        assert refused.value.problem_mark
        assert refused.value.problem_mark.line == 1


def test_a_file_of_one_document_holds_no_second() -> None:
    with pytest.raises(yaml.YAMLError, match="expected one document, got 2"):
        kubeyaml.load("a: 1\n---\na: 2\n")


TEXTS = (
    st.sampled_from([*STRINGS, *TRUE, *FALSE, *NULL, *NUMBERS, *NOT_FINITE, "<<", ""])
    | st.text(st.sampled_from("0123456789abefxoXO._+-:eE~"), max_size=8)
    | st.text(max_size=8)
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 63) - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


@given(VALUES)
def test_what_is_written_is_read_again_here_and_by_readers_of_yaml_1_1(value: Any) -> None:
    text = kubeyaml.dump(value)
    assert kubeyaml.load(text) == value
    assert yaml.safe_load(text) == value


@given(TEXTS)
def test_a_text_in_quotes_is_a_string(text: str) -> None:
    for style in ("'", '"'):
        assert kubeyaml.load(yaml.safe_dump({"a": text}, default_style=style)) == {"a": text}


# Its users; manifests and policies have tests of their own


def test_the_agents_configuration_is_read_so() -> None:
    config = parse_config(
        "nodeName: 10:20:30\nworkers: 0o10\ncluster: {kubeconfig: 2024-05-01}\nfollowNetworks: y\n"
    )
    assert (config.node_name, config.workers, config.cluster.kubeconfig) == ("10:20:30", 8, "2024-05-01")
    assert config.follow_networks is True
    with pytest.raises(Error, match="not YAML: expected one document, got 2"):
        parse_config("workers: 1\n---\nworkers: 2\n")
    with pytest.raises(Error, match='key "cluster": expected an object, got None'):
        parse_config("cluster:\n")


def test_a_kubeconfig_is_read_so(tmp_path: Path) -> None:
    """As in kubectl: only the first document counts, and a key without a value is absent."""
    (tmp_path / "config").write_text(
        "current-context: 1:30\n"
        "contexts: [{name: 1:30, context: {cluster: 2024-05-01, user: 10:20}}]\n"
        "clusters: [{name: 2024-05-01, cluster: {server: http://127.0.0.1:1, proxy-url: }}]\n"
        "users: [{name: 10:20, user: {token: 52:54:00:12:34:56, tokenFile: }}]\n"
        "preferences:\n---\n"
    )
    configuration = Credentials(str(tmp_path / "config")).load().configuration
    assert configuration.host == "http://127.0.0.1:1"
    assert authorization(configuration) == "Bearer 52:54:00:12:34:56"
