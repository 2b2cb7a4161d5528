"""What a `_target_` in a configuration may name, whether its keys fit, and the objects built from it.

A configuration can come with somebody's checkpoint, so it is not trusted: a target is checked before it is called,
classes by their base class and functions by being ours, and a module that is neither loaded nor one of `PACKAGES` is
not even imported, since importing runs code.
"""

import importlib
import inspect
import sys
from collections.abc import Iterator, Mapping
from difflib import SequenceMatcher, get_close_matches
from types import FunctionType, ModuleType
from typing import Any, TypeVar

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from spineseg.errors import ConfigError

T = TypeVar("T")

# Packages whose modules may be imported because a configuration names them.
PACKAGES = ("spineseg", "lightning", "torch", "monai")
# Where the allowed base classes live: (module, class). Looked up late, because these imports take seconds.
BASES = (
    ("lightning.pytorch", "LightningModule"),
    ("lightning.pytorch", "LightningDataModule"),
    ("lightning.pytorch", "Callback"),
    ("lightning.pytorch", "Trainer"),
    ("lightning.pytorch.loggers", "Logger"),
    ("torch.nn", "Module"),
    ("torch.optim", "Optimizer"),
    ("torch.optim.lr_scheduler", "LRScheduler"),
)
# Keys beside `_target_` that mean something; Hydra's `_args_` is refused because positions hide names.
MARKS = ("_target_", "_partial_")


def nearest(name: str, options: Iterator[str] | list[str]) -> str:
    """Return a hint with the option most like `name`, or all of them; for the end of an error message."""
    options = sorted(str(option) for option in options)
    close = get_close_matches(name, options, n=3, cutoff=0.6)
    if close:
        # Equally like is as good a guess: `lr` may be `lr0` or `lrf`.
        like = [SequenceMatcher(None, option, name).ratio() for option in close]
        alike = [repr(option) for option, ratio in zip(close, like, strict=True) if ratio == like[0]]
        return f"did you mean {' or '.join(sorted(alike))}?"
    return f"there are: {', '.join(options)}" if options else "there are none"


def plain(node: Any, *, complete: bool = False) -> Any:
    """Return a configuration node as dicts, lists and scalars with every interpolation resolved.

    Args:
        node: A node, or what is plain already.
        complete: Whether a required value that is missing (`???`) is an error.

    Raises:
        ConfigError: An interpolation cannot be resolved.
    """
    if not isinstance(node, DictConfig | ListConfig):
        return node
    try:
        return OmegaConf.to_container(node, resolve=True, throw_on_missing=complete)
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"{error.full_key or 'configuration'}: {reason}") from error


