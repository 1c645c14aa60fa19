from __future__ import annotations

import dataclasses
import json
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuwork import spec
from gpuwork.registry import BACKBONES, STRATEGIES, TASKS, Task
from gpuwork.spec import (
    Cell,
    Execution,
    Recipe,
    SpecError,
    accumulation,
    cell_from_json,
    cell_id,
    cell_to_json,
    check_distinct,
    science,
)

LORA = {"alpha_rule": "twice_rank", "adapter_dropout": 0.1}


def recipe(**changes):
    settings = {"learning_rate": 2e-4, "effective_batch": 128, "epochs": 5, "patience": 3}
    return Recipe(**{**settings, **changes})


def cell(strategy="full", **changes):
    settings = {"corpus": "demo", "backbone": "nt_v2_50m", "heads": "trained", "seed": 0}
    if strategy == "lora":
        settings |= {"rank": 8, "recipe": recipe(**LORA)}
    return Cell(
        **{"task": "taxonomy", "strategy": strategy, "recipe": recipe(), **settings, **changes}
    )


@st.composite
def recipes(draw, *, has_rank):
    small = st.floats(0.0, 0.99)
    positive = st.floats(1e-12, 1e3)
    return Recipe(
        learning_rate=draw(positive),
        effective_batch=draw(st.integers(1, 4096)),
        epochs=draw(st.integers(1, 100)),
        patience=draw(st.integers(1, 100)),
        schedule=draw(st.sampled_from(spec.SCHEDULES)),
        warmup_fraction=draw(small),
        weight_decay=draw(small),
        clip_norm=draw(positive),
        precision=draw(st.sampled_from(spec.PRECISIONS)),
        pooling=draw(st.sampled_from(spec.POOLINGS)),
        max_tokens=draw(st.integers(1, 2048)),
        alpha_rule=draw(st.sampled_from(list(spec.ALPHA_RULES))) if has_rank else None,
        adapter_dropout=draw(small) if has_rank else None,
    )


@st.composite
def cells(draw):
    strategy = STRATEGIES[draw(st.sampled_from(list(STRATEGIES)))]
    return Cell(
        task=draw(st.sampled_from(list(TASKS))),
        corpus=draw(st.text(min_size=1, max_size=8)),
        corpus_sha256=draw(st.none() | st.text("0123456789abcdef", min_size=64, max_size=64)),
        backbone=draw(st.sampled_from(list(BACKBONES))),
        strategy=strategy.name,
        rank=draw(st.integers(1, 512)) if strategy.has_rank else None,
        heads=draw(st.sampled_from(strategy.heads)),
        seed=draw(st.integers(0, 2**63)),
        recipe=draw(recipes(has_rank=strategy.has_rank)),
    )


@given(cells())
def test_a_cell_and_its_id_survive_json(one):
    back = cell_from_json(cell_to_json(one))
    assert back == one
    assert cell_id(back) == cell_id(one)


@given(cells(), cells())
def test_ids_are_equal_for_equal_cells_alone(one, other):
    assert (cell_id(one) == cell_id(other)) == (one == other)


@given(cells(), st.randoms())
def test_an_id_does_not_depend_on_the_order_of_fields(one, random):
    def shuffled(entries):
        pairs = list(entries.items())
        random.shuffle(pairs)
        return {name: shuffled(v) if isinstance(v, dict) else v for name, v in pairs}

    back = cell_from_json(json.dumps(shuffled(json.loads(cell_to_json(one)))))
    assert cell_id(back) == cell_id(one)


@given(cells())
def test_an_id_is_a_file_name(one):
    assert re.fullmatch(r"[a-z0-9_.]+-[0-9a-f]{12}", cell_id(one))


CELL_CHANGES = {
    "task": "other_task",
    "corpus": "other",
    "corpus_sha256": "0" * 64,
    "backbone": "nt_v2_100m",
    "strategy": "full",
    "rank": 9,
    "heads": "frozen",
    "seed": 1,
    "recipe": recipe(**LORA, epochs=6),
}
RECIPE_CHANGES = {
    "learning_rate": 3e-4,
    "effective_batch": 64,
    "epochs": 4,
    "patience": 2,
    "schedule": "constant",
    "warmup_fraction": 0.1,
    "weight_decay": 0.01,
    "clip_norm": 2.0,
    "precision": "bf16",
    "pooling": "first",
    "max_tokens": 256,
    "alpha_rule": "constant_32",
    "adapter_dropout": 0.0,
}


@pytest.fixture
def more_choices(monkeypatch):
    """A second value for the fields that have one choice so far."""
    monkeypatch.setattr(spec, "SCHEDULES", ("cosine", "constant"))
    monkeypatch.setattr(spec, "POOLINGS", ("mean", "first"))
    other = Task(name="other_task", levels=TASKS["taxonomy"].levels)
    monkeypatch.setitem(TASKS, other.name, other)


