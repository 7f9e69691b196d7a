"""Examples of the sections of a recipe, for the reference; each says every field of its section."""

from __future__ import annotations

from mutual.recipe.base import Spec
from mutual.recipe.data import Columns, Data, Sampler, Statistics
from mutual.recipe.document import ExtendedFrom, Recipe
from mutual.recipe.edges import DistillationObjective, Ensemble, WeightSchedule
from mutual.recipe.own_loss import OwnLoss
from mutual.recipe.peers import Expect, InputSpec, PeerSpec, StoreSpec, WeightsSpec
from mutual.recipe.schedules import Schedule
from mutual.recipe.tracking import TrackerSpec
from mutual.recipe.training import CheckpointSpec, ExchangeSpec, Optimizer, ParameterGroup, Pause, Train

EXAMPLES: dict[type[Spec], str] = {
    Recipe: """\
name: kd_pplcnet
seed: 0
output: runs
extended_from: null
placement: replicated
exchange: {kind: live}
data: {dataset: digits, image_size: 32}
peers:
  student: {model: pplcnet_x0_25}
  teacher: {model: pplcnet_x0_5, weights: runs/teacher_pplcnet/best/teacher.safetensors, frozen: true}
objectives:
  - {loss: cross_entropy}
  - {loss: kd, sources: [teacher], temperature: 4.0}
optimizer: {name: sgd, lr: 0.1, momentum: 0.9}
schedule: {name: cosine, warmup_epochs: 1}
train: {epochs: 20}
checkpoint: {every_epochs: 1, keep: 2}
tracking: [tensorboard, {name: wandb, args: {mode: offline}}]
""",
    TrackerSpec: """\
name: wandb
project: distillation
args: {mode: offline}
""",
    ExtendedFrom: """\
run: runs/kd_pplcnet
step: 460
sha256: null
""",
    Data: """\
dataset: image_list
args: {}
root: /data/flowers
columns: null        # hfds only
download: false
train_list: /data/flowers/train.txt
val_list: /data/flowers/val.txt
val_root: null
delimiter: null      # a space or a tab
relabel: false
class_names: /data/flowers/names.txt
train: null
val: null
test: 0.1
split_seed: 0
unlabelled: /data/flowers/more
unlabelled_root: null
label_field: null      # wds only
multi_label: false
image_size: [224, 224]
channels: 3
batch_size: 64
eval_batch_size: 256
workers: 8
prefetch: 4
decoded: null        # or a folder: /data/flowers/decoded
on_bad_image: skip
sampler: balanced
epoch_size: 20000
subset: 5000
subset_seed: 1
num_train: 1024      # fake images only
num_val: 256
num_classes: 102
views: shared
crops_per_image: 2
augment: [{name: random_resized_crop, scale: [0.5, 1.0]}, horizontal_flip, {name: rand_augment, magnitude: 7}]
preprocess: [{name: resize, size: 256, mode: shorter}, center_crop]
normalize: auto
mixup: 0.2
cutmix: 1.0
mixup_p: 0.3
cutmix_p: 0.5
""",
    Sampler: """\
weights: null
repeated: 4
""",
    Columns: """\
image: img
label: fine_label
""",
    Statistics: """\
mean: [0.485, 0.456, 0.406]
std: [0.229, 0.224, 0.225]
""",
    PeerSpec: """\
model: torchvision/resnet18
args: {zero_init_residual: true}
weights: {file: runs/old, head: new}
train_only: []
freeze: [conv1, bn1, layer1]
frozen: false
input: {mean: [0.5], std: [0.5]}
classes: auto
head: classifier
standardize: false
expect: {top1: 0.01}
precision: bf16
compile: false
channels_last: true
forward_batch: 256
store: null
activation_checkpointing: true
optimizer: {name: adamw, lr: 1.0e-3}
schedule: {name: linear}
rank: null
ranks: 2
cost: 12.5
""",
    InputSpec: """\
size: 224
mean: [0.485, 0.456, 0.406]
std: [0.229, 0.224, 0.225]
interpolation: bicubic
channels: 3
""",
    WeightsSpec: """\
file: checkpoints/resnet18.ckpt
head: new
prefix: state_dict.model.
""",
    Expect: """\
top1: 0.72
top5: 0.9
map: null
""",
    StoreSpec: """\
folder: stores/resnet34
topk: 10
views: 50
seed: 0
feature_maps: false
""",
    Optimizer: """\
name: adamw
lr: 1.0e-3
weight_decay: 0.05
momentum: null
nesterov: null
betas: [0.9, 0.95]
eps: 1.0e-8
fused: true
foreach: false
decay_norm_and_bias: false
layer_decay: 0.75
groups: [{modules: [fc], lr_scale: 10.0}]
args: {amsgrad: true}
""",
    ParameterGroup: """\
modules: [layer4, "blocks.*.attn"]
lr: null
lr_scale: 0.1
weight_decay: 0.0
may_be_empty: false
""",
    Schedule: """\
name: piecewise
args: {}
warmup_epochs: 2
warmup_updates: 0
warmup_start_lr: 0.001
warmup_interval: update
count_from: start
min_lr: 0.0
power: 1.0
period_epochs: null
num_cycles: 0.4375
step_epochs: 30
milestones: [30, 60, 80]
factors: [1.0, 0.1, 0.02, 0.001]
gamma: 0.1
max_lr: null
rise: null
fall: null
cycle_mode: triangular
interval: update
""",
    DistillationObjective: """\
loss: l2
weight: 0.5
schedule: {name: ramp_up, until_epoch: 5}
learners: [student]
at: {student: blocks5, teacher: layer3}
gate: through
sources: [teacher, ema]
reduce: mean
source_at: null
ensemble: null
""",
    OwnLoss: """\
loss: my_losses:huber
weight: 0.5
schedule: null
learners: [student]
at: blocks5
gate: through
sources: [teacher]
reduce: mean
source_at: layer3
ensemble: null
args: {beta: 0.1}
""",
    WeightSchedule: """\
name: linear
from_epoch: 2
until_epoch: 10
start: 1.0
end: 0.1
""",
    Ensemble: """\
weighting: linear
members: [a, b, c]
own: true
""",
    Train: """\
epochs: 100
precision: bf16
threads: 4
tune: false
tune_seconds: 300.0
accumulate: 2
update: simultaneous
backward: per_peer
clip_grad_norm: 5.0
clip_parameter_norm: null
ema: 0.999
ema_warmup: true
evaluate_ema: true
pause: {peer: teacher, versus: student}
sync_batchnorm: false
compile: false
compile_mode: default
channels_last: true
deterministic: false
cudnn_benchmark: true
tf32: true
log_every: 50
pictures: true
eval_every: 1
best_metric: top1
patience: 10
min_improvement: 0.001
progress: true
timeout_seconds: 1800
""",
    Pause: """\
peer: teacher
versus: student
temperature: 1.0
""",
    ExchangeSpec: """\
kind: stale
folder: s3://bucket/weights
trains: [a]
every: 100
reads: [b]
dtype: exact
""",
    CheckpointSpec: """\
every_epochs: 1
every_steps: 500
keep: 2
keep_best: 3
""",
}
