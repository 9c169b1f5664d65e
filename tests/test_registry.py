"""Registries: one name, one class, and messages that help."""
import pytest

from birdkit.registry import Registry


def make() -> Registry:
    registry: Registry = Registry("thing")

    @registry.register("a")
    class A:
        def __init__(self, size: int = 1) -> None:
            self.size = size

    return registry


def test_a_name_cannot_be_taken_twice() -> None:
    """Two losses of one name would make a run config ambiguous."""
    registry = make()
    with pytest.raises(ValueError, match="registered twice"):
        registry.register("a")(int)


def test_an_unknown_name_lists_the_known_ones() -> None:
    """A typo in a recipe should be mended from the message alone."""
    with pytest.raises(KeyError, match="no thing named 'b'; there is: a"):
        make().get("b")


def test_an_unknown_option_names_those_that_exist() -> None:
    """An option that is silently ignored is an experiment that was never run."""
    with pytest.raises(TypeError, match="takes no siz; it takes: size"):
        make().build("a", siz=2)
    assert make().build("a", size=2).size == 2


def test_names_are_sorted_and_iterable() -> None:
    """Contract tests iterate over the registry."""
    registry = make()
    registry.register("0")(int)
    assert registry.names() == list(registry) == ["0", "a"]
