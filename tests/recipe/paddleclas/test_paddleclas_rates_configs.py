"""Configs with each kind of rate: optimizers and settings field by field, and the rate of every update of a training of that length."""

import math

import pytest
from data_configs import CONFIGS
from support import WORLD, tiny_document

import mutual
from mutual.engine.runtime import Environment
from mutual.engine.training import build_training
from mutual.recipe import RecipeError, Schedule, convert_recipe, load_recipe, parse_recipe
from mutual.recipe.paddleclas.architectures import Model
from mutual.recipe.paddleclas.optimizers import convert_optimizer
from mutual.recipe.paddleclas.section import Notes, Section
from mutual.recipe.paddleclas.settings import convert_settings
from mutual.recipe.syntax import parse_yaml

MODEL = {"model": "support:tiny", "args": {"norm": True}}
BATCHES = 5
"""Micro-batches in an epoch of the tiny data."""


def models(*names, frozen=()):
    return [Model(name, {**MODEL, **({"frozen": True} if name in frozen else {})}, 4, undecayed=("norm",)) for name in names]


PAIR = ("Teacher", "Student")
PEERS = {
    "rates_adamw_ema": {"names": PAIR, "frozen": ("Teacher",)},
    "rates_piecewise_accumulated": {"names": PAIR},
    "rates_linear_bf16": {"names": ("PPLCNet_x0_25",)},
    "rates_multistep_o2": {"names": ("ResNet18",)},
    "rates_scopes": {"names": PAIR},
}


def converted(name):
    """The document of a recipe on tiny data, with what the config says of all but models, losses and data; and the notes."""
    notes = Notes()
    root = Section(parse_yaml((CONFIGS / f"{name}.yaml").read_text()), "", notes)
    peers = models(*PEERS[name]["names"], frozen=PEERS[name].get("frozen", ()))
    optimizer = convert_optimizer(root, peers)
    data = {"dataset": "fake", "num_train": 40, "num_val": 12, "image_size": 8, "channels": 1, "num_classes": 4, "batch_size": 8}
    document = {
        "name": name,
        "data": data,
        "peers": {each.name: each.document for each in peers},
        "objectives": [{"loss": "cross_entropy"}],
        **optimizer,
    }
    settings = root.section("Global")
    settings.take("pretrained_model")  # of the models
    convert_settings(document, root, settings)
    for section in ("Arch", "Loss", "DataLoader"):
        root.take(section)  # of the others
    root.name_untaken()
    return document, notes


