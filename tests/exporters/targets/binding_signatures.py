"""Checks what a source calls on TensorRT's objects against the bindings themselves. Run in a process of its own:

    python binding_signatures.py MODULE [--skip FUNCTION ...] SOURCE ...

It follows types through the source: from annotations that name a class of the bindings (`config: IBuilderConfig`), from
constructors, and from the return types that pybind11 writes into docstrings. It prints JSON: what was checked, and what
the bindings do not have.
"""

import ast
import importlib
import json
import re
import sys
from pathlib import Path
from typing import Any

MODULE = object()
_RETURNS = re.compile(r"-> (?:[\w.]+\.)?(\w+)\s*$", re.MULTILINE)
_SIGNATURE = re.compile(r"^(?:\d+\. )?\w+\((.*)\)(?: -> .*)?$", re.MULTILINE)


class Checker(ast.NodeVisitor):
    """One walk over a source; a type is MODULE, a class (an instance of it), ("class", C), ("method", C, name)."""

    def __init__(self, trt: Any, skipped: set[str]) -> None:
        self.trt, self.skipped = trt, skipped
        self.checked: set[str] = set()
        self.problems: set[str] = set()
        self.names: dict[str, Any] = {}
        self.returns: dict[str, Any] = {}

    def source(self, tree: ast.Module) -> None:
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        self.returns = {node.name: found for node in functions if (found := self.annotated(node.returns)) is not None}
        self.visit(tree)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        if node.name in self.skipped:
            return
        outer, self.names = self.names, dict(self.names)
        for argument in (*node.args.args, *node.args.kwonlyargs):
            self.names[argument.arg] = self.annotated(argument.annotation)
        for statement in node.body:
            self.visit(statement)
        self.names = outer

    def visit_Assign(self, node: ast.Assign) -> None:
        kind = self.kind(node.value)
        for target in node.targets:
            self.kind(target)
            if isinstance(target, ast.Name):
                self.names[target.id] = kind

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        found = self.kind(node.value) if node.value else None
        if isinstance(node.target, ast.Name):
            self.names[node.target.id] = self.annotated(node.annotation) or found

    def generic_visit(self, node: ast.AST) -> None:
        self.kind(node) if isinstance(node, ast.expr) else super().generic_visit(node)

    def annotated(self, annotation: ast.expr | None) -> Any:
        name = annotation.id if isinstance(annotation, ast.Name) else ""
        return MODULE if name == "Trt" else getattr(self.trt, name, None) if name[:1].isupper() else None

    def kind(self, node: ast.AST) -> Any:
        if isinstance(node, ast.Name):
            return self.names.get(node.id)
        if isinstance(node, ast.Attribute):
            return self.attribute(node)
        if isinstance(node, ast.Call):
            return self.call(node)
        for child in ast.iter_child_nodes(node):
            self.visit(child)
        return None

    def attribute(self, node: ast.Attribute) -> Any:
        base = self.kind(node.value)
        if node.attr == "trt" and base is None:
            return MODULE
        if base is None or (isinstance(base, tuple) and base[0] == "method"):
            return None
        owner = self.trt if base is MODULE else base[1] if isinstance(base, tuple) else base
        where = node.attr if base is MODULE else f"{owner.__name__}.{node.attr}"
        self.checked.add(where)
        if not hasattr(owner, node.attr):
            self.problems.add(f"line {node.lineno}: {self.trt.__name__} has no {where}")
            return None
        return self.found(owner, node.attr, getattr(owner, node.attr))

    def found(self, owner: Any, name: str, value: Any) -> Any:
        if isinstance(value, type):
            return ("class", value)
        if isinstance(value, property):
            return self.returned(value.fget.__doc__ or "")
        return ("method", owner, name) if callable(value) else None

    def call(self, node: ast.Call) -> Any:
        called = self.kind(node.func)
        for argument in (*node.args, *(keyword.value for keyword in node.keywords)):
            self.visit(argument)
        if isinstance(called, tuple):
            method = called[1].__init__ if called[0] == "class" else getattr(called[1], called[2])
            self.arguments(node, method.__doc__ or "", f"{called[1].__name__}.{called[-1]}")
            return called[1] if called[0] == "class" else self.returned(method.__doc__ or "")
        return self.returns.get(node.func.id) if isinstance(node.func, ast.Name) else None

    def arguments(self, node: ast.Call, doc: str, where: str) -> None:
        """One of the documented overloads takes as many positional arguments and these keywords."""
        overloads = [names_of(signature) for signature in _SIGNATURE.findall(doc)]
        overloads = [names for names in overloads if names != ["*args", "**kwargs"]]
        keywords = {keyword.arg for keyword in node.keywords}
        fits = [names for names in overloads if keywords <= set(names) and len(node.args) + len(keywords) <= len(names)]
        if overloads and not fits:
            self.problems.add(
                f"line {node.lineno}: {where} takes {overloads}, not {len(node.args)} and {sorted(keywords)}"
            )

    def returned(self, doc: str) -> Any:
        named = _RETURNS.search(doc)
        found = getattr(self.trt, named[1], None) if named else None
        return found if isinstance(found, type) else None


def names_of(signature: str) -> list[str]:
    """The arguments of a signature without self: `self: a.B, name: str, shape: list[int] = []` gives name, shape."""
    flat = re.sub(r"\[[^\[\]]*\]", "", re.sub(r"\[[^\[\]]*\]", "", re.sub(r"<[^<>]*>", "", signature)))
    names = [part.split(":")[0].split("=")[0].strip() for part in flat.split(",")]
    return [name for name in names if name not in ("self", "")]


def main(arguments: list[str]) -> None:
    skipped = {name.removeprefix("--skip=") for name in arguments if name.startswith("--skip=")}
    module, *sources = (argument for argument in arguments if not argument.startswith("--skip="))
    checker = Checker(importlib.import_module(module), skipped)
    for source in sources:
        checker.source(ast.parse(Path(source).read_text(encoding="utf-8")))
    version = str(checker.trt.__version__)
    print(json.dumps({"version": version, "checked": sorted(checker.checked), "problems": sorted(checker.problems)}))


if __name__ == "__main__":
    main(sys.argv[1:])
