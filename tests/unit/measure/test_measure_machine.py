import platform

import pytest
import torch

from layerscope.base.errors import UserError
from layerscope.measure import machine_ceilings


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rates_of_this_machine(dtype):
    generator = torch.get_rng_state()
    ceilings = machine_ceilings("cpu", dtype)
    assert ceilings.name
    assert ceilings.device == "cpu"
    assert ceilings.num_threads == torch.get_num_threads()
    assert ceilings.dtype == str(dtype).removeprefix("torch.")
    assert ceilings.torch_version == torch.__version__
    assert ceilings.matrix_rows in (256, 1024)
    assert ceilings.matmul_precision == ceilings.convolution_precision == ceilings.dtype
    assert ceilings.convolution_flops_per_second == ceilings.matmul_flops_per_second
    for rate in (ceilings.copy_bytes_per_second, ceilings.matmul_flops_per_second):
        assert 1e8 < rate.minimum <= rate.median <= rate.maximum < 1e14
    assert torch.equal(generator, torch.get_rng_state())


def test_the_name_is_the_processors():
    if platform.system() != "Linux":
        pytest.skip("reads /proc/cpuinfo")
    with open("/proc/cpuinfo") as file:
        assert machine_ceilings("cpu", torch.float32).name in file.read()


@pytest.mark.parametrize(
    ("device", "dtype", "message"),
    [
        ("meta", torch.float32, "no ceilings are known for the device meta"),
        ("cuda:99", torch.float32, r"^cuda:99 cannot be measured with torch.float32: [^\n]+$"),
        ("cpu", torch.bool, r"^cpu cannot be measured with torch.bool: [^\n]*$"),
    ],
)
def test_what_cannot_be_measured_is_refused(device, dtype, message):
    with pytest.raises(UserError, match=message):
        machine_ceilings(device, dtype)


@pytest.mark.gpu
def test_on_a_gpu():
    ceilings = machine_ceilings("cuda", torch.bfloat16)
    assert ceilings.name == torch.cuda.get_device_name()
    assert ceilings.copy_bytes_per_second.median > 1e11
    assert ceilings.matmul_flops_per_second.median > 1e13
