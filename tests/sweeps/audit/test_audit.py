import json
import os
import re
import subprocess
import sys

import pytest
import torch
import torch.distributed as dist

from symbreak.callbacks import determinism_state
from symbreak.sweeps.audit.cases import Case, Finding, judge
from symbreak.sweeps.audit.command import audit
from symbreak.sweeps.audit.comparison import bits, compare, repeat, ulps
from symbreak.sweeps.audit.evaluation import evaluate, group_cases
from symbreak.sweeps.audit.operations import OPERATIONS, Inputs
from symbreak.sweeps.audit.processes import run_ranks
from symbreak.sweeps.audit.records import read
from symbreak.sweeps.audit.reduction import REDUCTIONS, cases, reduce_and_judge, ring_all_reduce
from symbreak.sweeps.audit.rendering import summarise, write_html
from symbreak.sweeps.errors import UsageError

FORMATS = ("contiguous", "channels_last")


def findings(operation, precision, shapes):
    (group,) = group_cases([operation], [precision], FORMATS, shapes)
    return evaluate("cpu", "strict", 2, group)


@pytest.fixture(scope="module")
def avx2_cases(tmp_path_factory):
    """Audit float64 convolutions with MKL's kernels for AVX2, which every CPU with a larger set of instructions has."""
    output = tmp_path_factory.mktemp("audit") / "audit.json"
    options = ["--operations=[conv3x3_forward, conv3x3_input_grad, conv3x3_filter_grad]", "--precisions=[float64]"]
    options += ["--shapes=[4x17x8x8, 4x67x8x8, 4x37x7x7]", "--modes=[strict]", f"--output={output}"]
    environment = os.environ | {"MKL_ENABLE_INSTRUCTIONS": "AVX2"}
    subprocess.run([sys.executable, "-m", "symbreak.sweeps.cli", "audit", *options], env=environment, check=True)
    return read(output)


@pytest.mark.parametrize("operation", ["conv3x3_forward", "conv3x3_input_grad", "conv3x3_filter_grad"])
def test_float64_convolutions_break_symmetry_and_repeat_exactly(avx2_cases, operation):
    """Channel counts that fill no vector: some filters go through another kernel, every time the same ones."""
    provenance, frame = avx2_cases
    assert provenance["environment"]["cpu_dispatch"] == "MKL_ENABLE_INSTRUCTIONS=AVX2"
    found = frame[frame["operation"] == operation]
    assert len(found) == 6
    assert found["repeatable"].eq(True).all()
    assert found["symmetric"].eq(False).any()
    assert (found["distinct"] < found["channels"]).all()
    assert (found["asymmetry_ulps"].ne(0) == found["symmetric"].eq(False)).all()
    assert (found["asymmetry_ulps"] < 100).all()


@pytest.mark.parametrize("operation", ["relu_forward", "max_pool_forward", "dropout_off_input_grad", "adamw_forloop"])
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_elementwise_operations_keep_identical_channels_identical(operation, precision):
    found = findings(operation, precision, ["4x16x6x6", "4x17x6x6"])
    assert len(found) == 2 * (2 if OPERATIONS[operation].images else 1)
    assert all((f.status, f.repeatable, f.symmetric, f.distinct) == ("ok", True, True, 1) for f in found)


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_is_symmetric_up_to_rounding(name):
    """The inputs are what `symmetry` says: with them no two channels differ by more than a few roundings."""
    for finding in findings(name, "float32", ["4x6x4x4"]):
        assert finding.status == "ok", finding.reason
        assert finding.channels == (5 if name == "cross_entropy_grad" else 6)
        assert (finding.asymmetry_ulps or 0) < 16


@pytest.mark.parametrize("name", OPERATIONS)
def test_no_operation_is_symmetric_by_being_trivial(name):
    """Other inputs give other results, and none is constant."""
    one, other = (OPERATIONS[name].build(Inputs((4, 6, 4, 4), seed=seed))() for seed in (0, 1))
    assert not torch.equal(one, other)
    assert one.std() > 0


def test_repetitions_reuse_the_inputs_and_then_build_them_anew():
    built, runs = [], []

    def build():
        built.append(len(built))
        return lambda: runs.append(built[-1]) or torch.ones(2, 3)

    assert len(repeat(build, 4)) == 5
    assert runs == [0, 0, 0, 1, 2]


def test_bits_are_compared_not_values():
    zero, nan = torch.tensor([0.0, -0.0]), torch.tensor([float("nan")])
    assert bits(zero)[0] != bits(zero)[1]
    assert torch.equal(bits(nan), bits(nan.clone()))
    comparison = compare([zero.view(2, 1), zero.view(2, 1)])
    assert (comparison.repeatable, comparison.symmetric, comparison.distinct) == (True, False, 2)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_ulps_count_roundings_of_the_largest_entry(dtype):
    eps = torch.finfo(dtype).eps
    a, b = torch.tensor([1.0, 1e-3], dtype=dtype), torch.tensor([1 + 2 * eps, 1e-3], dtype=dtype)
    assert ulps(a, b) == 2
    assert ulps(4 * a, 4 * b) == 2
    assert ulps(a, a) == 0
    assert ulps(torch.zeros_like(a), torch.zeros_like(a)) == 0


def test_a_result_that_varies_is_not_repeatable():
    outputs = [torch.ones(3, 2), torch.ones(3, 2), torch.ones(3, 2)]
    outputs[2][1, 0] += 1e-6
    comparison = compare(outputs)
    assert (comparison.repeatable, comparison.symmetric, comparison.distinct) == (False, False, 2)
    assert comparison.repeat_ulps == comparison.asymmetry_ulps == 8


