"""Arms from recipes, lists of values and seeds."""

import pytest
import yaml
from stand_in_runs import recipe_document

from mutual.engine.comparison import parse_seeds, plan_arms
from mutual.engine.comparison.planning import default_name, find_arm, folder_names, split_overrides
from mutual.recipe import InputError


@pytest.fixture
def recipe(tmp_path):
    file = tmp_path / "pair.yaml"
    file.write_text(yaml.safe_dump(recipe_document()))
    return str(file)


@pytest.mark.parametrize(("text", "seeds"), [("0:6", [0, 1, 2, 3, 4, 5]), ("5", [5]), ("0,3,7", [0, 3, 7]), ("0:2, 9", [0, 1, 9])])
def test_seeds(text, seeds):
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "a", "3:3", "4:2", "0:", "1,1", "0:3,2", "-1", "1.5", "0:100000", "0:600,600:1200", "9" * 30])
def test_what_is_no_seeds_is_refused(text):
    with pytest.raises(InputError, match=r"^--seeds: "):
        parse_seeds(text)


def test_a_recipe_is_an_arm(recipe):
    (arm,) = plan_arms([recipe], ["train.epochs=7"], member="best")
    assert (arm.name, arm.recipe.train.epochs, arm.member, arm.control) == ("pair", 7, "best", None)


def test_a_list_of_values_makes_arms(recipe):
    arms = plan_arms([recipe], ["objectives.1.temperature=1,2,4", "train.epochs=2"])
    assert [arm.name for arm in arms] == ["pair temperature=1", "pair temperature=2", "pair temperature=4"]
    assert [arm.recipe.objectives[1].temperature for arm in arms] == [1, 2, 4]
    assert default_name(arms) == "compare_pair"


def test_several_lists_make_their_product_and_short_names_are_told_apart(recipe):
    arms = plan_arms([recipe], ["objectives.0.weight=1,2", "objectives.1.weight=3,4", "optimizer.name=sgd,adam"])
    assert len(arms) == 8
    assert arms[1].name == "pair 0.weight=1 1.weight=3 name=adam"
    assert (arms[1].recipe.objectives[0].weight, arms[1].recipe.objectives[1].weight, arms[1].recipe.optimizer.name) == (1, 3, "adam")


@pytest.mark.parametrize(
    "override",
    ["optimizer.betas=[0.9,0.99]", "objectives.1={loss: dml, temperature: 4}", "data.root='a,b'", 'data.root="a,b"', "data.root='a,b]'"],
)
def test_commas_in_brackets_and_quotation_marks_belong_to_the_value(override, recipe):
    assert split_overrides([override]) == ([override], {})
    assert [arm.name for arm in plan_arms([recipe], [override])] == ["pair"]


def test_lists_of_lists_are_values(recipe):
    first, second = plan_arms([recipe], ["optimizer.betas=[0.9, 0.99],[0.8, 0.9]"])
    assert (first.recipe.optimizer.betas, second.recipe.optimizer.betas) == ((0.9, 0.99), (0.8, 0.9))


@pytest.mark.parametrize("override", ["train.epochs=1,,2", "train.epochs=1,", "train.epochs=2,2"])
def test_a_list_with_an_empty_or_a_repeated_value_is_refused(override, recipe):
    with pytest.raises(InputError, match="each of the values between commas makes an arm"):
        plan_arms([recipe], [override])


@pytest.mark.parametrize(
    ("override", "option"), [("seed=3", "--seeds"), ("name=x", "--name"), ("output=x", "--output"), ("seed=1,2", "--seeds")]
)
def test_what_the_comparison_sets_is_an_option_of_its_own(override, option, recipe):
    with pytest.raises(InputError, match=f"a comparison sets the .*; give {option}"):
        plan_arms([recipe], [override])


def test_a_wrong_value_of_a_list_names_its_override(recipe):
    with pytest.raises(InputError, match=r"override objectives.1.temperature=-1: "):
        plan_arms([recipe], ["objectives.1.temperature=1,-1"])


def test_too_many_arms_are_refused(recipe):
    numbers = ",".join(map(str, range(1, 12)))
    with pytest.raises(InputError, match="more than 64 arms"):
        plan_arms([recipe], [f"train.epochs={numbers}", f"train.log_every={numbers}"])


def test_recipes_of_one_name_are_called_by_their_files(recipe, tmp_path):
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump(recipe_document(train={"epochs": 9})))
    assert [arm.name for arm in plan_arms([recipe, str(other)])] == ["pair", "other"]
    with pytest.raises(InputError, match="are the same recipe"):
        plan_arms([recipe, recipe])


def test_names_of_folders_are_safe_and_no_two_the_same():
    names = folder_names(["dml temperature=4", "dml temperature:4", "a/a", "A/a", "..", "é" * 200])
    assert names["dml temperature=4"] == "dml-temperature-4"
    assert names["dml temperature:4"] == "dml-temperature-4-2"
    assert (names["a/a"], names["A/a"], names[".."]) == ("a-a", "A-a-2", "arm")
    assert len(names["é" * 200].encode()) < 200


def test_an_arm_is_found_by_its_name_and_by_that_of_its_folders(recipe):
    arms = plan_arms([recipe], ["objectives.1.temperature=1,4"])
    assert find_arm(arms, "pair temperature=4") == find_arm(arms, "pair-temperature-4") == arms[1]
    assert find_arm(arms, "pair") is None
