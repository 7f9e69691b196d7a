"""The tutorials' recipes against plain PyTorch scripts of them: the same weights after every step.

The scripts hold the tutorials' own numbers. Of ours they take what is drawn: initial weights, the order of an epoch, and the random numbers
of an image's augmentation. The nets compute in float64, as Adam's first steps and BatchNorm over few images make much of rounding: in
float32 a script differs from itself with its loss written otherwise by up to 2e-4 after six steps.
"""

import copy
import struct

import pytest
import torch
import torch.nn.functional as F
import torchvision.models
from PIL import Image
from safetensors.torch import save_file
from support import ROOT, WORLD, assert_equal_weights
from torch import nn
from torchvision.transforms import v2

import mutual
from mutual.data.loading.plan import epoch_order
from mutual.engine.runtime import Environment
from mutual.engine.training import build_training
from mutual.recipe import derive_seed

TOLERANCE = 1e-6


class Run:
    """A recipe's training, update by update; `epochs` shortens it."""

    def __init__(self, path, *overrides):
        self.recipe = mutual.load_recipe(ROOT / "recipes" / path, overrides)
        self.training = build_training(self.recipe, Environment(None, WORLD, "no"))
        for peer in self.training.group.peers.values():
            peer.model.double().register_forward_pre_hook(lambda _, inputs: (inputs[0].double(),))

    def model(self, peer):
        return self.training.group.peers[peer].model

    def initialize(self, peer, plain):
        """Gives `plain` the weights that a peer begins with; its layers stand in the same order."""
        plain = plain.double()
        state = self.model(peer).state_dict()
        assert [value.shape for value in state.values()] == [value.shape for value in plain.state_dict().values()]
        plain.load_state_dict(dict(zip(plain.state_dict(), state.values(), strict=True)))
        return plain

    def updates(self, epochs=None):
        training, update = self.training, 0
        training.group.train()
        for epoch in range(self.recipe.train.epochs if epochs is None else epochs):
            for window in training.windows(epoch):
                training.train_step(window, update, measure=False)
                update += 1
                yield
        training.data.close()


def assert_equal_updates(run, peer, plain, script, *, epochs=None):
    """Runs both, as many updates as one another, and compares the peer's weights with the script's net after each."""
    for _ in zip(run.updates(epochs), script, strict=True):
        state = dict(zip(plain.state_dict(), run.model(peer).state_dict().values(), strict=True))
        assert_equal_weights(state, plain.state_dict(), tolerance=TOLERANCE)


def batches(num_images, size, epoch):
    return torch.tensor(epoch_order(num_images, seed=0, epoch=epoch)).split(size)


@pytest.fixture
def mnist(tmp_path, request):
    """Images with strokes, more than a batch unless a test says how many, their labels, and the folder of the files that hold them."""
    number = getattr(request, "param", 72)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (number, 28, 28), generator=generator, dtype=torch.uint8)
    images *= torch.rand((number, 28, 28), generator=generator) < 0.2  # most of a digit is black
    labels = torch.randint(0, 10, (number,), generator=generator)
    labels[0] = 9
    for part in ("train", "t10k"):
        for name, array in ((f"{part}-images-idx3-ubyte", images), (f"{part}-labels-idx1-ubyte", labels.to(torch.uint8))):
            header = struct.pack(">HBB", 0, 8, array.dim()) + struct.pack(f">{array.dim()}i", *array.shape)
            (tmp_path / name).write_bytes(header + array.numpy().tobytes())
    return images[:, None], labels, f"data.root={tmp_path}"


# ResNet18 to ResNet50


