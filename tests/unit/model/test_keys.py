"""The names in Kubernetes and containerd stand in one place."""

import ast
import pathlib
import re
from collections.abc import Iterator

import agent
from agent.model import keys

AGENT = pathlib.Path(agent.__file__).parent
KEY = re.compile(
    r"[a-z0-9.-]*\b(uimgacc\.io|k8s\.aliyun\.com|eci\.alibabacloud\.com"
    r"|eks\.(tke\.)?cloud\.tencent\.com|ucloud\.cn/uimgacc)(/[\w.-]*)?"
)
WORTH_A_NAME = {
    value for value in vars(keys).values() if isinstance(value, str) and re.search("[./]", value)
} | {keys.CONTROLLER, keys.OPERATION_LEASE, keys.AGENTS, keys.NAMESPACE, keys.NODE_CONDITION}


def literals(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """The strings of a module that are no docstrings; of an f-string, its constant parts."""
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield node.lineno, node.value


def test_labels_annotations_and_leases_are_named_in_one_module() -> None:
    elsewhere = [
        f"{path.relative_to(AGENT)}:{line}: {text}"
        for path in AGENT.rglob("*.py")
        if path.name != "keys.py" and not path.name.endswith(("_pb2.py", "_pb2_grpc.py"))
        for line, text in literals(ast.parse(path.read_text()))
        if KEY.fullmatch(text) or text in WORTH_A_NAME
    ]

    assert elsewhere == []
