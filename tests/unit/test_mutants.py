"""A few mutants of each sort, on a few networks; all of them: python tests/mutants.py."""

from itertools import islice

import pytest
from small_networks import NETWORKS

from mutants import (
    Judges,
    family_mutants,
    formula_mutants,
    instrument_mutants,
    mend_mutants,
    rule_mutants,
    specification_mutants,
)

NAMES = ("batch norm", "checkpoint", "groups", "linear", "matmul", "max pool", "same twice")
WORKED = ("conv2d", "linear", "batch_norm", "relu", "max_pool2d", "softmax", "mul")
WORDS = {
    "formula": ("n.conv_macs", "s.linear_macs", "n.norm_flops", "g.max_pool_flops"),
    "family": ("conv2d: macs", "relu: forward +", "batch_norm: fvcore", "conv2d: no product"),
    "rule": ("r aten::convolution gone", "r aten::bmm gone", "r aten::mul +"),
    "specification": ("aten::convolution:", "aten::native_batch_norm:", "aten::mul.Tensor:"),
    "mend": ("nothing is overwritten", "no gradient is exclusive"),
    "instrument": ("",),
}
SORTS = {
    "formula": lambda judges: formula_mutants(),
    "family": lambda judges: family_mutants(),
    "rule": lambda judges: rule_mutants(),
    "specification": lambda judges: specification_mutants(judges.saving),
    "mend": lambda judges: mend_mutants(),
    "instrument": lambda judges: instrument_mutants(),
}


@pytest.fixture(scope="module")
def judges():
    return Judges({name: NETWORKS[name] for name in NAMES}, WORKED, (), variants=False)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("sort", SORTS)
def test_mutants_are_noticed(judges, sort):
    found = (m for m in SORTS[sort](judges) if any(word in m.name for word in WORDS[sort]))
    mutants = list(islice(found, 12))
    assert len(mutants) > 1
    assert [mutant.name for mutant in mutants if not judges.notice(mutant)] == []


def test_nothing_is_noticed_without_a_mutant(judges):
    assert [evidence.name for evidence in judges.net if not evidence.is_accounted_for()] == []
