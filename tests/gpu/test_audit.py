import pytest
import torch
from tests.gpu.device import needs_cuda

from symbreak.sweeps.audit.command import audit

pytestmark = needs_cuda
OPERATIONS = ("conv3x3_*", "linear_*", "batch_norm_*", "adaptive_pool_*", "sgd_*", "all_reduce_*")


@pytest.fixture(scope="module")
def findings(tmp_path_factory):
    path = tmp_path_factory.mktemp("audit") / "audit.json"
    return audit("cuda", path, OPERATIONS, shapes=("8x16x8x8", "8x17x8x8"), world_sizes=(2, 3)).findings


def test_everything_that_strict_mode_accepts_is_repeatable(findings):
    strict = [finding for finding in findings if finding.mode == "strict" and finding.status == "ok"]
    assert len(strict) > 100
    assert [finding for finding in strict if not finding.repeatable] == []


def test_strict_mode_refuses_the_backward_of_an_adaptive_pool(findings):
    pool = [f for f in findings if f.operation == "adaptive_pool_input_grad" and f.mode != "any"]
    assert {finding.status for finding in pool if finding.mode == "strict"} == {"refused"}
    assert {finding.status for finding in pool if finding.mode == "cudnn"} == {"ok"}


def test_every_precision_was_judged_in_every_mode(findings):
    judged = {(finding.precision, finding.mode) for finding in findings if finding.operation == "conv3x3_forward"}
    precisions = {"float64", "float32", "bfloat16", "float16"}
    modes = {"nondeterministic", "cudnn", "strict"}
    assert judged >= {(precision, mode) for precision in precisions for mode in modes}
    has_tf32 = torch.cuda.get_device_capability() >= (8, 0)
    assert (("tfloat32", "strict") in judged) is has_tf32


def test_a_reduction_without_enough_gpus_says_so(findings):
    for finding in findings:
        if finding.operation in ("all_reduce_default", "all_reduce_ordered"):
            enough = torch.cuda.device_count() >= finding.world_size
            assert (finding.status == "ok") is enough, finding
            assert enough or "GPU" in finding.reason