def train_resnet_teacher(model, images, labels, *, epochs=5):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    for epoch in range(epochs):
        for batch in batches(len(labels), 64, epoch):
            loss = F.cross_entropy(model(as_colour(images[batch])), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            yield


def train_resnet_student(student, teacher, images, labels, *, epochs=5):
    optimizer = torch.optim.SGD(student.parameters(), lr=0.01, momentum=0.9)
    divergence = nn.KLDivLoss(reduction="mean")
    for epoch in range(epochs):
        for batch in batches(len(labels), 64, epoch):
            inputs = as_colour(images[batch])
            with torch.no_grad():
                soft = F.softmax(teacher(inputs) / 2, dim=1)
            logits = student(inputs)
            distillation = divergence(F.log_softmax(logits / 2, dim=1), soft) * 2 * 2
            loss = F.cross_entropy(logits, labels[batch]) + 0.5 * distillation
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            yield


def as_colour(images):
    return ((images.repeat(1, 3, 1, 1) / 255 - 0.5) / 0.5).double()


@pytest.mark.slow
@pytest.mark.parametrize("mnist", [24], indirect=True, ids=["a batch"])
def test_the_resnet_tutorials_teacher(mnist):
    images, labels, root = mnist
    run = Run("mnist/teacher_resnet18.yaml", root)
    assert (run.recipe.train.epochs, run.recipe.data.batch_size) == (5, 64)
    plain = run.initialize("teacher", torchvision.models.resnet18(num_classes=10)).train()
    assert_equal_updates(run, "teacher", plain, train_resnet_teacher(plain, images, labels, epochs=2), epochs=2)


@pytest.mark.slow
@pytest.mark.parametrize("mnist", [24], indirect=True, ids=["a batch"])
@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides the total loss")
def test_the_resnet_tutorials_student(mnist):
    images, labels, root = mnist
    run = Run("mnist/kd_resnet18_resnet50.yaml", root, "peers.teacher.weights=null")
    assert (run.recipe.train.epochs, run.recipe.data.batch_size) == (5, 64)
    teacher = run.initialize("teacher", torchvision.models.resnet18(num_classes=10)).eval()
    plain = run.initialize("student", torchvision.models.resnet50(num_classes=10)).train()
    assert_equal_updates(run, "student", plain, train_resnet_student(plain, teacher, images, labels, epochs=2), epochs=2)


# A CNN to a perceptron


def plain_cnn():
    """As the tutorial builds it, one layer after another."""
    convolutions = [nn.Conv2d(1, 32, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(64, 64, 3)]
    return nn.Sequential(*convolutions, nn.ReLU(), nn.Flatten(), nn.Linear(576, 64), nn.ReLU(), nn.Linear(64, 10))


def as_pixels(images):
    """The pixels' values 0 .. 255, but for the last digit of float32: the way by 0 .. 1, which all images take, rounds them."""
    pixels = images / 255 / (1 / 255)
    torch.testing.assert_close(pixels, images.float(), rtol=1e-7, atol=0)
    return pixels.double()


def plain_perceptron():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 512), nn.Sigmoid(), nn.Linear(512, 10))


