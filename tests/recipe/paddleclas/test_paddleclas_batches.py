"""PaddleClas' batches: what draws them, and how their images are mixed."""

import pytest
from data_configs import changed, config_of, converted, paths_of, with_transforms

SIZED = {"size": 192}


@pytest.mark.parametrize(
    ("operators", "expected", "num_left_out"),
    [
        ([{"MixupOperator": {"alpha": 0.2}}], {"mixup": 0.2}, 0),
        ([{"CutmixOperator": None}], {"cutmix": 1.0}, 0),
        ([{"OpSampler": {"CutmixOperator": {"alpha": 0.5, "prob": 1}, "class_num": 4}}], {"cutmix": 0.5, "cutmix_p": 1.0}, 0),
        (
            [{"OpSampler": {"MixupOperator": {"prob": 0.1}, "FmixOperator": {"alpha": 1, "prob": 0.5}}}],
            {"mixup": 1.0, "mixup_p": 0.1},
            1,
        ),
        ([{"FmixOperator": {"alpha": 1}}], {}, 1),
        ([{"MixupOperator": {"alpha": 0.2}}, {"CutmixOperator": {"alpha": 0.2}}], {"mixup": 0.2}, 1),
        (
            [{"MixupCutmixHybrid": {"mixup_alpha": 0.8, "cutmix_alpha": 1.0, "prob": 0.5, "switch_prob": 0.6}}],
            {"mixup": 0.8, "mixup_p": 0.2, "cutmix": 1.0, "cutmix_p": 0.3},
            0,
        ),
        ([{"MixupOperator": {"mixup_alpha": 0.4}}], {"mixup": 0.4, "mixup_p": 1.0}, 0),
    ],
)
def test_batches_are_mixed_by_one_operator_with_its_probability(operators, expected, num_left_out):
    data, notes = converted(with_transforms({"CropImage": SIZED}, batch_transform_ops=operators))
    assert {key: value for key, value in data.items() if key.startswith(("mixup", "cutmix"))} == expected
    assert len([line for line in notes.left_out if "batch_transform_ops" in line]) == num_left_out


@pytest.mark.parametrize(
    ("sampler", "expected"),
    [
        ({"name": "PKSampler", "sample_per_id": 4}, {"repeated": 4}),
        ({"name": "DistributedRandomIdentitySampler", "num_instances": 8, "drop_last": True}, {"repeated": 8}),
        ({"name": "ClassAwareSampler"}, "balanced"),
        ({"name": "DistributedBatchSampler", "shuffle": True}, None),
        ({"shuffle": True, "drop_last": False}, None),
    ],
)
def test_samplers(sampler, expected):
    config = config_of("data_heavy")
    config["DataLoader"]["Train"]["sampler"] = {**sampler, "batch_size": 16}
    data, notes = converted(config)
    assert (data["batch_size"], data.get("sampler")) == (16, expected)
    assert notes.left_out == []


def test_only_pk_sampling_by_frequency_is_another_one():
    def remarks(**sampler):
        return paths_of(converted(changed("Train.sampler", {"batch_size": 8, **sampler}))[1].remarks)

    by_class = "Train.sampler.sample_method"
    assert by_class in remarks(name="PKSampler", sample_per_id=2)
    assert by_class not in remarks(name="PKSampler", sample_per_id=2, sample_method="id_avg_prob")
    assert by_class not in remarks(name="ClassAwareSampler")
    assert "Train.sampler.drop_last" not in remarks(drop_last=False)
