"""How a program meets Hydra: composing a configuration, checking it, and one-line errors on the command line.

Importing this module must stay cheap: `--help` of every program waits for it.
"""

import errno
import functools
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from spineseg.errors import ConfigError, SpinesegError
from spineseg.presets import with_parts
from spineseg.schemas import SCHEMAS
from spineseg.targets import build, check_node, nearest, plain, targets

__all__ = ["build", "check", "compose", "conf_dir", "program"]


# A program's key that Hydra would take for a group of conf/, since one has its name: what is written → the key.
_WRITTEN = {"report": {"study": "study_folder"}}

# Lines of Hydra's and OmegaConf's messages that help nobody who misspelt a key.
_NOISE = ("full_key", "object_type", "reference_type", "Config search path", "provider=", "To append to your config")


def conf_dir() -> Path:
    """Return the folder of the YAML files: inside an installed package, or beside the package in a checkout."""
    package = Path(__file__).resolve().parent
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


def compose(name: str, overrides: list[str] | None = None) -> DictConfig:
    """Return the configuration of a program as the command line would compose it.

    Args:
        name: The program, such as `train`.
        overrides: What would stand on the command line, such as `["+experiment=yolo_csi", "seed=1"]`.

    Raises:
        ConfigError: What the command line would be told.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException

    _register()
    given = _arguments(name, overrides or [])
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
            return hydra_compose(config_name=name, overrides=given)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_composition_message(error)) from error


def program(name: str) -> Callable[[Callable[[DictConfig], None]], Callable[..., None]]:
    """Make a function of a configuration the main function of a program.

    The result takes its arguments from the command line, or a configuration from `compose`. From the command line, what
    is the user's to mend (`SpinesegError`, a configuration that does not compose) is printed as one `error: …` and ends
    with exit code 1; with `-m`, the other jobs of a sweep run first.

    Args:
        name: The program; its file is `conf/<name>.yaml`.
    """

    def decorate(main: Callable[[DictConfig], None]) -> Callable[..., None]:
        @functools.wraps(main)
        def entry(cfg: DictConfig | None = None) -> None:
            if cfg is None:
                _run_from_command_line(name, main)
            else:
                main(cfg)

        return entry

    return decorate


def check(cfg: DictConfig, *, complete: bool = True) -> None:
    """Check a whole configuration before any work: choices, required values, and each `_target_` with its keys.

    Args:
        cfg: A composed configuration, or any part of one.
        complete: Whether a required value that is missing is an error.

    Raises:
        ConfigError: Naming the key by its path, what was found, what was expected and the nearest name.
    """
    _check_schema(cfg)
    if complete:
        missing = sorted(OmegaConf.missing_keys(cfg))
        if missing:
            raise ConfigError(f"required and not given: {', '.join(missing)}; give it as {missing[0]}=…")
    content = plain(cfg)
    for path, node in targets(content):
        check_node(node, path)
    for group in ("callbacks", "logger"):
        members = content.get(group) or {}
        for name, node in members.items():
            if node is not None and "_target_" not in node:
                named = [other for other, there in members.items() if there and "_target_" in there]
                raise ConfigError(f"{group}.{name}: has no _target_; {nearest(str(name), named)}")


def _run_from_command_line(name: str, main: Callable[[DictConfig], None]) -> None:
    import hydra
    from hydra.errors import HydraException

    _register()
    # Hydra then lets errors through instead of printing a shortened traceback: user errors become one line here, bugs
    # keep their whole traceback.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    failures: list[str] = []
    started, owner = False, os.getpid()

    @functools.wraps(main)
    def task(cfg: DictConfig) -> None:
        nonlocal started
        started = True
        try:
            main(cfg)
        except SpinesegError as error:
            failed(str(error))
        except (OSError, MemoryError, RuntimeError) as error:
            message = _machine_message(error)
            if message is None:
                raise
            failed(message)

    def failed(message: str) -> None:
        failures.append(message)
        _print_error(message)
        if (
            os.getpid() != owner
        ):  # a launcher's process: its list is lost, but Hydra hands an error on when all have run
            raise SpinesegError(message)

    try:
        sys.argv[1:] = _arguments(name, sys.argv[1:])
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=name)(task)()
    except SpinesegError as error:
        _print_error(str(error))
        sys.exit(1)
    except (HydraException, OmegaConfBaseException) as error:
        if started:
            raise
        _print_error(_composition_message(error))
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    if failures:
        sys.exit(1)


def _machine_message(error: BaseException) -> str | None:
    """Say what the machine lacks; None for an error that is not the machine's."""
    if isinstance(error, OSError):
        lacks = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is used up"}
        lacks |= dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), "no right to write there")
        reason = lacks.get(error.errno or 0)
        return f"{error.filename or 'writing'}: {reason} ({error})" if reason else None
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        reason = str(error).splitlines()[0] if str(error) else "no more memory"
        return f"out of memory ({reason}); lower data.batch_size or data.image_size, or the number of workers"
    if "DataLoader worker" in str(error):
        reason = str(error).splitlines()[0]
        return f"{reason}; a loader process was killed, mostly for want of memory or /dev/shm: try data.workers=0"
    return None


