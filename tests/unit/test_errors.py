import re

from pulmo import errors


def test_the_drawn_tree_is_the_real_one() -> None:
    drawn = set(re.findall(r"\b(\w+Error)\b", errors.__doc__ or ""))
    real = {name for name, one in vars(errors).items() if isinstance(one, type)}
    assert drawn == real


def test_everything_descends_from_one_root() -> None:
    kinds = [one for one in vars(errors).values() if isinstance(one, type)]
    assert all(issubclass(kind, errors.PulmoError) for kind in kinds)
    assert issubclass(errors.NotFoundError, errors.RegistryError)
    assert issubclass(errors.ConflictError, errors.RegistryError)
