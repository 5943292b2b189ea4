import pytest
import torch

from plugip.building import build
from plugip.operators.blur import Blur
from plugip.operators.correlation import BOUNDARIES
from plugip.operators.kernels import DefocusKernel, GaussianKernel, UniformKernel
from plugip.operators.varying_blur import ConvolutionProduct, ProductConvolution, tiles
from plugip.testing import check_operator

FORMS = [ProductConvolution, ConvolutionProduct]
KERNELS = [DefocusKernel(2), GaussianKernel((0.5, 1), 5), UniformKernel(5), DefocusKernel(1, 5)]
SAME_SIZE = [b for b in BOUNDARIES if b != "valid"]


def asymmetric(size=7):
    k = torch.arange(size**2, dtype=torch.float64).square() + 1
    return (k / k.sum()).reshape(size, size)


@pytest.mark.parametrize("form", FORMS)
def test_golden(tools, form):
    name = "product" if form is ProductConvolution else "convolution"
    other = "convolution" if form is ProductConvolution else "product"
    case = tools.golden("nonlinear_and_varying")["cases"][f"{name}_{other}_16"]
    kernels = torch.stack([DefocusKernel(3, 7).build(), asymmetric()])
    column = torch.arange(16, dtype=torch.float64) / 15
    weights = torch.stack([1 - column, column])[:, None].expand(2, 16, 16)
    x = tools.hash_image(1, 1, 16, 16)
    tools.case(form(kernels, weights, boundary="circular", flip=True)(x), case)
    tools.case(form(kernels, grid=(1, 2), boundary="circular", flip=True)(x), case)
    tools.case(form(kernels, weights, boundary="circular", flip=True)(x.float()), case, 1e-5)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("boundary", SAME_SIZE)
@pytest.mark.parametrize("shape", [(2, 3, 9, 9), (2, 1, 8, 11)])
def test_is_a_linear_operator(tools, form, boundary, shape):
    A = form(torch.stack([asymmetric(4)] * 2), grid=(2, 1), boundary=boundary, origin=(1, 2))
    check_operator(A, shape).require()
    tools.adjoint(A, shape)
    tools.adjoint(A, shape, 1e-5, torch.float32)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("boundary", SAME_SIZE)
def test_one_kernel_is_the_plain_blur(tools, form, flip, boundary):
    A = form(asymmetric()[None], grid=1, boundary=boundary, flip=flip)
    x = tools.hash_image(2, 3, 9, 10)
    tools.close(A(x), Blur(asymmetric(), boundary, flip)(x), 1e-12)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("boundary", SAME_SIZE)