def test_every_field_is_changed_below():
    assert set(CELL_CHANGES) == {field.name for field in dataclasses.fields(Cell)}
    assert set(RECIPE_CHANGES) == {field.name for field in dataclasses.fields(Recipe)}


@pytest.mark.usefixtures("more_choices")
@pytest.mark.parametrize("name", CELL_CHANGES)
def test_every_field_of_a_cell_is_in_its_id(name):
    one = cell("lora")
    changes = {name: CELL_CHANGES[name]}
    if name == "strategy":
        changes |= {"rank": None, "recipe": recipe()}
    assert digest(dataclasses.replace(one, **changes)) != digest(one)


@pytest.mark.usefixtures("more_choices")
@pytest.mark.parametrize("name", RECIPE_CHANGES)
def test_every_field_of_a_recipe_is_in_the_id(name):
    one = cell("lora")
    changed = dataclasses.replace(one.recipe, **{name: RECIPE_CHANGES[name]})
    assert digest(dataclasses.replace(one, recipe=changed)) != digest(one)


def digest(one):
    """The part of an id that is not for reading."""
    return cell_id(one).rpartition("-")[2]


def test_a_changed_table_makes_another_cell(monkeypatch):
    one, before = cell(), digest(cell())
    row = BACKBONES["nt_v2_50m"]
    monkeypatch.setitem(BACKBONES, row.name, dataclasses.replace(row, revision="0" * 40))
    other = digest(one)
    monkeypatch.setitem(BACKBONES, row.name, row)
    monkeypatch.setitem(TASKS, "taxonomy", Task(name="taxonomy", levels=("genus",)))
    assert len({before, other, digest(one)}) == 3


def test_what_is_told_of_a_backbone_does_not_change_a_cell(monkeypatch):
    before = digest(cell())
    row = BACKBONES["nt_v2_50m"]
    told = {"licence": "other", "published_learning_rate": 1.0, "published_batch": 1}
    monkeypatch.setitem(BACKBONES, row.name, dataclasses.replace(row, **told))
    assert digest(cell()) == before


def test_no_execution_setting_is_part_of_a_cell():
    execution = {field.name for field in dataclasses.fields(Execution)}
    assert not execution & {*science(cell()), *science(cell())["recipe"]}


@pytest.mark.parametrize(
    ("one", "identity"),
    [
        (cell(), "taxonomy.nt_v2_50m.full.trained.s0-aa1d9bfdfe96"),
        (cell("lora"), "taxonomy.nt_v2_50m.lora.r8.trained.s0-3770363709e7"),
        (
            cell("ia3", heads="frozen", backbone="dnabert2", seed=42, corpus_sha256="a" * 64),
            "taxonomy.dnabert2.ia3.frozen.s42-570b3b47f72c",
        ),
        (
            cell("head_only", backbone="nt_v2_nano", recipe=recipe(max_tokens=64)),
            "taxonomy.nt_v2_nano.head_only.trained.s0-aba0eb157795",
        ),
    ],
)
def test_ids_stay_what_they_were(one, identity):
    assert cell_id(one) == identity


def test_alpha_follows_the_rule():
    def alpha(rank, rule):
        return cell("lora", rank=rank, recipe=recipe(**{**LORA, "alpha_rule": rule})).alpha

    assert [alpha(rank, "constant_32") for rank in (1, 20)] == [32.0, 32.0]
    assert [alpha(rank, "twice_rank") for rank in (1, 20)] == [2.0, 40.0]
    assert cell("full").alpha is None


def test_levels_are_the_tasks():
    assert cell().levels == ("superkingdom", "phylum", "genus")


BAD_CELLS = [
    ({"task": "histone"}, r"unknown task: 'histone'; known: taxonomy"),
    ({"backbone": "nt_v3"}, r"unknown backbone: 'nt_v3'; known: nt_v2_nano, nt_v2_50m"),
    ({"strategy": "prefix"}, r"unknown strategy: 'prefix'; known: full, random_init"),
    ({"heads": "frozen"}, r"unknown heads of strategy 'full': 'frozen'; known: trained"),
    ({"seed": -1}, r"seed is -1; it must be 0 or above"),
    ({"seed": True}, r"seed is True of type bool, not int"),
    ({"seed": 1.0}, r"seed is 1.0 of type float, not int"),
    ({"corpus": None}, r"corpus is None of type NoneType, not str"),
    ({"rank": "8"}, r"rank is '8' of type str, not int or None"),
    ({"rank": 8}, r"strategy 'full' has no rank.*leave them None \(ranks exist for: lora\)"),
    ({"recipe": recipe(**LORA)}, r"strategy 'full' has no rank, alpha_rule or adapter_dropout"),
    ({"recipe": recipe(max_tokens=2049)}, r"was trained for 2048 tokens; set max_tokens to that"),
    ({"strategy": "lora"}, r"strategy 'lora' needs a rank of 1 or more, an alpha_rule and an"),
    ({"strategy": "lora", "rank": 0, "recipe": recipe(**LORA)}, r"needs a rank of 1 or more"),
    ({"strategy": "lora", "rank": 8}, r"got rank=8, alpha_rule=None"),
]


