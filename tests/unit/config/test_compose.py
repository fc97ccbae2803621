import json
import shlex
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pulmo.config import compose as composing
from pulmo.config.compose import compose, compose_for_model, find_configs, read_file
from pulmo.config.vocabulary import keys, options
from pulmo.errors import ConfigError

CHOICES = [
    f"{part}={option}" for part, found in options([find_configs()]).items() for option in found
]


def test_without_overrides_the_defaults_of_the_files_hold() -> None:
    config = compose()
    assert config.data.name == "chest_xray"
    assert config.model.architecture == "efficientnet_lite0"
    assert config.recipe.kind == "partial"
    assert config.seed == 0


@pytest.mark.parametrize("choice", CHOICES)
def test_every_option_of_every_part_is_a_valid_configuration(choice: str) -> None:
    assert compose([choice]).gate.required


def test_options_and_values_are_changed_by_overrides() -> None:
    config = compose(["model=small_cnn", "recipe=finetune", "trainer.max_epochs=3", "seed=7"])
    assert config.model.architecture == "small_cnn"
    assert (config.trainer.max_epochs, config.seed) == (3, 7)
    assert config.recipe.augment is not None


def test_a_key_of_the_schema_works_where_the_chosen_file_leaves_it_out() -> None:
    config = compose(["data=folder", "data.patient=^(p[0-9]+)_", "data.phantom.images=50"])
    assert config.data.patient == "^(p[0-9]+)_"
    assert config.data.phantom is not None
    assert config.data.phantom.images == 50


def test_tables_take_free_keys_and_give_them_up() -> None:
    config = compose(["model.options.width=8", "gate.floors.accuracy=0.7", "~gate.floors.auroc"])
    assert config.model.options == {"width": 8}
    assert config.gate.floors == {"accuracy": 0.7, "balanced_accuracy": 0.8}


@pytest.mark.parametrize("sign", ["", "+", "++"])
def test_hydras_signs_are_understood(sign: str) -> None:
    assert compose([f"{sign}trainer.max_epochs=3"]).trainer.max_epochs == 3


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("/a b/c=d, (e) [f] {g}", "/a b/c=d, (e) [f] {g}"),
        ("'quoted text'", "quoted text"),
        ("~/pictures", "~/pictures"),
        ("007", "007"),
        ("it's", "it's"),
        ("null", None),
        ("", ""),
    ],
)
def test_a_text_is_taken_as_it_is_written(given: str, meant: str | None) -> None:
    assert compose(["data=folder", f"data.root={given}"]).data.root == meant


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12))
def test_any_text_reaches_hydra_whole(text: str) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    written = composing._literal(text)
    assume(written != text)  # null and what is quoted already are Hydra's own
    parsed = OverridesParser.create().parse_override(f"++data.root={written}").value()
    assert parsed == text