def test_sums_and_ffts_agree(tools, form, boundary):
    x, kernels = tools.normal(2, 3, 40, 41), tools.normal(3, 3, 3)
    small = form(kernels, grid=(3, 1), boundary=boundary)
    large = form(torch.nn.functional.pad(kernels, (1, 3, 2, 2)), grid=(3, 1), boundary=boundary,
                 origin=(3, 2))  # fmt: skip
    told = [a._is_small(a._parts(x)[0], x) for a in (small, large)]
    assert told == [True, False]
    tools.close(small(x), large(x), 1e-12)
    tools.adjoint(small, tuple(x.shape))
    tools.close(small.adjoint(x), large.adjoint(x), 1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_large_images_take_the_kernels_one_by_one(tools, form):
    kernels, x = tools.normal(3, 3, 3), tools.normal(1, 1, 600, 500)
    A = form(kernels, grid=(3, 1))
    parts = [form(kernels[i : i + 1], A._maps(x)[i]) for i in range(3)]
    tools.close(A(x), torch.stack([part(x) for part in parts]).sum(0), 1e-12)
    tools.adjoint(A, tuple(x.shape))


def test_weights_may_change(tools):
    w, x = tools.normal(2, 8, 9).requires_grad_(), tools.normal(1, 1, 8, 9)
    A = ConvolutionProduct(torch.stack([asymmetric(3)] * 2), w)
    assert torch.autograd.grad(A(x).sum(), w)[0].abs().min() > 0
    A.weights = maps = w.detach().clone()
    before = A(x)
    maps.mul_(2)
    tools.close(A(x), 2 * before, 1e-13)


def test_forms_are_transposes(tools):
    y = tools.normal(2, 3, 9, 10)
    kernels = torch.stack([asymmetric(5), asymmetric(5).mT])
    A = ProductConvolution(kernels, grid=(2, 1), boundary="circular")
    B = ConvolutionProduct(kernels, grid=(2, 1), boundary="circular", flip=True)
    tools.close(A.adjoint(y), B(y), 1e-13)
    tools.close(B.adjoint(y), A(y), 1e-13)


def test_each_place_has_its_kernel(tools):
    x = torch.zeros(1, 1, 31, 31, dtype=torch.float64)
    corners = [(0, 0), (0, 30), (30, 0), (30, 30)]
    for A in (form(KERNELS, grid=(2, 2), boundary="zero") for form in FORMS):
        for (row, column), kernel in zip(corners, KERNELS, strict=True):
            spot = x.clone()
            spot[..., row, column] = 1
            if isinstance(A, ProductConvolution):
                alone = Blur(kernel, "zero")(spot)
                tools.close(A(spot), alone, 1e-13)
            else:
                back = Blur(kernel, "zero").adjoint(spot)
                tools.close(A.adjoint(spot), back, 1e-13)


def test_constants_and_light_are_kept(tools):
    flat = torch.full((1, 3, 12, 13), 0.7, dtype=torch.float64)
    tools.close(ConvolutionProduct(KERNELS, grid=2)(flat), flat, 1e-13)
    x, A = tools.hash_image(1, 3, 12, 13), ProductConvolution(KERNELS, grid=2, boundary="circular")
    tools.close(A(x).sum(), x.sum(), 1e-10)


@pytest.mark.parametrize("grid", [(1, 1), (3, 2), (9, 5)])
def test_tiles_are_a_partition(tools, grid):
    w = tiles(grid, (9, 12))
    assert w.shape == (grid[0] * grid[1], 9, 12) and bool((w >= 0).all())
    tools.close(w.sum(0), torch.ones(9, 12, dtype=torch.float64), 1e-14)
    assert float(w[0, 0, 0]) == float(w[-1, -1, -1]) == 1


@pytest.mark.parametrize("form", FORMS)
def test_gradients_and_configs(tools, form):
    disks = [
        {"_target_": "plugip.operators.kernels.DefocusKernel", "radius": r, "size": 5}
        for r in (0.5, 2.0)
    ]
    node = {"_target_": f"plugip.operators.varying_blur.{form.__name__}", "kernels": disks}
    A, x = build(node | {"grid": [1, 2]}), tools.normal(1, 1, 6, 7)
    tools.close(A(x), form([DefocusKernel(0.5, 5), DefocusKernel(2, 5)], grid=(1, 2))(x), 0)
    assert torch.autograd.gradcheck(A, x.requires_grad_())


def test_errors():
    k = torch.stack([asymmetric(3)] * 2)
    with pytest.raises(ValueError, match=r"either weights.* or a grid"):
        ProductConvolution(k)
    with pytest.raises(ValueError, match=r"either weights.* or a grid"):
        ProductConvolution(k, torch.ones(2, 8, 8), grid=2)
    with pytest.raises(ValueError, match="a grid of 2 x 2 needs as many kernels, got 2"):
        ProductConvolution(k, grid=2)
    with pytest.raises(ValueError, match=r"weights must have shape \(2, H, W\).*got \(3, 8, 8\)"):
        ConvolutionProduct(k, torch.ones(3, 8, 8))
    with pytest.raises(ValueError, match=r"shape \(K, kh, kw\), got torch.float64 of shape"):
        ConvolutionProduct(k[0], grid=1)
    with pytest.raises(ValueError, match=r"of the same size, got sizes \[\(3, 3\), \(5, 5\)\]"):
        ConvolutionProduct([UniformKernel(3), UniformKernel(5)], grid=(1, 2))
    with pytest.raises(ValueError, match="unknown boundary 'valid'"):
        ConvolutionProduct(k, grid=(1, 2), boundary="valid")
    with pytest.raises(ValueError, match="has no middle pixel"):
        ConvolutionProduct(torch.ones(2, 4, 4), grid=(1, 2))
    with pytest.raises(ValueError, match=r"weights of \(8, 8\) pixels do not fit images"):
        ConvolutionProduct(k, torch.ones(2, 8, 8))(torch.zeros(1, 1, 8, 9))
    with pytest.raises(ValueError, match="reaches 1 pixels beyond the edge"):
        ConvolutionProduct(k, grid=(1, 2))(torch.zeros(1, 1, 1, 9))


def test_measurements_without_a_batch_axis_are_refused():
    for kind in (ProductConvolution, ConvolutionProduct):
        with pytest.raises(ValueError, match=r"add the batch axis with x\[None\]"):
            kind(KERNELS, grid=2).adjoint(torch.zeros(3, 16, 16, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"add the batch axis with x\[None\]"):
        Blur(torch.ones(3, 3) / 9).adjoint(torch.zeros(3, 16, 16))