@pytest.mark.parametrize(("changes", "message"), BAD_CELLS, ids=[m for _, m in BAD_CELLS])
def test_a_cell_that_cannot_be_is_refused(changes, message):
    with pytest.raises(SpecError, match=message):
        dataclasses.replace(cell(), **changes)


BAD_RECIPES = [
    ({"learning_rate": 0.0}, r"recipe.learning_rate is 0.0; it must be above 0"),
    ({"learning_rate": math.nan}, r"recipe.learning_rate is nan"),
    ({"learning_rate": math.inf}, r"recipe.learning_rate is inf"),
    ({"learning_rate": 1}, r"recipe.learning_rate is 1 of type int, not float"),
    ({"effective_batch": 0}, r"recipe.effective_batch is 0"),
    ({"effective_batch": 16.0}, r"recipe.effective_batch is 16.0 of type float, not int"),
    ({"epochs": -1}, r"recipe.epochs is -1"),
    ({"patience": 0}, r"recipe.patience is 0"),
    ({"clip_norm": -1.0}, r"recipe.clip_norm is -1.0"),
    ({"max_tokens": 0}, r"recipe.max_tokens is 0"),
    ({"weight_decay": 0}, r"recipe.weight_decay is 0 of type int, not float"),
    ({"weight_decay": -0.1}, r"recipe.weight_decay is -0.1; it must be 0 or above"),
    ({"warmup_fraction": 1.0}, r"recipe.warmup_fraction is 1.0; 0 <= it < 1"),
    ({"adapter_dropout": 1.0}, r"recipe.adapter_dropout is 1.0; 0 <= it < 1"),
    ({"schedule": "step"}, r"unknown schedule: 'step'; known: cosine"),
    ({"precision": "fp16"}, r"unknown precision: 'fp16'; known: fp32, tf32, bf16"),
    ({"pooling": "cls"}, r"unknown pooling: 'cls'; known: mean"),
    ({"alpha_rule": "32"}, r"unknown alpha_rule: '32'; known: None, constant_32, twice_rank"),
]


@pytest.mark.parametrize(("changes", "message"), BAD_RECIPES, ids=[m for _, m in BAD_RECIPES])
def test_a_recipe_that_cannot_be_is_refused(changes, message):
    with pytest.raises(SpecError, match=message):
        recipe(**changes)


def altered(**changes):
    return json.dumps({**json.loads(cell_to_json(cell())), **changes})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"cell is no JSON"),
        ("[]", r"cell without a recipe: \[\]"),
        ("{}", r"cell without a recipe"),
        (altered(rnak=3), r"unknown field\(s\) in cell: \['rnak'\]; known: \['backbone', 'corpus'"),
        (altered(recipe={"learning_rate": 1.0}), r"missing field\(s\) in recipe: \['adapter_drop"),
        (altered(recipe={"lr": 1.0}), r"unknown field\(s\) in recipe: \['lr'\]"),
        (altered(seed="0"), r"seed is '0' of type str, not int"),
    ],
)
def test_text_that_is_no_cell_is_refused(text, message):
    with pytest.raises(SpecError, match=message):
        cell_from_json(text)


def test_two_cells_that_mean_the_same_are_refused():
    first, second = cell(), cell(seed=1)
    assert check_distinct(iter([first, second])) == (first, second)
    with pytest.raises(SpecError, match=f"two cells mean the same: {cell_id(first)}; remove one"):
        check_distinct([first, second, cell_from_json(cell_to_json(first))])


@given(st.integers(1, 512), st.integers(0, 512), st.integers(0, 16))
def test_accumulation_is_exact_or_refused(batch, micro_batch, ranks):
    one = cell(recipe=recipe(effective_batch=batch))
    execution = Execution(device="cpu", micro_batch=micro_batch, ranks=ranks)
    if micro_batch * ranks and batch % (micro_batch * ranks) == 0:
        assert accumulation(one, execution) * micro_batch * ranks == batch
    else:
        with pytest.raises(SpecError, match=f"effective batch {batch} is no multiple.*divisor"):
            accumulation(one, execution)