def _print_error(message: str) -> None:
    sys.stdout.flush()
    print(f"error: {message}", file=sys.stderr, flush=True)


def _register() -> None:
    from hydra.core.config_store import ConfigStore

    store = ConfigStore.instance()
    for name, schema in SCHEMAS.items():
        store.store(name=f"{name}_schema", node=schema, provider="spineseg")


def _arguments(name: str, given: list[str]) -> list[str]:
    """What Hydra is to be given for the arguments of a program."""
    written = _WRITTEN.get(name, {})
    parts = [argument.partition("=") for argument in given]
    keys = [written.get(key, key) + equals + value for key, equals, value in parts]
    return with_parts(keys, conf_dir(), functools.partial(_choices, name))


def _choices(name: str, overrides: list[str]) -> Mapping[str, str | None]:
    """The option that each group has after these overrides."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException

    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
            cfg = hydra_compose(config_name=name, overrides=overrides, return_hydra_config=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_composition_message(error)) from error
    return dict(cfg.hydra.runtime.choices)


def _composition_message(error: BaseException) -> str:
    """Say what Hydra says, with its causes, and the nearest key or choice where one was misspelt."""
    from hydra.errors import MissingConfigException

    lines: list[str] = []
    current: BaseException | None = error
    while current is not None:
        if isinstance(current, MissingConfigException) and current.missing_cfg_file and current.options:
            group, _, choice = current.missing_cfg_file.rpartition("/")
            lines.append(f"{group}={choice}: no such choice; {nearest(choice, list(current.options))}")
            break
        said = [line.strip() for line in str(current).splitlines()]
        lines += [line for line in said if line and line not in lines and not line.startswith(_NOISE)]
        if isinstance(current, OmegaConfBaseException) and current.key is not None:
            options = _keys(current.parent_node, current.object_type)
            if options and str(current.key) not in options:
                lines.append(nearest(str(current.key), options))
        current = current.__cause__
    return "\n  ".join(lines)


def _keys(parent: Any, schema: Any) -> list[str]:
    if isinstance(parent, DictConfig):
        return [str(key) for key in parent]
    return [item.name for item in fields(schema)] if is_dataclass(schema) else []


def _check_schema(cfg: DictConfig, path: str = "") -> None:
    """Check what OmegaConf cannot: closed choices, and keys that `+key=` put where the schema has none."""
    schema = OmegaConf.get_type(cfg)
    if schema is None or not is_dataclass(schema):
        return
    known = {item.name: item.metadata.get("choices") for item in fields(schema)}
    for key in map(str, cfg):
        if key not in known:
            raise ConfigError(f"{path}{key}: no such key; {nearest(key, list(known))}")
        if OmegaConf.is_missing(cfg, key):
            continue
        value, choices = cfg[key], known[key]
        if choices is not None and value not in choices:
            named = ["null" if choice is None else choice for choice in choices]
            raise ConfigError(f"{path}{key}={value}: no such choice; {nearest(str(value), named)}")
        if isinstance(value, DictConfig):
            _check_schema(value, f"{path}{key}.")