def targets(node: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (key path, mapping) for every mapping with a `_target_` in plain containers, outermost first."""
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield path, dict(node)
        children: Iterator[tuple[Any, Any]] = iter(node.items())
        for key, child in children:
            yield from targets(child, f"{path}.{key}" if path else str(key))
    elif isinstance(node, list | tuple):
        for index, child in enumerate(node):
            yield from targets(child, f"{path}[{index}]")


def resolve(target: Any, path: str) -> Any:
    """Return the class or function that a `_target_` names, if a configuration may call it.

    Args:
        target: Dotted name, such as `lightning.Trainer`.
        path: Key path of the node, for messages.

    Raises:
        ConfigError: The name leads nowhere, or to something that a configuration must not call.
    """
    if not isinstance(target, str) or not all(part.isidentifier() for part in target.split(".")):
        raise ConfigError(f"{path}._target_: expected a dotted name such as lightning.Trainer, found {target!r}")
    found = _look_up(target, path)
    if isinstance(found, type):
        if _ours(found) or any(issubclass(found, base) for base in _bases(found)):
            return found
        expected = ", ".join(name for _, name in BASES)
        raise ConfigError(f"{path}._target_: {target} is refused: not a class of spineseg's, nor a kind of {expected}")
    # Only a function written in spineseg: what spineseg's modules import lies there too, and is not ours.
    if isinstance(found, FunctionType) and _ours(found) and not found.__name__.startswith("_"):
        return found
    raise ConfigError(
        f"{path}._target_: {target} is refused: a configuration may call only functions of spineseg's own"
    )


def check_node(node: Mapping[str, Any], path: str) -> Any:
    """Return what the `_target_` of a node names, after binding the node's keys to its signature.

    Raises:
        ConfigError: A key that the signature does not know, with the nearest that it does; a refused target.
    """
    found = resolve(node["_target_"], path)
    parameters = inspect.signature(found).parameters.values()
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    for key in node:
        if str(key) in MARKS:
            continue
        if str(key).startswith("_") or (key not in names and not takes_any):
            raise ConfigError(f"{path}.{key}: {node['_target_']} takes no such key; {nearest(str(key), names)}")
    return found


def build(node: Any, kind: type[T], **runtime: Any) -> T:
    """Build the object that a node describes, and the objects within it, and see that it is of the promised kind.

    Unlike Hydra's `instantiate`, what is checked is the very object that is called, and run-time arguments (nets,
    dataclasses, paths) reach the constructor untouched; lists arrive as lists, as with `_convert_="all"`.

    Args:
        node: A mapping with `_target_`.
        kind: Class that the result must be an instance of.
        runtime: Arguments that no file can hold; they win over keys of the node.

    Raises:
        ConfigError: A refused target, a key that does not fit, a missing or wrong argument, a result of another kind.
    """
    path = str(node._get_full_key(None)) if isinstance(node, DictConfig) else ""
    container = plain(node, complete=True)
    if not isinstance(container, Mapping) or "_target_" not in container:
        raise ConfigError(f"{path or 'configuration'}: expected keys with a _target_, found {container!r}")
    for inner_path, inner in targets(container, path):
        check_node(inner, inner_path)
    built = _construct({**container, **runtime}, path)
    if not isinstance(built, kind):
        raise ConfigError(
            f"{path}._target_: {container['_target_']} makes a {type(built).__name__}, expected a {kind.__name__}"
        )
    return built


def _construct(node: Any, path: str) -> Any:
    if isinstance(node, list):
        return [_construct(child, f"{path}[{index}]") for index, child in enumerate(node)]
    if not isinstance(node, dict):
        return node
    values = {key: _construct(child, f"{path}.{key}") for key, child in node.items() if key not in MARKS}
    if "_target_" not in node:
        return values
    found = check_node(node, path)
    signature = inspect.signature(found)
    if node.get("_partial_"):

        def later(*args: Any, **kwargs: Any) -> Any:
            return found(*args, **{**values, **kwargs})

        return later
    try:
        signature.bind(**values)
    except TypeError as error:
        raise ConfigError(f"{path}: {node['_target_']}: {error}") from error
    return found(**values)


def _look_up(target: str, path: str) -> Any:
    parts = target.split(".")
    if any(part.startswith("_") for part in parts):
        raise ConfigError(f"{path}._target_: {target} is refused: a configuration may not name private parts")
    if len(parts) < 2 or (parts[0] not in PACKAGES and parts[0] not in sys.modules):
        raise ConfigError(
            f"{path}._target_: {target} is refused: only modules of {', '.join(PACKAGES)} are imported by name; "
            "import your own before you call the program's main()"
        )
    found: Any = None
    for count, part in enumerate(parts):
        dotted = ".".join(parts[: count + 1])
        if count == 0 or (isinstance(found, ModuleType) and not hasattr(found, part)):
            found = _import(dotted, target, path, found)
        elif hasattr(found, part):
            found = getattr(found, part)
        else:
            raise ConfigError(f"{path}._target_: {target} does not exist; {nearest(part, _public(found))}")
    return found


def _import(dotted: str, target: str, path: str, parent: Any) -> Any:
    top = dotted.partition(".")[0]
    if dotted in sys.modules:
        return sys.modules[dotted]
    if top in PACKAGES:
        try:
            return importlib.import_module(dotted)
        except ModuleNotFoundError as error:
            if error.name is not None and not dotted.startswith(error.name):
                raise ConfigError(f"{path}._target_: {target} needs the package {error.name}: install it") from error
    hint = nearest(dotted.rpartition(".")[2], _public(parent)) if parent is not None else "is it installed?"
    raise ConfigError(f"{path}._target_: {target} does not exist; {hint}")


def _public(found: Any) -> list[str]:
    return [name for name in dir(found) if not name.startswith("_")]


def _ours(found: Any) -> bool:
    module = str(getattr(found, "__module__", ""))
    return module == "spineseg" or module.startswith("spineseg.")


def _bases(found: type) -> list[type]:
    # A class of a library that is not loaded cannot have that library's base: only loaded modules need asking.
    loaded = [(sys.modules[module], name) for module, name in BASES if module in sys.modules]
    return [getattr(module, name) for module, name in loaded if hasattr(module, name)]