@pytest.mark.parametrize(
    ("message", "status"),
    [
        ("\"conv2d\" not implemented for 'Half'\nmore", "unsupported"),
        ("adaptive_avg_pool2d_backward_cuda does not have a deterministic implementation", "refused"),
    ],
)
def test_an_operation_that_fails_is_reported_with_its_reason(message, status):
    def produce():
        raise RuntimeError(message)

    finding = judge(Case("x", "float16"), produce)
    assert (finding.status, finding.repeatable, finding.distinct) == (status, None, None)
    assert finding.reason == message.splitlines()[0]


def all_reduced(lengths, dtype):
    own = torch.Generator().manual_seed(dist.get_rank())
    sums = [torch.randn(length, generator=own, dtype=dtype) for length in lengths]
    for tensor in sums:
        dist.all_reduce(tensor)
    return sums


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_the_simulated_ring_is_gloos_bit_for_bit(world_size):
    lengths = [5, 576, 40_401, 900_001]
    ranks = run_ranks(all_reduced, world_size, lengths, torch.float32)
    generators = [torch.Generator().manual_seed(rank) for rank in range(world_size)]
    for index, length in enumerate(lengths):
        addends = torch.stack([torch.randn(length, generator=generator) for generator in generators])
        assert all(torch.equal(ring_all_reduce(addends), rank[index]) for rank in ranks)


def test_a_ring_keeps_64_channels_identical_over_two_ranks_alone():
    real_and_simulated = reduce_and_judge(cases(list(REDUCTIONS), ["64x576"], ["float32", "float64"], (2, 3, 4, 8)))
    assert len(real_and_simulated) == 3 * 2 * 4
    for finding in real_and_simulated:
        assert (finding.status, finding.repeatable, finding.channels) == ("ok", True, 64)
        symmetric = finding.world_size == 2 or finding.operation == "all_reduce_ordered"
        assert finding.symmetric is symmetric
        if not symmetric:
            assert finding.distinct in range(finding.world_size, 2 * finding.world_size)


def test_the_report_holds_every_case_and_where_it_was_found(tmp_path, capsys):
    before = determinism_state()
    path = tmp_path / "new" / "audit.json"
    result = audit(
        output=path,
        operations=("conv3x3_forward", "relu_*", "all_reduce_simulated"),
        precisions=("float64", "tfloat32"),
        modes=("cudnn", "strict"),
        shapes=("2x5x4x4",),
        world_sizes=(2, 3),
        repeats=2,
    )
    assert determinism_state() == before
    content = json.loads(path.read_text())
    assert content["columns"] == list(Finding.__dataclass_fields__)
    assert [Finding(*row) for row in content["rows"]] == result.findings
    counts = {}
    for finding in result.findings:
        counts[finding.operation, finding.precision] = counts.get((finding.operation, finding.precision), 0) + 1
    assert counts == {
        **{(name, "float64"): 4 for name in ("conv3x3_forward", "relu_forward", "relu_input_grad")},
        **{(name, "tfloat32"): 1 for name in ("conv3x3_forward", "relu_forward", "relu_input_grad")},
        ("all_reduce_simulated", "float64"): 2,
    }
    assert all("TF32" in str(f.reason) for f in result.findings if f.precision == "tfloat32")
    provenance = content["provenance"]
    assert {"git", "environment", "switches", "audited", "date"} <= provenance.keys()
    assert provenance["environment"]["torch"] == torch.__version__
    assert provenance["switches"]["strict"]["deterministic_algorithms"] is True
    page = path.with_suffix(".html").read_text()
    assert page.count("<tr>") > len(result.findings)
    assert re.findall(r'(?:src|href)="(.*?)"', page) == ["data:,"]
    assert OPERATIONS["conv3x3_forward"].symmetry in page
    assert "conv3x3_forward" in capsys.readouterr().out


def test_the_page_escapes_what_it_shows(tmp_path):
    hostile = Finding("relu_forward", "float32", status="unsupported", reason="<script>")
    write_html(tmp_path / "x.html", {"environment": {"device": "<i>"}}, [hostile])
    page = (tmp_path / "x.html").read_text()
    assert "<script>" not in page
    assert "<i>" not in page
    assert "&lt;script&gt;" in page


def test_modes_that_agree_share_a_row_of_the_summary():
    def finding(name, mode="any", repeatable=True, distinct=1, **fields):
        return Finding(
            name, "float32", mode=mode, repeatable=repeatable, symmetric=distinct == 1, distinct=distinct, **fields
        )

    rows = summarise(
        [
            finding("a", "cudnn"),
            finding("a", "strict"),
            finding("b", "cudnn", repeatable=False),
            Finding("b", "float32", mode="strict", status="refused", reason="no deterministic implementation"),
            finding("c", distinct=3, world_size=3),
        ]
    )
    assert [(operation, modes, cells["float32"].text) for operation, modes, cells in rows] == [
        ("a", "all", "yes"),
        ("b", "cudnn", "~ 1/1"),
        ("b", "strict", "refused"),
        ("c x3", "all", "≠ 1/1 (3)"),
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"operations": ("conv3x3_foward",)}, "conv3x3_forward"),
        ({"shapes": ("8x16",)}, "8x16x8x8"),
        ({"shapes": ("8x16x8xa",)}, "8x16x8x8"),
        ({"repeats": 1}, "repeats"),
        ({"world_sizes": (1,)}, "world_sizes"),
    ],
)
def test_bad_input_is_named(options, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        audit(output=tmp_path / "audit.json", **options)
    assert not any(tmp_path.iterdir())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_without_a_device_is_refused(tmp_path):
    with pytest.raises(UsageError, match="CUDA"):
        audit("cuda", tmp_path / "audit.json")