NORM = {"modules": ["norm"], "weight_decay": 0.0}
ADAMW = {"name": "adamw", "lr": 5e-4, "weight_decay": 0.05, "decay_norm_and_bias": False, "betas": [0.9, 0.95], "eps": 1e-8}
EXEMPT = {"modules": ["*pos_embed*", "*fc*", "*.bias*"], "weight_decay": 0.0, "may_be_empty": True}
EXPECTED = {
    "rates_adamw_ema": {
        "optimizer": {**ADAMW, "groups": [EXEMPT]},
        "schedule": {"name": "cosine", "warmup_epochs": 2, "warmup_start_lr": 1e-6, "min_lr": 1e-5},
        "train": {"epochs": 8, "log_every": 20, "eval_every": 2, "precision": "no", "ema": 0.9998},
        "checkpoint": {"every_epochs": 5},
        "seed": 0,
        "output": "output/swa",
    },
    "rates_piecewise_accumulated": {
        "optimizer": {"name": "sgd", "lr": 0.2, "weight_decay": 4e-5, "momentum": 0.9, "nesterov": True, "groups": [NORM]},
        "schedule": {
            "name": "piecewise",
            "milestones": [3, 7, 8],
            "factors": [1.0, 0.25, 0.15, 0.0025],
            "warmup_epochs": 1.5,
            "warmup_start_lr": 0.02,
            "count_from": "warmup_end",
        },
        "train": {"clip_parameter_norm": 5.0, "epochs": 12, "log_every": 10, "accumulate": 4, "precision": "no"},
        "seed": 42,
        "output": "output",
    },
    "rates_linear_bf16": {
        "optimizer": {"name": "adam", "lr": 0.002, "weight_decay": 1e-4, "betas": [0.8, 0.999], "eps": 1e-8, "groups": [NORM]},
        "schedule": {"name": "linear", "warmup_epochs": 2, "warmup_start_lr": 0.0, "min_lr": 2e-5, "power": 0.9},
        "train": {"epochs": 10, "log_every": 10, "eval_every": 10, "precision": "bf16"},
        "seed": 7,
        "output": "output",
    },
    "rates_multistep_o2": {
        "optimizer": {"name": "sgd", "lr": 0.1, "weight_decay": 1e-4, "momentum": 0.8, "groups": [NORM]},
        "schedule": {
            "name": "multistep",
            "milestones": [10, 20],
            "gamma": 0.2,
            "interval": "epoch",
            "warmup_epochs": 2,
            "warmup_start_lr": 0.0,
            "warmup_interval": "epoch",
            "count_from": "warmup_end",
        },
        "train": {"epochs": 30, "log_every": 10, "precision": "fp16"},
        "seed": 0,
        "output": "output",
    },
    "rates_scopes": {
        "optimizer": {"name": "sgd", "lr": 0.01},
        "schedule": {"name": "cyclic", "max_lr": 0.1, "rise": 100},
        "train": {"epochs": 10, "log_every": 10, "precision": "no"},
        "seed": 3,
        "output": "output",
    },
}
LEFT_OUT = {"rates_multistep_o2": ["Global.checkpoints: './output/ResNet18/latest': a run of theirs cannot be resumed"]}


@pytest.mark.parametrize("name", EXPECTED)
def test_optimizer_and_settings_are_those_of_the_config(name):
    document, notes = converted(name)
    others = {"name", "data", "peers", "objectives"}
    assert {key: value for key, value in document.items() if key not in others} == EXPECTED[name]
    assert [line.split(";")[0] for line in notes.left_out] == LEFT_OUT.get(name, [])


def test_a_peer_of_another_scope_has_its_own_sections():
    student = converted("rates_scopes")[0]["peers"]["Student"]
    assert student["optimizer"] == {"name": "sgd", "lr": 0.1, "weight_decay": 4e-5, "momentum": 0.9, "groups": [NORM]}
    assert student["schedule"] == {"name": "cosine", "warmup_epochs": 1, "warmup_start_lr": 0.0}


def test_the_command_that_predicts_is_said():
    _, notes = converted("rates_adamw_ema")
    assert notes.remarks[-1] == "Infer: python -m mutual.predict output/swa/rates_adamw_ema docs/images/flower.jpg --topk 5 predicts"


def adamw(update):
    if update < 10:
        return 1e-6 + (5e-4 - 1e-6) * update / 10
    return 1e-5 + (5e-4 - 1e-5) * (1 + math.cos(math.pi * (update - 10) / 30)) / 2


def piecewise(update):
    """Two updates an epoch, the second of one batch; three of warm-up."""
    if update < 3:
        return 0.02 + 0.18 * update / 3
    behind = update - 3
    return 0.2 if behind < 6 else 0.05 if behind < 14 else 0.03 if behind < 16 else 0.0005


def linear(update):
    return 0.002 * update / 10 if update < 10 else 0.00198 * (1 - (update - 10) / 40) ** 0.9 + 0.00002


def multistep(update):
    epoch = update // BATCHES
    return 0.1 * epoch / 2 if epoch < 2 else 0.1 * 0.2 ** [epoch >= 12, epoch >= 22].count(True)


def cosine(update):
    return 0.1 * update / 5 if update < 5 else 0.05 * (1 + math.cos(math.pi * (update - 5) / 45))


def cyclic(update):
    return 0.01 + 0.09 * update / 100


