"""What a node of the autograd graph computes, as its name tells.

A node that is neither named here nor known to be linear may be an activation function, so that
nothing which a new version of PyTorch brings is taken for harmless.
"""

import functools
import re
from collections.abc import Mapping
from typing import Any

UNKNOWN = "not known to be linear"
ON_A_SLICE = "work in place on a slice, perhaps an activation function"

# Activation functions, or what may be one, as patterns of names. The first are those of functions
# that PyTorch has and a block reaches.
_FUNCTIONS = {
    "Relu": "a relu",
    "LeakyRelu": "a leaky relu",
    "Prelu.*": "a prelu",
    "Rrelu.*": "an rrelu",
    "Gelu": "a gelu",
    "Silu": "a silu",
    "Tanh": "a tanh",
    "Sigmoid": "a sigmoid",
    "Hardtanh": "a hardtanh or relu6",
    "Hardsigmoid": "a hardsigmoid",
    "Hardswish": "a hardswish",
    "Hardshrink": "a hardshrink",
    "Softshrink": "a softshrink",
    "Celu|Elu": "an elu, selu or celu",
    "Mish": "a mish",
    "Softplus": "a softplus",
    "LogSigmoid": "a logsigmoid",
    "Threshold": "a threshold",
}
ACTIVATIONS = {
    **_FUNCTIONS,
    "Clamp.*": "a clamp, perhaps a relu",
    "Maximum|Fmax": "a maximum, perhaps a relu",
    "Minimum|Fmin": "a minimum, perhaps a relu6",
    "Where": "a where, perhaps a relu",
    "Abs": "an absolute value, perhaps a softsign",
    "Pow": "a power, perhaps a squared relu",
    "Erf": "an erf, perhaps a gelu",
    "Exp|Exp2|Expm1": "an exponential",
    "Log|Log1P|Log2|Log10": "a logarithm, perhaps a softplus",
    "Logaddexp2?": "a softplus",
    "Sin|Cos|Sinc": "a sine or cosine, perhaps a snake",
    "Atan": "an arctangent",
}
# Not linear either, but no activation functions.
OTHERS = {
    "(Log|Safe|Sparse|SparseLog|Masked)?Softmax|Logsumexp|Logcumsumexp": "softmax",
    "ScaledDotProduct.*|(Cudnn|Efficient|Flash)Attention": "attention",
    "(Native|Cudnn|Miopen)?(Batch|Layer|Group)Norm.*|FusedRmsNorm|LinalgVectorNorm|Norm"
    "|(Std|Var)(Mean)?|WeightNorm.*|Renorm": "normalisation",
    "Rsqrt|Sqrt": "normalisation",
    "(Cdist|Pdist|Dist|EuclideanDist)": "a distance",
    "(Adaptive|Fractional|Mkldnn)?MaxPool.*": "max pooling",
    "Amax|Amin|Max|Min|Cummax|Cummin|Kthvalue|(Nan)?[Mm]edian|Mode|Sort|Topk|(Index|Scatter|Segment)"
    "Reduce": "a choice of the largest, smallest or middle",
    "Glu": "gating",
    "(Cudnn|Miopen|Mkldnn)Rnn.*|Lstm.*|Gru.*|ThnnFused.*": "a fused recurrent network",
    "BinaryCrossEntropy.*|.*CtcLoss|.*MarginLoss|(Huber|Mse|SmoothL1)Loss|NllLoss.*": "a loss",
    "Prod|Cumprod": "a product of many",
    "Reciprocal": "a division",
    "Linalg(?!Cross).*|Cholesky.*|Geqrf|LuUnpack|Ormqr|TriangularSolve": "linear algebra",
    "FakeQuantize.*|FusedMovingAvg.*": "quantisation",
}
_LINEAR = (  # in each of their arguments; what multiplies two of them is a product
    # sums, products and constants
    "Add|Sub|Rsub|Neg|NegView|Mul|Div|Addc(div|mul)|Sum|Nansum|Mean|Cumsum|Trace|Lerp|Ldexp"
    "|Deg2Rad|Rad2Deg|Zero|Fill|NanToNum"
    "|Bernoulli|Cauchy|Exponential|Geometric|LogNormal|Normal|Poisson|Random|Uniform"
    # matrices, convolutions, averages, and what reads between the places of a grid
    "|Addbmm|Addmm|Addmv|Addr|Baddbmm|Bmm|Mm|Mv|Matmul|Dot|Vdot|Linear|Trilinear|GroupedMm"
    "|MkldnnLinear|Sparse(Addmm|MmReduceImpl|SampledAddmm|SparseMatmul|Sum|Mask)"
    "|.*Convolution.*|Conv(Depthwise.*|Tbc)|SlowConv.*|Im2Col|Col2Im|Embedding.*"
    "|(Mkldnn)?(Adaptive)?AvgPool.*|MkldnnAdaptiveAvgPool.*|Upsample.*|(Cudnn)?GridSample.*"
    "|(Cudnn)?AffineGridGenerator|LinalgCross|MaxUnpool.*|Fft.*|(Native|Fused)Dropout"
    # what moves, copies and chooses
    "|Alias|AsStrided.*|BlockDiag|Cat|ChannelShuffle|Chunk|Clone|LazyClone|Coalesce|Complex"
    "|Conj.*|ConstantPadNd|Copy|CopySlices|Diag.*|Expand|Flip|Gather|Identity|Index|Index(Add|Copy"
    "|Fill|Put|PutImpl|Select)|Lift|LiftFresh|Masked(Fill|Scatter|Select)|MkldnnReshape|Nested.*"
    "|PackPaddedSequence|Permute|PinMemory|Pixel(Shuffle|Unshuffle)|Put|ReflectionPad.*"
    "|ReplicationPad.*|Repeat|Reshape.*|Roll|Rot90|Scatter|ScatterAdd|Select|SelectScatter|Slice.*"
    "|Sparse(CompressedTensor|CooTensor.*)|Split.*|Squeeze|Stack|T|Take|To[A-Z].*|Transpose|Tril"
    "|Triu|Unbind|Unfold|Unsafe.*|Unsqueeze|Values|View|ViewAs.*|AccumulateGrad|UndefinedGrad"
    # steps, whose slope is zero or one
    "|Bucketize|Ceil|Eq|Floor|Frac|Fmod|Ge|Gt|Le|Lt|Ne|Remainder|Round|Sgn|Sign|Trunc"
)
_ROOTS = ("Sqrt", "Rsqrt", "Pow", "Reciprocal")
# Through these a value goes on its way to a product: they move, copy, choose, shift, scale and
# limit it.
_PASSIVE = (
    "View|UnsafeView|ReshapeAlias|Alias|Expand|Unsqueeze|Squeeze|Permute|Transpose|T|Clone|ToCopy"
    "|Slice|Split|SplitWithSizes|Chunk|Unbind|Select|Repeat|Add|Sub|Rsub|Mul|Div|Neg|Flip|Roll"
    "|Rot90|Index|IndexSelect|Gather|Take|MaskedFill|MaskedSelect|ConstantPadNd|ReflectionPad.*"
    "|ReplicationPad.*|Pixel(Shuffle|Unshuffle)|Upsample.*|Clamp.*|AsStrided.*"
)
_JOINING = ("Cat", "Stack")
# Which two of its arguments a node multiplies. (Of `torch.lerp` it depends on the weight.)
_MULTIPLIED = {"Mul": (0, 1), "Bmm": (0, 1), "Div": (0, 1), "Addcmul": (1, 2), "Addcdiv": (1, 2)}


