"""What each known mistake is called, and what to do about it, in plain English."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mistake:
    """A known mistake.

    Attributes:
        name: Its name, one for all variants.
        meaning: What the program does, in a sentence.
        remedy: What it should do.
    """

    name: str
    meaning: str
    remedy: str


_OVERWRITTEN = Mistake(
    "`=` for `+=` where windows overlap",
    "An element that several windows read keeps the contribution of one of them alone.",
    "Add the contributions: `dx[...] += ...` (with index arrays `np.add.at`, which counts repeated places).",
)
_ARGMAX = Mistake(
    "gradient through the argmax of another image or channel",
    "The place of the maximum is taken from one image or channel and used for another.",
    "Find (or remember) the winner of each window for each image n and channel c.",
)
_BATCH = Mistake(
    "missing sum over the batch",
    "Only one image contributes, or each image's gradient stands by itself.",
    "The weights serve all images: add up the contributions of every n.",
)
_POSITIONS = Mistake(
    "missing sum over positions",
    "Only some positions (p, q) of the output contribute.",
    "The weights serve all positions: add up over every p and q.",
)
_AXES = Mistake(
    "bias summed over the wrong axes",
    "The gradient of the bias is summed over axes that belong to it, or not over all others.",
    "Keep the channel and sum over everything else: axes (0, 2, 3) of (N, C, H, W), axis 0 of (N, C).",
)
_MEAN = Mistake(
    "mean for sum",
    "The gradient is divided by the number of its terms.",
    "The chain rule adds the contributions up; nothing is averaged here (the loss does that, once).",
)
_SUM = Mistake(
    "sum for mean",
    "The gradient is larger by the number of terms that the forward pass averages over.",
    "The forward pass takes a mean, so that each term has the factor 1/N in the backward pass, too.",
)
_CROP = Mistake(
    "padding cropped on the wrong side",
    "The gradient is computed on the padded image, and the wrong rows and columns are cut off, or none.",
    "Cut the padding off on both sides: dx = dx_padded[:, :, p:p+H, p:p+W].",
)
_SWAPPED = Mistake(
    "channel axes swapped",
    "Input and output channels of the kernel have changed places, or a reshape stands for a transpose.",
    "Keep the axes in the order (o, c, u, v); exchange axes with transpose, never with reshape.",
)
_STRIDE = Mistake(
    "stride forgotten",
    "Output (p, q) is treated as if its window began at row p and column q.",
    "The window of (p, q) begins at p·s and q·s (as a convolution: put s − 1 zeros between g's elements).",
)
_FLIPPED = Mistake(
    "kernel not flipped, or flipped where it must not be",
    "The kernel is read from its other end.",
    "∂L/∂x as a convolution of g needs the kernel flipped in both axes; y and ∂L/∂w need it as it is. "
    "(Forward with a flipped kernel is a true convolution; deep learning computes a cross-correlation.)",
)
_LAST = Mistake(
    "last window left out",
    "The loop over the output ends one row and one column too early.",
    "There are P = ⌊(H + 2p − K)/s⌋ + 1 rows of windows; range(P) visits them all.",
)
_MASK = Mistake(
    "ReLU's mask missing, or taken from the output's sign",
    "The gradient passes where the input was negative, too (y ≥ 0 always holds).",
    "g passes where x > 0, which is where y > 0, and is 0 elsewhere.",
)
_MASK_WRONG = Mistake(
    "ReLU's mask made of the wrong thing",
    "What decides whether g passes is not whether x > 0, or the value stands for the mask.",
    "∂L/∂x = g · [x > 0]: a mask of zeros and ones from the input.",
)
_LEAKY = Mistake(
    "slope where ReLU has none",
    "The gradient is not 0 where x < 0: this is a leaky ReLU.",
    "Below 0 ReLU is constant, its derivative 0.",
)
_TIES = Mistake(
    "ties given to all",
    "Where elements of a window are equal and largest, each gets the whole g: the sum is too large.",
    "Choose one winner (argmax does); a mask x == max is right only without ties.",
)
_BIAS = Mistake("bias forgotten", "The output lacks b.", "Add b[o] to every y[n, o, p, q].")
_RANK_ONE = Mistake(
    "softmax's Jacobian without its rank-one term",
    "The derivative of softmax is taken as if each probability depended on its own logit alone.",
    "∂s_j/∂z_k = s_j·([j = k] − s_k): with the term −s_j·s_k, ∂L/∂z = softmax(z) − one-hot.",
)
_SOFTMAX = Mistake(
    "softmax's gradient is another function's",
    "What is returned is not the derivative of log softmax at the logits.",
    "∂L/∂z = (softmax(z) − one-hot(t)) / N, with softmax along the classes.",
)
_MEAN_PATH = Mistake(
    "BatchNorm's mean path forgotten",
    "x moves μ as well, and μ moves the whole channel: this part of the chain rule is missing or wrong.",
    "Subtract (Σ g)/M of the channel.",
)
_VARIANCE_PATH = Mistake(
    "BatchNorm's variance path forgotten",
    "x moves σ² as well: this part of the chain rule is missing or has the wrong factor.",
    "Subtract x̂·(Σ g·x̂)/M of the channel.",
)
_BOTH_PATHS = Mistake(
    "BatchNorm's mean and variance paths forgotten",
    "μ and σ² are treated as constants, which they are in evaluation only.",
    "In training x moves both: subtract (Σ g)/M and x̂·(Σ g·x̂)/M.",
)
_M = Mistake(
    "BatchNorm's sums divided by the wrong number",
    "M is not the number of elements of a channel, or the sums are not divided at all.",
    "M = N·H·W for (N, C, H, W): all that μ and σ² are means of.",
)
_SCALE = Mistake(
    "BatchNorm's scale is wrong",
    "The factor before the bracket is not γ/√(σ² + ε).",
    "∂L/∂x = γ·r·(…) with r = 1/√(σ² + ε).",
)
_GAMMA = Mistake(
    "γ forgotten", "The factor γ is missing.", "y = γ·x̂ + β, so that γ is a factor of ∂L/∂x."
)
_HAT = Mistake(
    "another array in the place of x̂",
    "∂L/∂γ is not made of the normalised x̂, or belongs to another parameter.",
    "∂L/∂γ = Σ g·x̂ and ∂L/∂β = Σ g.",
)
_DIVISOR = Mistake(
    "divided by the wrong number",
    "The gradient of each window is not divided by the number of its elements.",
    "Each element has the factor 1/K²: ∂L/∂x gets g/(K·K) from every window that covers it.",
)
_IGNORED = Mistake(
    "grad_output ignored",
    "The result does not depend on g, or not in proportion to it.",
    "Multiply by g = ∂L/∂y, which the next layer sends back: the chain rule.",
)
_IMAGES = Mistake(
    "images of the batch mixed up",
    "The gradient of an image is that of another, or of none.",
    "∂L/∂x[n] comes from g[n] and x[n] alone.",
)
_WINNER = Mistake(
    "g sent to the wrong element of the window",
    "Not the winner of the window gets g.",
    "Send g[p, q] to the place where the maximum of window (p, q) was found, and to no other.",
)
_TRANSPOSED = Mistake(
    "transposed",
    "Rows and columns have changed places (or a reshape stands for a transpose).",
    "Compare the shapes with those of the right formula, on sizes that all differ.",
)
_DILATION = Mistake(
    "dilation forgotten",
    "The elements of a window are taken one beside the other.",
    "Offset (u, v) reads row p·s + u·d and column q·s + v·d.",
)
_READ_PAD = Mistake(
    "padding put on the wrong side, or forgotten",
    "Windows read the image as if its padding were not on both sides.",
    "Pad p rows and columns on each of the four sides, in the forward and in the backward pass.",
)
_CHANNEL_SUM = Mistake(
    "missing sum over channels",
    "Only one channel contributes.",
    "y sums over the input channels c, ∂L/∂x over the output channels o.",
)
_UNBIASED = Mistake(
    "variance divided by M − 1",
    "The variance is the unbiased one.",
    "BatchNorm normalises with the mean of (x − μ)², divided by M.",
)
_EPS = Mistake(
    "ε forgotten or misplaced", "r is not 1/√(σ² + ε).", "Add ε to the variance, under the root."
)

MISTAKES: dict[str, Mistake] = {
    **dict.fromkeys(
        (
            *("kernel_flipped", "kernel_rows_flipped", "kernel_columns_flipped"),
            *("result_flipped", "gradient_flipped"),
        ),
        _FLIPPED,
    ),
    **dict.fromkeys(("kernel_transposed", "plane_transposed", "gradient_transposed"), _TRANSPOSED),
    **dict.fromkeys(("gradient_reshaped", "weight_transposed", "winner_transposed"), _TRANSPOSED),
    **dict.fromkeys(("stride_forgotten", "crop_of_short", "stride_for_dilation"), _STRIDE),
    **dict.fromkeys(("stride_forgotten_rows", "stride_forgotten_columns"), _STRIDE),
    "dilation_forgotten": _DILATION,
    **dict.fromkeys(("crop_end", "crop_start", "crop_missing"), _CROP),
    **dict.fromkeys(
        (
            *("overwritten_windows", "overwritten_all", "overwritten_offsets", "overwritten_reversed"),
            "overwritten_winners",
        ),
        _OVERWRITTEN,
    ),
    **dict.fromkeys(
        ("out_channel_last", "out_channel_first", "channel_last", "channel_first"), _CHANNEL_SUM
    ),
    **dict.fromkeys(
        ("channels_swapped", "channels_mixed", "channels_reshaped", "columns_reshaped"), _SWAPPED
    ),
    **dict.fromkeys(("last_window_skipped", "last_row_skipped", "last_column_skipped"), _LAST),
    **dict.fromkeys(("batch_last", "batch_first", "kept_batch"), _BATCH),
    **dict.fromkeys(("position_last", "position_first", "row_last", "column_last"), _POSITIONS),
    "padding_one_side": _READ_PAD,
    **dict.fromkeys(("image_first", "only_first_image", "only_last_image"), _IMAGES),
    **dict.fromkeys(("images_reversed", "images_averaged", "images_into_first"), _IMAGES),
    "gradient_of_first_image": _IMAGES,
    **dict.fromkeys(
        (
            *("axes_rows", "axes_columns", "axes_batch", "axes_all", "axes_all_spread", "axes_features"),
            "axes_channels",
            *("kept_positions", "kept_columns", "kept_rows"),
        ),
        _AXES,
    ),
    "bias_missing": _BIAS,
    "beta_missing": _BIAS,
    "ties_all": _TIES,
    **dict.fromkeys(
        (
            *("argmax_first_image", "argmax_last_image", "argmax_next_image", "argmax_previous_image"),
            *("argmax_all_images", "argmax_first_channel", "argmax_last_channel"),
        ),
        _ARGMAX,
    ),
    **dict.fromkeys(("first_element", "minimum", "average_for_max", "everywhere"), _WINNER),
    "value_times": Mistake(
        "x multiplied into the gradient",
        "The winner gets g·x in place of g.",
        "The factor is 1 at the winner and 0 elsewhere: multiply g by a mask, not by the values.",
    ),
    "zero_padding": Mistake(
        "padding filled with 0 where −∞ is meant",
        "A window whose elements are all negative takes the 0 of the padding as its maximum.",
        "Padding never wins: fill it with −∞.",
    ),
    **dict.fromkeys(
        ("divisor_missing", "divisor_image", "divisor_output", "divisor_k", "divisor_stride"), _DIVISOR
    ),
    "padding_not_counted": Mistake(
        "zeros of the padding not counted",
        "Windows at the border are divided by the number of their elements on the image.",
        "Divide by K² everywhere (count_include_pad=True, as torch does by default).",
    ),
    "mask_missing": _MASK,
    **dict.fromkeys(
        (
            *("mask_of_gradient", "mask_guided", "mask_reversed", "mask_value", "mask_value_only"),
            *("mask_input", "mask_sign", "mask_at_one"),
        ),
        _MASK_WRONG,
    ),
    "mask_leaky": _LEAKY,
    "both_paths_missing": _BOTH_PATHS,
    **dict.fromkeys(("mean_path_missing", "mean_path_sign", "mean_path_averaged_twice"), _MEAN_PATH),
    **dict.fromkeys(
        (
            *("variance_path_missing", "variance_path_doubled", "variance_path_halved"),
            *("variance_path_sign", "variance_path_averaged_twice", "variance_path_scale"),
        ),
        _VARIANCE_PATH,
    ),
    **dict.fromkeys(
        (
            *("paths_not_averaged", "mean_path_not_averaged", "variance_path_not_averaged"),
            *("m_is_batch", "statistics_of_batch"),
        ),
        _M,
    ),
    **dict.fromkeys(("scale_squared", "scale_missing", "scale_inverted"), _SCALE),
    "gamma_missing": _GAMMA,
    **dict.fromkeys(("unbiased", "unbiased_throughout"), _UNBIASED),
    **dict.fromkeys(("eps_missing", "eps_outside"), _EPS),
    **dict.fromkeys(
        (
            *("x_for_hat", "centred_for_hat", "y_for_hat", "gamma_in", "dbeta_for_dgamma"),
            "dgamma_for_dbeta",
        ),
        _HAT,
    ),
    **dict.fromkeys(
        ("rank_one_missing", "rank_one_sign", "diagonal_only", "softmax_own_derivative"), _RANK_ONE
    ),
    **dict.fromkeys(
        (
            *("one_hot_missing", "stops_at_softmax", "softmax_twice", "softmax_twice_full"),
            *("true_class_only", "others_only", "softmax_missing", "not_normalised", "log_for_softmax"),
            *("softmax_axis", "class_shifted", "squared_error"),
            "one_hot_added",
        ),
        _SOFTMAX,
    ),
    **dict.fromkeys(("mean_batch", "mean_all", "mean_positions", "mean_rows", "mean_columns"), _MEAN),
    **dict.fromkeys(("divisor_classes", "divisor_all"), _MEAN),
    **dict.fromkeys(("sum_for_mean", "times_batch", "times_all"), _SUM),
    "negated": Mistake("sign reversed", "The gradient is the negative of the right one.", "Turn the sign."),
    "doubled": Mistake(
        "factor 2 too many",
        "The gradient is twice the right one.",
        "Look for a term that is added twice.",
    ),
    "halved": Mistake("factor 2 missing", "The gradient is half the right one.", "Look for a lost factor 2."),
    **dict.fromkeys(("grad_output_ignored", "grad_output_squared"), _IGNORED),
    "zero": Mistake("always 0", "The gradient is 0 everywhere.", "Fill the array that backward returns."),
}  # fmt: skip
