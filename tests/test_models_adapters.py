"Adapters against numpy, scipy and scikit-image: dense transforms, symmetric extensions, closed forms."

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spectral_diffusion.core.registry import InputError
from spectral_diffusion.models.adapters import BandpassAdapter, RadialAdapter, band, filtered, spectrum
from spectral_diffusion.models.amplitude_phase import AmplitudeResidual, PhaseCorrection
from spectral_diffusion.models.learned_band import LearnableAdapter

SIDES = st.integers(1, 12)


def make(name, channels=2, dtype=torch.float64, shaken=True):
    net = {
        "radial": lambda: RadialAdapter(0.2, 3.0),
        "band": lambda: BandpassAdapter(0.1, 0.3, 0.02),
        "learnable": lambda: LearnableAdapter(channels),
        "channels": lambda: LearnableAdapter(channels, per_channel=True),
        "timed": lambda: LearnableAdapter(channels, 5, hidden=8),
        "amplitude": lambda: AmplitudeResidual(channels, 6),
        "phase": lambda: PhaseCorrection(channels, 3),
    }[name]().to(dtype)
    g = torch.Generator().manual_seed(3)
    if shaken:
        for p in net.parameters():
            p.data += 0.5 * torch.randn(p.shape, generator=g, dtype=torch.float64).to(dtype)
    return net


NAMES = ["radial", "band", "learnable", "channels", "timed", "amplitude", "phase"]


def draw(h, w, dtype=torch.float64, channels=2):
    g = torch.Generator().manual_seed(100 * h + w)
    return torch.randn(2, channels, h, w, generator=g, dtype=torch.float64).to(dtype), torch.randn(
        2, 5, generator=g, dtype=torch.float64
    ).to(dtype)


def extend(half, w):
    "The full plane of a half plane of multipliers, by conjugate symmetry."
    h = half.shape[-2]
    p, q = np.meshgrid(np.arange(h), np.arange(w), indexing="ij")
    stored = q <= w // 2
    full = half[..., np.where(stored, p, -p % h), np.where(stored, q, -q % w)]
    return np.where(stored, full, full.conj())


@given(name=st.sampled_from(NAMES), h=SIDES, w=SIDES, single=st.booleans())
def test_output_is_the_dense_transform_with_the_extended_multiplier(name, h, w, single):
    dtype = torch.float32 if single else torch.float64
    x, e = draw(h, w, dtype)
    net = make(name, dtype=dtype)
    with torch.no_grad():
        y = net(x, e)
        X = spectrum(x)
        k = np.hypot(np.fft.fftfreq(h)[:, None], np.fft.rfftfreq(w)[None])
        kt = torch.from_numpy(k).to(dtype)
        if name in ("radial", "band"):
            m = net.gain(kt)
        elif name == "amplitude":
            m = net.net(torch.cat([X.abs().log1p(), kt.expand(2, 1, -1, -1)], 1)).exp()
        elif name == "phase":
            m = torch.exp(1j * net.angle(X, (h, w)))
        else:
            m = 1 + net.added(kt, e)
    full = extend(m.expand_as(X).numpy().astype(complex), w)
    dense = np.fft.ifft2(np.fft.fft2(x.double().numpy()) * full)
    eps = 1e-4 if single else 1e-11  # edges of width 0.02 multiply the rounding of k
    assert y.shape == x.shape and y.dtype == dtype and not y.is_complex()
    assert (
        np.abs(dense.imag).max() < eps
    )  # the multiplier has the symmetry, also in the columns that are their own mirror
    assert np.abs(dense.real - y.numpy()).max() < eps


@given(
    name=st.sampled_from(NAMES[2:]),
    h=SIDES,
    w=SIDES,
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.half]),
)
def test_identity_at_the_start_bit_for_bit(name, h, w, dtype):
    x, e = draw(h, w, dtype)
    assert torch.equal(make(name, dtype=torch.float32, shaken=False)(x, e), x)


@given(h=SIDES, w=SIDES)
def test_what_is_kept(h, w):
    x, e = draw(h, w)
    X = np.fft.fft2(x.numpy(), norm="ortho")
    with torch.no_grad():
        phase, amplitude = (np.fft.fft2(make(n)(x).numpy(), norm="ortho") for n in ("phase", "amplitude"))
    assert np.abs(np.abs(phase) - np.abs(X)).max() < 1e-12
    assert np.abs((amplitude * X.conj()).imag).max() < 1e-11 * np.abs(amplitude * X).max()
    assert (amplitude * X.conj()).real.min() > -1e-12


@pytest.mark.parametrize("name", NAMES[:-1])
def test_shifts_commute_except_with_the_phase_correction(name):
    x, e = draw(9, 12)

    def gap(net):
        return (net(x, e).roll((2, 5), (-2, -1)) - net(x.roll((2, 5), (-2, -1)), e)).abs().max()

    assert gap(make(name)) < 1e-12 < 1e-3 < gap(make("phase"))


@pytest.mark.parametrize("name", NAMES)
def test_samples_do_not_know_each_other_and_layouts_do_not_matter(name):
    x, e = draw(7, 10)
    net = make(name)
    y = net(x, e)
    assert (torch.cat([net(x[i : i + 1], e[i : i + 1]) for i in range(2)]) - y).abs().max() < 1e-12
    assert (net(x.to(memory_format=torch.channels_last), e) - y).abs().max() < 1e-12