def stem(node: Any) -> str:
    """Return a node's name without its number: Relu for ReluBackward0."""
    return _stem(str(node.name()))


def _stem(name: str) -> str:
    return name.removeprefix("torch::autograd::").partition("Backward")[0]


def is_of_a_function(name: str) -> bool:
    """Whether a node of this name is that of an activation function that PyTorch has."""
    return _by_pattern(_stem(name), _FUNCTIONS) is not None


def _by_pattern(name: str, kinds: Mapping[str, str]) -> str | None:
    return next((kind for pattern, kind in kinds.items() if re.fullmatch(pattern, name)), None)


@functools.cache
def other_kind(name: str) -> str | None:
    """Return what a node of this stem is, if it is not linear and no activation function."""
    return _by_pattern(name, OTHERS)


@functools.cache
def activation_kind(name: str) -> str | None:
    """Return what activation function a node of this stem may be, None if it is linear.

    Args:
        name: The stem of a node that `other_kind` does not know.
    """
    known = _by_pattern(name, ACTIVATIONS)
    return known or (None if re.fullmatch(_LINEAR, name) else UNKNOWN)


def kind_on_a_slice(node: Any) -> str | None:
    """Return what a node may be that overwrites a slice, None if it is known to be linear.

    A copy, a sum and a product have two arguments there; what has one may be anything.
    """
    on_a_slice = stem(node) == "CopySlices" and len(node.next_functions) == 1
    return ON_A_SLICE if on_a_slice else None


def is_sum(node: Any) -> bool:
    """Whether a node adds numbers up: a power that goes into one is a norm's or a distance's."""
    return stem(node) == "Sum"


def is_mean(node: Any) -> bool:
    """Whether a node averages numbers, as that of a norm does before the root is taken."""
    return stem(node) == "Mean"


def is_root(node: Any) -> bool:
    """Whether a node takes a root, or divides by what it is made of."""
    return stem(node) in _ROOTS


def behind(node: Any) -> list[Any]:
    """Return the nodes that a node is made of."""
    return [following for following, _ in node.next_functions if following is not None]


def multiplied(node: Any) -> list[Any]:
    """Return the nodes of the values that a node multiplies, as far as they have one."""
    edges = [following for following, _ in node.next_functions]
    name = stem(node)
    places: tuple[int, ...] = _MULTIPLIED.get(name, ())
    if name == "Lerp" and len(edges) == 3 and edges[2] is not None:
        places = (0, 1, 2)  # both ends are multiplied by the weight
    return [edges[n] for n in places if n < len(edges) and edges[n] is not None]


def handed_on(node: Any) -> list[Any]:
    """Return the nodes whose value a node only moves, copies, shifts, scales or joins."""
    found, name = behind(node), stem(node)
    if name in _JOINING or (len(found) == 1 and _is_passive(name)):
        return found
    return []


@functools.cache
def _is_passive(name: str) -> bool:
    return re.fullmatch(_PASSIVE, name) is not None