RATES = {
    "rates_adamw_ema": {"Student": adamw},
    "rates_piecewise_accumulated": {"Teacher": piecewise, "Student": piecewise},
    "rates_linear_bf16": {"PPLCNet_x0_25": linear},
    "rates_multistep_o2": {"ResNet18": multistep},
    "rates_scopes": {"Teacher": cyclic, "Student": cosine},
}


@pytest.mark.parametrize("name", RATES)
def test_every_update_of_a_training_has_the_rate_of_theirs(name):
    document, _ = converted(name)
    recipe = parse_recipe({**tiny_document(), **document})
    training = build_training(recipe, Environment(None, WORLD, recipe.train.precision))
    training.group.train()
    found = {peer: [] for peer in training.optimizers}
    for epoch in range(recipe.train.epochs):
        for window in training.windows(epoch):
            training.train_step(window, len(next(iter(found.values()))), measure=False)
            for peer, optimizer in training.optimizers.items():
                found[peer].append(optimizer.learning_rate)
    training.close()
    num_updates = recipe.train.epochs * -(-BATCHES // recipe.train.accumulate)
    expected = {peer: [rate(update) for update in range(num_updates)] for peer, rate in RATES[name].items()}
    assert found.keys() == expected.keys()
    for peer, rates in expected.items():
        assert found[peer] == pytest.approx(rates, rel=1e-12, abs=1e-15)


@pytest.mark.parametrize(("device", "synchronized"), [("gpu", True), ("cpu", None), ("xpu", None)])
def test_statistics_of_batchnorm_are_of_all_processes_on_gpus_alone(device, synchronized):
    """As theirs, which passes use_sync_bn over on other devices."""
    overrides = ["Arch.use_sync_bn=True", f"Global.device={device}"]
    assert convert_recipe(CONFIGS / "rates_linear_bf16.yaml", overrides).document["train"].get("sync_batchnorm") == synchronized


def test_a_search_names_the_config_that_it_begins_with(tmp_path):
    search = tmp_path / "search.yaml"
    search.write_text("base_config_file: configs/lcnet.yaml\nsearch_dict: [{search_key: lrs}]\n")
    with pytest.raises(RecipeError, match=r"search\.yaml: base_config_file: is searched from: convert 'configs/lcnet.yaml'"):
        convert_recipe(search)


def test_pythons_none_is_null():
    """Theirs evaluates it; to YAML it is a text."""
    overrides = ["Global.pretrained_model=None", "EMA=None", "AMP.use_amp='False'", "Global.seed=None"]
    conversion = convert_recipe(CONFIGS / "rates_linear_bf16.yaml", overrides)
    assert (conversion.document["peers"]["model"].get("weights"), conversion.document["seed"]) == (None, 0)
    assert conversion.document["train"]["precision"] == "no"


TINY = [
    "data={dataset: fake, num_train: 20, num_val: 8, num_classes: 10, image_size: 32, batch_size: 4, workers: 0}",
    "train.epochs=2",
    "train.progress=false",
    "train.pictures=false",
]


@pytest.mark.parametrize("name", EXPECTED)
def test_a_config_is_loaded_as_it_is(name):
    recipe = load_recipe(CONFIGS / f"{name}.yaml", [*TINY, *(["peers.model.weights=null"] if name == "rates_multistep_o2" else [])])
    assert recipe.name == name
    assert recipe.schedule == Schedule(**EXPECTED[name]["schedule"])
    given = {key: value for key, value in EXPECTED[name]["optimizer"].items() if key != "groups"}
    assert {key: list(value) if isinstance(value := getattr(recipe.optimizer, key), tuple) else value for key in given} == given
    assert recipe.train.precision == EXPECTED[name]["train"]["precision"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rates_piecewise_accumulated", "rates_scopes", "rates_linear_bf16"])
def test_a_config_is_trained(name, tmp_path):
    result = mutual.fit(load_recipe(CONFIGS / f"{name}.yaml", [*TINY, f"output={tmp_path}"]))
    assert result.folder == tmp_path / name
    assert result.best_peer in {"rates_linear_bf16": ["model"]}.get(name, PAIR)