@pytest.mark.parametrize("name", NAMES)
def test_autocast_changes_nothing(name):
    x, e = draw(7, 10, torch.float32)
    net = make(name, dtype=torch.float32)
    y = net(x, e)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = net(x, e)
    assert torch.equal(inside, y)


@pytest.mark.parametrize("name", NAMES[2:])
def test_every_parameter_has_a_gradient_when_awake_and_some_at_the_start(name):
    x, e = draw(6, 7)
    for shaken in (True, False):
        net = make(name, shaken=shaken)
        (net(x, e) * draw(6, 7)[0].flip(-1).exp()).sum().backward()
        alive = [bool(p.grad.any()) for p in net.parameters()]
        assert all(alive) if shaken else any(alive)


def test_a_checkpoint_holds_the_temperature():
    one, two = make("learnable"), LearnableAdapter(2).double()
    one.anneal(0.7)
    two.load_state_dict(one.state_dict())
    x, _ = draw(8, 9)
    assert (
        torch.equal(one(x), two(x)) and two.temperature == one.temperature != LearnableAdapter(2).temperature
    )


def test_band_is_a_probability_of_a_logistic_variable():
    logistic = pytest.importorskip("scipy.stats").logistic
    k = np.linspace(0, 0.7, 50)
    for low, high, s in ((0.0, 0.2, 0.05), (0.1, 0.3, 0.01), (0.3, 0.31, 0.1)):
        p = sum(
            logistic.cdf(b, k, s) - logistic.cdf(a, k, s) for a, b in ((low, high), (-high, -low))
        )  # low < |k + s Z| < high
        assert np.abs(band(torch.from_numpy(k), low, high, s).numpy() - p).max() < 1e-12


@pytest.mark.parametrize("size", [(16, 16), (15, 17), (16, 21)])
def test_low_pass_is_the_squared_butterworth_of_scikit_image(size):
    butterworth = pytest.importorskip("skimage.filters").butterworth
    x, _ = draw(*size)
    expected = butterworth(
        x[0, 0].numpy(), 0.15, high_pass=False, order=3.0, squared_butterworth=True, npad=0
    )
    assert np.abs(RadialAdapter(0.15, 6.0)(x)[0, 0].numpy() - expected).max() < 1e-12


def test_counts():
    def n(net):
        return sum(p.numel() for p in net.parameters())

    for c in (1, 3, 8):
        assert n(RadialAdapter()) == n(BandpassAdapter()) == 0
        assert n(LearnableAdapter(c)) == 3 and n(LearnableAdapter(c, per_channel=True)) == 3 * c
        assert n(LearnableAdapter(c, 32)) == 2310  # the count of the earlier definition
        assert n(AmplitudeResidual(c, 16)) == (c + 1) * 16 + 16 + 16 * c + c
        assert n(PhaseCorrection(c, 4)) == (4 * c + 2) * 24 + 17 * 2 * c


def test_work_of_the_phase_correction_is_linear_in_memory_too():
    largest = {}
    for n in (16, 32):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, sizes=sizes: (sizes.append(t.numel()), t)[1], lambda t: t
        ):
            make("phase")(draw(n, n)[0])
        largest[n] = max(sizes) / (2 * n * (n // 2 + 1))  # per sample and bin
    assert largest[32] == largest[16] < 50


@pytest.mark.parametrize(
    "bad",
    [
        lambda: RadialAdapter(-1.0),
        lambda: RadialAdapter(0.2, 0.0),
        lambda: RadialAdapter(float("nan")),
        lambda: BandpassAdapter(0.3, 0.3),
        lambda: BandpassAdapter(-0.1),
        lambda: BandpassAdapter(0.1, 0.2, 0.0),
        lambda: LearnableAdapter(0),
        lambda: LearnableAdapter(2, 0),
        lambda: LearnableAdapter(2, 5, hidden=0),
        lambda: LearnableAdapter(2, low=0.3, high=0.2),
        lambda: LearnableAdapter(2, soft=0.0),
        lambda: LearnableAdapter(2).anneal(-0.1),
        lambda: LearnableAdapter(2, 5)(draw(4, 4)[0]),
        lambda: LearnableAdapter(2, 5).inspect(),
        lambda: LearnableAdapter(2, 4)(*(v.float() for v in draw(4, 4))),
        lambda: LearnableAdapter(3)(draw(4, 4)[0]),
        lambda: LearnableAdapter(2, 5)(draw(4, 4)[0][:1], draw(4, 4)[1]),
        lambda: AmplitudeResidual(0),
        lambda: AmplitudeResidual(2, 0),
        lambda: AmplitudeResidual(3)(draw(4, 4)[0]),
        lambda: PhaseCorrection(2, 0),
        lambda: PhaseCorrection(3)(draw(4, 4)[0]),
        lambda: RadialAdapter()(torch.zeros(4, 4)),
        lambda: RadialAdapter()(torch.zeros(1, 1, 4, 4, dtype=torch.uint8)),
        lambda: RadialAdapter()(torch.zeros(1, 1, 0, 4)),
        lambda: RadialAdapter(gain=lambda k: k.sum())(draw(4, 4)[0]),
        lambda: filtered(draw(4, 4)[0], lambda k: 1j * k),
        lambda: LearnableAdapter(2)(torch.zeros(2, 4, 4)),
    ],
)
def test_bad_input_is_refused(bad):
    with pytest.raises(InputError):
        bad()