def train_on_labels(model, images, labels, *, epochs):
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for epoch in range(epochs):
        for batch in batches(len(labels), 64, epoch):
            loss = F.cross_entropy(model(as_pixels(images[batch])), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            yield


def train_on_probabilities(student, teacher, images, *, epochs):
    optimizer = torch.optim.Adam(student.parameters(), lr=1e-3)
    for epoch in range(epochs):
        for batch in batches(len(images), 64, epoch):
            inputs = as_pixels(images[batch])
            with torch.no_grad():
                probabilities = teacher(inputs).softmax(dim=1)
            loss = -(probabilities * student(inputs).log_softmax(dim=1)).sum(dim=1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            yield


def test_the_perceptron_tutorial_from_its_teacher_to_its_distilled_student(mnist, tmp_path):
    """Three trainings, each of which begins with what the one before gave."""
    images, labels, root = mnist
    run = Run("mnist/teacher_tensorflow_cnn.yaml", root)
    teacher = run.initialize("teacher", plain_cnn())
    assert_equal_updates(run, "teacher", teacher, train_on_labels(teacher, images, labels, epochs=2))
    save_file(run.model("teacher").state_dict(), tmp_path / "teacher.safetensors")

    run = Run("mnist/student_mlp.yaml", root)
    student = run.initialize("student", plain_perceptron())
    assert_equal_updates(run, "student", student, train_on_labels(student, images, labels, epochs=10))
    save_file(run.model("student").state_dict(), tmp_path / "student.safetensors")

    weights = [f"peers.{peer}.weights={tmp_path}/{peer}.safetensors" for peer in ("teacher", "student")]
    run = Run("mnist/soft_label_mlp.yaml", root, *weights)
    for peer, net in (("teacher", teacher), ("student", student)):
        before = copy.deepcopy(net.state_dict())
        run.initialize(peer, net)
        assert_equal_weights(net.state_dict(), before, tolerance=TOLERANCE)  # of files, which are read in float32
    assert_equal_updates(run, "student", student, train_on_probabilities(student, teacher, images, epochs=5))


@pytest.mark.parametrize(
    ("student", "stages"),
    [
        ("mnist/kd_resnet18_resnet50.yaml", {"teacher": "mnist/teacher_resnet18.yaml"}),
        ("mnist/soft_label_mlp.yaml", {"teacher": "mnist/teacher_tensorflow_cnn.yaml", "student": "mnist/student_mlp.yaml"}),
    ],
)
def test_a_tutorials_last_stage_begins_where_the_others_end(student, stages):
    """With the weights of their last epoch, and with nets of the same kind."""
    recipe = mutual.load_recipe(ROOT / "recipes" / student)
    for name, path in stages.items():
        stage, peer = mutual.load_recipe(ROOT / "recipes" / path), recipe.peers[name]
        assert peer.weights == f"{stage.output}/{stage.name}/last/{name}.safetensors"
        assert (peer.model, peer.args) == (stage.peers[name].model, stage.peers[name].args)


# CoAtNet-2 to ResNet18


@pytest.fixture
def folder(tmp_path):
    """Two images of each of 12 classes, of many sizes, and the folder that holds them."""
    generator = torch.Generator().manual_seed(0)
    images = []
    for index in range(24):
        coarse = torch.rand((1, 3, 6, 6), generator=generator)
        size = (40 + index, 60 - index)
        images.append((F.interpolate(coarse, size=size, mode="bilinear").clamp(0, 1)[0] * 255).to(torch.uint8))
        for part in ("train", "val"):
            place = tmp_path / part / f"class{index // 2:02}"
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(images[-1].permute(1, 2, 0).numpy()).save(place / f"{index % 2}.png")
    return images, torch.arange(24) // 2, f"data.root={tmp_path}"


def augmented(images, indices, epoch, *, size):
    """The tutorial's transforms, each image with the random numbers that a recipe's has."""
    transform = v2.Compose(
        [
            v2.RandomRotation(10),
            v2.RandomApply([v2.GaussianBlur(kernel_size=(5, 5), sigma=(0.1, 3.0))], p=1.0),
            v2.ColorJitter(brightness=0.5, contrast=0.5, saturation=0.5),
            v2.Resize((size, size)),
        ]
    )
    results = []
    with torch.random.fork_rng(devices=[]):
        for index in indices:
            torch.manual_seed(derive_seed(0, "augment", epoch, int(index), 0))
            results.append(transform(images[index]))
    mean, std = (torch.tensor(values)[:, None, None] for values in ((0.441, 0.471, 0.437), (0.185, 0.181, 0.168)))
    return ((torch.stack(results) / 255 - mean) / std).double()


def distillation_loss(student, labels, teacher, temp, alpha):
    divergence = nn.KLDivLoss()(F.log_softmax(student / temp, dim=1), F.softmax(teacher / temp, dim=1))
    return divergence * (temp * temp * 2.0 * alpha) + F.cross_entropy(student, labels) * (1.0 - alpha)


def train_resnet_on_coatnet(student, teacher, images, labels, *, size, epochs):
    optimizer = torch.optim.Adam(student.parameters(), lr=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20)
    for epoch in range(epochs):
        for batch in batches(len(images), 16, epoch):
            inputs = augmented(images, batch, epoch, size=size)
            with torch.no_grad():
                soft = teacher(inputs)
            loss = distillation_loss(student(inputs), labels[batch], soft, temp=7, alpha=0.7)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            yield
        schedule.step()


@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides the total loss")
def test_the_coatnet_tutorials_student(folder):
    """At 32 pixels and with a small teacher, as a step of the tutorial's nets takes half a minute."""
    images, labels, root = folder
    recipe = mutual.load_recipe(ROOT / "recipes/image_folder/kd_coatnet_resnet18.yaml")
    assert (recipe.peers["teacher"].model, recipe.train.epochs, recipe.data.image_size) == ("timm/coatnet_2_rw_224", 50, 224)
    small = ["data.image_size=32", "data.workers=0", "peers.teacher={model: small_cnn, frozen: true}"]
    run = Run("image_folder/kd_coatnet_resnet18.yaml", root, *small)
    teacher = run.training.group.peers["teacher"].model.eval()
    plain = run.initialize("student", torchvision.models.resnet18(num_classes=12)).train()
    script = train_resnet_on_coatnet(plain, teacher, images, labels, size=32, epochs=2)
    assert_equal_updates(run, "student", plain, script, epochs=2)


def test_the_coatnet_tutorials_teacher_has_its_students_images_and_optimizer():
    teacher, student = (
        mutual.load_recipe(ROOT / f"recipes/image_folder/{name}.yaml") for name in ("teacher_coatnet", "kd_coatnet_resnet18")
    )
    assert teacher.peers["teacher"].model == student.peers["teacher"].model
    assert student.peers["teacher"].weights == f"{teacher.output}/{teacher.name}/best/teacher.safetensors"
    for section in ("data", "optimizer", "schedule", "train"):
        assert getattr(teacher, section) == getattr(student, section)


def test_the_coatnet_tutorials_learning_rate(folder):
    """It falls for 20 epochs, rises for 20 and falls for 10, with one step an epoch."""
    *_, root = folder
    for path, peer in (("image_folder/teacher_coatnet.yaml", "teacher"), ("image_folder/kd_coatnet_resnet18.yaml", "student")):
        small = [root, "peers.teacher={model: small_cnn, frozen: true}"] if peer == "student" else [root, "peers.teacher.weights=null"]
        small += ["data.image_size=32", "data.workers=0", f"peers.{peer}.model=small_cnn"]
        run = Run(path, *small)
        ours = run.training.optimizers[peer]
        plain = torch.optim.Adam([nn.Parameter(torch.zeros(1))], lr=1e-4)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(plain, T_max=20)
        update = 0
        for _ in range(50):
            for _ in range(2):
                ours.step(update)
                assert ours.learning_rate == pytest.approx(plain.param_groups[0]["lr"], abs=1e-12)
                update += 1
            plain.step()
            schedule.step()
        assert update == run.recipe.train.epochs * run.training.updates_per_epoch