@pytest.mark.parametrize(
    ("override", "near"),
    [
        ("modle=small_cnn", "did you mean 'model'"),
        ("trainer.max_epoch=3", "did you mean 'trainer.max_epochs'"),
        ("max_epochs=3", "did you mean 'trainer.max_epochs'"),
        ("model=resnet19", "did you mean 'model=resnet18'"),
        ("trainer={max_epoch: 3}", "did you mean 'trainer.max_epochs'"),
        ("model.options.a.b=1", "unknown key 'model.options.a.b'"),
        ("~sed", "did you mean 'seed'"),
        ("experiment=none", "There are detail, finetune_once"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_one(override: str, near: str) -> None:
    with pytest.raises(ConfigError, match=near):
        compose([override])


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("trainer.max_epochs=abc", "trainer.max_epochs=abc: input should be a valid integer"),
        ("trainer.max_epochs=0", "trainer.max_epochs=0: input should be greater than or equal"),
        (
            "recipe.kind=magic",
            "recipe.kind=magic: input should be 'probe', 'partial' or 'finetune'",
        ),
        ("model.options.width=[1]", "model.options.width="),
        ("data.splits.val=0.6", "data.splits leaves less than 40 % for training"),
        ("data.positive=CAT", "data.positive must be one of"),
        ("gate.required=[]", "gate.required="),
        ("trainer=3", "trainer=3: input should be a valid dictionary"),
        ("trainer.max_epochs=1,2", "Ambiguous"),
        ("seed=((", "mismatched input"),
        ("data.root=${nowhere}", "Interpolation key 'nowhere' not found"),
        ("~gate.floors.f1", "does not exist"),
        ("~seed", "cannot be taken away"),
        ("seed", "is no override"),
        ("=3", "is no override"),
        ("~gate.floors.auroc=1", "is no override"),
    ],
)
def test_a_wrong_value_is_refused_with_the_field_and_what_is_allowed(
    override: str, told: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        compose([override])
    assert told in str(refused.value)


def test_a_value_that_no_file_gives_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.yaml").write_text("seed: 1\n")
    monkeypatch.setattr(composing, "find_configs", lambda: tmp_path)
    with pytest.raises(ConfigError, match=r"run has no value: set it with run=…"):
        compose()


def test_experiments_and_debug_files_leave_no_key_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    configs = tmp_path / "configs"
    shutil.copytree(find_configs(), configs)
    (configs / "experiment").mkdir(exist_ok=True)
    (configs / "experiment" / "noted.yaml").write_text("note: tried on a Sunday\n")
    monkeypatch.setattr(composing, "find_configs", lambda: configs)
    assert compose(["experiment=noted", "debug=fast"]).trainer.max_epochs == 1
    assert compose(["experiment=null", "debug=null"]).trainer.max_epochs == 4


@pytest.mark.parametrize("name", ["phantom", "folder", "imagenette", "pneumoniamnist"])
def test_a_models_data_set_is_found_by_its_registered_name(name: str) -> None:
    registered = compose([f"data={name}"]).registry.name
    config = compose_for_model(registered, ["gate.margin=0.05"])
    assert (config.data.name, config.gate.margin) == (name, 0.05)


def test_a_named_data_set_is_believed_and_keeps_the_models_name() -> None:
    config = compose_for_model("my-task", ["data=folder", "data.root=/x"])
    assert (config.registry.name, config.data.root) == ("my-task", "/x")


def test_a_model_of_an_unknown_data_set_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"declares registry.name: nobody.*data=folder"):
        compose_for_model("nobody")


def test_configs_are_looked_for_in_the_package_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site" / "pulmo"
    (package / "configs").mkdir(parents=True)
    (package / "configs" / "config.yaml").touch()
    monkeypatch.setattr(composing, "__file__", str(package / "config" / "compose.py"))
    assert find_configs() == package / "configs"
    (package / "configs" / "config.yaml").unlink()
    with pytest.raises(ConfigError, match="install Pulmo again"):
        find_configs()


@pytest.mark.parametrize("choice", ["data=chest_xray", "recipe=finetune"])
def test_a_shown_configuration_gives_itself_again(choice: str) -> None:
    from pulmo.verbs.show import override_lines

    config = compose([choice])
    lines = shlex.split(" ".join(map(shlex.quote, override_lines(config.document()))))
    assert compose(lines) == config


def test_every_key_of_the_schema_has_a_kind() -> None:
    found = keys()
    assert found["trainer"] == "group"
    assert found["gate.floors"] == "table"
    assert found["data.root"] == "text"
    assert found["trainer.accelerator"] == "text"
    assert found["data.channels"] == "value"
    assert found["recipe.augment.rotate"] == "value"


def test_a_configuration_in_a_file_is_taken_exactly(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    config = compose(["seed=7", "data.intended_use=an odd: 'text'"])
    path.write_text(json.dumps(config.document()))
    assert read_file(path) == config
    path.write_text(json.dumps({**config.document(), "sed": 1}))
    with pytest.raises(ConfigError, match="unknown key 'sed': did you mean 'seed'"):
        read_file(path)


@pytest.mark.parametrize("text", [None, "{", "\xff"])
def test_a_file_that_holds_no_configuration_is_named(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "config.json"
    if text is not None:
        path.write_text(text, encoding="latin-1")
    with pytest.raises(ConfigError, match=r"config\.json holds no configuration"):
        read_file(path)
