"""YAML that remembers its lines: so that what is wrong with a value is said with the line that it stands on."""

import re
from typing import Any

import msgspec
import yaml

from aiopsd.errors import ConfigError, refused

_SAFE: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # C where libyaml is there; the same nodes and marks
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


class _Loader(_SAFE):  # type: ignore[misc]  # chosen above
    """Without YAML 1.1's numbers to the base 60: 22:00 is a time of day and 1:15 a range of days, as in YAML 1.2."""

    def resolve(self, kind: type[yaml.Node], value: str, implicit: tuple[bool, bool]) -> str:
        tag: str = super().resolve(kind, value, implicit)
        return "tag:yaml.org,2002:str" if tag in _NUMBERS and ":" in value else tag


_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]")
_NAMED = re.compile(r"`([^`$]+)`")


class Marked:
    """A YAML document of `file`: its plain `value`, and the line of each key of it.

    Raises:
        ConfigError: not YAML, a key that is given twice, or one that is no text; the message begins with file:line.
    """

    def __init__(self, text: str, file: str) -> None:
        self.file = file
        try:
            loader = _Loader(text)
            try:
                self._node: Any = loader.get_single_node()
                self._check_keys(self._node)
                self.value: Any = loader.construct_document(self._node) if self._node is not None else None
            finally:
                loader.dispose()
        except yaml.MarkedYAMLError as e:
            mark = e.problem_mark or e.context_mark
            raise ConfigError(f"{file}:{mark.line + 1 if mark else 1}: not YAML: {e.problem or e.context}") from None
        except (yaml.YAMLError, ValueError, RecursionError) as e:  # ValueError: a date that is none
            raise ConfigError(f"{file}:1: not YAML: {e}") from None

    def line(self, path: str, word: str = "") -> int:
        """Line (from 1) of the value at `path` (`$.tests[2].name`), as far as the path can be followed.

        When that value is a mapping with the key `word`, the line of the key.
        """
        node = self._node
        if node is None:
            return 1
        for name, index in _STEP.findall(path):
            if name and isinstance(node, yaml.MappingNode):
                found = next((v for k, v in node.value if k.value == name), None)
            elif index and isinstance(node, yaml.SequenceNode) and int(index) < len(node.value):
                found = node.value[int(index)]
            else:
                found = None
            if found is None:
                break
            node = found
        if word and isinstance(node, yaml.MappingNode):
            node = next((k for k, _ in node.value if k.value == word), node)
        return int(node.start_mark.line) + 1

    def error(self, message: str, path: str) -> ConfigError:
        """What is wrong at `path`, with file and line; a key that the message names in backticks is looked for."""
        named = _NAMED.search(message)
        where = f"{self.file}:{self.line(path, named.group(1) if named else '')}"
        return ConfigError(f"{where}: {message.removesuffix(f' - at `{path}`')}", path)

    def convert(self, kind: type[Any], hook: Any = None) -> Any:
        """The value as a Struct.

        Raises:
            ConfigError: with file and line.
        """
        try:
            return msgspec.convert(self.value if self.value is not None else {}, kind, dec_hook=hook)
        except msgspec.ValidationError as e:
            raise self.error(*refused(e, kind)) from None

    def _check_keys(self, node: Any) -> None:
        if isinstance(node, yaml.MappingNode):
            seen = set()
            for key, value in node.value:
                line = f"{self.file}:{key.start_mark.line + 1}"
                if not isinstance(key, yaml.ScalarNode):
                    raise ConfigError(
                        f"{line}: a list or a mapping where a key is expected (quote braces and brackets)"
                    )
                if key.value in seen:
                    raise ConfigError(f"{line}: `{key.value}` is given twice")
                seen.add(key.value)
                self._check_keys(value)
        elif isinstance(node, yaml.SequenceNode):
            for value in node.value:
                self._check_keys(value)
