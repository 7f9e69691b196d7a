import pytest
import torch
import torch.nn.functional as F

from mutual.engine.runtime import restore_switches
from mutual.objectives.products import average_to_size, einsum, interpolate_to_size, matmul

SIZES = [((7, 5), (3, 2)), ((8, 6), (4, 3)), ((5, 5), (7, 9)), ((1, 1), (3, 4)), ((6, 9), (1, 1)), ((13, 4), (5, 4))]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize(("before", "after"), SIZES)
def test_averaging_equals_adaptive_pooling_in_values_and_gradients(before, after, dtype, tolerance):
    maps = torch.randn(2, 3, *before, dtype=dtype, requires_grad=True)
    weight = torch.randn(2, 3, *after, dtype=dtype)
    results = [average_to_size(maps, after), F.adaptive_avg_pool2d(maps, after)]
    gradients = [torch.autograd.grad((result * weight).sum(), maps)[0] for result in results]
    torch.testing.assert_close(*results, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(*gradients, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize(("before", "after"), SIZES)
def test_interpolation_equals_torch_in_values_and_gradients(before, after, dtype, tolerance):
    maps = torch.randn(2, 3, *before, dtype=dtype, requires_grad=True)
    weight = torch.randn(2, 3, *after, dtype=dtype)
    results = [interpolate_to_size(maps, after), F.interpolate(maps, after, mode="bilinear", align_corners=False)]
    gradients = [torch.autograd.grad((result * weight).sum(), maps)[0] for result in results]
    torch.testing.assert_close(*results, rtol=tolerance, atol=4 * tolerance)
    torch.testing.assert_close(*gradients, rtol=tolerance, atol=4 * tolerance)


def test_averaging_takes_maps_without_channels():
    energy = torch.randn(4, 7, 5)
    torch.testing.assert_close(average_to_size(energy, (3, 2)), F.adaptive_avg_pool2d(energy, (3, 2)))


def test_product_on_a_cpu_keeps_dtype_and_bits():
    a, b = torch.randn(3, 4), torch.randn(4, 2)
    assert torch.equal(matmul(a, b), a @ b)
    assert torch.equal(einsum("ij,jk->ik", a, b), torch.einsum("ij,jk->ik", a, b))
    assert matmul(a.double(), b.double()).dtype == torch.float64


@pytest.mark.parametrize("names", ["older", "newer"])
@pytest.mark.parametrize("tf32", [False, True])
def test_products_are_made_in_float64_where_a_gpu_would_take_tf32(tf32, names):
    """Told by a tensor that says that it is a GPU's; under whichever of torch's names TF32 was allowed."""

    class OnGpu(torch.Tensor):
        is_cuda = True

    switch = torch.backends.cuda.matmul
    if names == "newer" and not hasattr(switch, "fp32_precision"):
        pytest.skip("torch has one name of the switch")
    with restore_switches():
        if names == "newer":
            switch.fp32_precision = "tf32" if tf32 else "ieee"
        else:
            switch.allow_tf32 = tf32
        a, b = (torch.randn(32, 32, generator=torch.Generator().manual_seed(seed)).as_subclass(OnGpu) for seed in range(2))
        exact = (a.double() @ b.double()).float()
        for result in (matmul(a, b), einsum("ij,jk->ik", a, b)):
            assert result.dtype == torch.float32
            assert torch.equal(result, exact) == tf32
