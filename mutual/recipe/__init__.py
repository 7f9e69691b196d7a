"""Floor 1: what a recipe may say, how it is loaded and overridden, and how its mistakes are reported. Knows no torch."""

from __future__ import annotations

from mutual.recipe.base import MAX_CLASSES, MAX_SIDE, Spec
from mutual.recipe.data import Data, Statistics
from mutual.recipe.datasets import DATASET_FORMS, DATASETS, SPLIT_NAMES, family_of_dataset
from mutual.recipe.document import MAX_SAVED_CLASSES, Recipe
from mutual.recipe.edges import (
    EMA,
    EMBEDDING,
    ENSEMBLE,
    LOGITS,
    DistillationObjective,
    Objective,
    WeightSchedule,
    is_ema,
    peer_of,
)
from mutual.recipe.errors import Fault, InputError, RecipeError, RunError, did_you_mean
from mutual.recipe.load import check_section, convert_recipe, dump_recipe, load_recipe, parse_recipe, with_loss_traits
from mutual.recipe.objectives import CLASS_WEIGHTS, OBJECTIVES
from mutual.recipe.own_loss import LossTraits, OwnLoss
from mutual.recipe.paddleclas import converted_text
from mutual.recipe.peers import PRETRAINED, PROGRAM_SUFFIX, PeerSpec, StoreSpec, WeightsSpec, program_file
from mutual.recipe.schedules import Schedule
from mutual.recipe.seeds import derive_seed
from mutual.recipe.syntax import YamlError, parse_yaml
from mutual.recipe.text import allow_any_name, first_line, format_value, printable, printable_lines
from mutual.recipe.tracking import TENSORBOARD, TrackerSpec
from mutual.recipe.training import CheckpointSpec, ExchangeSpec, Optimizer, ParameterGroup, Pause, Precision, Train
from mutual.recipe.users_code import call_users, describe_error, import_users, is_users_name, names_parameter, users_names

__all__ = [
    "CLASS_WEIGHTS",
    "DATASETS",
    "DATASET_FORMS",
    "EMA",
    "EMBEDDING",
    "ENSEMBLE",
    "LOGITS",
    "MAX_CLASSES",
    "MAX_SAVED_CLASSES",
    "MAX_SIDE",
    "OBJECTIVES",
    "PRETRAINED",
    "PROGRAM_SUFFIX",
    "SPLIT_NAMES",
    "TENSORBOARD",
    "CheckpointSpec",
    "Data",
    "DistillationObjective",
    "ExchangeSpec",
    "Fault",
    "InputError",
    "LossTraits",
    "Objective",
    "Optimizer",
    "OwnLoss",
    "ParameterGroup",
    "Pause",
    "PeerSpec",
    "Precision",
    "Recipe",
    "RecipeError",
    "RunError",
    "Schedule",
    "Spec",
    "Statistics",
    "StoreSpec",
    "TrackerSpec",
    "Train",
    "WeightSchedule",
    "WeightsSpec",
    "YamlError",
    "allow_any_name",
    "call_users",
    "check_section",
    "convert_recipe",
    "converted_text",
    "derive_seed",
    "describe_error",
    "did_you_mean",
    "dump_recipe",
    "family_of_dataset",
    "first_line",
    "format_value",
    "import_users",
    "is_ema",
    "is_users_name",
    "load_recipe",
    "names_parameter",
    "parse_recipe",
    "parse_yaml",
    "peer_of",
    "printable",
    "printable_lines",
    "program_file",
    "users_names",
    "with_loss_traits",
]
